"""Architecture learners: what all of them share, and the two that do not learn (a given genotype, a random child)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kit import registry
from kit.errors import KitError
from kit.search import ranks
from kit.search.learner import Learner
from kit.space.limits import Limits, Target
from kit.space.network import Child, Picks, Slot

ARCH = registry.Registry("arch")
register = ARCH.register


@dataclass(frozen=True)
class Setting:
    """What a learner that searches is built from.

    slots: the supernet's decisions. generator: its own random stream. limits: what a child may cost. config: the run's
    configuration, with the options of the learner. target: multiply-adds to steer to, None without. steps: of the
    search stage, at most.
    """

    slots: tuple[Slot, ...]
    generator: torch.Generator
    limits: Limits
    device: torch.device
    config: Any
    target: Target | None = None
    steps: int = 0

    @property
    def lr(self) -> float:
        """The learner's step size: given, or so that it covers its reach in the stage's steps."""
        given = self.config.arch_lr
        return given if given is not None else self.config.arch_reach / max(1, self.steps)

    def needs_choices(self, name: str) -> None:
        """Raises KitError where there is nothing to choose."""
        if not self.slots:
            raise KitError(
                f"arch={name!r} needs a space with choices; this network is fixed. Use space='cell' or arch='given'"
            )


class RateOptions(registry.Options):
    arch_reach: float = Field(
        6.0, gt=0, description="how far Adam can move b, or a logit of α, over the search stage: its rate × its steps"
    )
    arch_lr: float | None = Field(None, gt=0, description="Adam's rate on b or the logits; None: from arch_reach")


class TargetOptions(RateOptions):
    target_macs: int | None = Field(
        None, ge=1, description="multiply-adds that dsnas (penalty above) and reinforce (absolute reward) steer to"
    )
    target_weight: float = Field(0.1, ge=0, description="of the penalty or reward of target_macs")


class ArchLearner(Learner):
    """Chooses children. `picks` is the architecture that stands now; `finished`: it will not change any more."""

    #: whether it searches, and so can be built from a `Setting` by `build`
    searches = True
    #: whether its gates differ from 1, so that a space must be able to take them over when the architecture is fixed
    weighs = False
    #: whether what it trains is not the derived child, which then has to be trained anew
    retrain = False
    #: whether it can steer to `target_macs`
    steers = False
    slots: tuple[Slot, ...]
    picks: Picks

    @classmethod
    def build(cls, at: Setting, **settings: Any) -> ArchLearner:
        """From a stage's setting; settings: of the name under which the class is registered."""
        raise KitError(f"{cls.__name__} does not search: it needs a classmethod build(cls, at, **settings)")

    @classmethod
    def check(cls, config: Any) -> None:
        """Raises KitError for a configuration that the learner cannot follow."""
        if config.target_macs is not None and not cls.steers:
            steering = " and ".join(name for name, part in ARCH.items() if part.make.steers)
            raise KitError(
                f"arch={config.arch!r} does not steer to target_macs ({steering} do): use max_macs, a limit that every "
                "search keeps"
            )

    @abstractmethod
    def sample(self) -> Child: ...

    def drawn(self) -> Child:
        """`sample`, and on several ranks proof that all of them drew the same child."""
        child = self.sample()
        return ranks.same(child, child.picks)

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


@register("given", title="A given architecture")
@register("random", title="A random architecture")
class Given(ArchLearner):
    """One architecture throughout: a genotype from elsewhere, a random child, or a network without choices."""

    searches = False

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
    draws find none, the last one is repaired, its slots in random order."""
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
    excess most per strength lost. Costs add up over slots, so this ends at an admissible child, or `limits` was
    impossible (refused on construction).
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
