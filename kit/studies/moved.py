"""How far searches went, so that what did not move is not called a search; and what else a report keeps of a run."""

import contextlib
from typing import Any

import pandas as pd

from kit.errors import KitError
from kit.run.run import Run

PARTS = {"tau_kl": ("τ", 0.01), "alpha_changed": ("α", 1e-9), "eta_change": ("η", 0.01)}  # moved from here on
SHOWN = {
    "tau_kl": ("τ: KL from uniform, nats", "{:.3g}"),
    "alpha_changed": ("α: first choices given up", "{:.0%}"),
    "alpha_settled": ("slots that settled", "{:.3g}"),
    "alpha_capped": ("slots frozen by the cap", "{:.3g}"),
    "lr_factor": ("lr ÷ its start", "{:.3g}"),
    "weight_decay_factor": ("weight decay ÷ its start", "{:.3g}"),
}
NAMES = ("top5", "search_seconds", "training_seconds", "eta_change", *SHOWN)


def numbers(run: Run) -> dict[str, float]:
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


def report(summary: pd.DataFrame) -> dict[str, Any]:
    """Of `tables.summarize`: table, how far each method that searches went (None: not recorded); still, by letter, the
    methods whose part did not move; unmoved, the methods of which no part did."""
    rows = summary.reindex(columns=["method", "n", *SHOWN, "eta_change"]).dropna(how="all", subset=list(PARTS))
    shown = {title: rows[name].map(form.format).replace("nan", "–") for name, (title, form) in SHOWN.items()}
    table = pd.DataFrame({"method": "`" + rows["method"] + "`", "n": rows["n"], **shown})
    went, least = rows[list(PARTS)].astype(float), pd.Series({name: least for name, (_, least) in PARTS.items()})
    still, moves = went < least, (went >= least).any(axis=1)
    by_letter = {letter: list(rows["method"][still[name]]) for name, (letter, _) in PARTS.items() if still[name].any()}
    return {"table": table if len(rows) else None, "still": by_letter, "unmoved": list(rows["method"][~moves])}
