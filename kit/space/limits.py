"""Resource limits c_i(α) ≤ C_i (DHA eq. 1): what a child may cost, and a target that a search steers its cost to."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy  # loads its parts when they are first used
import torch
from torch import Tensor

from kit.errors import KitError
from kit.space.network import Network, Picks, Slot, alone

UNITS = {"max_params": "parameters", "max_macs": "multiply-adds", "max_latency_ms": "ms"}
BOUNDS = tuple(UNITS)


class Limits:
    """Upper bounds on parameters, multiply-adds per image and milliseconds per batch, by the `LatencyTable` latency;
    None does not bind. Raises KitError, with the range that the space reaches, where no child of it keeps to them."""

    def __init__(self, network: Network, max_params=None, max_macs=None, max_latency_ms=None, latency: Any = None):
        self.network, self.latency = network, latency
        measures = (lambda p: network.cost(p).params, lambda p: network.cost(p).macs, latency and latency.predict)
        self.cost_of, given = dict(zip(BOUNDS, measures)), zip(BOUNDS, (max_params, max_macs, max_latency_ms))
        self.bounds = {name: bound for name, bound in given if bound is not None}
        self._tables = [(*self.additive(name), bound) for name, bound in self.bounds.items()]
        relative = [[row / bound for row in rows] for _, rows, bound in self._tables]
        if self.bounds and self.best([-sum(rows) for rows in zip(*relative)]) is None:
            reached = ", ".join(f"{name}={' to '.join(map(_number, self.reach(name)))}" for name in self.bounds)
            on = f" ({latency})" if max_latency_ms is not None else ""
            raise KitError(f"no architecture of this space keeps to {self}: it reaches {reached}{on}; loosen a limit")

    def __str__(self) -> str:
        return ", ".join(f"{name}={_number(bound)}" for name, bound in self.bounds.items()) or "no limits"

    def allow(self, picks: Picks) -> bool:
        return all(self.cost_of[name](picks) <= bound for name, bound in self.bounds.items())

    def costs(self, picks: Picks) -> str:
        return ", ".join(f"{_number(self.cost_of[name](picks))} {UNITS[name]}" for name in self.bounds)

    def reach(self, name: str) -> tuple[float, float]:
        """The least and the most that a child of the space costs; name: one of `BOUNDS`."""
        _, rows = self.additive(name)
        low, high = (self.cost_of[name](cheapest(self.network.slots, rows, sign)) for sign in (1, -1))
        return low, high

    def additive(self, name: str) -> tuple[float, list[np.ndarray]]:
        """What every child costs, and what each candidate adds: float64 [candidates] of each slot."""
        slots = self.network.slots
        fixed = self.cost_of[name](((),) * len(slots))
        of = lambda i: [self.cost_of[name](alone(slots, i, c)) - fixed for c in range(len(slots[i].candidates))]
        return fixed, [np.array(of(i), float) for i in range(len(slots))]

    def best(self, gain: Sequence[np.ndarray]) -> Picks | None:
        """Of the children that keep to all limits at once, the one with the greatest sum of gains (float [candidates]
        for each slot), or None; by mixed-integer linear programming, since costs add up over slots."""
        slots = self.network.slots
        if not slots:
            return () if self.allow(()) else None
        owner = np.repeat(np.arange(len(slots)), [len(slot.candidates) for slot in slots])
        takes = [slot.takes for slot in slots]
        constraints = [scipy.optimize.LinearConstraint(owner == np.arange(len(slots))[:, None], takes, takes)]
        for fixed, rows, bound in self._tables:
            constraints.append(scipy.optimize.LinearConstraint(np.concatenate(rows) / bound, ub=1 - fixed / bound))
        whole, sought = np.ones(len(owner)), -np.concatenate(gain)
        while True:
            found = scipy.optimize.milp(sought, integrality=whole, bounds=(0, 1), constraints=constraints)
            if found.x is None:
                return None
            chosen = found.x > 0.5
            picks = tuple(tuple(np.flatnonzero(chosen[owner == i]).tolist()) for i in range(len(slots)))
            if self.allow(picks):
                return picks
            # it is over a bound by less than the solver's tolerance: any other child
            constraints.append(scipy.optimize.LinearConstraint(chosen, ub=sum(takes) - 1))


def cheapest(slots: Sequence[Slot], rows: Sequence[np.ndarray], sign: int = 1) -> Picks:
    """The child with the least (sign 1) or the most (−1) of what `rows` say that candidates add."""
    orders = (np.argsort(sign * row, kind="stable").tolist() for row in rows)
    return tuple(tuple(sorted(order[: slot.takes])) for slot, order in zip(slots, orders))


class Target:
    """Multiply-adds that a search steers to, softly: DSNAS's penalty and TuNAS's absolute reward (METHOD section 3).
    macs: per image; weight: of the penalty, ≥ 0. Raises KitError, with the reachable range, if no child meets it."""

    def __init__(self, network: Network, macs: int, weight: float):
        self.network, self.macs, self.weight = network, macs, weight
        limits = Limits(network)
        low, high = limits.reach("max_macs")
        if not low <= macs <= high:
            raise KitError(f"target_macs={macs:,} is met by no architecture: this space reaches {low:,} to {high:,}")
        self.fixed, rows = limits.additive("max_macs")
        taken = [torch.from_numpy(row) * slot.takes for slot, row in zip(network.slots, rows)]
        self.table = torch.nn.utils.rnn.pad_sequence(taken, batch_first=True)

    def penalty(self, probabilities: Tensor) -> Tensor:
        """weight · max(0, E[cost]/target − 1): float64 0-dim, differentiable. probabilities: [slots, widest]. Exact
        where slots take one candidate."""
        return self.weight * ((self.fixed + (probabilities * self.table).sum()) / self.macs - 1).clamp(min=0)

    def reward(self, picks: Picks) -> float:
        return -self.weight * abs(self.network.cost(picks).macs / self.macs - 1)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
