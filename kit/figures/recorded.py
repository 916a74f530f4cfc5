"""What a run has recorded, read once for a figure: a run that still goes on, failed or is of an older layout opens with
what it has.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from kit import augment
from kit.errors import KitError
from kit.figures.style import method_of, stage_spans, tidy
from kit.run.run import Run
from kit.space.blocks import BlockNetwork, ChoiceNetwork
from kit.space.cell import cell_slots
from kit.space.mobile import MobileNetwork
from kit.space.network import Slot

POINTS = 240  # of a curve, at most: more than a panel has pixels between two points that could be told apart
FRAMES = 60  # of an animation, at most
COLLAPSE = 0.5  # of a cell's picks: more skips than that is what Zela et al. (ICLR 2020) show as DARTS's collapse
DIMENSIONS = {
    "alpha": 3,
    "support": 3,
    "frozen": 2,
    "probabilities": 3,
    "counts": 3,
    "apply": 2,
    "magnitude": 3,
}  # of the recorded arrays
CHAINS: dict[str, type[BlockNetwork]] = {network.space: network for network in (ChoiceNetwork, MobileNetwork)}


@dataclass
class Recorded:
    """frame: the history by epoch, one column per name. alpha, tau: as `Run.alpha`, `Run.tau`, {} where there is none.
    missing: what the
    run's method would have written and is not there, in words."""

    run: Run
    frame: pd.DataFrame
    alpha: dict[str, np.ndarray]
    tau: dict[str, np.ndarray]
    missing: list[str] = field(default_factory=list)

    @property
    def last(self) -> int:
        """The last epoch of which anything is recorded."""
        ends = [int(self.frame.index.max())] if len(self.frame) else []
        return max([*ends, *(int(arrays["epoch"][-1]) for arrays in (self.alpha, self.tau) if arrays)], default=0)

    @property
    def spans(self) -> list[tuple[str, int, int]]:
        return stage_spans(self.run, self.frame)

    def series(self, name: str) -> pd.Series:
        """One name by epoch, without gaps; empty where the run has not recorded it."""
        return self.frame[name].dropna() if name in self.frame else pd.Series(dtype=float)

    @functools.cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The slots that α's rows stand for, with their candidates' names; numbered where the space does not tell
        them.
        """
        count, widest = self.alpha["alpha"].shape[1:] if self.alpha else (0, 0)
        cells = cell_slots()
        if (count, widest) == (len(cells), max(len(slot.candidates) for slot in cells)):
            return cells
        chain = CHAINS.get(str(getattr(self.run.config, "space", "")))
        known = chain is not None and len(chain.labels) == widest
        names = chain.labels if known else tuple(f"candidate {k}" for k in range(widest))
        return tuple(Slot(f"block/{i}", tuple((name, 0) for name in names), 1) for i in range(count))

    @property
    def cells(self) -> bool:
        """Whether the slots are the nodes of a normal and a reduction cell."""
        return self.slots == cell_slots()

    @functools.cached_property
    def picked(self) -> list[np.ndarray]:
        """Per slot int64 [epochs, picks]: the candidates in use, each in one column as long as it stays; -1 where there
        is none.

        Of a support wider than a slot's picks (mixtures), the strongest.
        """
        return [
            _columns(slot, np.abs(self.alpha["alpha"][:, i]), self.alpha["support"][:, i].astype(bool))
            for i, slot in enumerate(self.slots)
        ]

    @functools.cached_property
    def skips(self) -> dict[str, np.ndarray]:
        """Per kind of cell float [epochs]: the share of skips among its picks, in [0, 1]. Empty where no candidate is a
        skip.
        """
        found: dict[str, list[np.ndarray]] = {}
        for slot, columns in zip(self.slots, self.picked):
            skip = np.array([op == "skip_connect" for op, _ in slot.candidates] + [False])  # the last: none picked
            found.setdefault(slot.name.split("/")[0], []).append(skip[columns])
        return {kind: np.concatenate(parts, axis=1).mean(axis=1) for kind, parts in found.items()} if self.cells else {}


def _columns(slot: Slot, alpha: np.ndarray, support: np.ndarray) -> np.ndarray:
    """alpha float, support bool [epochs, widest] of one slot."""
    width = len(slot.candidates)
    strength = np.where(support[:, :width], alpha[:, :width] + 1e-12, -1.0)
    order = np.argsort(-strength, axis=1, kind="stable")[:, : slot.picks]
    columns = np.full(order.shape, -1)
    for t, row in enumerate(order.tolist()):
        chosen = [c for c in row if strength[t, c] > 0]
        kept = [c if c in chosen else -1 for c in (columns[t - 1].tolist() if t else [-1] * len(row))]
        new = iter(sorted(set(chosen) - set(kept)))
        columns[t] = [c if c >= 0 else next(new, -1) for c in kept]
    return columns


def read(run: Run) -> Recorded:
    """Never raises for what is missing or cannot be read: that is listed in `missing`."""
    missing: list[str] = []
    frame = _attempt(lambda: tidy(run), pd.DataFrame(), "history.parquet", missing)
    alpha = _attempt(lambda: run.alpha, {}, "alpha.npz", missing)
    tau = _attempt(lambda: run.tau, {}, "tau.npz", missing)
    seen = Recorded(run, frame, _alpha(alpha, run, missing), _usable(tau, "tau.npz", missing), missing)
    missing += _expected(seen)
    return seen


def need(run: Run) -> Recorded:
    """As `read`. Raises KitError where nothing at all is recorded."""
    seen = read(run)
    if not len(seen.frame) and not seen.alpha and not seen.tau:
        raise KitError(f"{run.path.name} has no completed epoch to draw yet ({run.status})")
    return seen


def _attempt(get: Any, otherwise: Any, name: str, missing: list[str]) -> Any:
    try:
        return get()
    except (KitError, OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors
        missing.append(f"{name} (cannot be read: {type(error).__name__})")
        return otherwise


def _usable(arrays: dict[str, np.ndarray], file: str, missing: list[str]) -> dict[str, np.ndarray]:
    """The arrays that have the shape they should, with epochs counted and nodes open where an older layout does not
    tell.
    """
    if not arrays:
        return {}
    length = max((len(value) for value in arrays.values() if value.ndim), default=0)
    kept = {
        name: value
        for name, value in arrays.items()
        if value.ndim == DIMENSIONS.get(name, value.ndim) and value.ndim and len(value) == length
    }
    square = kept.get("probabilities")
    if square is not None and square.shape[1] != square.shape[2]:
        del kept["probabilities"]
    missing += [
        f"{file}: {name} (of shape {list(arrays[name].shape)})"
        for name in arrays
        if name not in kept and name in DIMENSIONS
    ]
    if not length:
        return {}
    if "epoch" not in kept:
        missing.append(f"{file}: epoch (counted from 0)")
        kept["epoch"] = np.arange(length)
    return kept


def _alpha(arrays: dict[str, np.ndarray], run: Run, missing: list[str]) -> dict[str, np.ndarray]:
    """α of a run that searches, else {}: a given architecture has nothing to tell over the epochs."""
    kept, method = _usable(arrays, "alpha.npz", missing), method_of(run)
    if not kept or (method is not None and not any(stage.search for stage in method.stages)):
        return {}
    if (
        "alpha" not in kept
        or "support" not in kept
        or kept["alpha"].shape != kept["support"].shape
        or not kept["alpha"].size
    ):
        missing.append("alpha.npz: alpha and support of one shape")
        return {}
    if "frozen" not in kept:
        missing.append("alpha.npz: frozen")
        kept["frozen"] = np.zeros(kept["alpha"].shape[:2], dtype=bool)
    return kept


def _expected(seen: Recorded) -> list[str]:
    """What the run's configuration says must move, and no record shows."""
    run, method = seen.run, method_of(seen.run)
    if not len(seen.frame):
        return ["every curve (no completed epoch in the history)"]
    names = ["loss", "stage"]
    if getattr(run.config, "hold_out", None) or getattr(run.config, "hyper", "") == "validation":
        names.append("val_loss")
    if getattr(run.config, "hyper", "fixed") != "fixed":
        names += [name for name in ("eta/lr",) if not any(column.startswith("eta/") for column in seen.frame)]
    lacks = [name for name in names if name not in seen.frame]
    if method is not None and any(stage.search for stage in method.stages) and not seen.alpha:
        lacks.append("α")
    policy = augment.AUGMENT.get(str(getattr(run.config, "augment", "")))
    if policy is not None and policy.make.learns and not seen.tau:
        lacks.append("τ")
    return lacks


# ---- in words ------------------------------------------------------------------------------------


def standing(run: Run) -> str:
    """One line for the top of a page: the run, how far it came, why it ended early, and what of it cannot be drawn."""
    seen = read(run)
    done = int(seen.frame.index.max()) if len(seen.frame) else 0
    planned = getattr(run.config, "epochs", None)
    status = {"finished": "finished", "failed": "failed", "interrupted": "not finished (stopped, or still going on)"}[
        run.status
    ]
    text = f"{run.path.name}: {status}, {done}{f' of {planned}' if planned else ''} epochs"
    spans = ", ".join(f"{name} {first + 1}–{last}" for name, first, last in seen.spans)
    text += f" ({spans})" if spans else ""
    if run.status == "failed":
        text += f". It failed with {_failure(run)}"
    if not run.finished:
        text += ". Drawn: what is recorded so far"
    if seen.missing:
        text += f". Not recorded, so not drawn: {'; '.join(dict.fromkeys(seen.missing))}"
    warning = collapse(run, seen)
    return f"{text}. {warning}" if warning else f"{text}."


def _failure(run: Run) -> str:
    from kit.run import store

    try:
        failure = store.read_json(run.path / "failure.json")
        return f"{failure['error']}: {failure['message']}".rstrip(".")[:300]
    except (KitError, KeyError, TypeError):
        return "an error that failure.json does not tell"


def collapse(run: Run, seen: Recorded | None = None) -> str:
    """A warning where more than half of a cell's picks are skips at the last epoch, else "".

    Source of the criterion: Zela et al., "Understanding and Robustifying Differentiable Architecture Search", ICLR
    2020.
    """
    seen = seen or read(run)
    cells = [f"{kind} {values[-1]:.0%}" for kind, values in seen.skips.items() if values[-1] > COLLAPSE]
    return (
        f"Collapse: more than half of the picks are skips ({', '.join(cells)} of the cell's; Zela et al., ICLR 2020)"
        if cells
        else ""
    )


# ---- arithmetic ----------------------------------------------------------------------------------


def shares(alpha: np.ndarray) -> np.ndarray:
    """|α| of each slot over the sum of its candidates: float [..., slots, widest]."""
    size = np.abs(alpha)
    return size / np.maximum(size.sum(axis=-1, keepdims=True), 1e-12)


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """In nats, over the last axis."""
    p = np.asarray(probabilities, dtype=float)
    return -(p * np.log(np.maximum(p, 1e-300))).sum(axis=-1)


def op_names(run: Run, count: int) -> list[str]:
    """The names of τ's operations; a run that has no model yet uses the papers' lists."""
    try:
        names = run.policy.get("ops")
    except KitError:
        names = None
    if names and len(names) == count:
        return list(names)
    known = {len(ops): ops for ops in (("ShearX", "ShearY", "TranslateX", "TranslateY"), augment.DAAS_OPS, augment.OPS)}
    return list(known.get(count, [f"operation {k}" for k in range(count)]))


def thinned(count: int, most: int) -> list[int]:
    """At most `most` of 0 … count−1, evenly spread, both ends kept."""
    if count <= most:
        return list(range(count))
    return sorted({round(i) for i in np.linspace(0, count - 1, most)})
