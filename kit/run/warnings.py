"""What a run's own numbers warn of, while it goes on and after it, each with the field to change."""

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from kit import files
from kit.hyper import HYPER
from kit.run import store

if TYPE_CHECKING:
    from kit.run.run import Run

ONE_PAIR, UNIFORM = 0.5, 0.01  # τ's largest probability; its distance from uniform in nats
MEMORISED, RISEN = 0.995, 1.25  # the training accuracy; the loss over its lowest, and 0.1 nats above


def warnings(run: "Run") -> dict[str, str]:
    """By a few words a sentence for each thing that looks wrong in the epochs so far; empty where nothing does."""
    numbers = run.history[~run.history["name"].str.startswith("step/")]
    table = numbers.pivot_table("value", "epoch", "name", aggfunc="last")
    with files.reading(run.path / "history.parquet", "holds no history of this configuration"):
        return _of(run, table) if len(table) else {}


def _of(run: "Run", table: pd.DataFrame) -> dict[str, str]:
    config, now, found = run.config, table.iloc[-1].to_dict(), {}
    late, over = now["stage"] == len(config.stages) - 1 and len(table) >= config.epochs / 2, run.finished
    if (p := now.get("tau/largest", 0)) > ONE_PAIR:
        found["τ at one pair"] = f"τ gives one pair of operations {p:.0%}: a smaller tau_reach or tau_lr"
    if over and now.get("tau/kl_from_uniform", math.inf) < UNIFORM:
        found["τ uniform"] = "τ has not moved from uniform, it is a random policy: a larger tau_reach, or more epochs"
    if (skips := now.get("alpha/skips", 0)) > 0.5:
        found["collapse"] = f"{skips:.0%} of the chosen operations are skips (Zela et al., ICLR 2020): less arch_reach"
    if late and "alpha/frozen" in table and (support := run.alpha.get("support", np.zeros(0))).size:
        if (support[0] == support[-1]).all():
            found["α at its start"] = "the search has kept every first choice: a larger arch_reach or search_epochs"
    if "hyper_reach" in HYPER[config.hyper].make.Options.model_fields:
        for name in ("lr", "weight_decay"):
            moved = abs(math.log(now[f"eta/{name}"] / getattr(config, name))) if getattr(config, name) else 0
            if moved > 0.99 * math.log(config.hyper_reach):
                found[f"{name} at its bound"] = f"η took {name} as far as it may go: another {name}, or hyper_reach"
    losses = table.loc[table["stage"] == now["stage"], "loss"]
    smooth = losses.rolling(max(1, len(losses) // 10)).mean().dropna()
    if late and "tau/strength" not in now and smooth.iloc[-1] > RISEN * smooth.min() + 0.1:
        found["loss rises"] = f"the training loss was {smooth.min():.3g} and is {smooth.iloc[-1]:.3g}: a smaller lr"
    seen = "val_accuracy" if "val_accuracy" in now else "train_accuracy"
    classes = len(store.read_json(run.path / "data.json", {}).get("classes", ())) or math.inf
    if late and table[seen].max() < 1.5 / classes:
        found["at chance"] = f"{seen} never passed {table[seen].max():.0%}, about chance: a smaller lr, or more epochs"
    if late and now["train_accuracy"] > MEMORISED:
        found["memorised"] = "every training image is known by heart: more augmentation, as augment='strength' has it"
    return found
