"""What a run has recorded, read once for its figures: an unfinished or damaged run is drawn as far as it goes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from kit import augment, space
from kit.errors import KitError
from kit.figures.style import Span
from kit.run import store
from kit.run.run import Run
from kit.space.cell import cell_slots

POINTS, FRAMES = 240, 60  # of a curve and of an animation, at most
COLLAPSE = 0.5  # of the chosen operations: more skips are DARTS's collapse (Zela et al., ICLR 2020)


# ---- what a run recorded -------------------------------------------------------------------------


class Record:
    """What a run recorded, read once for a figure. Whatever cannot be read is left out and named in `missing`.

    frame: the history by epoch, one column per name. alpha, tau: as `Run.alpha`, `Run.tau`; {} where there is none, and
    alpha where no architecture is searched."""

    def __init__(self, run: Run):
        self.run, self.missing = run, []
        self.frame: pd.DataFrame = self._read("history", lambda: by_epoch(run), pd.DataFrame())
        shapes = {"epoch": 1, "alpha": 3, "support": 3, "frozen": 2}
        searches = any(stage.search for stage in run.config.stages)
        self.alpha = self._read("α", lambda: _checked(run.alpha, shapes), {}) if searches else {}
        self.tau = self._read("τ", lambda: _checked(run.tau, {"epoch": 1}, probabilities=3, apply=2, magnitude=3), {})
        if searches and not self.alpha and not any(text.startswith("α") for text in self.missing):
            self.missing.append("α")

    def _read(self, name: str, get: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return get()
        except (KitError, OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors
            self.missing.append(f"{name} (cannot be read: {str(error) or type(error).__name__:.200})")
            return otherwise

    @property
    def last(self) -> int:
        """The last epoch of which anything is recorded."""
        ends = [int(self.frame.index.max())] if len(self.frame) else []
        return max([*ends, *(int(arrays["epoch"][-1]) for arrays in (self.alpha, self.tau) if arrays)], default=0)

    @functools.cached_property
    def spans(self) -> list[Span]:
        """The stages so far."""
        stages = self.run.config.stages
        number = self.series("stage").astype(int).clip(upper=len(stages) - 1)
        groups = number.groupby(number)
        return [Span(stages[i].name, int(e.index.min()) - 1, int(e.index.max()), stages[i].search) for i, e in groups]

    def series(self, name: str) -> pd.Series:
        """One name by epoch, without gaps; empty where the run has not recorded it."""
        return self.frame[name].dropna() if name in self.frame else pd.Series(dtype=float)

    @functools.cached_property
    def slots(self) -> tuple[space.Slot, ...]:
        """The slots that α's rows stand for; numbered where the space does not tell its candidates."""
        count, widest = self.alpha["alpha"].shape[1:] if self.alpha else (0, 0)
        cells = cell_slots()
        if (count, widest) == (len(cells), max(len(slot.candidates) for slot in cells)):
            return cells
        labels = getattr(space.KINDS.get(self.run.config.space), "labels", ())
        names = labels if len(labels) == widest else [f"candidate {k}" for k in range(widest)]
        return tuple(space.Slot(f"block/{i}", tuple((name, 0) for name in names), 1) for i in range(count))

    @property
    def cells(self) -> bool:
        """Whether the slots are the nodes of a normal and a reduction cell."""
        return self.slots == cell_slots()

    @property
    def candidates(self) -> list[str]:
        """The operations that any slot offers."""
        return list(dict.fromkeys(op for slot in self.slots for op, _ in slot.candidates))

    def froze(self, i: int) -> list[int]:
        """The epoch at which slot i froze, if it did."""
        frozen = self.alpha["frozen"][:, i].astype(bool)
        return [int(self.alpha["epoch"][frozen.argmax()])] if frozen.any() else []

    @functools.cached_property
    def picked(self) -> list[np.ndarray]:
        """Per slot int64 [epochs, picks]: the candidates in use, the strongest where there are more; −1 for none. A
        candidate keeps its column as long as it stays."""
        found = []
        for i, slot in enumerate(self.slots):
            strength = np.where(self.alpha["support"][:, i], np.abs(self.alpha["alpha"][:, i]) + 1e-12, 0.0)
            columns = np.full((len(strength), slot.picks), -1)
            for t, row in enumerate(strength):
                chosen = [c for c in np.argsort(-row, kind="stable")[: slot.picks].tolist() if row[c] > 0]
                kept = [c if c in chosen else -1 for c in columns[max(t - 1, 0)].tolist()]
                new = iter(sorted(set(chosen) - set(kept)))
                columns[t] = [c if c >= 0 else next(new, -1) for c in kept]
            found.append(columns)
        return found

    @property
    def ops(self) -> list[str]:
        """The names of τ's operations; a run without a model yet gets those of a known list of that length."""
        count = next(self.tau[name].shape[1] for name in ("probabilities", "apply", "magnitude") if name in self.tau)
        try:
            names = self.run.policy.get("ops", ())
        except KitError:
            names = ()
        known = [names, augment.OPS, augment.DAAS_OPS, augment.SMALL_OPS]
        return list(next((ops for ops in known if len(ops) == count), [f"operation {k}" for k in range(count)]))


def _checked(arrays: dict[str, np.ndarray], needed: dict[str, int], **optional: int) -> dict[str, np.ndarray]:
    """The arrays, if they have these dimensions and one length. Raises ValueError."""
    length = len(arrays.get("epoch", ()))
    for name, dimensions in {**needed, **{k: v for k, v in optional.items() if k in arrays}}.items() if arrays else ():
        if name not in arrays or arrays[name].ndim != dimensions or len(arrays[name]) != length:
            shape = list(arrays[name].shape) if name in arrays else "missing"
            raise ValueError(f"{name} is {shape}; it should have {dimensions} dimensions and {length} epochs")
    return arrays if length else {}


def by_epoch(run: Run) -> pd.DataFrame:
    """The history's values per epoch, one column per name, index epoch; empty before the first epoch is completed."""
    rows = run.history
    rows = rows[~rows["name"].str.startswith("step/")] if len(rows) else rows
    return rows.pivot_table(index="epoch", columns="name", values="value", aggfunc="last") if len(rows) else rows


def need(run: Run) -> Record:
    """As `Record`. Raises KitError where nothing is recorded yet."""
    record = Record(run)
    if not len(record.frame) and not record.alpha and not record.tau:
        why = f": {'; '.join(record.missing)}" if any("read" in text for text in record.missing) else ""
        raise KitError(f"{run.path.name} has no completed epoch to draw yet ({run.status}){why}")
    return record


def thinned(count: int, most: int) -> list[int]:
    """At most `most` of 0 … count−1, evenly spread, both ends kept."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})


def standing(run: Run) -> str:
    """One line for the top of a page: the run, how far it came, why it ended early, and what cannot be drawn."""
    record = Record(run)
    done = int(record.frame.index.max()) if len(record.frame) else 0
    status = "not finished (stopped, or still going on)" if run.status == "interrupted" else run.status
    parts = [f"{run.path.name}: {status}, {done} of {run.config.epochs} epochs"]
    if record.spans:
        parts[0] += f" ({', '.join(f'{span.name} {span.first + 1}–{span.last}' for span in record.spans)})"
    if run.status == "failed":
        try:
            failure = store.read_json(run.path / "failure.json")
            parts.append(f"It failed with {failure['error']}: {failure['message']}".rstrip(".")[:300])
        except (KitError, KeyError):
            parts.append("It failed with an error that failure.json does not tell")
    parts += [] if run.finished else ["Drawn: what is recorded so far"]
    parts += [f"Not recorded, so not drawn: {'; '.join(record.missing)}"] if record.missing else []
    skips = record.series("alpha/skips")
    if len(skips) and skips.iloc[-1] > COLLAPSE:
        parts.append(
            f"Collapse: more than half of the chosen operations are skips ({skips.iloc[-1]:.0%}; Zela et al., 2020)"
        )
    return ". ".join(parts) + "."
