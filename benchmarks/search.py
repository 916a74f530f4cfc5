"""One-stage search at DHA's CIFAR size, kit against the plain eager yardstick: python benchmarks/search.py [--channels
36 --cells 20 --batch 96]

Each runs in a process of its own with the same number of threads; they take turns, step by step, while the other waits.
Seconds per epoch are the median step times the steps of 50,000 images.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import common
import torch

from kit.run.provenance import pick_device

IMAGES = 50_000
SIZE = {"channels": 36, "cells": 20, "batch": 96, "threads": 2, "workers": 2}


def kit_step(sets: Any, device: torch.device, size: dict[str, int], precision: str) -> tuple[Callable[[], None], dict]:
    import step

    from kit.config import Config
    from kit.data import Batches
    from kit.search.learner import generator

    sets = sets.to(device)
    config = Config(
        method="ista",
        preset="paper",
        auxiliary=0.0,
        drop_path=0.0,
        recover="epoch",
        precision=precision,
        channels=size["channels"],
        cells=size["cells"],
        batch_size=size["batch"],
    )
    parts = step.parts_of(config, sets, device)
    batches = {"train": Batches(sets.train, size["batch"], generator(0, "train"))}
    return lambda: step.take(parts, batches), parts.net.genotype(parts.arch.picks)


def yardstick_step(sets: Any, device: torch.device, size: dict[str, int], genotype: dict) -> Callable[[], None]:
    from yardstick import Yardstick

    return Yardstick(
        sets.train.images,
        sets.train.labels,
        genotype,
        size["channels"],
        size["cells"],
        size["batch"],
        size["workers"],
        device,
    ).step


def serve(pipe: Connection, precision: str | None, name: str, size: dict[str, int], genotype: dict | None) -> None:
    """Takes a step whenever asked to, and says how many seconds it took. precision: kit's; None for the yardstick."""
    import step

    torch.set_num_threads(size["threads"])
    device, sets = torch.device(name), step.synthetic(32, 3, 4096)
    if precision is None:
        take = yardstick_step(sets, device, size, genotype)
    else:
        take, genotype = kit_step(sets, device, size, precision)
    pipe.send(genotype)
    while pipe.recv():
        began = time.perf_counter()
        take()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        pipe.send(time.perf_counter() - began)


def in_turn(
    device: torch.device, precisions: Sequence[str], repeats: int, size: dict[str, int], start: str = "spawn"
) -> dict[str, list[float]]:
    """Seconds of `repeats` steps of kit, by each precision, and of the yardstick. start: of their processes; a fork
    takes no CUDA along."""
    context = multiprocessing.get_context(start)
    pipes, processes = {}, []

    def serving(which: str, precision: str | None, genotype: dict | None = None) -> None:
        pipes[which], other = context.Pipe()
        # not a daemon: the yardstick's loader has workers of its own
        processes.append(context.Process(target=serve, args=(other, precision, str(device), size, genotype)))
        processes[-1].start()
        other.close()  # so that a process that dies (of memory, say: two need about 20 GB) ends the benchmark

    for precision in precisions:
        serving(precision, precision)
    genotype = [pipe.recv() for pipe in pipes.values()][0]
    serving("yardstick", None, genotype)
    pipes["yardstick"].recv()
    times: dict[str, list[float]] = {which: [] for which in pipes}
    for i in range(repeats + 2):
        for which, pipe in pipes.items():
            pipe.send(True)
            took = pipe.recv()
            if i >= 2:
                times[which].append(took)
    for pipe, process in zip(pipes.values(), processes):
        pipe.send(False)
        process.join()
    return times


def section(device: torch.device, repeats: int, **given: int) -> str:
    size, rows = SIZE | given, []
    steps = IMAGES // size["batch"]
    for precision in ("float32", "bfloat16"):
        times = in_turn(device, (precision,), repeats, size)
        names = {precision: f"kit, {precision}", "yardstick": "yardstick, float32, beside it"}
        rows += [
            (
                names[which],
                f"{common.median(found):.3f}",
                f"{common.median(found) * steps:,.0f}",
                common.shown(common.ratio(found, times["yardstick"]), 3),
            )
            for which, found in times.items()
        ]
    return (
        f"## search: one-stage search, C={size['channels']}, {size['cells']} cells, batch {size['batch']}, {IMAGES:,} "
        "synthetic 3×32×32 images\n\n"
        "`ista` (α and θ from one backward pass) in kit, and the same step of the same child as plain eager float32 "
        "code with a DataLoader of "
        f"{size['workers']} workers (`benchmarks/yardstick.py`). {size['threads']} threads each, wall-clock. "
        'bfloat16 is kit\'s `precision="bfloat16"`: '
        "its accuracy is float32's within the interval (`reports/precision-digits.md`).\n\n"
        + common.table(("what", "s a step, median", "s an epoch", "÷ yardstick (median, quartiles)"), rows)
        + f"\n\nn = {repeats} steps each, in turn.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in ({**SIZE, "repeats": 5}).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="auto")
    a = vars(parser.parse_args())
    print(section(pick_device(a.pop("device")), **a))


if __name__ == "__main__":
    main()
