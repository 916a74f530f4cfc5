"""A target for the multiply-adds that a search steers to, softly: DSNAS's penalty and TuNAS's absolute reward (METHOD
section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kit.errors import KitError
from kit.space.network import Network, Picks


class Target:
    """macs: multiply-adds per image; weight: of the penalty, ≥ 0. Raises KitError, with the reachable range, if no
    child meets it.
    """

    def __init__(self, network: Network, macs: int, weight: float):
        self.network, self.macs, self.weight = network, macs, weight
        base = tuple(tuple(range(slot.takes)) for slot in network.slots)
        self.base = network.cost(base).macs
        widest = max(len(slot.candidates) for slot in network.slots)
        # what a slot adds to the base when it takes one candidate throughout; costs add up over slots
        self.table = torch.zeros(len(network.slots), widest, dtype=torch.float64)
        for i, slot in enumerate(network.slots):
            for c in range(len(slot.candidates)):
                self.table[i, c] = network.cost((*base[:i], (c,) * slot.takes, *base[i + 1 :])).macs - self.base
        ends = [self._extreme(sign) for sign in (1, -1)]
        if not ends[0] <= macs <= ends[1]:
            raise KitError(
                f"target_macs={macs:,} is met by no architecture: this space reaches {ends[0]:,} to {ends[1]:,} multiply-adds"
            )

    def _extreme(self, sign: int) -> int:
        """The least (1) or most (−1) that a child costs."""
        chosen = [
            sorted(range(len(slot.candidates)), key=lambda c, i=i: sign * float(self.table[i, c]))[: slot.takes]
            for i, slot in enumerate(self.network.slots)
        ]
        return self.network.cost(tuple(tuple(sorted(c)) for c in chosen)).macs

    def expected(self, probabilities: Tensor) -> Tensor:
        """Expected multiply-adds: float64 0-dim, differentiable. probabilities: [slots, widest]. Exact where slots take
        one candidate.
        """
        return self.base + (probabilities * self.table).sum()

    def penalty(self, probabilities: Tensor) -> Tensor:
        """weight · max(0, E[cost]/target − 1)."""
        return self.weight * (self.expected(probabilities) / self.macs - 1).clamp(min=0)

    def reward(self, picks: Picks) -> float:
        """β |cost/target − 1| with β = −weight."""
        return -self.weight * abs(self.network.cost(picks).macs / self.macs - 1)
