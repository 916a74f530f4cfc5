"""Architecture learners: what all share, and the one that does not learn (a given or a random architecture)."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Generator, Tensor

from kit import registry
from kit.errors import KitError
from kit.search.learner import Adam, ByAdam, Learner
from kit.space.limits import Limits
from kit.space.network import Child, Picks, Slot

ARCH = registry.Registry("arch")
register = ARCH.register


class ArchLearner(Learner):
    """Chooses children; `picks` is the current architecture."""

    searches = False  #: whether it is a `Searcher`
    draws = True  #: whether children are drawn; else `sample` gives the same one until α moves
    #: (net, held_out, child, train, lr) → the gradient, on two levels, in place of the validation loss's at θ itself
    unrolled: Callable[..., Any] | None = None
    weighs = False  #: by gates other than 1, which a space has to absorb when a slot is fixed
    retrain = False  #: the derived child anew, because it trains something else
    steers = False  #: to `target_macs`
    slots: tuple[Slot, ...]
    picks: Picks

    @classmethod
    def check(cls, config: Any) -> None:
        if config.target_macs is not None and not cls.steers:
            able = " and ".join(name for name, part in ARCH.items() if part.make.steers)
            raise KitError(f"arch={config.arch!r} does not steer to target_macs ({able} do): use max_macs")

    def derived(self) -> Child:
        """The current architecture, to be evaluated; draws nothing."""
        return Child(self.picks)

    def anneal(self, share: float) -> None:
        """Called before each epoch of the search stage. share: of its longest duration that has passed, in [0, 1]."""

    def snapshot(self) -> dict[str, Tensor]:
        """For the history: `alpha` float32 and `support` bool, both [slots, most candidates], padded with zeros."""
        widest = max((len(slot.candidates) for slot in self.slots), default=0)
        support = torch.zeros(len(self.slots), widest, dtype=torch.bool)
        for row, chosen in zip(support, self.picks):
            row[list(chosen)] = True
        alpha = getattr(self, "alpha", support)
        return {"alpha": alpha.detach().cpu().to(torch.float32), "support": support}


@register("given", title="A given architecture")
@register("random", title="A random architecture")
class Given(ArchLearner):
    """One architecture throughout: a genotype from elsewhere, a random child, or a network without choices."""

    draws = False

    def __init__(self, slots: tuple[Slot, ...], picks: Picks):
        self.slots, self.picks = slots, picks

    def variables(self) -> list[Tensor]:
        return []

    def sample(self) -> Child:
        return Child(self.picks)


class Searcher(ByAdam, ArchLearner):
    """A learner whose variables have one row for each slot; those of frozen slots rest.

    generator: its own random stream. limits: what a child may cost. steps: the most that the search stage can take. A
    constructor hands its variables to `optimize`; `alpha`, float64 [slots, most candidates], shows them in the history.
    `valid`, of the same shape, is False for padding, `fixed` holds the picks of frozen slots and None for the others,
    and `refused` counts children that broke the limits."""

    searches = True
    kept = ("fixed", "refused")
    rates: Mapping[str, Any] = {"betas": (0.5, 0.999), "weight_decay": 1e-3}  #: Adam's, as of DARTS and ISTA-NAS
    alpha: Tensor

    class Options(registry.Options):
        arch_reach: float = Field(6.0, gt=0, description="how far b or a logit of α can move in the search stage")
        arch_lr: float | None = Field(None, gt=0, description="Adam's rate on b or the logits; None: from arch_reach")

    def __init__(self, slots, generator: Generator, limits: Limits, *, device="cpu", steps=1, **options: Any):
        self.slots, self.generator, self.limits = slots, generator, limits
        self.device, self.steps, self.options = torch.device(device), steps, self.Options(**options)
        sizes = torch.tensor([len(slot.candidates) for slot in slots])
        self.valid = torch.arange(int(sizes.max())) < sizes.unsqueeze(1)
        self.fixed: tuple[tuple[int, ...] | None, ...] = (None,) * len(slots)
        self.refused = 0

    def optimize(self, *variables: Tensor) -> None:
        """Make these float64 tensors [slots, …] the variables."""
        lr = self.options.arch_lr or self.options.arch_reach / max(1, self.steps)
        self.adam = Adam([variable.requires_grad_() for variable in variables], lr=lr, **self.rates)

    @torch.no_grad()
    def move(self, gradient: list[Tensor]) -> None:
        before = [variable.clone() for variable in self.variables()]
        super().move([] if self.finished else gradient)
        if self.frozen.any():  # Adam's momentum would move these rows as well
            for variable, old in zip(self.variables(), before):
                variable[self.frozen] = old[self.frozen]

    @property
    def frozen(self) -> Tensor:  # bool [slots]
        return torch.tensor([picks is not None for picks in self.fixed])

    @property
    def finished(self) -> bool:
        return None not in self.fixed

    def end_epoch(self, last: bool) -> list[int]:
        """Slots that can be fixed now; last: the search stage ends, and all slots that are open are returned."""
        return torch.nonzero((self.settled() | last) & ~self.frozen).flatten().tolist()

    def settled(self) -> Tensor:
        """bool [slots]: which may be frozen before the search stage ends."""
        return torch.zeros(len(self.slots), dtype=torch.bool)

    def freeze(self, slots: list[int]) -> None:
        """Fix these slots; the network has absorbed their gates."""
        self.fixed = tuple(chosen if slot in slots else self.fixed[slot] for slot, chosen in enumerate(self.picks))

    def leaves(self, gates: list[Tensor]) -> tuple[Tensor | None, ...]:
        """The gates of the open slots, each a leaf of its own, so that one backward pass gives each its gradient."""
        rows = zip(gates, self.fixed)
        return tuple(gate.detach().clone().requires_grad_() if chosen is None else None for gate, chosen in rows)

    def largest(self, strength: Tensor) -> Picks:
        """Every slot's strongest candidates, and frozen slots' own. strength: ≥ 0, shaped as `alpha`."""
        order = strength.detach().cpu().masked_fill(~self.valid, -1.0).argsort(dim=1, descending=True, stable=True)
        rows = zip(self.slots, self.fixed, order.tolist())
        return tuple(chosen or tuple(sorted(row[: slot.takes])) for slot, chosen, row in rows)

    def strongest(self, strength: Tensor) -> Picks:
        """`largest`; where that breaks the limits, the child within them with the greatest product of strengths."""
        picks = self.largest(strength)
        if self.limits.allow(picks):
            return picks
        strength = strength.detach().cpu().clone()
        for row, chosen in zip(strength, self.fixed):
            if chosen is not None:
                row.zero_()[list(chosen)] = 1e9  # the last to be exchanged for the limits' sake
        likely = strength.clamp(min=1e-12).log().numpy()
        return self.limits.best([row[: len(slot.candidates)] for slot, row in zip(self.slots, likely)])

    @abstractmethod
    def distributions(self) -> Tensor:
        """float64 [distributions, outcomes], rows sum to 1: what the entropy of α is the mean over."""

    def summary(self) -> dict[str, float]:
        names = [slot.candidates[c][0] for slot, chosen in zip(self.slots, self.picks) for c in chosen]
        p, skips = self.distributions(), names.count("skip_connect") / len(names)
        entropy = float(-(p * p.clamp(min=1e-300).log()).sum(1).mean())
        found = {"alpha/frozen": float(self.frozen.sum()), "alpha/entropy": entropy}
        return found | {"alpha/refused": float(self.refused), "alpha/skips": skips}


def random_picks(slots: tuple[Slot, ...], generator: Generator, limits: Limits, tries: int = 1000) -> Picks:
    """A child drawn uniformly among those within the limits; where `tries` draws break them, the one within them with
    the greatest sum of random numbers."""
    for _ in range(tries):
        orders = [torch.randperm(len(slot.candidates), generator=generator).tolist() for slot in slots]
        picks = tuple(tuple(sorted(order[: slot.takes])) for order, slot in zip(orders, slots))
        if limits.allow(picks):
            return picks
    return limits.best([torch.rand(len(slot.candidates), generator=generator).numpy() for slot in slots])
