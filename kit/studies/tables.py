"""Numbers from many runs: a row per run, a row per method with intervals and paired tests, how far searches went (what
did not move is not called one), and what they say."""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy

from kit.errors import KitError
from kit.methods import METHODS
from kit.run.run import Run

REFERENCE = "dha"  # the method that the others are compared with
CHANCE = "random"  # the method whose mean is the average random child
ACCURACY = ("accuracy_mean", "accuracy_low", "accuracy_high")  # mean and 95% interval
DIFFERENCE = ("difference", "difference_low", "difference_high")
RELATIVE = ("relative", "relative_low", "relative_high")
COSTS = {"seconds": "seconds", "memory_mb": "memory, MB", "params": "parameters", "macs": "multiply-adds"}
SPENT = {"search_seconds": "seconds of search", "training_seconds": "seconds of training"} | COSTS
COLUMNS = {name: name for name in ("test_accuracy", "val_accuracy", *COSTS)} | {"memory_mb": "peak_memory_mb"}
PARTS = {"tau_kl": ("τ", 0.01), "alpha_changed": ("α", 1e-9), "eta_change": ("η", 0.01)}  # moved from here on
SHOWN = {
    "tau_kl": ("τ: KL from uniform, nats", "{:.3g}"),
    "alpha_changed": ("α: first choices given up", "{:.0%}"),
    "alpha_settled": ("slots that settled", "{:.3g}"),
    "alpha_capped": ("slots frozen by the cap", "{:.3g}"),
    "lr_factor": ("lr ÷ its start", "{:.3g}"),
    "weight_decay_factor": ("weight decay ÷ its start", "{:.3g}"),
}
FEWEST = 3  # runs, or pairs of them, that an interval is taken from
NAMES = ("top5", "search_seconds", "training_seconds", "eta_change", *SHOWN)

# the papers' own numbers, as they print them: a row per method, a column per data set
PAPER = pd.read_csv(Path(__file__).with_name("papers.csv"), comment="#", index_col="method").fillna("–")


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over axis 0 and Student's 95% interval of it: mean, low, high. The bounds of a single value are NaN."""
    mean, n = np.mean(values, axis=0), len(values)
    half = half_width(np.std(values, axis=0, ddof=1), n) if n > 1 else np.nan * mean
    return mean, mean - half, mean + half


def half_width(std: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Of Student's 95% interval of a mean, from the standard deviation of n values; NaN for one value."""
    return scipy.stats.t.ppf(0.975, n - 1) * std / n**0.5


def holm(p: pd.Series) -> pd.Series:
    """Holm's step-down adjustment (1979) of a family of p-values, at most 1. NaN is no test and does not count."""
    ordered = p.dropna().sort_values()
    return (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1).reindex(p.index)


def moved(run: Run) -> dict[str, float]:
    """NAMES of a finished run, those that it has. top5: share of the test images whose class is among the five
    likeliest. search_seconds: of all stages but the last. tau_kl: at the end, in nats. alpha_changed: share of first
    choices given up. alpha_settled, alpha_capped: slots frozen before and in the last epoch that the search may take.
    eta_change: largest relative change; lr_factor, weight_decay_factor: end over start, without the schedule."""
    config, alpha, clock, history, found = run.config, run.alpha, run.clock, run.history.set_index("epoch"), {}
    stage, kl = (history.loc[history["name"] == name, "value"] for name in ("stage", "tau/kl_from_uniform"))
    if len(kl):
        found["tau_kl"] = kl.iloc[-1]
    if "alpha/frozen" in set(history["name"]):  # α learned
        first, last, end = alpha["support"][0], alpha["support"][-1], int(stage.index[stage == 0].max())
        found["alpha_changed"] = (first & ~last).sum() / first.sum()
        found["alpha_settled"] = alpha["frozen"][end - 1 if end == config.stage_epochs[0] else end].sum()
        found["alpha_capped"] = len(first) - found["alpha_settled"]
    if config.hyper != "fixed":
        ends = {name: (getattr(config, name, end), end) for name, end in run.hyper.items() if type(end) is float}
        found["eta_change"] = max(abs(end - start) / (max(start, end) or 1) for start, end in ends.values())
        found |= {f"{name}_factor": ends[name][1] / ends[name][0] for name in ("lr", "weight_decay") if ends[name][0]}
    if clock and clock["epoch"][0] == 0:  # recorded from the start
        found["search_seconds"] = clock["seconds"][(stage < len(config.stages) - 1).sum()]
        found["training_seconds"] = run.metrics["seconds"] - found["search_seconds"]
    with contextlib.suppress(KitError):  # a run from elsewhere, without its data
        if len(run.classes) > 5:
            test = config.sets().test  # nothing is chosen by this second look at it: the run is over
            likely = run.predict(test.images, device=config.device).probabilities.topk(5).indices
            found["top5"] = (likely == test.labels[:, None]).any(1).float().mean()
    return {name: float(value) for name, value in found.items()}


def per_run(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per finished run: dataset, method, title, seed, test_accuracy, val_accuracy, seconds, memory_mb, params,
    macs, and what its summary has of `moved`. Raises KitError for a run that is not finished."""
    return pd.DataFrame(map(one, runs))


def one(run: Run) -> dict[str, Any]:
    config, metrics = run.config, run.metrics
    if not metrics:
        raise KitError(f"{run.path} is not finished ({run.status}): kit.search with its configuration continues it")
    row = {"dataset": config.dataset, "method": config.method, "title": METHODS[config.method].title}
    row |= {"seed": config.seed} | {column: metrics[name] for column, name in COLUMNS.items()}
    return row | {name: metrics[name] for name in NAMES if name in metrics}


def grouped(rows: pd.DataFrame, by: list[str], **more: tuple[str, str]) -> pd.DataFrame:
    """A row per group: `by`, title, n, accuracy_mean, _std, _low, _high (95%, Student's on the logit), and `more`."""
    names = {f"accuracy_{what}": ("test_accuracy", what) for what in ("mean", "std")}
    groups = rows.groupby(by, sort=False, dropna=False)
    table = groups.agg(title=("title", "first"), n=("test_accuracy", "size"), **names, **more)
    mean, half = table["accuracy_mean"], half_width(table["accuracy_std"], table["n"])
    room = (half / (mean * (1 - mean))).where(table["n"] >= FEWEST)
    low, high = (scipy.special.expit(scipy.special.logit(mean) + sign * room) for sign in (-1, 1))
    return table.assign(accuracy_low=low, accuracy_high=high).reset_index()


def against(rows: pd.DataFrame, value: str, reference: str) -> pd.DataFrame:
    """By method, over the seeds that the reference method has as well: pairs, DIFFERENCE to it (Student's t, 95%), p
    (paired t-test), p_holm (over the table); NaN where the seeds' differences do not vary, or are too few."""
    by_seed = rows.pivot_table(value, "seed", "method", sort=False)
    base = by_seed.pop(reference) if reference in by_seed else np.nan
    apart = by_seed.sub(base, axis=0).dropna(axis=1, how="all")
    n, mean = apart.count(), apart.mean()
    # seeds that all differ by the same number of test images have no spread to take an interval from
    std = apart.std().where((apart.max() - apart.min() > 1e-12) & (n >= FEWEST))
    half, p = half_width(std, n), pd.Series(2 * scipy.stats.t.sf(mean.abs() / std * n**0.5, n - 1), n.index)
    values = (mean, mean - half, mean + half)
    return pd.DataFrame({"pairs": n, **dict(zip(DIFFERENCE, values)), "p": p, "p_holm": holm(p)})


def beside_chance(rows: pd.DataFrame) -> pd.DataFrame:
    """By method, RELATIVE: the difference to random children of the same seeds ÷ their mean."""
    found, chance = against(rows, "test_accuracy", CHANCE), rows.loc[rows["method"] == CHANCE, "test_accuracy"].mean()
    return (found[list(DIFFERENCE)] / chance).set_axis(RELATIVE, axis=1)


def summarize(runs: Sequence[Run]) -> pd.DataFrame:
    """`grouped` by method, with the means of the costs and of `NAMES`, `against` dha and `beside_chance`."""
    rows = per_run(runs)
    means = [name for name in (*COSTS, *NAMES) if name in rows]
    summary = grouped(rows, ["method"], **{name: (name, "mean") for name in means})
    return summary.join(against(rows, "test_accuracy", REFERENCE), on="method").join(beside_chance(rows), on="method")


def went(summary: pd.DataFrame) -> dict[str, Any]:
    """Of `tables.summarize`: table, how far each method that searches went (None: not recorded); still, by letter, the
    methods whose part did not move; unmoved, the methods of which no part did."""
    rows = summary.reindex(columns=["method", "n", *SHOWN, "eta_change"]).dropna(how="all", subset=list(PARTS))
    shown = {title: rows[name].map(form.format).replace(["nan", "nan%"], "–") for name, (title, form) in SHOWN.items()}
    table = pd.DataFrame({"method": "`" + rows["method"] + "`", "n": rows["n"], **shown})
    far, least = rows[list(PARTS)].astype(float), pd.Series({name: least for name, (_, least) in PARTS.items()})
    still, moves = far < least, (far >= least).any(axis=1)
    by_letter = {letter: list(rows["method"][still[name]]) for name, (letter, _) in PARTS.items() if still[name].any()}
    return {"table": table if len(rows) else None, "still": by_letter, "unmoved": list(rows["method"][~moves])}


def bounded(table: pd.DataFrame, columns: Sequence[str], form: str = ".2f", factor: float = 100) -> list[str]:
    """Columns mean, low and high times a factor: "mean [low, high]", the mean alone where that is all, or a dash."""
    found = []
    for mean, low, high in factor * table[list(columns)].to_numpy():
        bounds = "" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]"
        found.append("–" if math.isnan(mean) else f"{mean:{form}}{bounds}")
    return found


def formatted(summary: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """The columns of `summarize` as a report shows them, and the papers' figures: strings, accuracies in percent."""
    paper = "cifar100" if dataset == "cifar100" else "cifar10"
    shown = {
        "method": summary["title"] + " (`" + summary["method"] + "`)",
        "n": summary["n"],
        "test accuracy, % [95%]": bounded(summary, ACCURACY),
        "std": (100 * summary["accuracy_std"]).map("{:.2f}".format).replace("nan", "–"),
        **({"top-5, %": (100 * summary["top5"]).map("{:.2f}".format)} if "top5" in summary else {}),
        "difference to DHA, points [95%]": bounded(summary, DIFFERENCE, "+.2f"),
        "p, Holm": summary["p_holm"].map(_p),
        **to_chance(summary),
        **{title: summary[name].map("{:,.0f}".format) for name, title in SPENT.items() if name in summary},
        f"paper, {paper} (V100)": PAPER[paper].reindex(summary["method"], fill_value="–").to_list(),
    }
    return pd.DataFrame(shown)


def to_chance(summary: pd.DataFrame) -> dict[str, list[str]]:
    """`beside_chance` as a report's column, where there were random children."""
    shown = {"relative to the average random child, % [95%]": bounded(summary, RELATIVE, "+.2f")}
    return shown if CHANCE in set(summary["method"]) else {}


def findings(differences: pd.DataFrame, reference: str, form="+.2f", factor=100.0, unmoved=()) -> list[str]:
    """What the differences of `against`, times a factor, say in words. unmoved: searches in which nothing moved."""
    found, compared = [], differences.dropna(subset="pairs")
    for row, difference in zip(compared.itertuples(), bounded(compared, DIFFERENCE, form, factor)):
        low, high = row.difference_low, row.difference_high
        if row.pairs < FEWEST:
            verdict = "too few seeds for an interval"
        elif math.isnan(low):
            verdict = "the seeds do not vary, so there is no interval"
        elif low <= 0 <= high:
            verdict = "not distinguishable"
        else:
            verdict = "higher" if low > 0 else "lower"
            if not row.p_holm < 0.05:
                verdict += f" by this interval alone, not after Holm's correction (p = {_p(row.p_holm)})"
        if names := [f"`{name}`" for name in (row.Index, reference) if name in unmoved]:
            verdict += f"; no comparison of searches, for nothing moved in {' and '.join(names)}"
        found.append(f"`{row.Index}` − `{reference}` = {difference} over {row.pairs:.0f} seeds: {verdict}.")
    return found


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
