"""Architecture learners that keep a logit for every candidate: what they share, and the two that draw whole candidates
from them.

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

from kit.arch.base import ArchLearner, RateOptions, Setting, TargetOptions, register, strongest_picks
from kit.search.learner import Baseline, BaselineOptions, adam_state, load_adam_state
from kit.space.limits import Limits, Target
from kit.space.network import Child, Picks, Slot

TRIES = 50  # draws until a child keeps to the limits, before the one that stands is taken


class Logits(ArchLearner):
    """logits: float64 [slots, widest] on the CPU (children are chosen there), moved by Adam; padded candidates are
    never drawn.

    limits: a child beyond them is not taken: it is drawn again, and after `TRIES` draws the one that stands is taken.
    """

    Options: type[RateOptions] = RateOptions

    @classmethod
    def build(cls, at: Setting, **settings: Any) -> Logits:
        at.needs_choices(at.config.arch)
        chosen = settings | cls.chosen(at)
        return cls(at.slots, at.generator, at.limits, lr=at.lr, device=at.device, **chosen)

    @classmethod
    def chosen(cls, at: Setting) -> dict[str, Any]:
        """The keyword arguments of a concrete learner, from its options."""
        return {}

    def __init__(
        self,
        slots: tuple[Slot, ...],
        generator: torch.Generator,
        limits: Limits,
        *,
        lr: float,
        betas: tuple[float, float] = (0.5, 0.999),
        weight_decay: float = 1e-3,
        device: torch.device | str = "cpu",
    ):
        self.slots, self.generator, self.limits, self.device = slots, generator, limits, torch.device(device)
        sizes = torch.tensor([len(slot.candidates) for slot in slots])
        self.valid = torch.arange(int(sizes.max())).unsqueeze(0) < sizes.unsqueeze(1)
        self.logits = torch.zeros(self.valid.shape, dtype=torch.float64).requires_grad_()
        self.frozen = torch.zeros(len(slots), dtype=torch.bool)
        self.fixed: list[tuple[int, ...]] = [()] * len(slots)  # the picks of frozen slots
        self.refused = 0
        self._standing: Picks | None = None
        self.adam = torch.optim.Adam(self.variables(), lr=lr, betas=betas, weight_decay=weight_decay)

    # ---- the contract ----------------------------------------------------------------------------

    def variables(self) -> list[Tensor]:
        return [self.logits]

    @property
    def picks(self) -> Picks:  # type: ignore[override]
        """The strongest candidates of every slot that keep to the limits together."""
        if self._standing is None:
            strength = self.strength().masked_fill(~self.valid, 0.0)
            for slot in torch.nonzero(self.frozen).flatten().tolist():
                strength[slot] = 0.0
                strength[slot, list(self.fixed[slot])] = 1e9  # not to be swapped out for the limits' sake
            self._standing = strongest_picks(self.slots, strength, self.limits)
        return self._standing

    def strength(self) -> Tensor:
        """float64 [slots, widest] ≥ 0: what the derived architecture is chosen by."""
        return self.probabilities()

    @abstractmethod
    def probabilities(self) -> Tensor:
        """float64 [slots, widest]: of each candidate in its draw; 0 for padding."""

    def move(self, gradient: list[Tensor]) -> None:
        if not gradient or self.finished:
            return
        variables = self.variables()
        before = [variable.detach().clone() for variable in variables]
        for variable, grad in zip(variables, gradient):
            variable.grad = grad
        self.adam.step()
        with torch.no_grad():
            for variable, old in zip(variables, before):
                variable[self.frozen] = old[self.frozen]  # Adam's momentum and decay must not move what is frozen
        self._standing = None

    def end_epoch(self, last: bool) -> list[int]:
        return torch.nonzero((self.settled() | last) & ~self.frozen).flatten().tolist()

    def settled(self) -> Tensor:
        """bool [slots]: which may be frozen before the search stage ends."""
        return torch.zeros(len(self.slots), dtype=torch.bool)

    def freeze(self, slots: list[int]) -> None:
        picks = self.picks
        for slot in slots:
            self.fixed[slot] = picks[slot]
        self.frozen[slots] = True
        self._standing = None

    @property
    def finished(self) -> bool:
        return bool(self.frozen.all())

    # ---- for the concrete ones -------------------------------------------------------------------

    def _gumbel(self, shape: torch.Size) -> Tensor:
        uniform = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return -(-uniform.clamp(min=1e-300).log()).log()

    def _unit_gates(self, picks: Picks) -> tuple[Tensor | None, ...]:
        # every slot's gate is a leaf of its own, so that one backward pass gives each its gradient
        return tuple(
            None if frozen else torch.ones(len(chosen), device=self.device, requires_grad=True)
            for chosen, frozen in zip(picks, self.frozen.tolist())
        )

    def _admissible(self, draw: Callable[[], tuple[Picks, Any]]) -> tuple[Picks, Any] | None:
        for _ in range(TRIES):
            picks, memory = draw()
            if self.limits.allow(picks):
                return picks, memory
            self.refused += 1
        return None

    def state_dict(self) -> dict:
        return {
            "variables": [v.detach() for v in self.variables()],
            "adam": adam_state(self.adam),
            "frozen": self.frozen,
            "fixed": [list(p) for p in self.fixed],
            "refused": self.refused,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict) -> None:
        with torch.no_grad():
            for variable, value in zip(self.variables(), state["variables"]):
                variable.copy_(value)
        load_adam_state(self.adam, state["adam"])
        self.frozen = state["frozen"].cpu().clone()
        self.fixed = [tuple(p) for p in state["fixed"]]
        self.refused = state["refused"]
        self.generator.set_state(state["generator"].cpu())
        self._standing = None

    @property
    def alpha(self) -> Tensor:
        """For the history: the probabilities."""
        return self.probabilities()

    def summary(self) -> dict[str, float]:
        names = [self.slots[s].candidates[c][0] for s, chosen in enumerate(self.picks) for c in chosen]
        p = self.probabilities()
        p = p / p.sum(1, keepdim=True)
        entropy = -(p * p.clamp(min=1e-300).log()).sum(1)
        return {
            "alpha/frozen": float(self.frozen.sum()),
            "alpha/entropy": float(entropy.mean()),
            "alpha/refused": float(self.refused),
            "alpha/skips": names.count("skip_connect") / len(names),
            "alpha/largest": float(p.max(1).values.mean()),
        }


class Categorical(Logits):
    """One categorical per slot. A slot that takes several draws them one after another, without putting back
    (Plackett–Luce).
    """

    def probabilities(self) -> Tensor:
        return self.logits.detach().masked_fill(~self.valid, -torch.inf).softmax(1)

    def draw(self) -> Tensor:
        """An ordered draw of every slot by Gumbel top-k: int64 [slots, picks]; frozen slots keep theirs."""
        perturbed = (self.logits.detach() + self._gumbel(self.logits.shape)).masked_fill(~self.valid, -torch.inf)
        order = perturbed.argsort(dim=1, descending=True)[:, : self.slots[0].takes]
        for slot in torch.nonzero(self.frozen).flatten().tolist():
            order[slot] = torch.tensor(self.fixed[slot])
        return order

    def log_probability(self, order: Tensor) -> Tensor:
        """log p of each pick given the earlier ones: float64 [slots, picks], differentiable; 0 where frozen."""
        left, terms = self.logits.masked_fill(~self.valid, -torch.inf), []
        for k in range(order.shape[1]):
            picked = order[:, k : k + 1]
            terms.append(left.gather(1, picked).squeeze(1) - left.logsumexp(1))
            left = left.scatter(1, picked, -torch.inf)
        return torch.stack(terms, dim=1).masked_fill(self.frozen.unsqueeze(1), 0.0)

    def sample(self) -> Child:
        if self.finished:
            return Child(self.picks)
        drawn = self._admissible(self._draw_picks)
        if drawn is None:
            picks = self.picks
            drawn = picks, torch.tensor(picks)
        return self._child(*drawn)

    def _draw_picks(self) -> tuple[Picks, Tensor]:
        order = self.draw()
        return tuple(tuple(sorted(row)) for row in order.tolist()), order

    def _child(self, picks: Picks, order: Tensor) -> Child:
        return Child(picks, memory=order)

    def _gradient(self, value: Tensor) -> Tensor:
        return torch.autograd.grad(value, self.logits)[0]


@register("dsnas", title="DSNAS", brings={"arch_reach": 6.0})
class Dsnas(Categorical):
    """DSNAS: one path runs, each of its operations behind a gate of value 1; ∇α = ∂L/∂gate · ∇ log p(Z) (eq. 5, METHOD
    2b).

    margin: a slot is fixed early once the best of what it would take leads the best of what it would not by so much
    (logits). target: the multiply-adds above which the expected cost is penalised (DSNAS's FLOPs penalty); None: no
    penalty.
    """

    steers = True

    class Options(TargetOptions):
        fix_margin: float = Field(0.3, gt=0, description="DSNAS fixes a block when its best logit leads by so much")

    @classmethod
    def chosen(cls, at: Setting) -> dict[str, Any]:
        return {"margin": at.config.fix_margin, "target": at.target}

    def __init__(self, *args: Any, margin: float = 0.3, target: Target | None = None, **settings: Any):
        super().__init__(*args, **settings)
        self.margin, self.target = margin, target

    def _child(self, picks: Picks, order: Tensor) -> Child:
        return Child(picks, self._unit_gates(picks), unit=True, memory=order)

    def estimate(self, child: Child, *, gates: list[Tensor | None], **_: object) -> list[Tensor]:
        """gates: ∂L/∂gate per slot [picks]."""
        if self.finished:
            return []
        still = torch.zeros(self.slots[0].takes, device=self.device)
        measured = torch.stack([still if gate is None else gate for gate in gates]).to("cpu", torch.float64)
        # gates lie in the order of the candidates, the draw in its own
        by_candidate = torch.zeros_like(self.logits).scatter(1, torch.tensor(child.picks), measured)
        value = (by_candidate.gather(1, child.memory) * self.log_probability(child.memory)).sum()
        gradient = self._gradient(value)
        if self.target is not None:
            gradient = gradient + self._gradient(
                self.target.penalty(self.logits.masked_fill(~self.valid, -torch.inf).softmax(1))
            )
        return [gradient]

    def settled(self) -> Tensor:
        picks = torch.tensor(self.picks)
        logits = self.logits.detach().masked_fill(~self.valid, -torch.inf)
        taken = logits.gather(1, picks).min(1).values
        return taken - logits.scatter(1, picks, -torch.inf).max(1).values >= self.margin


@register("reinforce", title="REINFORCE (AutoHAS)", brings={"arch_reach": 8.0})
class Reinforce(Categorical):
    """REINFORCE on independent categoricals (AutoHAS, ENAS): ∇α = −(Q − baseline) ∇ log p(Z), Q the validation
    accuracy.

    baseline: the moving average's factor (0.95 in AutoHAS). target: adds β |cost/target − 1| to Q, β < 0 (TuNAS's
    absolute reward).
    """

    needs = frozenset({"val"})
    steers = True

    class Options(TargetOptions, BaselineOptions):
        pass

    @classmethod
    def chosen(cls, at: Setting) -> dict[str, Any]:
        return {"baseline": at.config.reward_baseline, "target": at.target}

    def __init__(self, *args: Any, baseline: float = 0.95, target: Target | None = None, **settings: Any):
        super().__init__(*args, **settings)
        self.baseline, self.target = Baseline(baseline), target

    def estimate(self, child: Child, *, reward: Callable[[], float], **_: object) -> list[Tensor]:
        """reward: the validation accuracy in [0, 1] after a step with this child."""
        if self.finished:
            return []
        quality = reward() + (self.target.reward(child.picks) if self.target is not None else 0.0)
        return [-self.baseline.advantage(quality) * self._gradient(self.log_probability(child.memory).sum())]

    def state_dict(self) -> dict:
        return {**super().state_dict(), "baseline": self.baseline.value}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.baseline.value = state["baseline"]
