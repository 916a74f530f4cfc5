"""Resource limits c_i(α) ≤ C_i (DHA eq. 1): what a child may cost."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kit.errors import KitError
from kit.space.network import Network, Picks, Slot

if TYPE_CHECKING:
    from kit.space.latency import LatencyTable

BOUNDS = ("max_params", "max_macs", "max_latency_ms")
UNITS = ("parameters", "multiply-adds", "ms")
FRONT = 2000  # partial architectures kept side by side when several limits are weighed against each other
ROUNDS = 100


@dataclass(frozen=True)
class Limits:
    """Upper bounds on parameters, multiply-adds per image, and milliseconds per batch; None does not bind.

    latency: the table that `max_latency_ms` is compared with; its predictions carry a margin (see `kit.space.latency`),
    and `confirm` times a
    child for real. Raises KitError on construction when no child of the space can keep to the limits, with the range
    that the space reaches.
    """

    network: Network
    max_params: int | None = None
    max_macs: int | None = None
    max_latency_ms: float | None = None
    latency: LatencyTable | None = None

    def __post_init__(self) -> None:
        for position, bound in self._bounds.items():
            low, high = self.reach(BOUNDS[position])
            if bound < low:
                raise KitError(
                    f"{_named(position, bound)} is less than any architecture needs: this space reaches {_number(low)} to "
                    f"{_number(high)}{f' ({self.latency})' if position == 2 else ''}"
                )
        if len(self._bounds) > 1 and self.witness is None:
            ranges = "; ".join(
                f"{BOUNDS[p]} alone can go down to {_number(self.reach(BOUNDS[p])[0])}" for p in self._bounds
            )
            raise KitError(f"no architecture of this space keeps to {self} at once: loosen one of them ({ranges})")

    # ---- one child -------------------------------------------------------------------------------

    def excess(self, picks: Picks) -> float:
        """How far a child is over the limits: the sum of the relative excesses; 0 when it keeps to all of them."""
        return sum(max(0.0, self._cost(picks, position) / bound - 1) for position, bound in self._bounds.items())

    def allow(self, picks: Picks) -> bool:
        return self.excess(picks) == 0.0

    def confirm(self, picks: Picks) -> bool:
        """As `allow`, with the child's latency timed for real: what a search asks before an architecture becomes its
        result.

        Once timed, a child is judged by its own time, so that `allow` refuses from then on what failed here.
        """
        if self.max_latency_ms is not None and self.allow(picks):
            self.latency.measure(picks, self.max_latency_ms)
        return self.allow(picks)

    def settle(self, choose: Callable[[], Picks]) -> Picks:
        """The first of choose()'s children that `confirm` confirms; it is asked again after each one that fails, which
        `allow` now refuses.

        Raises KitError after `ROUNDS` of them: the table is then far from what the machine does.
        """
        for _ in range(ROUNDS):
            picks = choose()
            if self.confirm(picks):
                return picks
        raise KitError(
            f"{ROUNDS} architectures within {self} by the latency table were timed and none keeps to it: the machine is busier than when "
            "the table was made; stop what else runs, or loosen max_latency_ms"
        )

    def repaired(self, picks: Picks, order: Sequence[int] | None = None) -> Picks:
        """An admissible child that takes over slots of `witness`, in `order` (None: as they come), until it keeps to
        the limits.

        Ends at the witness itself, so there always is one; only where that was timed and failed is there none, and a
        KitError.
        """
        if not self._bounds:
            return picks
        child = list(picks)
        for slot in [None, *(range(len(child)) if order is None else order)]:
            if slot is not None:
                child[slot] = self.witness[slot]
            if self.allow(tuple(child)):
                return tuple(child)
        raise KitError(f"no architecture was found that keeps to {self} when it is timed: loosen max_latency_ms")

    def costs(self, picks: Picks) -> str:
        """In words, what a child costs of what is limited."""
        return ", ".join(
            f"{self._cost(picks, p):,.4g} {UNITS[p]}" if p == 2 else f"{self._cost(picks, p):,} {UNITS[p]}"
            for p in self._bounds
        )

    def _cost(self, picks: Picks, position: int) -> float:
        return self.latency.bound(picks) if position == 2 else self.network.cost(picks)[position]

    @functools.cached_property
    def _bounds(self) -> dict[int, float]:
        """The limits that bind, by their place in `BOUNDS`."""
        given = (self.max_params, self.max_macs, self.max_latency_ms)
        return {position: bound for position, bound in enumerate(given) if bound is not None}

    # ---- the space -------------------------------------------------------------------------------

    def reach(self, name: str) -> tuple[float, float]:
        """The least and the most that a child of the space costs; name: one of `BOUNDS`. Latency: by the table, margin
        included.
        """
        position = BOUNDS.index(name)
        if position == 2 and self.latency is None:
            raise KitError(
                "max_latency_ms needs a latency table: Limits(…, latency=kit.space.latency.table(network, device, batch))"
            )
        ends = (self._extreme(position, sign) for sign in (1, -1))
        return tuple(self._added(picks, position) for picks in ends)  # type: ignore[return-value]

    def _extreme(self, position: int, sign: int) -> Picks:
        """The cheapest (sign 1) or most expensive child by one cost: costs add up over slots, so slot by slot."""
        tables = _candidate_costs(self.network.slots, lambda picks: self._added(picks, position))
        return tuple(
            tuple(sorted(np.argsort(sign * row, kind="stable")[: slot.takes].tolist()))
            for slot, row in zip(self.network.slots, tables)
        )

    def _added(self, picks: Picks, position: int) -> float:
        """The cost as a sum over slots: without the times that single children were given."""
        return (
            self.latency.margin * self.latency.predict(picks) if position == 2 else self.network.cost(picks)[position]
        )

    @functools.cached_property
    def witness(self) -> Picks | None:
        """A child that keeps to all limits at once, or None if there is none.

        Costs add up over slots, so a weighted sum of the limits is minimised slot by slot. Weights under which even
        that minimum is over
        the limits prove that there is no child; a minimiser that keeps to them proves that there is one (Lagrangian
        relaxation). Between the
        two, partial children that are no worse than others in every cost are carried from slot to slot: exact while
        there are at most
        `FRONT` of them. Beyond that only the most promising are kept, and a child may be missed: never a wrong one
        returned.
        """
        relative = [
            _candidate_costs(self.network.slots, lambda picks, p=p, b=b: self._added(picks, p) / b)
            for p, b in self._bounds.items()
        ]
        start = tuple(tuple(range(slot.takes)) for slot in self.network.slots)
        offset = np.array([self._added(start, p) / b for p, b in self._bounds.items()])
        offset -= [sum(row[list(chosen)].sum() for row, chosen in zip(rows, start)) for rows in relative]
        tables = [np.stack(rows) for rows in zip(*relative)]  # of each slot: [limits, candidates]
        picks, proven = _relaxed(self.network.slots, tables, offset, self._fits)
        return picks if picks is not None or proven else _enumerated(self.network.slots, tables, offset, self._fits)

    def _fits(self, picks: Picks) -> bool:
        return all(self._added(picks, position) <= bound for position, bound in self._bounds.items())

    def __str__(self) -> str:
        return ", ".join(_named(position, bound) for position, bound in self._bounds.items()) or "no limits"


Tables = list[np.ndarray]
Fits = Callable[[Picks], bool]


def _candidate_costs(slots: tuple[Slot, ...], cost: Callable[[Picks], float]) -> list[np.ndarray]:
    """What each candidate of a slot adds over the slot's first, float64 [candidates]; zeros where there is no
    choice.
    """
    start = [tuple(range(slot.takes)) for slot in slots]
    base, rows = cost(tuple(start)), []
    for i, slot in enumerate(slots):
        n, k = len(slot.candidates), slot.takes

        def of(*chosen: int, i: int = i) -> float:
            return cost((*start[:i], tuple(sorted(chosen)), *start[i + 1 :])) - base

        if n == k:
            rows.append(np.zeros(n))
            continue
        spare = of(*range(1, k), k)  # the first candidate after the start's, in place of its first
        inside = [spare - of(*(x for x in range(k + 1) if x != c)) for c in range(k)]
        rows.append(np.array([*inside, *(of(*range(1, k), c) for c in range(k, n))], dtype=float))
    return rows


def _relaxed(slots: tuple[Slot, ...], tables: Tables, offset: np.ndarray, fits: Fits) -> tuple[Picks | None, bool]:
    """(a child within the limits or None, whether it is proven that there is none), by the weights of a Lagrangian
    relaxation.
    """
    log = np.zeros(len(offset))
    for round_ in range(1, ROUNDS + 1):
        weights = np.exp(log - log.max())
        weights /= weights.sum()
        picks = tuple(
            tuple(sorted(np.argsort(weights @ table, kind="stable")[: slot.takes].tolist()))
            for slot, table in zip(slots, tables)
        )
        if fits(picks):
            return picks, False
        relative = offset + sum(table[:, list(chosen)].sum(axis=1) for table, chosen in zip(tables, picks))
        if weights @ relative > 1 + 1e-9:
            return None, True
        over = relative - 1
        log = log + over / (np.abs(over).max() * round_**0.5)  # towards the limits that are broken
    return None, False


def _enumerated(slots: tuple[Slot, ...], tables: Tables, offset: np.ndarray, fits: Fits) -> Picks | None:
    """A child within the limits: slot by slot, the combinations that no other one beats in every cost."""
    options = [list(itertools.combinations(range(len(slot.candidates)), slot.takes)) for slot in slots]
    sums = [
        np.stack([table[:, list(chosen)].sum(axis=1) for chosen in chosens]) for table, chosens in zip(tables, options)
    ]
    rest = np.cumsum([part.min(axis=0) for part in reversed(sums)], axis=0)[
        ::-1
    ]  # the least that a slot and those after it add
    costs, chosen = offset[None, :], np.zeros((1, 0), dtype=np.int64)
    for index, part in enumerate(sums):
        after = rest[index + 1] if index + 1 < len(sums) else np.zeros_like(offset)
        mine = _front(part)
        grown = (costs[:, None] + part[mine][None]).reshape(-1, len(offset))
        paths = np.concatenate([np.repeat(chosen, len(mine), axis=0), np.tile(mine, len(chosen))[:, None]], axis=1)
        worst = (grown + after).max(axis=1)
        keep = np.flatnonzero(worst <= 1 + 1e-9)
        keep = keep[_front(grown[keep])]
        keep = keep[np.argsort(worst[keep], kind="stable")[:FRONT]]
        costs, chosen = grown[keep], paths[keep]
    found = (tuple(options[slot][choice] for slot, choice in enumerate(path)) for path in chosen.tolist())
    return next((picks for picks in found if fits(picks)), None)


def _front(costs: np.ndarray) -> np.ndarray:
    """Rows of costs [n, limits] that no other row beats or equals in every column; of equal ones the first."""
    order, kept = np.argsort(costs.sum(axis=1), kind="stable"), []
    while len(order):
        kept.append(order[0])
        order = order[(costs[order] < costs[order[0]]).any(axis=1)]
    return np.array(kept, dtype=np.int64)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _named(position: int, bound: float) -> str:
    return f"{BOUNDS[position]}={_number(bound)}"
