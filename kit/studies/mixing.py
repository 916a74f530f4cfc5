"""DAAS's mixing experiment (its Table 7): each found architecture trained with each found policy."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from kit.config import Config
from kit.errors import KitError
from kit.run.run import Run


def grid(searched: Sequence[Run], seed: int = 0) -> list[Config]:
    """Configurations that train the architecture of each run with the policy of each, for as long as those runs
    retrained theirs.

    searched: two or more finished runs that learned a policy. Raises KitError otherwise.
    """
    learned = [run for run in searched if run.finished and "probabilities" in run.policy]
    if len(learned) < 2:
        raise KitError(
            f"mixing needs two finished runs that learned a policy, got {len(learned)} of {len(searched)}: run method='daas' with seeds=2 or more"
        )
    return [_mixed(architecture, policy, seed) for architecture in learned for policy in learned]


def _mixed(architecture: Run, policy: Run, seed: int) -> Config:
    c = architecture.config
    same = {
        name: getattr(c, name)
        for name in (
            "dataset",
            "root",
            "image_size",
            "train_images",
            "preset",
            "device",
            "batch_size",
            "channels",
            "cells",
            "reductions",
            "lr",
            "weight_decay",
            "momentum",
            "clip",
            "drop_path",
            "auxiliary",
            "space",
            "precision",
            "deterministic",
            "out",
        )
    }
    return Config(
        method="plain",
        seed=seed,
        epochs=c.epochs - c.search_epochs,
        genotype=str(architecture.path),
        policy=str(policy.path),
        augment=policy.policy["name"],
        **same,
    )


def table(mixed: Sequence[Run]) -> pd.DataFrame:
    """Test accuracy of the runs of `grid`: one row per architecture, one column per policy, n = 1 each, numbered as
    they come.
    """
    paths = list(dict.fromkeys(run.config.genotype for run in mixed))
    frame = pd.DataFrame(
        index=[f"architecture {i}" for i in range(1, len(paths) + 1)],
        columns=[f"policy {i}" for i in range(1, len(paths) + 1)],
        dtype=float,
    )
    for run in mixed:
        frame.iloc[paths.index(run.config.genotype), paths.index(run.config.policy)] = run.metrics["test_accuracy"]
    return frame
