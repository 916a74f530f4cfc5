"""The one contract of the α, τ and η learners: sampled before the forward pass, updated after the backward pass.

A step hands every learner all the signals it has, by keyword; a learner names the ones it needs, so a missing one fails
by name. One that costs a pass is a function. A concrete learner is final: wrap it (`Derived`, `WarmUp`)."""

import hashlib
import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.optim.adam import adam

from kit.registry import Options
from kit.search import ranks


def generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A random stream of its own for each purpose, so that one consumer's draws never shift another's."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class Adam:
    """`torch.optim.Adam` by its functional form, step for step: making that class loads torch's compiler, which takes
    almost as long as the rest of torch. params: leaves of any shape; one without a gradient stays as it is."""

    def __init__(self, params: list[Tensor], lr: float, betas=(0.9, 0.999), weight_decay: float = 0.0):
        self.param_groups = [{"params": params}]
        self.rates = {"lr": lr, "beta1": betas[0], "beta2": betas[1], "weight_decay": weight_decay, "eps": 1e-8}
        zero = lambda p: torch.zeros_like(p, requires_grad=False)
        self.moments = {i: {"m": zero(p), "v": zero(p), "step": torch.zeros(())} for i, p in enumerate(params)}

    @torch.no_grad()
    def step(self) -> None:
        for p, own in zip(self.param_groups[0]["params"], self.moments.values()):
            if p.grad is not None:
                rest = {"amsgrad": False, "maximize": False, **self.rates}
                adam([p], [p.grad], [own["m"]], [own["v"]], [], [own["step"]], **rest)

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for i, kept in state["state"].items():
            for name, value in kept.items():
                self.moments[i][name].copy_(value)


class Learner(ABC):
    """Base of everything that moves with the weights. Its optimizer `adam` moves the variables, or it gives `variables`
    and `move`; `kept` names what else it keeps. One that neither learns nor draws has no generator, and no state."""

    #: batches that it reads beside the training batch: "fresh" (another training batch), "val" (a validation batch)
    needs: frozenset[str] = frozenset()
    kept: tuple[str, ...] = ()
    waits = False  #: in a stage's warm-up, whatever else its step holds back
    adam: Adam | torch.optim.Optimizer | None = None
    generator: torch.Generator | None = None

    def variables(self) -> list[Tensor]:
        """The tensors that `update` moves, each of this learner alone; empty for one that does not learn."""
        return [variable for group in (self.adam.param_groups if self.adam else ()) for variable in group["params"]]

    @abstractmethod
    def sample(self, *args: Any) -> Any:
        """What the next forward pass uses: transformations, a child, hyper-parameter values."""

    def estimate(self, drawn: Any, **signals: Any) -> list[Tensor]:
        """The variables' gradient, one tensor each, by what the step measured for `drawn`; empty: nothing to learn."""
        return []

    def move(self, gradient: list[Tensor]) -> None:
        """Take the step along `gradient`, as `estimate` gives it."""
        if gradient:
            for variable, grad in zip(self.variables(), gradient):
                variable.grad = grad
            self.adam.step()

    def update(self, drawn: Any, **signals: Any) -> None:
        """Move the variables by what the step measured for `drawn`; the ranks' mean keeps them alike to the bit."""
        self.move(ranks.mean(self.estimate(drawn, **signals)))

    def follow(self, estimates: list[list[Tensor]]) -> None:
        """Move the variables by the mean of several estimates, of different draws."""
        self.move(ranks.mean([torch.stack(each).mean(0) for each in zip(*estimates)]))

    def derived(self, *args: Any) -> Any:
        """The outcome of the search, in the form of `sample`; deterministic where the learner has made a choice."""
        return self.sample(*args)

    def observe(self, *signals: Any) -> None:
        """Called with the step's own gradient before the weights move by it; look-ahead learns from that."""

    def summary(self) -> dict[str, float]:
        """Numbers for the history, read once per epoch."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """All that moves, random generators too: tensors, numbers, strings, lists and dicts only."""
        if self.generator is None and not self.variables():
            return {}
        own = {name: getattr(self, name) for name in self.kept}
        own["adam"] = self.adam.state_dict()["state"] if self.adam else {}
        own["variables"] = [variable.detach() for variable in self.variables()]
        return own | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.generator is None and not self.variables():
            return
        with torch.no_grad():
            for variable, value in zip(self.variables(), state["variables"]):
                variable.copy_(value)
        if self.adam:  # its moments; rates stay as they are
            moments = {int(index): moment for index, moment in state["adam"].items()}
            self.adam.load_state_dict(self.adam.state_dict() | {"state": moments})
        self.generator.set_state(state["generator"].cpu())
        for name in self.kept:
            old, value = getattr(self, name), state[name]
            setattr(self, name, value.to(old.device, copy=True) if isinstance(old, Tensor) else _tupled(value))


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, (list, tuple)) else value  # a checkpoint has lists


class Rewarded:
    """Part of a learner that compares a reward with the moving average of those before, which starts at the first."""

    class Options(Options):
        reward_baseline: float = Field(0.95, ge=0, lt=1, description="of the rewards' moving average, the baseline")

    baseline: float | None = None

    def advantage(self, reward: float) -> float:
        """reward − baseline, the baseline without this reward; then it takes the reward in."""
        before, factor = reward if self.baseline is None else self.baseline, self.options.reward_baseline
        self.baseline = factor * before + (1 - factor) * reward
        return reward - before


class WarmUp:
    """A learner that learns only after `steps` updates have passed (DAAS's policy, AutoHAS's controllers)."""

    inner: Learner | None = None  # while it is being copied

    def __init__(self, inner: Learner, steps: float):
        self.inner, self.steps, self.passed = inner, steps, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def estimate(self, drawn: Any, **signals: Any) -> list[Tensor]:
        return [] if self.passed < self.steps else self.inner.estimate(drawn, **signals)

    def move(self, gradient: list[Tensor]) -> None:
        self.passed += 1
        if self.passed > self.steps:
            self.inner.move(gradient)

    update, follow = Learner.update, Learner.follow

    def observe(self, *signals: Any) -> None:
        if self.passed > self.steps:
            self.inner.observe(*signals)

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "passed": self.passed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self.passed = state["passed"]


class Derived(WarmUp):
    """Uses the outcome of an earlier stage and never learns (DAAS and AutoHAS retrain with it)."""

    def __init__(self, inner: Learner):
        super().__init__(inner, math.inf)

    def variables(self) -> list[Tensor]:
        return []

    def sample(self, *args: Any) -> Any:
        return self.inner.derived(*args)
