"""Architecture learners: what all of them share, and the two that do not learn (a given genotype, a random child)."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from kit.errors import KitError
from kit.search.learner import Learner
from kit.space.limits import Limits
from kit.space.network import Child, Picks, Slot


class ArchLearner(Learner):
    """Chooses children. `picks` is the architecture that stands now; `finished` says that it will not change any
    more.
    """

    slots: tuple[Slot, ...]
    picks: Picks

    @abstractmethod
    def sample(self) -> Child: ...

    def derived(self) -> Child:
        """The architecture that stands now, to be evaluated; draws nothing."""
        return Child(self.picks)

    def anneal(self, share: float) -> None:
        """Before each epoch of the search stage: how much of its longest duration has passed, in [0, 1]."""

    def end_epoch(self, last: bool) -> list[int]:
        """Slots that have settled since the last call; all that are open when `last` (the search stage ends)."""
        return []

    def freeze(self, slots: list[int]) -> None:
        """These slots are fixed now: the network has taken over their gates."""

    @property
    def finished(self) -> bool:
        return True

    def snapshot(self) -> dict[str, Tensor]:
        """α as it stands, for the history: `alpha` [slots, widest] and `support` bool of the same shape; padded with
        zeros.
        """
        widest = max((len(slot.candidates) for slot in self.slots), default=0)
        support = torch.zeros(len(self.slots), widest, dtype=torch.bool)
        for slot, chosen in enumerate(self.picks):
            support[slot, list(chosen)] = True
        alpha = getattr(self, "alpha", support.to(torch.float32))
        return {"alpha": alpha.detach().cpu().to(torch.float32), "support": support}


class Given(ArchLearner):
    """One architecture throughout: a genotype from elsewhere, a random child, or a network without choices."""

    def __init__(self, slots: tuple[Slot, ...], picks: Picks):
        self.slots, self.picks = slots, picks

    def variables(self) -> list[Tensor]:
        return []

    def sample(self) -> Child:
        return Child(self.picks)

    def state_dict(self) -> dict:
        return {"picks": [list(p) for p in self.picks]}

    def load_state_dict(self, state: dict) -> None:
        self.picks = tuple(tuple(p) for p in state["picks"])


def random_picks(slots: tuple[Slot, ...], generator: torch.Generator, limits: Limits, tries: int = 1000) -> Picks:
    """A child drawn uniformly among those within the limits: each slot's candidates without replacement. Where `tries`
    draws find none, the
    last one is repaired, its slots in random order."""
    for _ in range(tries):
        picks = tuple(
            tuple(sorted(torch.randperm(len(slot.candidates), generator=generator)[: slot.takes].tolist()))
            for slot in slots
        )
        if limits.allow(picks):
            return picks
    return limits.repaired(picks, torch.randperm(len(slots), generator=generator).tolist())


def strongest_picks(slots: tuple[Slot, ...], strength: Tensor, limits: Limits) -> Picks:
    """The strongest candidates of every slot; where they break the limits, an admissible child near them to start the
    search from.

    strength: [slots, widest] ≥ 0. Repaired greedily: of all swaps of one picked candidate, the one that lowers the
    excess most per
    strength lost. Costs add up over slots, so this ends at an admissible child, or `limits` was impossible (refused on
    construction).
    """
    picks = [
        sorted(row.argsort(descending=True, stable=True)[: slot.takes].tolist())
        for slot, row in ((slot, strength[i, : len(slot.candidates)]) for i, slot in enumerate(slots))
    ]
    while not limits.allow(tuple(map(tuple, picks))):
        excess, best = limits.excess(tuple(map(tuple, picks))), None
        for i, slot in enumerate(slots):
            for old in picks[i]:
                for new in set(range(len(slot.candidates))) - set(picks[i]):
                    trial = [*picks[:i], sorted([c for c in picks[i] if c != old] + [new]), *picks[i + 1 :]]
                    gain = excess - limits.excess(tuple(map(tuple, trial)))
                    lost = max(float(strength[i, old] - strength[i, new]), 1e-6)
                    if gain > 0 and (best is None or gain / lost > best[0]):
                        best = (gain / lost, trial)
        if best is None:
            raise KitError(f"no architecture near the start keeps to {limits}: loosen the limits")
        picks = best[1]
    return tuple(map(tuple, picks))
