"""Resource limits c_i(α) ≤ C_i (DHA eq. 1): what a child may cost."""

from __future__ import annotations

from dataclasses import dataclass

from kit.errors import KitError
from kit.space.network import Network, Picks


@dataclass(frozen=True)
class Limits:
    """Upper bounds on parameters and multiply-adds per image; None does not bind.

    Raises KitError on construction when no child of the space can keep to them, with the range that the space reaches.
    """

    network: Network
    max_params: int | None = None
    max_macs: int | None = None

    def __post_init__(self) -> None:
        for name, bound, position in (("max_params", self.max_params, 0), ("max_macs", self.max_macs, 1)):
            if bound is not None:
                low, high = (self.network.cost(self._extreme(position, sign))[position] for sign in (1, -1))
                if bound < low:
                    raise KitError(f"{name}={bound:,} is less than any architecture needs: this space reaches {low:,} to {high:,}")
        if self.max_params is not None and self.max_macs is not None:
            candidates = (self._extreme(0, 1), self._extreme(1, 1))
            if not any(self.allow(picks) for picks in candidates):
                raise KitError(f"no architecture of this space keeps to {self} at once: loosen one of them")

    def _extreme(self, position: int, sign: int) -> Picks:
        """The cheapest (sign 1) or most expensive child by one cost: costs add up over slots, so slot by slot."""
        base = [tuple(range(slot.picks)) for slot in self.network.slots]
        chosen = []
        for i, slot in enumerate(self.network.slots):
            def of(c: int, i: int = i, slot=slot) -> int:
                trial = [*base[:i], (c,) * slot.picks, *base[i + 1 :]]
                return sign * self.network.cost(tuple(trial))[position]

            chosen.append(tuple(sorted(sorted(range(len(slot.candidates)), key=of)[: slot.picks])))
        return tuple(chosen)

    def excess(self, picks: Picks) -> float:
        """How far a child is over the limits: the sum of the relative excesses; 0 when it keeps to all of them."""
        if self.max_params is None and self.max_macs is None:
            return 0.0  # nothing to measure
        cost = self.network.cost(picks)
        return sum(max(0.0, have / bound - 1) for have, bound in zip(cost, (self.max_params, self.max_macs)) if bound is not None)

    def allow(self, picks: Picks) -> bool:
        return self.excess(picks) == 0.0

    def __str__(self) -> str:
        bounds = {"max_params": self.max_params, "max_macs": self.max_macs}
        return ", ".join(f"{name}={bound:,}" for name, bound in bounds.items() if bound is not None) or "no limits"
