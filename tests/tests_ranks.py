"""What the tests of several ranks run: torchrun -m tests_ranks CASE FOLDER [method], or the same functions in one process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any, Iterator

import torch
from torch import Tensor
from tests_micro import micro_config, register_micro

import kit
from kit import distributed, store
from kit.progress import Silent
from kit.search import Search

# name → (method, changes). Every child differs from the one before; drop-path, dropout and mixup draw, too.
DRAWN = {"drop_path": 0.3, "dropout": 0.2, "mixup": 0.4, "hold_out": True, "clip": 1.0, "epochs": 20, "sync_batchnorm": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dha": ("dha", {**DRAWN, "recover": "step", "arch_lr": 0.05, "auxiliary": 0.0}),
    "dha-fresh": ("dha", {**DRAWN, "hyper": "fresh", "arch": "dsnas"}),
    "diffautoml": ("diffautoml", {**DRAWN, "channels": 8, "cells": 4}),
    "daas": ("daas", {**DRAWN, "children": 2, "arch_samples": 2, "search_epochs": 10}),
    "daas-shared": ("daas", {**DRAWN, "policies": 2, "children": 1, "arch_samples": 1, "search_epochs": 10}),
    "darts": ("darts", {**DRAWN, "augment": "policy-gradient", "search_epochs": 10}),
    "autohas": ("autohas", {**DRAWN, "channels": 8, "cells": 4, "search_channels": 8, "search_epochs": 10}),
    "ift": ("ift", {**DRAWN, "channels": 8, "cells": 4}),
    "hgd": ("hgd", {**DRAWN, "channels": 8, "cells": 4}),
}


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Everything that is float32 by default or by `.float()` is float64: what is left of a difference is rounding at 1e-16."""
    single = Tensor.float
    torch.set_default_dtype(torch.float64)
    Tensor.float = Tensor.double  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        Tensor.float = single  # type: ignore[method-assign]


def stepped(name: str, folder: Path, steps: int) -> dict[str, Any]:
    """θ, b or α, τ, η and BatchNorm's statistics after so many steps, the losses of every step [N], and the children."""
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
            outcome = engine.take_step(net, engine.data.batches, parts.arch, parts.augment, parts.hyper, parts.sgd, 1 - i / 40, engine.samples)
            losses.append(outcome.losses)
        return {
            "theta": [p.detach() for p in net.parameters()], "statistics": [b.double() for b in net.buffers()],
            "alpha": [v.detach() for v in parts.arch.variables()], "tau": [v.detach() for v in parts.augment.variables()],
            "eta": [v.detach() for v in parts.hyper.variables()], "losses": losses, "children": [repr(child.picks) for child in children],
        }  # fmt: skip


def main(case: str, folder: Path, *rest: str) -> None:
    register_micro()
    if case == "steps":
        with distributed.joined():
            for name in rest:
                found = stepped(name, folder, 20)
                if distributed.first():
                    store.write_state(folder / f"{name}.safetensors", found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
