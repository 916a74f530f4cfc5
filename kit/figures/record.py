"""What a run has recorded, read once for its figures: an unfinished or damaged run is drawn as far as it goes."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd

from kit import augment, space
from kit.config import Config
from kit.errors import KitError
from kit.figures.style import Span
from kit.methods import METHODS
from kit.run.run import Run
from kit.space.cell import cell_slots

POINTS, FRAMES = 240, 60  # of a curve and of an animation, at most
COLLAPSE = 0.5  # of the chosen operations: more skips are DARTS's collapse (Zela et al., ICLR 2020)


class Record:
    """What a run recorded, read once for a figure. Raises KitError for what cannot be read, or has a foreign shape.

    frame: the history by epoch, one column per name. alpha, tau: as `Run.alpha`, `Run.tau`; {} where there is none, and
    alpha where no architecture is searched."""

    def __init__(self, run: Run):
        rows = run.history
        rows = rows[~rows["name"].str.startswith("step/")] if len(rows) else rows
        self.run, self.frame = run, rows.pivot_table(index="epoch", columns="name", values="value", aggfunc="last")
        method = METHODS.get(run.config.method)  # a run of another version may name one that is gone
        self.stages = method.stages if method else ()
        self.searches = any(stage.search for stage in self.stages)

    @functools.cached_property
    def alpha(self) -> dict[str, np.ndarray]:
        return _checked(self.run, self.run.alpha if self.searches else {}, alpha=3, support=3, frozen=2)

    @functools.cached_property
    def tau(self) -> dict[str, np.ndarray]:
        return _checked(self.run, self.run.tau, probabilities=3, apply=2, magnitude=3)

    @property
    def last(self) -> int:
        """The last epoch of which anything is recorded."""
        epochs = self.frame.index if len(self.frame) else (self.alpha or self.tau).get("epoch", [0])
        return int(max(epochs))

    @functools.cached_property
    def spans(self) -> list[Span]:
        """The stages so far."""
        stages, number = self.stages, self.series("stage").astype(int)
        groups = number.groupby(number.clip(upper=len(stages) - 1)) if stages else ()
        return [Span(stages[i].name, int(e.index.min()) - 1, int(e.index.max()), stages[i].search) for i, e in groups]

    def series(self, name: str) -> pd.Series:
        """One name by epoch, without gaps; empty where the run has not recorded it."""
        return self.frame[name].dropna() if name in self.frame else pd.Series(dtype=float)

    @functools.cached_property
    def outline(self) -> space.Network | None:
        """The run's supernet without weights, where α's rows fit its slots."""
        shape = self.alpha["alpha"].shape[1:] if self.alpha else None
        try:
            net = _outline(self.run.config)
        except KitError:
            return None
        return net if (len(net.slots), max((len(s.candidates) for s in net.slots), default=0)) == shape else None

    @functools.cached_property
    def slots(self) -> tuple[space.Slot, ...]:
        """The slots that α's rows stand for; numbered where the space has others by now."""
        if self.outline is not None:
            return self.outline.slots
        count, widest = self.alpha["alpha"].shape[1:] if self.alpha else (0, 0)
        return tuple(space.Slot(f"slot/{i}", tuple((f"candidate {k}", 0) for k in range(widest))) for i in range(count))

    @property
    def cells(self) -> bool:
        """Whether the slots are the nodes of a normal and a reduction cell."""
        return [slot.name for slot in self.slots] == [slot.name for slot in cell_slots()]

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
            columns = np.full((len(strength), slot.takes), -1)
            for t, row in enumerate(strength):
                chosen = [c for c in np.argsort(-row, kind="stable")[: slot.takes].tolist() if row[c] > 0]
                kept = [c if c in chosen else -1 for c in columns[max(t - 1, 0)].tolist()]
                new = iter(sorted(set(chosen) - set(kept)))
                columns[t] = [c if c >= 0 else next(new, -1) for c in kept]
            found.append(columns)
        return found

    @property
    def ops(self) -> list[str]:
        """The names of τ's operations: the model's or, before there is one, the configuration's."""
        count = next(self.tau[name].shape[1] for name in ("probabilities", "apply", "magnitude") if name in self.tau)
        config = self.run.config
        try:
            names = self.run.policy.get("ops") or augment.searched(config.augment, getattr(config, "operations", None))
        except KitError:
            names = ()
        return list(names) if len(names) == count else [f"operation {k}" for k in range(count)]


@functools.lru_cache(16)
def _outline(config: Config) -> space.Network:
    return space.outline(config.space, **config.model_dump(exclude={"space"}))


def _checked(run: Run, arrays: dict[str, np.ndarray], **dimensions: int) -> dict[str, np.ndarray]:
    epochs = arrays.get("epoch", np.zeros(0))
    for name in dimensions.keys() & arrays.keys():
        if arrays[name].ndim != dimensions[name] or len(arrays[name]) != len(epochs):
            shape = list(arrays[name].shape)
            raise KitError(f"{run.path.name} cannot be drawn: its {name} is {shape}, with {len(epochs)} epochs")
    return arrays if len(epochs) else {}


def need(run: Run) -> Record:
    """As `Record`. Raises KitError where nothing is recorded yet."""
    record = Record(run)
    if not len(record.frame) and not record.alpha and not record.tau:
        raise KitError(f"{run.path.name} has no completed epoch to draw yet ({run.status})")
    return record


def thinned(count: int, most: int) -> list[int]:
    """At most `most` of 0 … count−1, evenly spread, both ends kept."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})


def standing(run: Run) -> str:
    """One line for the top of a page: the run, how far it came, why it ended early, and why it cannot be drawn."""
    status = "not finished (stopped, or still going on)" if run.status == "interrupted" else run.status
    try:
        record = Record(run)
        _ = record.alpha, record.tau
        failure = run.failure
    except KitError as error:
        return f"{run.path.name}: {status}. {error}."
    done = int(record.frame.index.max()) if len(record.frame) else 0
    spans = ", ".join(f"{span.name} {span.first + 1}–{span.last}" for span in record.spans)
    parts = [f"{run.path.name}: {status}, {done} of {run.config.epochs} epochs{f' ({spans})' if spans else ''}"]
    if failure:
        parts.append(f"It failed with {failure.get('error')}: {failure.get('message')}".rstrip(".")[:300])
    parts += [] if run.finished else ["Drawn: what is recorded so far"]
    for skips in record.series("alpha/skips").tail(1):
        if skips > COLLAPSE:
            parts.append(f"Collapse: {skips:.0%} of the chosen operations are skips (Zela et al., ICLR 2020)")
    return ". ".join(parts) + "."
