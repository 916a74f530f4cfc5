"""AutoHAS's controller: independent categoricals over bases, trained with REINFORCE (METHOD section 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kit.hyper.base import BasesOptions, RateOptions, Searched, Setting, register
from kit.search.grads import Trace
from kit.search.learner import Baseline, BaselineOptions, adam_state, load_adam_state


@register("reinforce", title="REINFORCE over bases (AutoHAS)", brings={"hyper_lr": 0.05})
class Controller(Searched):
    """Every step draws one basis value per hyper-parameter; the reward is the validation accuracy under the weights
    that this step gives. The controller lives on the CPU, since the host decides by its draws what to launch.

    step: Adam's rate on the logits. baseline: factor of the moving average of rewards.
    """

    needs = frozenset({"val"})

    class Options(RateOptions, BasesOptions, BaselineOptions):
        pass

    @classmethod
    def build(cls, at: Setting, **settings: Any) -> Searched:
        return super().build(at, step=at.config.hyper_lr, baseline=at.config.reward_baseline, **settings)

    def __init__(self, *start: Any, step: float, baseline: float = 0.95, **settings: Any):
        super().__init__(*start, **settings)
        sizes = {name: len(basis.values) for name, basis in self.bases.items()}
        self.logits = {name: torch.zeros(n, dtype=torch.float64, requires_grad=True) for name, n in sizes.items()}
        self.adam = torch.optim.Adam(self.variables(), lr=step)
        self.baseline = Baseline(baseline)
        self.drawn: dict[str, int] = {}

    def variables(self) -> list[Tensor]:
        return list(self.logits.values())

    def probabilities(self, name: str) -> Tensor:
        return self.logits[name].detach().softmax(0)

    def draw(self) -> dict[str, float]:
        p = {name: self.probabilities(name) for name in self.bases}
        self.drawn = {name: int(torch.multinomial(p[name], 1, generator=self.generator)) for name in self.bases}
        return super().draw()

    def current(self) -> dict[str, float | str]:
        """The values of the last `draw`."""
        return {name: self.bases[name].values[i] for name, i in self.drawn.items()}

    def best(self) -> dict[str, float | str]:
        """C of eq. 4, 5: Σ P_i B_i of a continuous basis, arg max of the optimizers."""
        chosen: dict[str, float | str] = {}
        for name, basis in self.bases.items():
            p = self.probabilities(name)
            if basis.categorical:
                chosen[name] = basis.values[int(p.argmax())]
            else:
                chosen[name] = float(p @ torch.tensor(basis.values, dtype=torch.float64))
        return chosen

    def estimate(self, trace: Trace | None, *, reward: Callable[[], float], **_: object) -> list[Tensor]:
        """reward(): the validation accuracy in [0, 1]. Returns −(Q − baseline) ∇ log P(h)."""
        log_p = torch.stack([self.logits[name].log_softmax(0)[i] for name, i in self.drawn.items()]).sum()
        gradient = torch.autograd.grad(log_p, self.variables())
        advantage = self.baseline.advantage(reward())
        return [-advantage * g for g in gradient]

    def move(self, gradient: list[Tensor]) -> None:
        if not gradient:
            return
        for variable, grad in zip(self.variables(), gradient):
            variable.grad = grad
        self.adam.step()

    def summary(self) -> dict[str, float]:
        p = {name: self.probabilities(name).tolist() for name in self.bases}
        optimizers = zip(self.bases["optimizer"].values, p["optimizer"]) if "optimizer" in p else ()
        largest = [max(row) for row in p.values()]
        return {
            **super().summary(),
            **{f"eta/optimizer/{name}": value for name, value in optimizers},
            "controller/largest": sum(largest) / len(largest),
        }

    def state_dict(self) -> dict:
        return {
            "logits": {name: v.detach() for name, v in self.logits.items()},
            "adam": adam_state(self.adam),
            "baseline": self.baseline.value,
            "drawn": dict(self.drawn),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict) -> None:
        with torch.no_grad():
            for name, value in state["logits"].items():
                self.logits[name].copy_(value)
        load_adam_state(self.adam, state["adam"])
        self.baseline.value, self.drawn = state["baseline"], dict(state["drawn"])
        self.generator.set_state(state["generator"].cpu())
