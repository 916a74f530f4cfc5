"""Numbers from many runs: a row per run, a row per method with intervals and paired tests, and what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from kit.errors import KitError
from kit.methods import METHODS
from kit.run.run import Run

REFERENCE = "dha"  # the method that the others are compared with

# Top-1 accuracy in percent, as the papers report it; n unstated unless given. DHA: its Tables 1 and 3, GPU hours on a
# V100. DAAS and the differentiable searches: DAAS's Table 2 (GPU days on a 2080 Ti). AutoHAS: its Table 4, on
# MobileNetV2, n = 3. DiffAutoML reports ImageNet alone: 75.5 against DSNAS's 74.4 ± 0.2.
PAPER = {
    "dha": {"cifar10": "98.11 ± 0.26 (76.6 h)", "cifar100": "83.93 ± 0.23 (76.6 h)"},
    "seq-dha": {"cifar10": "97.77 ± 0.14 (101.9 h)", "cifar100": "83.51 ± 0.12 (101.9 h)"},
    "nas+da": {"cifar10": "97.78 ± 0.13 (64.0 h)", "cifar100": "83.55 ± 0.03 (64.0 h)"},
    "seq-nas+da": {"cifar10": "97.74 ± 0.12 (57.5 h)", "cifar100": "83.45 ± 0.03 (57.5 h)"},
    "nas+hpo": {"cifar10": "97.75 ± 0.20 (70.8 h)", "cifar100": "83.23 ± 0.05 (70.8 h)"},
    "seq-nas+hpo": {"cifar10": "97.54 ± 0.18 (63.6 h)", "cifar100": "83.13 ± 0.05 (63.6 h)"},
    "ista": {"cifar10": "97.64 ± 0.20 (55.2 h)", "cifar100": "83.10 ± 0.11 (55.2 h)"},
    "daas": {"cifar10": "97.76 ± 0.10 (n=4, 1.0 d)", "cifar100": "84.63 ± 0.31 (n=4, 1.0 d)"},
    "daas-independent": {"cifar10": "97.62 (n=4)"},
    "gdas": {"cifar10": "97.07 (0.2 d)", "cifar100": "81.62 (0.2 d)"},
    "darts": {"cifar10": "97.00 ± 0.14 (0.4 d)", "cifar100": "79.42 ± 0.44 (0.4 d)"},
    "snas": {"cifar10": "97.15 ± 0.02 (1.5 d)"},
    "autohas": {"cifar10": "94.4 (n=3)", "cifar100": "77.4 (n=3)"},
    "autohas-phase": {"cifar10": "94.4 (n=3)", "cifar100": "77.6 (n=3)"},
    "autohas-hpo": {"cifar10": "95.0 (n=3)", "cifar100": "78.4 (n=3)"},
}
COSTS = {"seconds": "seconds", "memory_mb": "peak_memory_mb", "params": "params", "macs": "macs"}  # column → metric


# ---- statistics ----------------------------------------------------------------------------------


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean; (nan, nan) for fewer than two values."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return math.nan, math.nan
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def wilson(accuracy: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of the share of all such images that is classified correctly, from one test set of n images."""
    found = stats.binomtest(round(accuracy * n), n).proportion_ci(level, "wilson")
    return float(found.low), float(found.high)


def paired(values: pd.Series, base: pd.Series) -> dict[str, float]:
    """The mean difference values − base over the index (the seeds) that both have: difference, pairs, difference_low,
    difference_high (Student's t, 95%), p (paired t-test); NaN where there is nothing to take it from."""
    apart = (values - base).dropna().to_numpy()
    # seeds that all differ by the same number of test images have no spread to take an interval from
    varies = len(apart) > 1 and np.ptp(apart) > 1e-12
    low, high = interval(apart) if varies else (math.nan, math.nan)
    p = float(stats.ttest_1samp(apart, 0.0).pvalue) if varies else math.nan
    mean = float(apart.mean()) if len(apart) else math.nan
    return {"difference": mean, "pairs": len(apart), "difference_low": low, "difference_high": high, "p": p}


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of a family of p-values (Holm 1979): the k-th smallest times the number not yet
    rejected, kept monotone, at most 1. NaN stands for no test and does not count."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    adjusted = np.full(len(p), math.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted.tolist()


# ---- rows ----------------------------------------------------------------------------------------


def per_run(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per finished run: dataset, method, title, seed, test_accuracy, val_accuracy, seconds, memory_mb, params,
    macs, path. Raises KitError for a run that is not finished."""
    rows = []
    for run in runs:
        config, metrics = run.config, run.metrics
        if not metrics:
            raise KitError(f"{run.path} is not finished ({run.status}): kit.search with its configuration continues it")
        row = {"dataset": config.dataset, "method": config.method, "title": METHODS[config.method].title}
        row |= {"seed": config.seed, **{name: metrics[name] for name in ("test_accuracy", "val_accuracy")}}
        rows.append(row | {column: metrics[name] for column, name in COSTS.items()} | {"path": str(run.path)})
    return pd.DataFrame(rows)


def grouped(rows: pd.DataFrame, by: Sequence[str], **more: tuple[str, str]) -> pd.DataFrame:
    """One row per group, in the order of their first rows: the columns `by`, title, n, accuracy_mean, _std, _low and
    _high (95% interval of the mean), and `more` as in `DataFrameGroupBy.agg`."""
    accuracy = "test_accuracy"
    return (
        rows.groupby(list(by), sort=False, dropna=False)
        .agg(
            title=("title", "first"),
            n=(accuracy, "size"),
            accuracy_mean=(accuracy, "mean"),
            accuracy_std=(accuracy, "std"),
            accuracy_low=(accuracy, lambda values: interval(values)[0]),
            accuracy_high=(accuracy, lambda values: interval(values)[1]),
            **more,
        )
        .reset_index()
    )


def summarize(runs: Sequence[Run], reference: str = REFERENCE) -> pd.DataFrame:
    """`grouped` by method, with the means of seconds, memory_mb, params and macs, and the columns of `paired` against
    `reference` by seed, with p_holm adjusted over all of the table's comparisons."""
    table = per_run(runs)
    summary = grouped(table, ["method"], **{name: (name, "mean") for name in COSTS})
    by_seed = table.groupby(["seed", "method"])["test_accuracy"].mean().unstack()
    nothing = pd.Series(dtype=float)
    tests = [
        paired(by_seed[method], nothing if method == reference else by_seed.get(reference, nothing))
        for method in summary["method"]
    ]
    summary = summary.join(pd.DataFrame(tests))
    return summary.assign(p_holm=holm(summary["p"]))


# ---- as text -------------------------------------------------------------------------------------


def percent(low: float, high: float) -> str:
    """An interval of shares in percent, or a dash."""
    return "–" if math.isnan(low) else f"{100 * low:.2f} … {100 * high:.2f}"


def formatted(summary: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """The columns of `summarize` as a report shows them, and the papers' figures: strings, accuracies in percent."""
    paper = dataset if dataset in ("cifar10", "cifar100") else "cifar10"
    rows = summary.to_dict("records")
    return pd.DataFrame(
        {
            "method": [f"{row['title']} (`{row['method']}`)" for row in rows],
            "n": [str(row["n"]) for row in rows],
            "test accuracy, % (mean ± std)": [_spread(row["accuracy_mean"], row["accuracy_std"]) for row in rows],
            "95% interval": [percent(row["accuracy_low"], row["accuracy_high"]) for row in rows],
            "difference to DHA, points (paired, 95%)": [_difference(row) for row in rows],
            "p, Holm": [_p(row["p_holm"]) for row in rows],
            "seconds": [f"{row['seconds']:.0f}" for row in rows],
            "memory, MB": [f"{row['memory_mb']:.0f}" for row in rows],
            "parameters": [f"{row['params']:,.0f}" for row in rows],
            "multiply-adds": [f"{row['macs']:,.0f}" for row in rows],
            f"paper, CIFAR-{paper.removeprefix('cifar')} (V100)": [
                PAPER.get(row["method"], {}).get(paper, "–") for row in rows
            ],
        }
    )


def findings(summary: pd.DataFrame, reference: str = REFERENCE) -> list[str]:
    """What the paired differences say, in words, also when they say nothing."""
    return [_finding(row, reference) for row in summary.to_dict("records") if not math.isnan(row["difference"])]


def _finding(row: dict, reference: str) -> str:
    low, high = row["difference_low"], row["difference_high"]
    if row["pairs"] == 1:
        verdict = "one seed says nothing about the difference"
    elif math.isnan(low):
        verdict = "the seeds do not vary, so there is no interval"
    elif low <= 0 <= high:
        verdict = "not distinguishable"
    else:
        verdict = f"`{row['method'] if low > 0 else reference}` is better"
        if not row["p_holm"] < 0.05:
            verdict += f" by this interval alone, not after Holm's correction (p = {_p(row['p_holm'])})"
    pairs = f"{_difference(row)} points over {int(row['pairs'])} seeds"
    return f"`{row['method']}` − `{reference}` = {pairs}: {verdict}."


def _spread(mean: float, std: float) -> str:
    return f"{100 * mean:.2f}" + ("" if math.isnan(std) else f" ± {100 * std:.2f}")


def _difference(row: dict) -> str:
    if math.isnan(row["difference"]):
        return "–"
    low, high = row["difference_low"], row["difference_high"]
    return f"{100 * row['difference']:+.2f}" + ("" if math.isnan(low) else f" [{100 * low:+.2f}, {100 * high:+.2f}]")


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
