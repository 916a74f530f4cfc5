"""What the tests of several ranks run: torchrun -m tests_ranks FOLDER JOB …, or the same functions in one process."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tests_micro import NAME, micro_config, register_micro
from torch import Tensor

import kit
from kit.__main__ import main as command_line
from kit.run import store
from kit.search import engine, signals
from kit.search import ranks as distributed
from kit.search.engine import Search
from kit.search.progress import Silent
from kit.search.step import STEPS

# name → (method, changes). Every child differs from the one before; drop-path, dropout and mixup draw, too.
DRAWN = {
    "drop_path": 0.3,
    "dropout": 0.2,
    "mixup": 0.4,
    "hold_out": True,
    "clip": 1.0,
    "epochs": 20,
    "sync_batchnorm": True,
}
MOBILE = {"space": "mobile", "channels": 8, "cells": 4, "search_channels": 8}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dha": ("dha", {**DRAWN, "recover": "step", "arch_lr": 0.1}),
    "dha-fresh": ("dha", {**DRAWN, "hyper": "fresh", "arch": "dsnas"}),
    "diffautoml": ("diffautoml", {**DRAWN, "channels": 8, "cells": 4}),
    "daas": (
        "daas",
        {**DRAWN, "children": 2, "arch_samples": 1, "search_cells": 2, "reductions": 1, "search_epochs": 10},
    ),
    "daas-shared": ("daas", {**DRAWN, **MOBILE, "policies": 2, "children": 1, "arch_samples": 2, "search_epochs": 10}),
    "gdas": ("gdas", {**DRAWN, **MOBILE, "augment": "pair-softmax", "hyper": "validation", "search_epochs": 10}),
    "autohas": ("autohas", {**DRAWN, **MOBILE, "search_epochs": 10}),
    "ift": ("dsnas", {**DRAWN, **MOBILE, "hyper": "ift"}),
    "hgd": ("dsnas", {**DRAWN, **MOBILE, "hyper": "hgd", "augment": "policy-gradient"}),
    "adversary": ("dsnas", {**DRAWN, **MOBILE, "augment": "adversarial-autoaugment", "tau_lr": 0.1, "copies": 3}),
}


LAST = "---- what follows is told of a killed rank"


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Everything that is float32 by default or by `.float()` is float64: what is left of a difference is rounding at
    1e-16.
    """
    single = Tensor.float
    engine.DTYPE = torch.float64
    torch.set_default_dtype(torch.float64)
    Tensor.float = Tensor.double  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        engine.DTYPE = torch.float32
        Tensor.float = single  # type: ignore[method-assign]


def stepped(name: str, folder: Path, steps: int) -> dict[str, Any]:
    """θ, b or α, τ, η and BatchNorm's statistics after so many steps, the losses of every step [N], and the
    children.
    """
    method, changes = CASES[name]
    with float64():
        engine = Search(micro_config(method, **changes), folder)
        parts = engine.parts
        net = parts.net.double().train()
        net.drop_path, net.dropout, net.mixup = 0.3, 0.2, 0.4
        for learner in (parts.arch, parts.augment, parts.hyper):
            if hasattr(learner, "passed"):
                learner.passed = learner.steps - 2  # the warm-up ends
        children, losses, real = [], [], parts.arch.sample

        def sample() -> Any:
            children.append(child := real())
            return child

        parts.arch.sample = sample
        for i in range(steps):
            step = STEPS["copies"].make if "copies" in changes else engine.take_step
            outcome = step(parts, engine.batches, 1 - i / 40)
            losses.append(distributed.gather(outcome.losses))
        return {
            "theta": [p.detach() for p in net.parameters()],
            "statistics": [b.double() for b in net.buffers()],
            "alpha": [v.detach() for v in parts.arch.variables()],
            "tau": [v.detach() for v in parts.augment.variables()],
            "eta": [v.detach() for v in parts.hyper.variables()],
            "losses": losses,
            "children": [repr(child.picks) for child in children],
        }


def steps_of(name: str) -> int:
    """Two before the warm-up ends, and steps by what was learned; less where a step takes many passes."""
    return 6 if name in ("dha", "diffautoml", "autohas") else 3


# ---- jobs ----------------------------------------------------------------------------------------


def steps(folder: Path) -> None:
    for name in CASES:
        found = stepped(name, folder, steps_of(name))
        if distributed.rank() == 0:
            store.write_state(folder / f"{name}.safetensors", found)


def parted(folder: Path) -> None:
    """What is found where ranks do not have the same."""
    here, said = distributed.rank(), []
    alike = torch.ones(3) + 1e-7 * here
    distributed.check_agreement([alike])
    try:
        distributed.check_agreement([alike, alike * (1 + 1e-3 * here)])
    except kit.KitError as error:
        said.append(str(error))
    store.write_json(folder / f"parted-{here}.json", {"said": said})


def refused(folder: Path) -> None:
    """The command line's errors, and one that the second rank alone meets."""
    if distributed.rank() == 0:
        store.write_json(folder / "only-rank-0.json", {})
    for arguments in (
        ["epochz=3"],
        ["batch_size=61"],
        ["batch_size"],
        [f"out={__file__}/runs"],
        ["max_latency_ms=3.0"],
    ):
        try:
            command_line([f"dataset={NAME}", "device=cpu", "epochs=2", f"out={folder / 'refused'}", *arguments])
        except SystemExit as error:
            assert error.code == 1
    try:  # on one rank alone
        distributed.together(lambda: store.read_json(folder / f"only-rank-{distributed.rank()}.json"))
    except kit.KitError as error:
        sys.stderr.write(f"{type(error).__name__} {error}\n")  # at once, so that the ranks' lines stay apart


def searched(folder: Path, progress: Silent | None = None) -> None:
    """In float64: in float32 rounding grows a thousandfold in a few steps of so small a network."""
    with float64():
        kit.search(whole_run(), out=folder, progress=progress or Silent())


def killed(folder: Path) -> None:
    """Rank 1 dies of SIGKILL in the middle of the second epoch. The last job: nothing comes after it."""
    folder, taken, real = folder / "to be killed", [0], signals.regularize
    sys.stderr.write(f"{LAST}\n")

    def regularize(*given: Any) -> None:  # once in every step
        taken[0] += 1
        if taken[0] == 6 and distributed.rank() == 1:  # a step later rank 0 has saved the first epoch
            (folder.parent / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        real(*given)

    signals.regularize = regularize
    searched(folder)


def whole_run() -> kit.Config:
    """Three epochs of three steps, the last one without search."""
    return micro_config(epochs=3, search_epochs=2, sync_batchnorm=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    gc.set_threshold(50_000, 20, 20)  # as in conftest.py
    register_micro()
    with distributed.joined():
        for job in sys.argv[2:]:
            {job.__name__: job for job in (steps, parted, refused, searched, killed)}[job](Path(sys.argv[1]))
    distributed.leave()
