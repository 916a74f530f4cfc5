"""Run directories written by hand, so that figures of long, failed or foreign runs can be tested without training
any.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import kit
from kit.space.cell import cell_slots

WIDTHS = [len(slot.candidates) for slot in cell_slots()]


def write_run(
    folder: Path,
    epochs: int = 12,
    *,
    method: str = "dha",
    finished: bool = True,
    seed: int = 0,
    arrays: dict[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
    **changes: Any,
) -> kit.Run:
    """A run of so many epochs whose α, τ and η walk at random; the first third is its search stage. arrays: {"alpha":
    {…}, "tau": {…}} in place of the walks. leave_out: names of the history, of arrays ("alpha.npz/frozen") and of the
    configuration. changes: of the configuration."""
    folder.mkdir(parents=True)
    g, search = np.random.default_rng(seed), max(1, epochs // 3)
    usual = {"dataset": "digits", "device": "cpu", "epochs": epochs, "search_epochs": search, "seed": seed}
    usual |= {"arch": "dsnas"} if changes.get("space") in ("choice", "mobile") else {}
    config = kit.Config(method=method, **usual | changes).model_dump()
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in leave_out}))
    written = {"alpha": alpha_walk(g, epochs, search), "tau": tau_walk(g, epochs, 14)} | (arrays or {})
    for name, values in written.items():
        kept = {key: value for key, value in values.items() if f"{name}.npz/{key}" not in leave_out}
        if values and f"{name}.npz" not in leave_out:
            np.savez_compressed(folder / f"{name}.npz", **kept)
    if "history.parquet" not in leave_out:
        _history(g, epochs, search, leave_out).to_parquet(folder / "history.parquet", index=False)
    if finished:
        (folder / "metrics.json").write_text(json.dumps({"test_accuracy": 0.97, "epochs": epochs}))
        (folder / "model").mkdir()
        found = {
            "genotype": genotype(written["alpha"]),
            "policy": {"name": config["augment"]},
            "hyper": {},
            "classes": ["a", "b"],
        }
        (folder / "model" / "model.json").write_text(json.dumps(found))
    return kit.Run.load(folder)


def alpha_walk(g: np.random.Generator, epochs: int, search: int) -> dict[str, np.ndarray]:
    alpha = np.cumsum(g.normal(0, 0.05, (epochs + 1, len(WIDTHS), max(WIDTHS))), axis=0)
    for slot, width in enumerate(WIDTHS):
        alpha[:, slot, width:] = 0
    alpha[search:] = alpha[search]
    frozen = np.zeros((epochs + 1, len(WIDTHS)), dtype=bool)
    frozen[search:] = True
    return {
        "epoch": np.arange(epochs + 1),
        "alpha": alpha.astype("f4"),
        "support": strongest(alpha, 2),
        "frozen": frozen,
    }


def strongest(alpha: np.ndarray, picks: int) -> np.ndarray:
    support = np.zeros(alpha.shape, dtype=bool)
    np.put_along_axis(support, np.argsort(-np.abs(alpha), axis=2)[:, :, :picks], True, axis=2)
    return support


def blocks_walk(g: np.random.Generator, epochs: int, blocks: int) -> dict[str, np.ndarray]:
    """α of choice blocks with four candidates; block k freezes at epoch k + 1."""
    alpha = np.exp(np.cumsum(g.normal(0, 0.3, (epochs + 1, blocks, 4)), axis=0))
    alpha /= alpha.sum(axis=2, keepdims=True)
    frozen = np.arange(epochs + 1)[:, None] >= np.arange(blocks)[None] + 1
    return {
        "epoch": np.arange(epochs + 1),
        "alpha": alpha.astype("f4"),
        "support": strongest(alpha, 1),
        "frozen": frozen,
    }


def tau_walk(g: np.random.Generator, epochs: int, ops: int, more: bool = False) -> dict[str, np.ndarray]:
    """more: with what DAAS's policy learns besides."""
    logits = np.cumsum(g.normal(0, 0.05, (epochs + 1, ops * ops)), axis=0)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = {
        "epoch": np.arange(epochs + 1),
        "probabilities": p.reshape(-1, ops, ops).astype("f4"),
        "counts": np.zeros((epochs + 1, ops, ops), "f4"),
    }
    if more:
        magnitude = g.dirichlet(np.ones(10), (epochs + 1, ops))
        found |= {"apply": g.random((epochs + 1, ops)).astype("f4"), "magnitude": magnitude.astype("f4")}
    return found


def genotype(alpha: dict[str, np.ndarray]) -> dict[str, Any]:
    if not alpha or alpha["support"].shape[1:] != (len(WIDTHS), max(WIDTHS)):
        names = ("shuffle_3x3", "shuffle_5x5", "shuffle_7x7", "xception")
        return {"blocks": [names[c] for c in alpha["support"][-1].argmax(axis=1)]} if alpha else {"network": "wrn-16-2"}
    picks = [[slot.candidates[c] for c in np.nonzero(row)[0]] for slot, row in zip(cell_slots(), alpha["support"][-1])]
    return {"normal": picks[:4], "reduce": picks[4:]}


def _history(g: np.random.Generator, epochs: int, search: int, leave_out: tuple[str, ...]) -> pd.DataFrame:
    e = np.arange(1, epochs + 1)
    lr = 0.1 * np.exp(np.cumsum(g.normal(0, 0.02, epochs)))
    decay = 3e-4 * np.exp(np.cumsum(g.normal(0, 0.02, epochs)))
    curves = {
        "loss": 2 / e,
        "val_loss": 2.1 / e,
        "stage": (e > search).astype(float),
        "train_accuracy": 1 - 0.9 / e,
        "val_accuracy": 1 - 1 / (e + 1),
        "eta/lr": lr,
        "lr": lr * 0.5 * (1 + np.cos(np.pi * e / epochs)),
        "eta/weight_decay": decay,
        "weight_decay": decay,
        "tau/kl_from_uniform": e * 1e-3,
        "alpha/frozen": np.where(e >= search, 8.0, 0.0),
    }
    steps = {f"step/{name}": values for name, values in curves.items() if name in ("loss", "lr", "weight_decay")}
    rows = [
        (int(k) * 40, int(k), name, float(v))
        for name, values in (curves | steps).items()
        if name not in leave_out
        for k, v in zip(e, values)
    ]
    return pd.DataFrame(rows, columns=["step", "epoch", "name", "value"])
