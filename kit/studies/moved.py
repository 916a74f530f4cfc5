"""How far searches went, so that what did not move is not called a search; and what else a report keeps of a run."""

import contextlib
from typing import Any

import pandas as pd
import torch

from kit.errors import KitError
from kit.run.provenance import pick_device
from kit.run.run import Run

# the part's letter, from where on it counts as moved, and how a report shows it
PARTS = {"tau_kl": ("τ", 0.01), "alpha_changed": ("α", 1e-9), "eta_change": ("η", 0.01)}
SHOWN = {
    "tau_kl": ("τ: KL from uniform, nats", "{:.3g}"),
    "alpha_changed": ("α: first choices given up", "{:.0%}"),
    "alpha_settled": ("slots that settled", "{:.1f}"),
    "alpha_capped": ("slots frozen by the cap", "{:.1f}"),
    "lr_factor": ("lr ÷ its start", "{:.3g}"),
    "weight_decay_factor": ("weight decay ÷ its start", "{:.3g}"),
}
NAMES = ("top5", "search_seconds", "training_seconds", "eta_change", *SHOWN)


@torch.no_grad()
def numbers(run: Run) -> dict[str, float]:
    """NAMES of a finished run, those that it has. top5: share of the test images whose class is among the five
    likeliest, in [0, 1]. search_seconds: of all stages but the last, which has the training_seconds. tau_kl: at the
    end, in nats. alpha_changed: share of the first choices that the search gave up. alpha_settled, alpha_capped: slots
    (nodes or blocks) frozen before and in the last epoch that the search may take. eta_change: largest relative change
    of a hyper-parameter; lr_factor, weight_decay_factor: the end over the start, the schedule left out."""
    config, alpha, clock, found = run.config, run.alpha, run.clock, {}
    history = run.history.set_index("epoch")
    stage, kl = (history.loc[history["name"] == name, "value"] for name in ("stage", "tau/kl_from_uniform"))
    if len(kl):
        found["tau_kl"] = kl.iloc[-1]
    if config.stages[0].search:
        first, last, end = alpha["support"][0], alpha["support"][-1], int(stage.index[stage == 0].max())
        settled = alpha["frozen"][end - 1 if end == config.stage_epochs[0] else end].sum()
        found |= {"alpha_changed": (first & ~last).sum() / first.sum()}
        found |= {"alpha_settled": settled, "alpha_capped": len(first) - settled}
    if config.hyper != "fixed":
        ends = {name: (getattr(config, name), end) for name, end in run.hyper.items() if type(end) is float}
        found["eta_change"] = max(abs(end - start) / (max(start, end) or 1) for start, end in ends.values())
        found |= {f"{name}_factor": ends[name][1] / ends[name][0] for name in ("lr", "weight_decay") if ends[name][0]}
    if clock and clock["epoch"][0] == 0:  # recorded from the start
        searched = (stage < len(config.stages) - 1).sum()
        found["search_seconds"] = clock["seconds"][searched] - clock["seconds"][0]
        found["training_seconds"] = run.metrics["seconds"] - found["search_seconds"]
    with contextlib.suppress(KitError):  # a run from elsewhere, without its data
        if len(run.classes) > 5:
            test, device = config.sets().test, pick_device(config.device)
            model, right = run.model(device), 0
            for images, labels in test.to(device).chunks(256):  # nothing is chosen by it: the run is over
                right += (model(images).topk(5).indices == labels[:, None]).sum()
            found["top5"] = right / len(test)
    return {name: float(value) for name, value in found.items()}


def report(summary: pd.DataFrame) -> dict[str, Any]:
    """Of `tables.summarize`: table, how far each method that searches went (None: not recorded); still, by letter, the
    methods whose part did not move; unmoved, the methods of which no part did."""
    went = summary.set_index("method").reindex(columns=PARTS).astype(float)
    went = went[went.notna().any(axis=1)]
    still = {letter: list(went.index[went[name] < least]) for name, (letter, least) in PARTS.items()}
    moves = pd.concat([went[name] >= least for name, (_, least) in PARTS.items()], axis=1).any(axis=1)
    rows = summary[summary["method"].isin(went.index)]
    shown = {"method": "`" + rows["method"] + "`", "n": rows["n"]}
    shown |= {
        title: rows[name].map(form.format).replace("nan", "–") for name, (title, form) in SHOWN.items() if name in rows
    }
    found = {letter: names for letter, names in still.items() if names}
    return {"table": pd.DataFrame(shown) if len(went) else None, "still": found, "unmoved": list(went.index[~moves])}
