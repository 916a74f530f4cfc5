"""The check on a real GPU, one command of at most eight minutes on one H100 or H200 → reports/bench-<device>.md

    make gpu                    every part that has no result yet
    make gpu PARTS=tests,step   these parts
    make gpu AGAIN=1            also parts that are finished

Parts: tests (tests/test_gpu.py), step (DHA's step ÷ a plain one), yardstick (kit's step ÷ plain eager code's), augment,
memory (DHA's peak ÷ the plain step's), landscape, waits (host waits in a step). Each runs in a process of its own with
a time limit, its result is kept in build/gpu-<device>.json, and none costs the others theirs. Ratios are of things
measured in turn in one run. The report says what was aimed at beside what was measured. The exit code is 0 when all
parts that were asked for are finished and no test failed; a missed aim is a result, not a failure.

Where there is no network: `bash benchmarks/wheels.sh` elsewhere collects in build/wheels what such a machine usually
lacks (Python 3.12, Linux, x86-64) and says how to install it there. It needs torch 2.10 or newer, torchvision, numpy,
scipy, pandas, pyarrow, scikit-learn, safetensors, tqdm. Without make: python3 benchmarks/gpu.py --parts tests,step

`--device cpu --quick` rehearses everything on the CPU, with sizes that show nothing but that it runs.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]  # also where kit is not installed
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])

import common  # noqa: E402
import torch  # noqa: E402

from kit import files  # noqa: E402
from kit.methods import PRESETS  # noqa: E402
from kit.run import provenance  # noqa: E402

SERVER = {name: PRESETS["server"][name] for name in ("channels", "cells")} | {"preset": "server"}
CIFAR = {"image": 32, "image_channels": 3}
SIZES = {  # of a step, by what the report calls it
    "DHA's CIFAR size": {**CIFAR, "channels": 36, "cells": 20, "batch": 96},
    "preset server": {**CIFAR, **SERVER, "batch": PRESETS["server"]["batch_size"]},
}
QUICK = {"quick": {"image": 8, "image_channels": 1, "channels": 4, "cells": 3, "batch": 16}}
DRAWS = "a draw per image"  # the same task as kit's, where a whole batch's is a lighter one
PACKAGES = ("torch", "torchvision", "numpy", "kornia", "loss-landscapes", "nvidia-dali-cuda130", "triton")
Found = dict[str, Any]  # of a part: figures {name: [median, low, high, n]}, text, failed


def repeats(device: torch.device, many: int) -> int:
    return many if device.type == "cuda" else 2


def figure(ratio: tuple[float, float, float], n: int) -> list[float]:
    return [*ratio, n]


# ---- parts: device, whether quick → what was found ------------------------------------------------


def tests(device: torch.device, quick: bool) -> Found:
    import pytest

    class Seen:
        def __init__(self):
            self.by = {"passed": [], "failed": [], "skipped": []}

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.when == "call" or report.outcome != "passed":
                self.by[report.outcome].append((report.nodeid.rpartition("/")[2], str(report.longrepr or "")))

    os.environ["KIT_TEST_DEVICE"] = device.type
    seen, folder = Seen(), ROOT / "tests"
    others = ("test_data_sets.py", "test_latency.py")  # the tests there that need a GPU
    files = [str(folder / "test_gpu.py"), *([str(folder / name) for name in others] if device.type == "cuda" else [])]
    slow = "deterministic or resumes or latency or operation or exported or every_method"
    chosen = f"not ({slow})" if quick else "gpu or cuda"
    given = ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", "--tb=short"]
    code = pytest.main([*files, *given, "-k", chosen], plugins=[seen])
    short = lambda text: text.strip().splitlines()[-1][:200] if text.strip() else ""
    rows = [(f"`{name}`", short(why)) for name, why in seen.by["failed"]]
    counts = ", ".join(f"{len(found)} {outcome}" for outcome, found in seen.by.items())
    text = f"`tests/test_gpu.py`: {counts}.\n\n" + (common.table(("failed", "why"), rows) + "\n\n" if rows else "")
    return {"text": text, "failed": f"{counts} (pytest's exit code {int(code)})" if code else ""}


def at_sizes(device: torch.device, quick: bool, measure: Callable[..., tuple[dict, list]]) -> tuple[dict, list, str]:
    """measure(name, device, size) → figures, rows at each size; one that the device's memory does not hold is said."""
    figures, rows, said = {}, [], []
    for name, size in (QUICK if quick else SIZES).items():
        try:
            some, more = measure(name, device, size)
            figures, rows = figures | some, rows + more
        except torch.OutOfMemoryError as error:
            said.append(f"{name}: not run, the device is too small for it ({'. '.join(str(error).split('. ')[:3])})")
            print(f"gpu: {said[-1]}", flush=True)
            torch.cuda.empty_cache()
    return figures, rows, "".join(f"\n\n{line}" for line in said)


def step(device: torch.device, quick: bool) -> Found:
    import step as one

    n = repeats(device, 40)

    def measure(name: str, device: torch.device, size: dict) -> tuple[dict, list]:
        config, sets, batches = one.setting(device, **size)
        kinds = one.variants(config, sets, device)
        things = {kind: (lambda parts=parts: one.take(parts, batches)) for kind, parts in kinds.items()}
        times = common.alternately(things, n, device, warm=2 if quick else 8)
        ratios = {kind: common.ratio(found, times["plain"]) for kind, found in times.items()}
        about = f"{name} (C={config.channels}, {config.cells} cells, batch {config.batch_size})"
        milliseconds = {kind: f"{1e3 * common.median(found):.2f}" for kind, found in times.items()}
        rows = [(about, kind, milliseconds[kind], common.shown(ratios[kind], 3)) for kind in kinds]
        return {f"step, {name}": figure(ratios["DHA, look-ahead"], n)}, rows

    figures, rows, said = at_sizes(device, quick, measure)
    text = (
        "Plain: the same child in the same supernet, fixed η, flip, crop and cutout. DHA's recovery is per epoch, so "
        "not in a step.\n\n"
        + common.table(("size", "step", "ms, median", "÷ plain (median, quartiles)"), rows)
        + f"\n\nn = {n} steps each, in turn.{said}\n\n"
    )
    return {"figures": figures, "text": text}


def memory(device: torch.device, quick: bool) -> Found:
    import step as one

    def measure(name: str, device: torch.device, size: dict) -> tuple[dict, list]:
        config, sets, batches = one.setting(device, **size)
        kinds = one.variants(config, sets, device)
        for _ in range(2):  # moments are made, kernels chosen
            for parts in kinds.values():
                one.take(parts, batches)
        peaks = {kind: one.peak_mb(parts, batches, device) for kind, parts in kinds.items()}
        ratio = peaks["DHA, look-ahead"] / peaks["plain"]
        rows = [(name, kind, f"{peak:,.0f}", f"{peak / peaks['plain']:.3f}") for kind, peak in peaks.items()]
        return {f"memory, {name}": [ratio, ratio, ratio, 1]}, rows

    figures, rows, said = at_sizes(device, quick, measure)
    text = common.table(("size", "step", "peak memory of a step, MB", "÷ plain"), rows)
    return {"figures": figures, "text": f"{text}\n\nAllocated over what was live before; n = 1 step each.{said}\n\n"}


def yardstick(device: torch.device, quick: bool) -> Found:
    import search

    n, size = repeats(device, 20), dict(search.SIZE)
    if quick:
        size |= {"channels": 4, "cells": 3, "batch": 8, "threads": 1, "workers": 0}
    figures, rows = {}, []
    precisions = ("bfloat16", "float32")[: 1 if quick else 2]
    times = search.in_turn(device, precisions, n, size, start="fork" if device.type == "cpu" else "spawn")
    milliseconds = {which: f"{1e3 * common.median(found):.1f}" for which, found in times.items()}
    for precision in precisions:
        ratio = common.ratio(times[precision], times["yardstick"])
        figures[f"yardstick, {precision}"] = figure(ratio, n)
        rows.append((precision, milliseconds[precision], milliseconds["yardstick"], common.shown(ratio, 3)))
    text = (
        f"One-stage search, C={size['channels']}, {size['cells']} cells, batch {size['batch']}: kit's `ista`, and the "
        "same step of the same child as plain eager float32 code (TF32 convolutions, as torch has them by default) "
        f"with a DataLoader of {size['workers']} workers (`benchmarks/yardstick.py`). Each in a process of its own.\n\n"
        + common.table(("kit's precision", "kit, ms a step", "yardstick, ms a step", "÷ (median, quartiles)"), rows)
        + f"\n\nn = {n} steps each, in turn, by the wall clock.\n\n"
    )
    return {"figures": figures, "text": text}


def augment(device: torch.device, quick: bool) -> Found:
    import augment as one

    n, batch = repeats(device, 9), {8: 8} if quick else {side: 4 * one.BATCH[side] for side in (32, 224)}
    found, figures = one.measured(device, n, batch), {}
    for side, each in found.items():
        own, others = next(iter(each.values())), one.others(each)
        for what, ways in (
            ("any", others),
            ("a draw per image", {k: v for k, v in others.items() if "whole" not in k}),
        ):
            best = min(ways.values(), key=common.median)
            figures[f"augment, {side}², {what}"] = figure(common.ratio(best, own), n)
    said = one.missing(next(iter(found.values())))
    text = f"{one.about(batch)}{one.table_of(found)}\n\nn = {n} rounds, in turn.{said}\n\n"
    return {"figures": figures, "text": text}


def landscape(device: torch.device, quick: bool) -> Found:
    import landscape as one

    n, size = repeats(device, 15), {"image": 32, "image_channels": 3, "channels": 16, "cells": 8, "images": 1024}
    if quick:
        size = {"channels": 4, "cells": 3, "images": 8}
    a = argparse.Namespace(**(vars(one.parser().parse_args([])) | size))
    each = one.measured(device, n, a)
    ratio = common.ratio(each["kit"], each["loss_landscapes"])
    rows = [(name, f"{common.median(found):.2f}") for name, found in each.items()]
    text = (
        f"{a.images} images {a.image_channels}×{a.image}×{a.image}, C={a.channels}, {a.cells} cells; the rest as "
        "`benchmarks/landscape.py` has it.\n\n"
        + common.table(("what", "ms a grid point, median"), rows)
        + f"\n\nkit ÷ loss_landscapes: {common.shown(ratio, 3)}. n = {n} rounds, in turn.\n\n"
    )
    return {"figures": {"landscape": figure(ratio, n)}, "text": text}


def waits(device: torch.device, quick: bool) -> Found:
    """A wait raises in torch's "error" mode; then the "warn" mode counts them."""
    import step as one

    config, sets, batches = one.setting(device, **next(iter((QUICK if quick else SIZES).values())))
    counts: dict[str, int] = {}
    for kind, parts in one.variants(config, sets, device).items():
        one.take(parts, batches)  # kernels are loaded, and what is kept is copied
        counts[kind] = 0
        if device.type == "cuda":
            counts[kind] = waited(lambda parts=parts: one.take(parts, batches))
        else:
            one.take(parts, batches)
    rows = [(kind, str(count)) for kind, count in counts.items()]
    text = (
        common.table(("step", "host waits"), rows)
        + "\n\n`torch.cuda.set_sync_debug_mode` around one step each. Others wait by design, a few times a step: "
        "learners that draw children on the CPU (dsnas, daas, reinforce …) for the gates' gradients or the reward, "
        '`recover="step"` for the LASSO.\n\n'
    )
    seen = {"waits": [counts["DHA, look-ahead"]] * 3 + [1]} if device.type == "cuda" else {}
    return {"figures": seen, "text": text if seen else "Not measured: a CPU is not waited for.\n\n"}


def waited(take: Callable[[], object]) -> int:
    try:
        torch.cuda.set_sync_debug_mode("error")
        take()
        return 0
    except RuntimeError:
        traceback.print_exc()  # where it waits
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            take()
        return max(1, sum("synchroniz" in str(warning.message) for warning in seen))
    finally:
        torch.cuda.set_sync_debug_mode("default")


#: name → what it does, and its limit in seconds: together at most eight minutes, the start of each process included
PARTS: dict[str, tuple[Callable[[torch.device, bool], Found], int]] = {
    "tests": (tests, 180),
    "step": (step, 90),
    "yardstick": (yardstick, 65),
    "augment": (augment, 45),
    "memory": (memory, 40),
    "landscape": (landscape, 30),
    "waits": (waits, 30),
}
#: what is aimed at: words, the part's figure, whether it is a lower bound, the bound
AIMS = (
    *((f"DHA look-ahead step ÷ plain step, {name}", f"step, {name}", False, 1.05) for name in SIZES),
    ("kit ÷ eager yardstick, bfloat16", "yardstick, bfloat16", False, 0.25),
    ("kit ÷ eager yardstick, float32", "yardstick, float32", False, 0.25),
    *((f"augmentation ÷ best other, {side}²", f"augment, {side}², any", True, 5.0) for side in (32, 224)),
    *(
        (f"… ÷ best with a draw per image, {side}²", f"augment, {side}², a draw per image", True, 5.0)
        for side in (32, 224)
    ),
    *((f"peak memory ÷ plain, {name}", f"memory, {name}", False, 1.05) for name in SIZES),
    ("landscape point ÷ library's", "landscape", False, 0.33),
    ("host waits in a step", "waits", False, 0.0),
)


# ---- processes and what is kept of them -----------------------------------------------------------


def isolated(work: Callable[..., Found], limit: float, start: str, *given: Any) -> Found:
    """What work(*given) returns, from a process of its own that is ended, with all its children, after `limit` s;
    {"failed": why} for one that raised, died or took longer. start: spawn, or fork, which takes no CUDA along."""
    context = multiprocessing.get_context(start)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, work, *given))
    process.start()
    theirs.close()
    try:
        found = ours.recv() if ours.poll(limit) else {"failed": f"took more than {limit:g} s"}
    except EOFError:
        process.join(5)
        found = {"failed": f"its process ended with exit code {process.exitcode}"}
    finally:  # also when the user stops it
        try:
            os.killpg(process.pid, signal.SIGKILL)  # a group of its own: see _serve
        except (ProcessLookupError, PermissionError):
            process.kill()
        process.join()
    return found


def _serve(pipe: Any, work: Callable[..., Found], *given: Any) -> None:
    os.setsid()
    torch.set_num_threads(1)
    try:
        pipe.send(work(*given))
    except BaseException as error:  # whatever a part meets is its own
        traceback.print_exc()
        pipe.send({"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"})


def kept(path: Path) -> dict[str, Found]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


# ---- the machine ----------------------------------------------------------------------------------


def asked(*query: str) -> list[list[str]]:
    """Rows of nvidia-smi's answer; none where there is no such program."""
    try:
        found = subprocess.run(
            ["nvidia-smi", *query, "--format=csv,noheader"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [[cell.strip() for cell in line.split(",")] for line in found.stdout.splitlines() if line.strip()]


def unusable() -> str:
    """Why there is no CUDA device to work with, in a line; empty where there is one."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA: install a build with it"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    if any("driver" in (said := str(w.message)) and "too old" in said for w in seen):
        driver = next(iter(asked("--query-gpu=driver_version")), ["unknown"])[0]
        return f"the driver ({driver}) is too old for CUDA {torch.version.cuda} of torch {torch.__version__}: update it"
    return "" if there else "no CUDA device on this machine; --device cpu --quick rehearses the check without one"


def others_there() -> str:
    """A line about other processes on the GPUs; empty where there are none."""
    rows = [row for row in asked("--query-compute-apps=pid,process_name,used_memory") if row[0] != str(os.getpid())]
    named = ", ".join(f"{name} (pid {pid}, {used})" for pid, name, used in (row for row in rows if len(row) == 3))
    return f"other processes are on the device: {named}. Times may be longer, memory may be short" if rows else ""


def machine(device: torch.device) -> Found:
    """Read in a process of its own, so that the one that starts the others takes no memory on the device."""
    about = provenance.describe(device)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        driver = next(iter(asked("--query-gpu=driver_version")), ["unknown"])[0]
        about |= {"memory": f"{properties.total_memory / 2**30:.0f} GiB", "driver": driver, "cuda": torch.version.cuda}
        about["memory"] += f", compute capability {properties.major}.{properties.minor}"
    there = {name: version_of(name) for name in PACKAGES}
    about["packages"] = ", ".join(f"{name} {version}" for name, version in there.items() if version)
    return about


def version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


# ---- the report -----------------------------------------------------------------------------------


def verdict(found: dict[str, Found], name: str, least: bool, bound: float) -> tuple[str, str, str]:
    """Of an aim: what was measured, its n, and whether it was met."""
    part = name.partition(",")[0]
    result = found.get(part)
    if result is None:
        return "–", "–", "not run"
    values = result.get("figures", {}).get(name)
    if values is None:
        why = result.get("failed") or "not among what the part could measure, see there"
        return "–", "–", f"not run: {why}"
    *ratio, n = values
    met = ratio[0] >= bound if least else ratio[0] <= bound
    return common.shown(tuple(ratio), 3), str(n), "met" if met else "missed"


def report(about: Found, found: dict[str, Found], notes: list[str]) -> str:
    rows = [
        (words, f"{'≥' if least else '≤'} {bound:g}", *verdict(found, name, least, bound))
        for words, name, least, bound in AIMS
    ]
    where = [f"{about[name]}" for name in ("memory",) if name in about]
    where += [f"driver {about['driver']}, CUDA {about['cuda']}"] if "driver" in about else []
    where += [f"{about['cores']} CPU cores ({about['processor']})", f"Python {about['python']}", about["packages"]]
    parts = []
    for name in PARTS:
        if (result := found.get(name)) is None:
            parts.append(f"### {name}\n\nNot run.\n\n")
            continue
        failed = f"**Failed: {result['failed']}.**\n\n" if result.get("failed") else ""
        origin = f"*commit {result['commit']}, {result['date']}, {result['seconds']:.0f} s*\n\n"
        parts.append(f"### {name}\n\n{failed}{result.get('text', '')}{origin}")
    return (
        "## GPU check\n\n"
        + f"{', '.join(where)}. `make gpu`; median and quartiles of ratios of neighbours, measured in turn in one run."
        + "".join(f"\n\nNote: {note}." for note in notes)
        + "\n\n"
        + common.table(("figure", "aim", "measured (median, quartiles)", "n", ""), rows)
        + "\n\n"
        + "".join(parts)
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="", help=f"with commas, some of {', '.join(PARTS)}; empty: all")
    parser.add_argument("--again", action="store_true", help="run finished parts again")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--out", help="folder of the report: reports, or build where it shows nothing")
    parser.add_argument("--results", default=str(ROOT / "build"), help="folder of the parts' results")
    a = parser.parse_args(arguments)
    chosen = [name.strip() for name in a.parts.split(",") if name.strip()] or list(PARTS)
    if unknown := [name for name in chosen if name not in PARTS]:
        print(f"unknown part {', '.join(unknown)}: choose from {', '.join(PARTS)}")
        return 2
    if a.device != "cpu" and (why := unusable()):
        print(f"gpu: {why}")
        return 1
    device, start = torch.device(a.device), "fork" if a.device == "cpu" else "spawn"
    about = isolated(machine, 60, start, device)
    if "failed" in about:
        print(f"gpu: the device cannot be used: {about['failed']}")
        return 1
    notes = [line for line in ([others_there()] if device.type == "cuda" else []) if line]
    for note in notes:
        print(f"gpu: {note}", flush=True)
    page = common.page_name(about, device.type == "cuda")
    path = Path(a.results) / f"{page.replace('bench', 'gpu')}{'-quick' if a.quick else ''}.json"
    found, commit = kept(path), about["commit"] or os.environ.get("COMMIT", "unknown")
    for part in chosen:
        if part in found and not found[part].get("failed") and not a.again:
            print(f"gpu: {part} is finished, its result is kept ({path}); --again runs it again", flush=True)
            continue
        work, limit = PARTS[part]
        began = time.monotonic()
        result = isolated(work, limit, start, device, a.quick)
        when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        found[part] = result | {"commit": commit, "date": when, "seconds": time.monotonic() - began}
        files.write(path, json.dumps(found, indent=1))
        print(f"gpu: {part}: {result.get('failed') or 'done'}, {found[part]['seconds']:.0f} s", flush=True)
    shows = device.type == "cuda" and not a.quick
    notes += [] if shows else ["a rehearsal, whose numbers show nothing but that it runs"]
    where = Path(a.out or (ROOT / ("reports" if shows else "build")))
    report_path = where / f"{page}{'' if shows else '-rehearsed'}.md"
    common.write_section(report_path, "gpu", report(about, found, notes), about)
    print(report_path)
    return int(any(found[part].get("failed") for part in chosen))


if __name__ == "__main__":
    sys.exit(main())
