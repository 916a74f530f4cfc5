"""Numbers from many runs: per run, per method with intervals, paired differences, and what they say in words."""

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
# V100. DAAS and the
# differentiable searches: DAAS's Table 2 (GPU days on a 2080 Ti). AutoHAS: its Table 4, on MobileNetV2, n = 3.
# DiffAutoML reports
# ImageNet alone: 75.5 against DSNAS's 74.4 ± 0.2.
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


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean; (nan, nan) for fewer than two values."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return math.nan, math.nan
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of a family of p-values (Holm 1979): with the k-th smallest multiplied by the number
    not yet rejected, kept
    monotone, at most 1. NaN stands for no test and is left out of the family."""
    tests = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    adjusted, largest = [math.nan] * len(p), 0.0
    for rank, (value, i) in enumerate(tests):
        largest = max(largest, min(1.0, (len(tests) - rank) * value))
        adjusted[i] = largest
    return adjusted


def per_run(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per finished run: method, title, seed, test_accuracy, val_accuracy, seconds, memory_mb, params, macs,
    path.
    """
    rows = []
    for run in runs:
        m = run.metrics
        if not m:
            raise KitError(
                f"{run.path} is not finished ({run.status}): kit.search with its configuration goes on with it"
            )
        rows.append(
            {
                "dataset": run.config.dataset,
                "method": run.config.method,
                "title": METHODS[run.config.method].title,
                "seed": run.config.seed,
                "test_accuracy": m["test_accuracy"],
                "val_accuracy": m["val_accuracy"],
                "seconds": m["seconds"],
                "memory_mb": m["peak_memory_mb"],
                "params": m["params"],
                "macs": m["macs"],
                "path": str(run.path),
            }
        )
    return pd.DataFrame(rows)


def summarize(runs: Sequence[Run], reference: str = REFERENCE) -> pd.DataFrame:
    """One row per method, in the order in which the runs name them: n, accuracy_mean, _std, _low, _high (95% interval
    of the mean),
    seconds, memory_mb, params and macs (means), and, paired by seed, difference to `reference` with its interval, the
    paired t-test's p, and
    p_holm, adjusted over all the table's comparisons with `reference`."""
    table = per_run(runs)
    base = table[table["method"] == reference].set_index("seed")["test_accuracy"]
    rows = []
    for method, group in table.groupby("method", sort=False):
        accuracy = group["test_accuracy"].to_numpy()
        low, high = interval(accuracy)
        row = {
            "method": method,
            "title": group["title"].iloc[0],
            "n": len(group),
            "accuracy_mean": accuracy.mean(),
            "accuracy_std": accuracy.std(ddof=1) if len(group) > 1 else math.nan,
            "accuracy_low": low,
            "accuracy_high": high,
            **{name: group[name].mean() for name in ("seconds", "memory_mb", "params", "macs")},
        }
        paired = (group.set_index("seed")["test_accuracy"] - base).dropna().to_numpy()
        if method != reference and len(paired):
            # seeds that all differ by the same number of test images have no spread to take an interval from
            varies = len(paired) > 1 and np.ptp(paired) > 1e-12
            row["difference"], row["pairs"] = paired.mean(), len(paired)
            row["difference_low"], row["difference_high"] = interval(paired) if varies else (math.nan, math.nan)
            if varies:
                row["p"] = float(stats.ttest_1samp(paired, 0.0).pvalue)
        rows.append(row)
    for row, adjusted in zip(rows, holm([row.get("p", math.nan) for row in rows])):
        row["p_holm"] = adjusted
    return pd.DataFrame(rows)


def markdown_table(summary: pd.DataFrame, dataset: str) -> str:
    """The ablation table: accuracy in percent with std and interval, paired difference, cost, and the papers'
    figures.
    """
    lines = [
        "| method | n | test accuracy, % (mean ± std) | 95% interval | difference to DHA, points (paired, 95%) | p, Holm | seconds | memory, MB | "
        "parameters | multiply-adds | paper, CIFAR-10 (V100) |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    column = dataset if dataset in ("cifar10", "cifar100") else "cifar10"
    for row in summary.to_dict("records"):
        paper = PAPER.get(row["method"], {}).get(column, "–")
        lines.append(
            f"| {row['title']} (`{row['method']}`) | {row['n']} | {_pm(row['accuracy_mean'], row['accuracy_std'])} | "
            f"{_range(row['accuracy_low'], row['accuracy_high'])} | {_difference(row)} | {_p(row['p_holm'])} | {row['seconds']:.0f} | {row['memory_mb']:.0f} | "
            f"{row['params']:,.0f} | {row['macs']:,.0f} | {paper} |"
        )
    text = "\n".join(lines)
    return text.replace("paper, CIFAR-10", "paper, CIFAR-100") if column == "cifar100" else text


def _pm(mean: float, std: float) -> str:
    return f"{100 * mean:.2f}" + ("" if math.isnan(std) else f" ± {100 * std:.2f}")


def _range(low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"{100 * low:.2f} … {100 * high:.2f}"


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def latex_table(summary: pd.DataFrame, dataset: str) -> str:
    r"""The same table for a paper, ready for \input: needs the package booktabs."""
    columns = {
        "method": [row["method"] for row in summary.to_dict("records")],
        "n": summary["n"].astype(str),
        "accuracy, %": [_pm(a, s) for a, s in zip(summary["accuracy_mean"], summary["accuracy_std"])],
        "95% interval": [_range(low, high) for low, high in zip(summary["accuracy_low"], summary["accuracy_high"])],
        f"difference to {REFERENCE}": [_difference(row) for row in summary.to_dict("records")],
        "p, Holm": [_p(p) for p in summary["p_holm"]],
        "parameters": [f"{v:,.0f}" for v in summary["params"]],
        "multiply-adds": [f"{v:,.0f}" for v in summary["macs"]],
        "seconds": [f"{v:.0f}" for v in summary["seconds"]],
    }
    table = pd.DataFrame(columns).rename(columns=_escaped).map(_escaped)
    caption = _escaped(
        f"Test accuracy on {dataset}: mean and standard deviation over n seeds, Student's 95% interval, paired differences in points, "
        f"p-values of paired t-tests adjusted by Holm over the table's comparisons with {REFERENCE}."
    )
    return table.to_latex(
        index=False, escape=False, column_format="l" + "r" * (len(columns) - 1), caption=caption, label=f"tab:{dataset}"
    )


def _escaped(text: str) -> str:
    special = {
        "%": r"\%",
        "&": r"\&",
        "_": r"\_",
        "#": r"\#",
        "$": r"\$",
        "±": r"$\pm$",
        "…": r"\ldots{}",
        "<": "$<$",
        "–": "--",
    }
    return "".join(special.get(c, c) for c in str(text))


def _difference(row: dict) -> str:
    if math.isnan(row.get("difference", math.nan)):
        return "–"
    text = f"{100 * row['difference']:+.2f}"
    return (
        text
        if math.isnan(row["difference_low"])
        else f"{text} [{100 * row['difference_low']:+.2f}, {100 * row['difference_high']:+.2f}]"
    )


def findings(summary: pd.DataFrame, reference: str = REFERENCE) -> list[str]:
    """What the paired differences say, in words, also when they say nothing."""
    if reference not in set(summary["method"]):
        return []
    sentences = []
    for row in summary.to_dict("records"):
        if row["method"] == reference or math.isnan(row.get("difference", math.nan)):
            continue
        shown = f"`{row['method']}` − `{reference}` = {_difference(row)} points over {int(row['pairs'])} seeds"
        if math.isnan(row["difference_low"]):
            verdict = (
                "one seed says nothing about the difference"
                if row["pairs"] == 1
                else "the seeds do not vary, so there is no interval"
            )
        elif row["difference_low"] <= 0 <= row["difference_high"]:
            verdict = "not distinguishable"
        else:
            verdict = f"`{row['method'] if row['difference_low'] > 0 else reference}` is better"
            if not row["p_holm"] < 0.05:
                verdict += f" by this interval alone, not after Holm's correction (p = {_p(row['p_holm'])})"
        sentences.append(f"{shown}: {verdict}.")
    return sentences
