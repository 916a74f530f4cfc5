"""Architecture learners that keep a logit for every candidate: what they share, and the two that draw candidates.

DSNAS (Hu et al. 2020; METHOD section 2b) learns from the gradient of a gate of value 1, REINFORCE (AutoHAS; section 3)
from a reward.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kit.arch.base import Searcher, TargetOptions, register, strongest_picks
from kit.search.learner import Baseline, BaselineOptions
from kit.space.limits import Limits, Target
from kit.space.network import Child, Picks, Slot

TRIES = 50  # draws that may break the limits before the current architecture is taken


class Logits(Searcher):
    """logits: float64 [slots, most candidates] on the CPU, where children are drawn; padding is never drawn.

    A child that breaks the limits is drawn again, and after `TRIES` draws the current architecture is taken.
    """

    #: whether the drawn children are what is deployed, and have to keep to the limits
    limited = True

    def __init__(self, slots: tuple[Slot, ...], generator: torch.Generator, limits: Limits, **settings: Any):
        super().__init__(slots, generator, limits, **settings)
        self.logits = self.optimize(torch.zeros(self.valid.shape, dtype=torch.float64))
        self._picks: Picks = ()
        self._outdated = True  # whether the logits have moved since `_picks` were chosen

    # ---- the current architecture ----------------------------------------------------------------

    @property
    def picks(self) -> Picks:  # type: ignore[override]
        """The strongest candidates of every slot that keep to the limits together; a frozen slot's stay."""
        if self._outdated:
            strength = self.strength().masked_fill(~self.valid, 0.0)
            for slot in torch.nonzero(self.frozen).flatten().tolist():
                strength[slot] = 0.0
                strength[slot, list(self._picks[slot])] = 1e9  # the last to be exchanged for the limits' sake
            self.picks = strongest_picks(self.slots, strength, self.limits)
        return self._picks

    @picks.setter
    def picks(self, picks: Picks) -> None:
        self._picks, self._outdated = picks, False

    def strength(self) -> Tensor:
        """float64 [slots, most candidates], ≥ 0: the derived architecture takes the largest."""
        return self.probabilities()

    @abstractmethod
    def probabilities(self) -> Tensor:
        """float64 [slots, most candidates]: of each candidate to be drawn (first); 0 for padding."""

    @property
    def alpha(self) -> Tensor:
        """For the history: the probabilities."""
        return self.probabilities()

    def move(self, gradient: list[Tensor]) -> None:
        super().move(gradient)
        self._outdated |= bool(gradient)

    def freeze(self, slots: list[int]) -> None:
        picks = self.picks
        super().freeze(slots)
        self.picks = picks

    # ---- children --------------------------------------------------------------------------------

    @abstractmethod
    def draw(self) -> tuple[Picks, Any]:
        """A child's picks, frozen slots' included, and what `estimate` has to know of the draw."""

    def sample(self) -> Child:
        if self.finished:
            return Child(self.picks)
        for _ in range(TRIES):
            picks, memory = self.draw()
            if not self.limited or self.limits.allow(picks):
                return self.child(picks, memory)
            self.refused += 1
        return self.fallback()

    def child(self, picks: Picks, memory: Any) -> Child:
        """Runs each of its operations behind a gate of value 1, which is there for its gradient."""
        gates = self.leaves([torch.ones(len(chosen), device=self.device) for chosen in picks])
        return Child(picks, gates, unit=True, memory=memory)

    def fallback(self) -> Child:
        """The current architecture, where every draw has broken the limits; nothing is learned from it."""
        return Child(self.picks)

    def gumbel(self, shape: torch.Size) -> Tensor:
        uniform = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return -(-uniform.clamp(min=1e-300).log()).log()

    def by_candidate(self, child: Child, gates: list[Tensor | None]) -> Tensor:
        """∂L/∂gate, given per slot [picks], as float64 [slots, most candidates]; 0 for what did not run."""
        measured = torch.zeros(self.valid.shape, dtype=torch.float64)
        # the loss depends on no open slot where frozen ones run constant operations behind it
        reached = [s for s, gate in enumerate(gates) if gate is not None]
        if reached:
            rows = [s for s in reached for _ in child.picks[s]]
            columns = [c for s in reached for c in child.picks[s]]
            # one transfer from the device for all slots
            measured[rows, columns] = torch.cat([gates[s] for s in reached]).to("cpu", torch.float64)
        return measured

    def summary(self) -> dict[str, float]:
        return super().summary() | {"alpha/largest": float(self.distributions().max(1).values.mean())}


class Categorical(Logits):
    """One categorical per slot. A slot that takes several candidates draws them one after another, without replacement
    (Plackett–Luce)."""

    def scores(self) -> Tensor:
        return self.logits.masked_fill(~self.valid, -torch.inf)

    def probabilities(self) -> Tensor:
        return self.scores().detach().softmax(1)

    def distributions(self) -> Tensor:
        p = self.probabilities()
        return p / p.sum(1, keepdim=True)

    def draw(self) -> tuple[Picks, Tensor]:
        """By Gumbel top-k; memory: the candidates in the order of their draw, int64 [slots, picks]."""
        perturbed = (self.logits.detach() + self.gumbel(self.logits.shape)).masked_fill(~self.valid, -torch.inf)
        order = perturbed.argsort(dim=1, descending=True)[:, : self.slots[0].takes]
        for slot in torch.nonzero(self.frozen).flatten().tolist():
            order[slot] = torch.tensor(self.picks[slot])
        return tuple(tuple(sorted(row)) for row in order.tolist()), order

    def fallback(self) -> Child:
        return self.child(self.picks, torch.tensor(self.picks))

    def log_probability(self, order: Tensor) -> Tensor:
        """log p of each pick given the earlier ones: float64 [slots, picks], differentiable; 0 where frozen."""
        left, terms = self.scores(), []
        for picked in order.split(1, dim=1):
            terms.append(left.gather(1, picked).squeeze(1) - left.logsumexp(1))
            left = left.scatter(1, picked, -torch.inf)
        return torch.stack(terms, dim=1).masked_fill(self.frozen.unsqueeze(1), 0.0)


@register("dsnas", title="DSNAS", brings={"arch_reach": 6.0})
class Dsnas(Categorical):
    """DSNAS: one path runs, each of its operations behind a gate of value 1; ∇α = ∂L/∂gate · ∇ log p(Z) (eq. 5, METHOD
    section 2b).

    target: the multiply-adds above which the expected cost is penalised (DSNAS's FLOPs penalty); None: no penalty.
    """

    steers = True

    class Options(TargetOptions):
        fix_margin: float = Field(0.3, gt=0, description="DSNAS fixes a block when its best logit leads by so much")

    def __init__(self, *args: Any, target: Target | None = None, **settings: Any):
        super().__init__(*args, **settings)
        self.target = target

    def estimate(self, child: Child, *, gates: list[Tensor | None], **_: object) -> list[Tensor]:
        """gates: ∂L/∂gate per slot [picks]."""
        if self.finished:
            return []
        by_pick = self.by_candidate(child, gates).gather(1, child.memory)
        value = (by_pick * self.log_probability(child.memory)).sum()
        (gradient,) = torch.autograd.grad(value, self.logits)
        if self.target is not None:
            penalty = self.target.penalty(self.scores().softmax(1))
            gradient = gradient + torch.autograd.grad(penalty, self.logits)[0]
        return [gradient]

    def settled(self) -> Tensor:
        """Where the weakest candidate taken leads the strongest one left out by `fix_margin`, in logits."""
        picks, scores = torch.tensor(self.picks), self.scores().detach()
        taken = scores.gather(1, picks).min(1).values
        return taken - scores.scatter(1, picks, -torch.inf).max(1).values >= self.options.fix_margin


@register("reinforce", title="REINFORCE (AutoHAS)", brings={"arch_reach": 8.0})
class Reinforce(Categorical):
    """REINFORCE on independent categoricals (AutoHAS, ENAS): ∇α = −(Q − baseline) ∇ log p(Z), Q the validation
    accuracy.

    target: adds β |cost/target − 1| to Q, β < 0 (TuNAS's absolute reward); None: adds nothing.
    """

    needs = frozenset({"val"})
    steers = True

    class Options(TargetOptions, BaselineOptions):
        pass

    def __init__(self, *args: Any, target: Target | None = None, **settings: Any):
        super().__init__(*args, **settings)
        self.baseline, self.target = Baseline(self.options.reward_baseline), target

    def child(self, picks: Picks, memory: Tensor) -> Child:
        return Child(picks, memory=memory)

    def estimate(self, child: Child, *, reward: Callable[[], float], **_: object) -> list[Tensor]:
        """reward: the validation accuracy in [0, 1] after a step with this child."""
        if self.finished:
            return []
        quality = reward() + (self.target.reward(child.picks) if self.target is not None else 0.0)
        (gradient,) = torch.autograd.grad(self.log_probability(child.memory).sum(), self.logits)
        return [-self.baseline.advantage(quality) * gradient]

    def state_dict(self) -> dict:
        return {**super().state_dict(), "baseline": self.baseline.value}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.baseline.value = state["baseline"]
