"""Architecture learners that keep a logit for every candidate: what they share, and the two that draw candidates."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kit.arch.base import Searcher, register
from kit.search.learner import Rewarded
from kit.space.limits import Target
from kit.space.network import Child, Picks, everything

TRIES = 50  # draws that may break the limits; then the current architecture is taken, and nothing learned from it


class Logits(Searcher):
    """logits: float64 [slots, most candidates] on the CPU, where children are drawn; `TRIES` times anew where one
    breaks the limits. A subclass says in `draw` what is drawn, and in `value` what the logits descend along."""

    limited = True  #: the drawn children are what is deployed, and have to keep to the limits

    def __init__(self, *given: Any, **settings: Any):
        super().__init__(*given, **settings)
        self.logits = torch.zeros(self.valid.shape, dtype=torch.float64)
        self.optimize(self.logits)

    @property
    def picks(self) -> Picks:
        return self.strongest(self.strength())

    @property
    @abstractmethod
    def alpha(self) -> Tensor:
        """The probability of each candidate to be drawn (first); 0 for padding."""

    def strength(self) -> Tensor:
        """float64 [slots, most candidates], ≥ 0: the derived architecture takes the largest."""
        return self.alpha

    @abstractmethod
    def draw(self) -> tuple[Picks, Any]:
        """A child's picks, frozen slots' included, and what `value` has to know of the draw."""

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
        """Its operations run behind gates of value 1, which are there for their gradient."""
        gates = self.leaves([torch.ones(len(chosen), device=self.device) for chosen in picks])
        return Child(picks, gates, unit=True, memory=memory)

    def fallback(self) -> Child:
        return Child(self.picks)

    def estimate(self, child: Child, **signals: Any) -> list[Tensor]:
        if child.memory is None:
            return []
        return list(torch.autograd.grad(self.value(child, **signals), self.variables()))

    @abstractmethod
    def value(self, child: Child, *, gates: list[Tensor | None], **_: object) -> Tensor:
        """0-dim: what the logits descend along, constant but for them."""

    def by_candidate(self, child: Child, gates: list[Tensor | None]) -> Tensor:
        """∂L/∂gate, given per slot [picks], as float64 [slots, most candidates]; 0 for what did not run."""
        measured = torch.zeros(self.valid.shape, dtype=torch.float64)
        ran = [(slot, c) for slot, gate in enumerate(gates) if gate is not None for c in child.picks[slot]]
        if ran:  # not where frozen slots of constant operations stand between all open ones and the loss
            found = torch.cat([gate for gate in gates if gate is not None])  # one transfer for all slots
            measured[tuple(zip(*ran))] = found.to("cpu", torch.float64)
        return measured

    def gumbel(self, shape: torch.Size) -> Tensor:
        uniform = torch.rand(shape, generator=self.generator, dtype=torch.float64).clamp(min=1e-300)
        return -(-uniform.log()).log()


class Categorical(Logits):
    """One categorical per slot, from which several candidates are drawn without replacement (Plackett–Luce). The
    expected cost is steered to `target`, where there is one."""

    steers = True
    keeps_cost = False  #: to that of the space's usual network, where there is no target_macs

    class Options(Logits.Options):
        target_macs: int | None = Field(None, ge=1, description="multiply-adds that dsnas and reinforce steer to")
        target_weight: float = Field(0.1, ge=0, description="of the penalty or reward of target_macs")

    def __init__(self, *given: Any, **settings: Any):
        super().__init__(*given, **settings)
        macs, weight, net = self.options.target_macs, self.options.target_weight, self.limits.network
        if macs is None and self.keeps_cost and (usual := getattr(net, "usual", None)):
            macs = net.cost(net.picks_of(net.genotypes[usual])).macs
        self.target = None if macs is None else Target(net, macs, weight)

    def scores(self) -> Tensor:
        return self.logits.masked_fill(~self.valid, -torch.inf)

    @property
    def alpha(self) -> Tensor:
        return self.scores().detach().softmax(1)

    def distributions(self) -> Tensor:
        return self.alpha / self.alpha.sum(1, keepdim=True)

    def draw(self) -> tuple[Picks, Tensor]:
        """By Gumbel top-k; memory: the candidates in the order of their draw, int64 [slots, picks]."""
        perturbed = self.scores().detach() + self.gumbel(self.logits.shape)
        best = perturbed.argsort(dim=1, descending=True)[:, : self.slots[0].takes].tolist()
        order = [chosen or row for chosen, row in zip(self.fixed, best)]
        return tuple(tuple(sorted(row)) for row in order), torch.tensor(order)

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
    """One path runs, each of its operations behind a gate of value 1 (Hu et al. 2020; METHOD section 2b)."""

    class Options(Categorical.Options):
        fix_margin: float = Field(0.3, gt=0, lt=1, description="DSNAS fixes a block whose best choice leads by so much")

    def value(self, child: Child, *, gates: list[Tensor | None], **_: object) -> Tensor:
        by_pick = self.by_candidate(child, gates).gather(1, child.memory)
        value = (by_pick * self.log_probability(child.memory)).sum()  # eq. 5: ∇α = ∂L/∂gate · ∇ log p(Z)
        return value if self.target is None else value + self.target.penalty(self.scores().softmax(1))

    def settled(self) -> Tensor:
        """Where the weakest candidate taken is likelier than the strongest one left out by `fix_margin`."""
        picks, likely = torch.tensor(self.picks), self.alpha
        taken = likely.gather(1, picks).min(1).values
        return taken - likely.scatter(1, picks, -torch.inf).max(1).values >= self.options.fix_margin


PAPER = {"arch_lr": {"paper": 0.05}, "arch_warm_up": {"paper": 0.25}}


@register("reinforce", title="REINFORCE (AutoHAS)", brings={"arch_reach": 8.0, **PAPER})
class Reinforce(Rewarded, Categorical):
    """REINFORCE on independent categoricals (AutoHAS, ENAS; METHOD section 3). Q is the validation accuracy, to which
    TuNAS's absolute reward is added, as AutoHAS has it: to find something better at the same cost."""

    needs = frozenset({"val"})
    keeps_cost = True
    rates = {}  # AutoHAS: Adam without weight decay
    kept = (*Categorical.kept, "baseline", "sampled")
    sampled = 0

    class Options(Categorical.Options, Rewarded.Options):
        arch_warm_up: float = Field(0.0, ge=0, le=1, description="share of the search with steps of all candidates")

    def sample(self) -> Child:
        """TuNAS's warm-up: a step runs the mean of all candidates with a probability that falls from 1 to 0."""
        self.sampled, warm = self.sampled + 1, self.options.arch_warm_up * self.steps
        if self.sampled >= warm or float(torch.rand((), generator=self.generator)) < self.sampled / warm:
            return super().sample()
        picks = everything(self.slots)
        return Child(picks, self.leaves([torch.ones(len(some), device=self.device) / len(some) for some in picks]))

    def child(self, picks: Picks, memory: Tensor) -> Child:
        return Child(picks, memory=memory)

    def value(self, child: Child, **_: object) -> Tensor:
        return self.log_probability(child.memory).sum()

    def estimate(self, child: Child, *, reward: Callable[[], float], **_: object) -> list[Tensor]:
        if child.memory is None:
            return []
        quality = reward() + (0.0 if self.target is None else self.target.reward(child.picks))
        advantage = self.advantage(quality)  # ∇α = −(Q − baseline) ∇ log p(Z)
        return [-advantage * gradient for gradient in super().estimate(child)]
