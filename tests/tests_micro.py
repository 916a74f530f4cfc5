"""What the tests of whole runs share: a tiny data set and configuration, an end between epochs, and what makes two runs
the same one. Importable from a subprocess, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

import kit
from kit import Run
from kit.data import Source, load_dataset, register
from kit.methods import METHODS
from kit.run import store
from kit.search.progress import Silent

NAME = "micro_digits"


def register_micro() -> str:
    """Register 300 of the digits, 30 of each class, as `micro_digits`: 192 train, 48 val, 60 test, 8×8 pixels."""
    pool = load_dataset("digits")
    images = torch.cat([part.images for part in (pool.train, pool.val, pool.test)])
    labels = torch.cat([part.labels for part in (pool.train, pool.val, pool.test)])
    rows = torch.cat([(labels == c).nonzero().flatten()[:30] for c in range(10)])
    source = Source(pool.classes, (images[rows], labels[rows]), val_fraction=0.16, test_fraction=0.2)
    register(NAME, lambda root, image_size: source, flip=False, title="300 of the digits, for the tests")
    return NAME


def micro_config(method: str = "dha", **changes: Any) -> kit.Config:
    """A second for a whole run: an epoch of search and one after it, on two cells of 4 channels, one of each kind."""
    space = changes.get("space") or METHODS[method].space
    cells = {"cells": 2, "search_cells": 2, "reductions": 1} if space == "cell" else {"cells": 3, "search_cells": 3}
    given = {
        "dataset": NAME,
        "device": "cpu",
        "epochs": 2,
        "search_epochs": 1,
        "channels": 4,
        "search_channels": 4,
        **cells,
        "batch_size": 60,
        "precision": "float32",
    }
    return kit.Config(method=method, **(given | changes))


class Stop(BaseException):
    """Raised between epochs, where a process may die; nothing in between catches it."""


class StopAfterEachEpoch(Silent):
    def epoch(self, done: int, stage: str, numbers: dict[str, float]) -> None:
        raise Stop


def assert_same_run(a: Run, b: Run) -> None:
    """Bit-identical in all that does not tell the time."""
    pd.testing.assert_frame_equal(a.history, b.history, check_exact=True)
    weights, others = (store.read_tensors(run.path / "model" / "model.safetensors")[0] for run in (a, b))
    assert weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)
    for name in ("alpha", "tau"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x), name
    timing = {"seconds", "peak_memory_mb"}
    assert {k: v for k, v in a.metrics.items() if k not in timing} == {
        k: v for k, v in b.metrics.items() if k not in timing
    }
    assert (a.genotype, a.policy, a.hyper) == (b.genotype, b.policy, b.hyper)
