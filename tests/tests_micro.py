"""What the tests of whole runs share: a tiny data set and a tiny configuration; importable from a subprocess too."""

from __future__ import annotations

from typing import Any

import torch

import kit
from kit.data import Source, load_dataset, register

NAME = "micro_digits"


def register_micro() -> str:
    """Register 300 of the digits, 30 of each class, as `micro_digits`: 192 train, 48 val, 60 test, 8×8 pixels."""
    pool = load_dataset("digits")
    images = torch.cat([part.images for part in (pool.train, pool.val, pool.test)])
    labels = torch.cat([part.labels for part in (pool.train, pool.val, pool.test)])
    rows = torch.cat([(labels == c).nonzero().flatten()[:30] for c in range(10)])
    source = Source(pool.classes, (images[rows], labels[rows]), val_fraction=0.16, test_fraction=0.2)
    register(NAME, lambda root, image_size: source, flip=False, replace=True)
    return NAME


def micro_config(method: str = "dha", **changes: Any) -> kit.Config:
    """Seconds for a whole run: two searches' worth of steps on a 3-cell network of 4 channels."""
    given = {"dataset": NAME, "device": "cpu", "epochs": 2, "search_epochs": 1, "channels": 4, "cells": 3, "search_channels": 4,
             "search_cells": 3, "batch_size": 60, "precision": "float32"}  # fmt: skip
    return kit.Config(method=method, **(given | changes))
