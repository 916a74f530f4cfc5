"""Many runs, each a process, on this machine or on a Ray cluster. Finished runs are read, interrupted ones go on."""

import contextlib
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm

from kit import data, files
from kit.config import Config
from kit.errors import KitError, shown, summary, unknown, whole
from kit.lab import notebook as parameters
from kit.lab.process import ChildProcess
from kit.run.run import Run
from kit.search.progress import interactive, interruptible, say

MOST = 10_000  # runs; more are a mistake


class Result(NamedTuple):
    """runs: the finished ones, in the order of the configurations; failures: the others' causes, by name."""

    runs: list[Run]
    failures: dict[str, str]


def grid(**axes: Any) -> list[Config]:
    """The configurations of every combination: a list, tuple, range or array is an axis, anything else the same for
    all. Raises KitError for an empty axis, and as `kit.Config` does."""
    several = lambda v: isinstance(v, (list, tuple, range)) or getattr(v, "ndim", 0)
    sized = {name: v if several(v) else [v] for name, v in axes.items()}
    if (many := math.prod(map(len, sized.values()))) > MOST:
        raise KitError(f"these axes make {many:,} runs: give at most {MOST:,}")
    if empty := [name for name, values in sized.items() if not len(values)]:
        raise KitError(f"{empty[0]}: an empty axis makes no runs; give at least one value")
    return [Config(**dict(zip(sized, values))) for values in itertools.product(*sized.values())]


def axes(datasets: str, methods: str, seeds: int | str, overrides: str, values: dict[str, Any]) -> dict[str, Any]:
    """What `grid` takes, from a notebook's flat parameters: datasets and methods with commas, seeds as for `seeds_of`,
    further axes as "lr=0.01:0.1,channels=8:16", and values for all runs. Raises KitError for what cannot be read."""
    found: dict[str, Any] = {"dataset": listed(datasets), "method": listed(methods), "seed": seeds_of(seeds)}
    for part in listed(overrides):
        name, equals, given = (piece.strip() for piece in part.partition("="))
        if not equals or name in found:
            problem = "an axis already" if equals else "not name=value:value, as in lr=0.01:0.1,channels=8:16"
            raise KitError(f"overrides={overrides!r}: {part!r} is {problem}")
        found[name] = [parameters.typed(name, value) for value in listed(given, ":")]
    return values | found


def seeds_of(seeds: int | str) -> list[int]:
    """A number of seeds, 3 → [0, 1, 2], or text that lists them, "0,3,7". Raises KitError for anything else."""
    try:
        found = [int(seed) for seed in seeds.split(",")] if isinstance(seeds, str) else range(seeds)
        if len(found) > MOST:
            raise ValueError
        return list(found)
    except (TypeError, ValueError, OverflowError):
        wanted = f"a number of seeds, such as 5, nor a list, '0,3,7', of at most {MOST:,}"
        raise KitError(f"seeds={shown(seeds)} is neither {wanted}") from None


def listed(text: str, comma: str = ",") -> list[str]:
    return [part.strip() for part in text.split(comma) if part.strip()]


def run(
    configs: Sequence[Config],
    out: str | Path | None = None,
    workers: int | None = None,
    *,
    threads: int = 1,
    backend: str = "local",
    address: str = "auto",
    gpus: float | None = None,
    retries: int = 0,
    notebook: str | None = None,
    hung: int = 0,
) -> Result:
    """Run all configurations, `workers` at a time, and return what finished; a run that fails does not stop the others.

    out: folder of run directories, in place of the configurations' own; with Ray, one that all machines share. workers:
    None or 0 takes as many as the GPUs have room for or, without GPUs, the cores per `threads`. threads: of each
    process; one is as fast as two on small images. backend: "local" or "ray"; address: of the Ray cluster, host:port,
    "auto" (this machine's) or "local" (a new one). gpus: of each run, a whole number or a fraction; None: one where
    this machine has any and the runs use them. retries: how often a run that failed is started again; it goes on from
    its last checkpoint. notebook: papermill executes it for each run, with the configuration as its parameters, and
    keeps <out>/<run>.ipynb. hung: seconds without another epoch after which a run is killed, and has failed; 0: never.
    What another sweep works on comes last, and is waited for. Raises KitError, before a start, for what cannot be."""
    if not isinstance(configs, Sequence) or not all(isinstance(config, Config) for config in configs):
        raise KitError(f"configs={shown(configs)}: give a list of kit.Config, as sweep.grid(...) makes one")
    workers = 0 if workers is None else whole("workers", workers, 0, 1000)
    threads, retries = whole("threads", threads, 1, 1000), whole("retries", retries, 0, 1000)
    hung = whole("hung", hung, 0)
    if notebook and not files.place(notebook).is_file():
        raise KitError(f"notebook={notebook!r} is no file: give a path, such as notebooks/search.ipynb")
    if backend not in ("local", "ray"):
        raise unknown("backend", backend, ("local", "ray"))
    if gpus is None:
        gpus = float(bool(available_cards()) and any(config.device != "cpu" for config in configs))
    if not (isinstance(gpus, (int, float)) and 0 <= gpus <= 1000 and (gpus < 1 or gpus % 1 == 0)):
        raise KitError(f"gpus={shown(gpus)} of each run is neither a fraction (0.5: two share one) nor whole")
    folders = _folders(configs, out)
    finished = lambda: [folder for folder in folders if (folder / "metrics.json").is_file()]
    before = finished()
    todo = {folder: config for folder, config in folders.items() if folder not in before}
    failures, options = {}, {"threads": threads, "notebook": notebook or "", "hung": hung}
    with interruptible(lambda: f"stopped after {len(finished())} of {len(folders)} runs; run again to go on"):
        twice = f", {again} given twice" if (again := len(configs) - len(folders)) else ""
        say(f"{len(folders)} runs{twice}, {len(before)} of them finished before")
        if todo:
            start, room, stop = on_ray(address, threads, gpus) if backend == "ray" else local(workers, threads, gpus)
            failures = _work_off(todo, lambda *given: start(*given, **options), workers or room, stop, retries)
    runs = []
    for folder in finished():
        try:
            runs.append(Run.load(folder).own())
        except KitError as error:
            failures[folder.name] = str(error)
    return Result(runs, failures)


def _folders(configs: Sequence[Config], out: str | Path | None) -> dict[Path, Config]:
    """By run directory; each data set is read once."""
    known, folders = {}, {}
    for config in configs:
        fields = (config.dataset, config.root, config.image_size, config.on_bad_image, config.preset)
        if fields not in known:
            sets = config.sets()
            known[fields] = sets.name, data.digest(sets)
        folders[files.place(out or config.out) / config.named(*known[fields])] = config
    return folders


def require_all(result: Result) -> None:
    """Raises KitError that lists the runs that failed, with their causes; what finished is kept."""
    if result.failures:
        causes = "; ".join(f"{name}: {cause}" for name, cause in result.failures.items())
        raise KitError(f"{len(result.failures)} of {len(result.failures) + len(result.runs)} runs failed: {causes}")


def _work_off(todo: dict[Path, Config], start: Callable, workers: int, stop: Callable, retries: int) -> dict[str, str]:
    """The causes of what failed, by name. start: runs (values, folder) to its end and says why there is no result."""
    failures, over, left, choosing = {}, threading.Event(), list(todo), threading.Lock()

    def finish() -> tuple[Path, str]:
        with choosing:
            folder = next((folder for folder in left if not files.in_use(folder)), left[0])
            left.remove(folder)
        tries, cause = retries, ""
        while tries >= 0 and not over.is_set():
            cause = start(todo[folder].model_dump(), folder)
            if (folder / "metrics.json").is_file():  # whatever happened to its process after that
                return folder, ""
            tries -= not cause.startswith("InUse")  # another sweep's process was quicker
        return folder, cause

    pool = ThreadPoolExecutor(workers)
    futures = [pool.submit(finish) for _ in todo]
    try:
        bar = tqdm(as_completed(futures), total=len(todo), unit="run", disable=not interactive())
        for done, future in enumerate(bar, 1):
            folder, cause = future.result()
            if cause:
                failures[folder.name] = cause
            result = f"failed: {cause}" if cause else f"test accuracy {Run.load(folder).metrics['test_accuracy']:.4f}"
            with tqdm.external_write_mode():
                say(f"{done} of {len(todo)} done, {len(failures)} failed · {folder.name}: {result}")
    finally:
        over.set()
        pool.shutdown(wait=False, cancel_futures=True)
        while True:
            with contextlib.suppress(KeyboardInterrupt):  # the impatient press it twice
                stop()
                if all(future.done() for future in futures):
                    break
                time.sleep(0.2)  # one was just starting
    return failures


def local(workers: int | None, threads: int, gpus: float) -> tuple[Callable[..., str], int, Callable[[], None]]:
    """(run, as `ChildProcess.end` after its arguments; how many at a time; what kills all of them), on this machine."""
    free, running = SimpleQueue(), set()
    cards = places(available_cards(), gpus)
    count = workers or len(cards) or max(1, len(os.sched_getaffinity(0)) // threads)
    if gpus and count > len(cards):
        raise KitError(f"gpus={gpus:g} for each of {count} runs: this machine has room for {len(cards)}; ask for fewer")
    for place in cards or [""] * count:
        free.put(place)

    def run(values: dict[str, Any], folder: Path, **options: Any) -> str:
        place = free.get()
        chosen = values["device"].startswith("cuda:")  # by the configuration itself, among all cards
        child = ChildProcess(values, folder, cards=None if chosen else place, **options)
        running.add(child)
        try:
            return child.end()
        finally:
            running.discard(child)
            free.put(place)

    return run, count, lambda: [child.kill() for child in list(running)]


def places(cards: list[str], gpus: float) -> list[str]:
    """The cards of each of the runs that fit side by side, as CUDA_VISIBLE_DEVICES names them. gpus: of each run."""
    if 0 < gpus < 1:
        return [card for card in cards for _ in range(int(1 / gpus + 1e-9))]
    size = int(gpus)
    return [",".join(cards[i : i + size]) for i in range(0, len(cards) - size + 1, size)] if size else []


def available_cards() -> list[str]:
    """This machine's GPUs, as CUDA_VISIBLE_DEVICES names them."""
    named, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()  # makes no GPU context
    return named.split(",")[:count] if named else [str(i) for i in range(count)]


def on_ray(address: str, threads: int, gpus: float) -> tuple[Callable[..., str], int, Callable[[], None]]:
    """As `local`, on a cluster whose machines have the same kit and share the folder of run directories: it gives each
    run its cores and GPUs, and starts a run again elsewhere whose worker or node is lost. address: as for `run`. Raises
    KitError where Ray is not installed, no cluster answers, or no node of it has room for a run."""
    try:
        import ray
        from ray._private import ray_constants

        # a new cluster of this machine listens on loopback alone, which Ray itself does for other systems than Linux
        ray_constants.ENABLE_RAY_CLUSTER = address != "local"
        os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = str(int(address != "local"))
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    except Exception as error:
        mend = "pip install 'kit[ray]', start one with `ray start --head`, or give address='local' for one here alone"
        raise KitError(f"no Ray cluster answers at {address!r} ({summary(error)}): {mend}") from None
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = {"CPU": threads} | ({"GPU": gpus} if gpus else {})
    room = sum(int(min(node.get(kind, 0) / need + 1e-9 for kind, need in needs.items())) for node in nodes)
    if not room:
        ray.shutdown()
        raise KitError(f"no machine of the cluster {address} has threads={threads}, gpus={gpus:g}: ask for fewer")
    task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=3, max_calls=0)(_in_ray_worker)  # for lost nodes

    def run(values: dict[str, Any], folder: Path, **options: Any) -> str:
        result = task.remote(values, folder.absolute(), os.getcwd(), bool(gpus), options).future()
        while ray.is_initialized():  # once it is shut down, as by Ctrl-C, nothing arrives any more
            try:
                return result.result(timeout=0.5)
            except ray.exceptions.RayError as error:
                return f"its Ray worker was lost: {summary(error)}"
            except TimeoutError:
                pass
        return "the sweep was stopped"

    return run, room, ray.shutdown


def _in_ray_worker(values: dict[str, Any], folder: Path, cwd: str, gpus: bool, options: dict[str, Any]) -> str:
    with contextlib.suppress(OSError):  # a machine may not have the folder
        os.chdir(cwd)
    cards = os.environ.get("CUDA_VISIBLE_DEVICES", "") if gpus else ""  # Ray names the task's GPUs there
    return ChildProcess(values, folder, cards=cards, **options).end()
