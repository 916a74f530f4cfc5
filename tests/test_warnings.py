"""What a run warns of, by histories that are written by hand: each thing alone, and nothing where all is well."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from tests_pages import write_run

import kit
from kit import figures
from kit.errors import KitError

EPOCHS = 20
WELL = {
    "stage": 1.0,
    "loss": np.linspace(2, 0.4, EPOCHS),
    "train_accuracy": np.linspace(0.2, 0.9, EPOCHS),
    "alpha/frozen": 8.0,
    "alpha/skips": 0.25,
    "tau/largest": 0.02,
    "tau/kl_from_uniform": 0.6,
    "eta/lr": 0.1,
    "eta/weight_decay": 3e-4,
}


def run_with(folder, moved: bool = True, finished: bool = True, epochs: int = EPOCHS, **changes) -> kit.Run:
    """changes: of WELL, by name; None leaves a name out."""
    run = write_run(folder, 0.9 if finished else None, method="dha", epochs=EPOCHS)
    named = {name: np.broadcast_to(value, EPOCHS) for name, value in {**WELL, **changes}.items() if value is not None}
    rows = [(e, e, name, float(named[name][e - 1])) for e in range(1, epochs + 1) for name in named]
    frame = pd.DataFrame(rows, columns=["step", "epoch", "name", "value"])
    frame.to_parquet(run.path / "history.parquet", index=False, write_page_checksum=True)
    support = np.zeros((2, 8, 14), dtype=bool)
    support[0, :, :2] = support[1, :, int(moved) : 2 + int(moved)] = True
    frozen = np.ones((2, 8), dtype=bool)
    np.savez(run.path / "alpha.npz", epoch=np.arange(2), alpha=support.astype(float), support=support, frozen=frozen)
    (run.path / "data.json").write_text(json.dumps({"classes": list("0123456789")}))
    return kit.Run.load(run.path)


@pytest.mark.parametrize(
    "changes, words, field",
    [
        ({}, None, None),
        ({"tau/largest": 0.7}, "τ at one pair", "tau_reach"),
        ({"tau/kl_from_uniform": 0.003}, "τ uniform", "tau_reach"),
        ({"tau/kl_from_uniform": 0.003, "finished": False}, None, None),
        ({"alpha/skips": 0.6}, "collapse", "arch_reach"),
        ({"moved": False}, "α at its start", "arch_reach"),
        ({"eta/lr": 1.0}, "lr at its bound", "hyper_reach"),
        ({"eta/weight_decay": 3e-5}, "weight_decay at its bound", "hyper_reach"),
        ({"eta/lr": 0.5}, None, None),
        ({"loss": np.linspace(0.4, 2, EPOCHS)}, "loss rises", "lr"),
        ({"loss": np.linspace(0.4, 2, EPOCHS), "tau/strength": 0.5}, None, None),
        ({"loss": np.where(np.arange(EPOCHS) == 5, 0.001, 0.05)}, None, None),
        ({"train_accuracy": 0.11}, "at chance", "lr"),
        ({"train_accuracy": 0.11, "val_accuracy": 0.8}, None, None),
        ({"train_accuracy": 0.11, "epochs": 5, "finished": False}, None, None),
        ({"train_accuracy": 1.0}, "memorised", "augment"),
    ],
)
def test_each_thing_is_warned_of_alone_and_with_the_field_to_change(tmp_path, changes, words, field):
    run = run_with(tmp_path, **changes)
    assert list(run.warnings) == ([words] if words else [])
    if words:
        assert field in run.warnings[words]
        assert f"{words}: {run.warnings[words]}" in figures.standing(run)


def test_nothing_recorded_warns_of_nothing_and_a_strange_history_is_named(tmp_path):
    run = run_with(tmp_path, finished=False)
    (run.path / "history.parquet").unlink()
    assert run.warnings == {}
    strange = run_with(tmp_path / "strange", stage=None)
    with pytest.raises(KitError, match=r"history\.parquet holds no history of this configuration"):
        _ = strange.warnings


def test_a_search_says_what_it_warns_of_at_its_end(micro, tmp_path, capsys):
    from tests_micro import micro_config

    run = kit.search(micro_config(epochs=2), out=tmp_path)
    said = capsys.readouterr().out
    assert run.warnings and all(f"{run.path.name}: {words}: {text}" in said for words, text in run.warnings.items())
    assert not math.isnan(run.metrics["test_accuracy"])


def test_a_warning_that_cannot_be_told_costs_no_result(micro, tmp_path, monkeypatch):
    from tests_micro import micro_config

    def strange(run: kit.Run):
        raise KitError("a history of somebody's own learner")

    monkeypatch.setattr("kit.run.run.warnings", strange)
    assert kit.search(micro_config("plain", epochs=1), out=tmp_path).finished
