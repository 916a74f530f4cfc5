"""What the benchmarks share: things timed in turn in one process, ratios of neighbours, Markdown tables."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kit import files
from kit.studies.tables import interval

# sections of a report on a machine, in their order; the first one is gpu.py's, the others all.py's
ORDER = tuple("gpu step small augment memory search data landscape sharpness start distributed".split())


def clock(device: torch.device) -> float:
    """Seconds, after the device has done what it was given. On the CPU with one thread it is that thread's own time,
    which other work on the machine hardly moves."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def alternately(
    things: Mapping[str, Callable[[], object]], repeats: int, device: torch.device, warm: int = 1
) -> dict[str, list[float]]:
    """Seconds of each thing, `repeats` times, all of them taking turns; the first `warm` rounds do not count."""
    times: dict[str, list[float]] = {name: [] for name in things}
    for i in range(warm + repeats):
        for name, thing in things.items():
            began = clock(device)
            thing()
            if i >= warm:
                times[name].append(clock(device) - began)
    return times


def ratio(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Median and quartiles of a / b over neighbouring measurements."""
    low, middle, high = statistics.quantiles([x / y for x, y in zip(a, b, strict=True)], n=4)
    return middle, low, high


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def shown(values: tuple[float, float, float], digits: int = 2) -> str:
    middle, low, high = (f"{v:.{digits}f}" for v in values)
    return f"{middle} ({low} … {high})"


def estimated(values: np.ndarray, spec: str) -> str:
    """The mean and, from three values on, Student's 95% interval."""
    mean, low, high = interval(values)
    return f"{mean:{spec}}" + (f" [{low:{spec}}, {high:{spec}}]" if len(values) > 2 else "")


def sizes(given: str, datasets: Sequence[str]) -> dict[str, int | None]:
    """The image size of each data set, from numbers with commas; "": every set's own."""
    every = [int(size) for size in given.split(",") if size] or [None] * len(datasets)
    return dict(zip(datasets, every, strict=True))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines)


def page_name(about: Mapping[str, Any], cuda: bool) -> str:
    """Of the report on the machine that `kit.run.provenance.describe` is about."""
    return "bench-" + (re.sub(r"\W+", "-", about["device"].lower()) if cuda else "cpu")


def write_section(path: Path, name: str, text: str, about: Mapping[str, Any]) -> None:
    """Put a section into a report, in place of its older text; the other sections stay as they are."""
    old = dict(re.findall(r"<!-- (\w+) -->\n(.*?)(?=<!-- |\Z)", path.read_text(), re.DOTALL)) if path.is_file() else {}
    sections = old | {name: f"{text.strip()}\n\n"}
    head = (
        f"# Benchmarks: {about['processor'] if about['device'] == 'cpu' else about['device']}\n\n{about['cores']} "
        f"cores, torch {torch.__version__}, Python {about['python']}. Figures are ratios of things measured in turn in "
        "one run; with one CPU thread by its own clock, which other work on the machine moves little. "
        "`python benchmarks/all.py`, `python benchmarks/gpu.py`\n\n"
    )
    page = head + "".join(f"<!-- {key} -->\n{sections[key]}" for key in ORDER if key in sections)
    files.write(path, page.rstrip() + "\n")
