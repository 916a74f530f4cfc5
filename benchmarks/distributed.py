"""One search on two ranks: python benchmarks/distributed.py [--repeats 15]

In one torchrun job, all things taking turns by the wall clock, one thread for each process on the CPU: what kit's
averaging (one flat all-reduce of what the child used) adds to a pass, beside
DistributedDataParallel(find_unused_parameters=True) on the same network, with another child in each step; and the DHA
step of two ranks beside that of one process with the batch of one rank.
"""

from __future__ import annotations

import argparse
import copy
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import common
import torch
from step import SIZES, parts_of, synthetic, take
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kit.config import Config
from kit.data import Batches, ImageSets
from kit.run import store
from kit.run.provenance import pick_device
from kit.search import grads
from kit.search import ranks as distributed
from kit.search.learner import generator
from kit.space import Child

RANKS = 2


class MeanLoss(nn.Module):
    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, y: Tensor, child: Child) -> Tensor:
        return self.net.losses(x, y, child)[0].mean()


def passes(config: Config, sets: ImageSets, device: torch.device, batch: int) -> dict[str, Callable[[], object]]:
    """One forward and backward pass, gradients averaged in three ways; every call draws another child, the same on all
    ranks.
    """
    net = parts_of(config, sets, device).net
    learner = parts_of(config.but(arch="dsnas"), sets, device).arch
    start = copy.deepcopy(learner.state_dict())
    half = slice(distributed.rank() * batch, (distributed.rank() + 1) * batch)
    x, y = sets.train.images[half], sets.train.labels[half]
    wrapped = DistributedDataParallel(
        MeanLoss(copy.deepcopy(net)), find_unused_parameters=True, broadcast_buffers=False
    )

    def children() -> Callable[[], Child]:  # a sequence for each way, all of them the same
        own = copy.deepcopy(learner)
        own.load_state_dict(start)
        return lambda: own.sample().detached()

    sequences = [children() for _ in range(3)]

    def none() -> None:
        child = sequences[0]()
        torch.autograd.grad(net.losses(x, y, child)[0].mean(), net.child_parameters(child.picks), allow_unused=True)

    def flat() -> None:
        child = sequences[1]()
        grads.backward(net.losses(x, y, child)[0].mean(), net, child)

    def ddp() -> None:
        wrapped(x, y, sequences[2]()).backward()
        wrapped.zero_grad(set_to_none=True)

    return {"none": none, "kit": flat, "ddp": ddp}


def searches(config: Config, sets: ImageSets, device: torch.device, batch: int) -> dict[str, Callable[[], object]]:
    """DHA's step: of one process while the other waits, of both side by side without a word, and of one search on
    both.
    """
    everybody = distributed._group
    parts = {name: parts_of(config, sets, device) for name in ("single", "ranks")}
    batches = {
        "single": Batches(sets.train, batch, generator(0, "train")),
        "ranks": Batches(sets.train, RANKS * batch, generator(0, "train")),
    }

    def single() -> None:
        distributed._group = None
        take(parts["single"], {"train": batches["single"]})
        distributed._group = everybody

    def alone() -> None:
        if distributed.rank() == 0:
            single()

    return {"alone": alone, "side": single, "ranks": lambda: take(parts["ranks"], {"train": batches["ranks"]})}


def timed(
    things: dict[str, Callable[[], object]], repeats: int, device: torch.device, warm: int = 3
) -> dict[str, list[float]]:
    """Seconds until the slowest rank is done, all things taking turns."""
    times: dict[str, list[float]] = {name: [] for name in things}
    for i in range(warm + repeats):
        for name, thing in things.items():
            distributed.together(lambda: None)
            began = time.perf_counter()
            thing()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - began
            if i >= warm:
                times[name].append(float(distributed.gather(torch.tensor([seconds])).max()))
    return times


def work(name: str, repeats: int, out: Path) -> None:
    """On a rank."""
    device = distributed.own_device(torch.device(name))
    found = []
    for size in SIZES:
        sets = synthetic(size["image"], size["image_channels"]).to(device)
        config = Config(
            method="dha", channels=size["channels"], cells=size["cells"], batch_size=size["batch"], recover="epoch"
        )
        more = repeats if size["image"] > 8 else 3 * repeats
        found.append([timed(make(config, sets, device, size["batch"]), more, device) for make in (passes, searches)])
    if distributed.rank() == 0:
        store.write_json(out, found)


def section(device: torch.device, repeats: int) -> str:
    if device.type == "cuda" and torch.cuda.device_count() < RANKS:
        return "## one search on two ranks\n\nNot measured: it needs two GPUs.\n"
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "times.json"
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={RANKS}",
            __file__,
            "--device",
            device.type,
            "--repeats",
            str(repeats),
            "--worker",
            str(out),
        ]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=sys.stderr)
        found = store.read_json(out)
    averaging, efficiency = [], []
    for size, (a, b) in zip(SIZES, found):
        image = f"{size['image_channels']}×{size['image']}×{size['image']}"
        label = f"{image}, C={size['channels']}, {size['cells']} cells, {size['batch']} images a rank"
        for name, key in (
            ("not averaged", "none"),
            ("kit: one flat all-reduce", "kit"),
            ("DistributedDataParallel", "ddp"),
        ):
            beside = (common.shown(common.ratio(a[key], a[other]), 3) for other in ("none", "ddp"))
            averaging.append((label, name, f"{1e3 * common.median(a[key]):.1f}", *beside, str(len(a[key]))))
        beside = (common.shown(common.ratio(b[key], b["ranks"])) for key in ("alone", "side"))
        efficiency.append(
            (
                label,
                *(f"{1e3 * common.median(b[key]):.1f}" for key in ("alone", "side", "ranks")),
                *beside,
                str(len(b["ranks"])),
            )
        )
    return (
        "## one search on two ranks\n\nForward and backward pass of a child that changes with every step (nothing "
        "else), gradients averaged over two "
        "processes. DistributedDataParallel: `find_unused_parameters=True`, `broadcast_buffers=False`.\n\n"
        + common.table(
            (
                "network",
                "gradients",
                "ms, median",
                "÷ not averaged (median, quartiles)",
                "÷ DistributedDataParallel",
                "n",
            ),
            averaging,
        )
        + "\n\nThe DHA step with look-ahead. Efficiency: images per second of one search on two ranks ÷ (2 × those "
        "of one process with one rank's batch, "
        "while the other process waits). Beside each other: the two processes each for itself, at once: what they "
        "take from each other on one machine.\n\n"
        + common.table(
            (
                "network",
                "ms, one process",
                "ms, two beside each other",
                "ms, one search on two ranks",
                "efficiency",
                "… against two beside each other",
                "n",
            ),
            efficiency,
        )
        + "\n\nBy the wall clock, until the slower rank is done; all columns of a table in turn. Load before: "
        f"{before:.1f}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--worker", type=Path, help="used by the job itself: this process is a rank and writes its times here"
    )
    a = parser.parse_args()
    if a.worker is None:
        print(section(pick_device(a.device), a.repeats))
        return
    torch.set_num_threads(1)
    with distributed.joined():
        work(a.device, a.repeats, a.worker)
    distributed.leave()


if __name__ == "__main__":
    main()
