"""Resource limits c_i(α) ≤ C_i (DHA eq. 1): what a child may cost, and a target that a search steers its cost to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from kit.errors import KitError
from kit.space.child import Picks, Slot, everything
from kit.space.network import Network

if TYPE_CHECKING:
    from kit.space.latency import LatencyTable

UNITS = {"max_params": "parameters", "max_macs": "multiply-adds", "max_latency_ms": "ms"}
BOUNDS = tuple(UNITS)
ROUNDS = 100  # architectures that are timed before it is given up


@dataclass(frozen=True)
class Limits:
    """Upper bounds on parameters, multiply-adds per image, and milliseconds per batch; None does not bind.

    latency: the table that `max_latency_ms` is compared with; its predictions carry a margin (see `kit.space.latency`),
    and `confirm` times a child for real. Raises KitError on construction when no child of the space can keep to the
    limits, with the range that the space reaches.
    """

    network: Network
    max_params: int | None = None
    max_macs: int | None = None
    max_latency_ms: float | None = None
    latency: LatencyTable | None = None

    def __post_init__(self) -> None:
        for name, bound in self._bounds.items():
            low, high = self.reach(name)
            if bound < low:
                on = f" ({self.latency})" if name == "max_latency_ms" else ""
                raise KitError(
                    f"{name}={_number(bound)} is less than any architecture needs: this space reaches {_number(low)} "
                    f"to {_number(high)}{on}"
                )
        if len(self._bounds) > 1 and self.witness is None:
            ranges = "; ".join(f"{name} alone can go down to {_number(self.reach(name)[0])}" for name in self._bounds)
            raise KitError(f"no architecture of this space keeps to {self} at once: loosen one of them ({ranges})")

    @functools.cached_property
    def _bounds(self) -> dict[str, float]:
        """The limits that bind."""
        return {name: getattr(self, name) for name in BOUNDS if getattr(self, name) is not None}

    def __str__(self) -> str:
        return ", ".join(f"{name}={_number(bound)}" for name, bound in self._bounds.items()) or "no limits"

    # ---- one child -------------------------------------------------------------------------------

    def excess(self, picks: Picks) -> float:
        """How far a child is over the limits: the sum of the relative excesses; 0 when it keeps to all of them."""
        return sum(max(0.0, self._cost(picks, name) / bound - 1) for name, bound in self._bounds.items())

    def allow(self, picks: Picks) -> bool:
        return self.excess(picks) == 0.0

    def confirm(self, picks: Picks) -> bool:
        """As `allow`, with the child's latency timed for real: what a search asks before an architecture becomes its
        result. Once timed, a child is judged by its own time, so that `allow` refuses from then on what failed here.
        """
        if self.max_latency_ms is not None and self.allow(picks):
            self.latency.measure(picks, self.max_latency_ms)
        return self.allow(picks)

    def settle(self, choose: Callable[[], Picks]) -> Picks:
        """The first of choose()'s children that `confirm` confirms; it is asked again after each one that fails, which
        `allow` now refuses. Raises KitError after `ROUNDS` of them: the table is then far from what the machine does.
        """
        for _ in range(ROUNDS):
            picks = choose()
            if self.confirm(picks):
                return picks
        raise KitError(
            f"{ROUNDS} architectures within {self} by the latency table were timed and none keeps to it: the machine is"
            " busier than when the table was made; stop what else runs, or loosen max_latency_ms"
        )

    def repaired(self, picks: Picks, order: Sequence[int] | None = None) -> Picks:
        """An admissible child that takes over slots of `witness`, in `order` (None: as they come), until it keeps to
        the limits. Ends at the witness itself, so that there is one unless that was timed and failed: then KitError.
        """
        child = list(picks)
        for slot in [None, *(range(len(child)) if order is None else order)]:
            if slot is not None:
                child[slot] = self.witness[slot]
            if self.allow(tuple(child)):
                return tuple(child)
        raise KitError(f"no architecture was found that keeps to {self} when it is timed: loosen max_latency_ms")

    def costs(self, picks: Picks) -> str:
        """In words, what a child costs of what is limited."""
        return ", ".join(f"{_number(self._cost(picks, name))} {UNITS[name]}" for name in self._bounds)

    def _cost(self, picks: Picks, name: str) -> float:
        return self.latency.bound(picks) if name == "max_latency_ms" else self._predicted(picks, name)

    def _predicted(self, picks: Picks, name: str) -> float:
        """As a sum over slots: without the times that single children were given."""
        if name == "max_latency_ms":
            return self.latency.margin * self.latency.predict(picks)
        return self.network.cost(picks)[BOUNDS.index(name)]

    # ---- the space -------------------------------------------------------------------------------

    def reach(self, name: str) -> tuple[float, float]:
        """The least and the most that a child of the space costs; name: one of `BOUNDS`. Latency: by the table, margin
        included."""
        if name == "max_latency_ms" and self.latency is None:
            raise KitError(
                "max_latency_ms needs a latency table: "
                "Limits(…, latency=kit.space.latency.table(network, device, batch))"
            )
        _, rows = additive(self.network, lambda picks: self._predicted(picks, name))
        low, high = (self._predicted(cheapest(self.network.slots, rows, sign), name) for sign in (1, -1))
        return low, high

    @functools.cached_property
    def witness(self) -> Picks | None:
        """The child that keeps to all limits at once with the least sum of relative costs, or None if there is none."""
        relative = [[row / bound for row in rows] for (_, rows), bound in self._tables]  # [limit][slot][candidate]
        picks = cheapest(self.network.slots, [sum(rows) for rows in zip(*relative)])
        if not self.network.slots or self._fits(picks):
            return picks
        return self.best([-sum(rows) for rows in zip(*relative)])

    def best(self, gain: Sequence[np.ndarray]) -> Picks | None:
        """Of the children that keep to all limits at once, the one with the greatest sum of gains, or None.

        gain: float [candidates] for each slot. By mixed-integer linear programming, since costs add up over slots.
        """
        slots = self.network.slots
        owner = np.repeat(np.arange(len(slots)), [len(slot.candidates) for slot in slots])
        takes = [slot.takes for slot in slots]
        costs = np.stack([np.concatenate(rows) / bound for (_, rows), bound in self._tables])
        room = [1 - fixed / bound for (fixed, _), bound in self._tables]
        constraints = [
            optimize.LinearConstraint(owner == np.arange(len(slots))[:, None], takes, takes),
            optimize.LinearConstraint(costs, ub=room),
        ]
        whole, sought = np.ones(len(owner)), -np.concatenate(gain)
        while True:
            found = optimize.milp(sought, integrality=whole, bounds=(0, 1), constraints=constraints)
            if found.x is None:
                return None
            chosen = found.x > 0.5
            picks = tuple(tuple(np.flatnonzero(chosen[owner == i]).tolist()) for i in range(len(slots)))
            if self._fits(picks):
                return picks
            # it is over a bound by less than the solver's tolerance: any other child
            constraints.append(optimize.LinearConstraint(chosen, ub=sum(takes) - 1))

    @functools.cached_property
    def _tables(self) -> list[tuple[tuple[float, list[np.ndarray]], float]]:
        """For each limit what candidates add to it (see `additive`), and its bound."""
        predicted = lambda name: lambda picks: self._predicted(picks, name)
        return [(additive(self.network, predicted(name)), bound) for name, bound in self._bounds.items()]

    def _fits(self, picks: Picks) -> bool:
        return all(self._predicted(picks, name) <= bound for name, bound in self._bounds.items())


def additive(network: Network, cost: Callable[[Picks], float]) -> tuple[float, list[np.ndarray]]:
    """What every child costs, and what each candidate adds: float64 [candidates] of each slot."""
    cost(everything(network.slots))  # so that each operation is counted once, in one pass
    none: list[tuple[int, ...]] = [()] * len(network.slots)
    fixed = cost(tuple(none))

    def alone(i: int, candidate: int) -> float:
        return cost((*none[:i], (candidate,), *none[i + 1 :])) - fixed

    rows = [np.array([alone(i, c) for c in range(len(s.candidates))], float) for i, s in enumerate(network.slots)]
    return fixed, rows


def cheapest(slots: Sequence[Slot], rows: Sequence[np.ndarray], sign: int = 1) -> Picks:
    """The child with the least (sign 1) or the most (−1) of what `rows` say that candidates add."""
    orders = (np.argsort(sign * row, kind="stable").tolist() for row in rows)
    return tuple(tuple(sorted(order[: slot.takes])) for slot, order in zip(slots, orders))


class Target:
    """Multiply-adds that a search steers to, softly: DSNAS's penalty and TuNAS's absolute reward (METHOD section 3).

    macs: multiply-adds per image; weight: of the penalty, ≥ 0. Raises KitError, with the reachable range, if no child
    meets it.
    """

    def __init__(self, network: Network, macs: int, weight: float):
        self.network, self.macs, self.weight = network, macs, weight
        self.fixed, rows = additive(network, lambda picks: network.cost(picks).macs)
        low, high = (network.cost(cheapest(network.slots, rows, sign)).macs for sign in (1, -1))
        if not low <= macs <= high:
            raise KitError(
                f"target_macs={macs:,} is met by no architecture: this space reaches {low:,} to {high:,} multiply-adds"
            )
        self.table = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.float64)
        for i, row in enumerate(rows):
            self.table[i, : len(row)] = torch.from_numpy(row) * network.slots[i].takes

    def expected(self, probabilities: Tensor) -> Tensor:
        """Expected multiply-adds: float64 0-dim, differentiable. probabilities: [slots, widest]. Exact where slots take
        one candidate.
        """
        return self.fixed + (probabilities * self.table).sum()

    def penalty(self, probabilities: Tensor) -> Tensor:
        """weight · max(0, E[cost]/target − 1)."""
        return self.weight * (self.expected(probabilities) / self.macs - 1).clamp(min=0)

    def reward(self, picks: Picks) -> float:
        """β |cost/target − 1| with β = −weight."""
        return -self.weight * abs(self.network.cost(picks).macs / self.macs - 1)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
