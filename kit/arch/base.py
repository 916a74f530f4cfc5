"""Architecture learners: what all of them share, and the one that does not learn (a given or a random architecture)."""

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
from kit.search.learner import Learner, adam_state, load_adam_state
from kit.space.limits import Limits, Target
from kit.space.network import Child, Picks, Slot

ARCH = registry.Registry("arch")
register = ARCH.register

BETAS, DECAY = (0.5, 0.999), 1e-3  # of Adam on b or on the logits, as in DARTS and ISTA-NAS


@dataclass(frozen=True)
class Setting:
    """What a learner that searches is built from.

    slots: the supernet's decisions. generator: the learner's own random stream. limits: what a child may cost. config:
    the run's configuration. target: multiply-adds to steer to. steps: the most that the search stage can take.
    """

    slots: tuple[Slot, ...]
    generator: torch.Generator
    limits: Limits
    device: torch.device
    config: Any
    target: Target | None = None
    steps: int = 0


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
    """Chooses children. `picks` is the current architecture; `finished` says that it will not change any more."""

    #: whether it searches, and so has a classmethod `build(setting, **settings)`
    searches = True
    #: whether it multiplies operations by gates other than 1: a space has to absorb them when a slot is fixed
    weighs = False
    #: whether it trains something else than the derived child, which then has to be trained anew
    retrain = False
    #: whether it can steer to `target_macs`
    steers = False
    slots: tuple[Slot, ...]
    picks: Picks

    @classmethod
    def build(cls, at: Setting, **settings: Any) -> ArchLearner:
        """From a stage's setting; settings: those registered with the class's name."""
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
        """`sample`, after checking that all ranks drew the same child."""
        child = self.sample()
        return ranks.same(child, child.picks)

    def derived(self) -> Child:
        """The current architecture, to be evaluated; draws nothing."""
        return Child(self.picks)

    def anneal(self, share: float) -> None:
        """Called before each epoch of the search stage. share: of its longest duration that has passed, in [0, 1]."""

    def end_epoch(self, last: bool) -> list[int]:
        """Slots that can be fixed now; last: the search stage ends, and all slots that are open are returned."""
        return []

    def freeze(self, slots: list[int]) -> None:
        """Fix these slots; the network has absorbed their gates."""

    @property
    def finished(self) -> bool:
        return True

    def snapshot(self) -> dict[str, Tensor]:
        """For the history: `alpha` float32 and `support` bool, both [slots, most candidates], padded with zeros."""
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


class Searcher(ArchLearner):
    """A learner whose variables have one row for each slot. Adam moves them, except the rows of frozen slots.

    `valid` bool [slots, most candidates] is False for padding, `frozen` is bool [slots], and `refused` counts children
    that broke the limits. A constructor hands its first variable to `optimize`. options: those declared in `Options`.
    """

    Options: type[RateOptions] = RateOptions

    @classmethod
    def build(cls, at: Setting, **settings: Any) -> Searcher:
        config = at.config
        if not at.slots:
            raise KitError(
                f"arch={config.arch!r} needs a space with choices; this network is fixed. Use space='cell' or "
                "arch='given'"
            )
        lr = config.arch_lr if config.arch_lr is not None else config.arch_reach / max(1, at.steps)
        options = {name: getattr(config, name) for name in cls.Options.model_fields}
        settings |= {"target": at.target} if cls.steers else {}
        return cls(at.slots, at.generator, at.limits, lr=lr, device=at.device, **settings, **options)

    def __init__(
        self,
        slots: tuple[Slot, ...],
        generator: torch.Generator,
        limits: Limits,
        *,
        lr: float,
        device: torch.device | str = "cpu",
        **options: Any,
    ):
        self.slots, self.generator, self.limits, self.lr = slots, generator, limits, lr
        self.device, self.options = torch.device(device), self.Options(**options)
        sizes = torch.tensor([len(slot.candidates) for slot in slots])
        self.valid = torch.arange(int(sizes.max())).unsqueeze(0) < sizes.unsqueeze(1)
        self.frozen = torch.zeros(len(slots), dtype=torch.bool)
        self.refused = 0

    def optimize(self, variable: Tensor) -> Tensor:
        """Make a float64 tensor [slots, …] the first variable."""
        self.adam = torch.optim.Adam([variable.requires_grad_()], lr=self.lr, betas=BETAS, weight_decay=DECAY)
        return variable

    def variables(self) -> list[Tensor]:
        return [variable for group in self.adam.param_groups for variable in group["params"]]

    def move(self, gradient: list[Tensor]) -> None:
        if not gradient or self.finished:
            return
        variables = self.variables()
        before = [variable.detach().clone() for variable in variables]
        for variable, grad in zip(variables, gradient):
            variable.grad = grad
        self.adam.step()
        if self.frozen.any():  # Adam's momentum and weight decay would move these rows as well
            with torch.no_grad():
                for variable, old in zip(variables, before):
                    variable.copy_(torch.where(self.open_rows(), variable, old))

    def open_rows(self) -> Tensor:
        """bool [slots, 1] on the device of the variables."""
        return (~self.frozen).unsqueeze(1).to(self.adam.param_groups[0]["params"][0].device)

    def end_epoch(self, last: bool) -> list[int]:
        return torch.nonzero((self.settled() | last) & ~self.frozen).flatten().tolist()

    def settled(self) -> Tensor:
        """bool [slots]: which may be frozen before the search stage ends."""
        return torch.zeros(len(self.slots), dtype=torch.bool)

    def freeze(self, slots: list[int]) -> None:
        self.frozen[slots] = True

    @property
    def finished(self) -> bool:
        return bool(self.frozen.all())

    def leaves(self, gates: list[Tensor]) -> tuple[Tensor | None, ...]:
        """The gates of the open slots, each a leaf of its own, so that one backward pass gives each its gradient."""
        return tuple(
            None if frozen else gate.detach().clone().requires_grad_()
            for gate, frozen in zip(gates, self.frozen.tolist())
        )

    @abstractmethod
    def distributions(self) -> Tensor:
        """float64 [distributions, outcomes], rows sum to 1: what the entropy of α is the mean over."""

    def summary(self) -> dict[str, float]:
        names = [self.slots[s].candidates[c][0] for s, chosen in enumerate(self.picks) for c in chosen]
        p = self.distributions()
        return {
            "alpha/frozen": float(self.frozen.sum()),
            "alpha/entropy": float(-(p * p.clamp(min=1e-300).log()).sum(1).mean()),
            "alpha/refused": float(self.refused),
            "alpha/skips": names.count("skip_connect") / len(names),
        }

    def state_dict(self) -> dict:
        return {
            "variables": [variable.detach() for variable in self.variables()],
            "adam": adam_state(self.adam),
            "frozen": self.frozen,
            "picks": [list(p) for p in self.picks],
            "refused": self.refused,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict) -> None:
        with torch.no_grad():
            for variable, value in zip(self.variables(), state["variables"]):
                variable.copy_(value)
        load_adam_state(self.adam, state["adam"])
        self.frozen = state["frozen"].cpu().clone()
        self.picks = tuple(tuple(p) for p in state["picks"])
        self.refused = state["refused"]
        self.generator.set_state(state["generator"].cpu())


def random_picks(slots: tuple[Slot, ...], generator: torch.Generator, limits: Limits, tries: int = 1000) -> Picks:
    """A child drawn uniformly among those within the limits: each slot's candidates without replacement. Where `tries`
    draws break the limits, the one within them with the greatest sum of random numbers."""
    for _ in range(tries):
        picks = tuple(
            tuple(sorted(torch.randperm(len(slot.candidates), generator=generator)[: slot.takes].tolist()))
            for slot in slots
        )
        if limits.allow(picks):
            return picks
    return limits.best([torch.rand(len(slot.candidates), generator=generator).numpy() for slot in slots])


def strongest_picks(slots: tuple[Slot, ...], strength: Tensor, limits: Limits) -> Picks:
    """The strongest candidates of every slot; where those break the limits, the child with the greatest product of
    strengths that keeps to them: of probabilities, the likeliest.

    strength: float64 [slots, most candidates], ≥ 0.
    """
    rows = [strength[s, : len(slot.candidates)] for s, slot in enumerate(slots)]
    order = [row.argsort(descending=True, stable=True).tolist() for row in rows]
    picks = tuple(tuple(sorted(best[: slot.takes])) for slot, best in zip(slots, order))
    if limits.allow(picks):
        return picks
    return limits.best([row.detach().cpu().clamp(min=1e-12).log().numpy() for row in rows])
