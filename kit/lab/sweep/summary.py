"""A sweep's finished runs in one table."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from kit.config import NOT_HASHED
from kit.run.run import Run
from kit.studies.tables import interval


def summary(runs: Sequence[Run]) -> pd.DataFrame:
    """A row per data set, method and override: test accuracy (mean over n seeds, 95% interval by Student's t) and
    seconds of a run.
    """
    values = (
        pd.DataFrame([run.config.model_dump() for run in runs])
        .drop(columns=["seed", *NOT_HASHED], errors="ignore")
        .astype(str)
    )
    if values.empty:
        return pd.DataFrame(columns=["dataset", "method", "n", "test accuracy", "low", "high", "seconds"])
    # what a method sets is told by its name; a column is worth showing where it differs between runs of one method
    differs = values.groupby("method").nunique().gt(1).any()
    shown = ["dataset", "method", *(name for name in values.columns if name != "dataset" and differs.get(name, False))]
    measured = values[shown].assign(
        accuracy=[run.metrics["test_accuracy"] for run in runs], seconds=[run.metrics["seconds"] for run in runs]
    )
    rows = []
    for key, group in measured.groupby(shown, sort=False):
        low, high = interval(group["accuracy"])
        rows.append(
            {
                **dict(zip(shown, key)),
                "n": len(group),
                "test accuracy": group["accuracy"].mean(),
                "low": low,
                "high": high,
                "seconds": group["seconds"].mean(),
            }
        )
    return pd.DataFrame(rows)
