"""AutoHAS's controller: independent categoricals over bases, trained with REINFORCE (METHOD section 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kit.hyper.base import RateOptions, register
from kit.hyper.bases import RANGES, Searched
from kit.search.grads import Trace
from kit.search.learner import BaselineOptions, ByAdam, Rewarded


@register("reinforce", title="REINFORCE over bases (AutoHAS)", brings={"hyper_lr": 0.05})
class Controller(Rewarded, ByAdam, Searched):
    """Every step draws one basis value per hyper-parameter; the reward is the validation accuracy under the weights
    that this step gives. The controller lives on the CPU, since the host decides by its draws what to launch."""

    needs = frozenset({"val"})
    kept = ("drawn", "baseline")

    class Options(RateOptions, Searched.Options, BaselineOptions):
        pass

    def __init__(self, *start: Any, **settings: Any):
        super().__init__(*start, **settings)
        zeros = lambda basis: torch.zeros(len(basis), dtype=torch.float64, requires_grad=True)
        self.logits = {name: zeros(basis) for name, basis in self.bases.items()}
        self.adam = torch.optim.Adam(list(self.logits.values()), lr=self.options.hyper_lr)
        self.drawn: dict[str, int] = {}

    def probabilities(self, name: str) -> Tensor:
        return self.logits[name].detach().softmax(0)

    def draw(self) -> dict[str, float]:
        p = {name: self.probabilities(name) for name in self.bases}
        self.drawn = {name: int(torch.multinomial(p[name], 1, generator=self.generator)) for name in self.bases}
        return super().draw()

    def current(self) -> dict[str, float | str]:
        """The values of the last `draw`."""
        return {name: self.bases[name][i] for name, i in self.drawn.items()}

    def best(self) -> dict[str, float | str]:
        """C of eq. 4, 5: Σ P_i B_i of numbers, arg max of the optimizers."""
        mean = lambda name, basis: float(self.probabilities(name) @ torch.tensor(basis, dtype=torch.float64))
        likeliest = lambda name, basis: basis[int(self.logits[name].argmax())]
        return {name: (mean if name in RANGES else likeliest)(name, basis) for name, basis in self.bases.items()}

    def estimate(self, trace: Trace | None, *, reward: Callable[[], float], **_: object) -> list[Tensor]:
        """reward(): the validation accuracy in [0, 1]."""
        log_p = torch.stack([self.logits[name].log_softmax(0)[i] for name, i in self.drawn.items()]).sum()
        # −(Q − baseline) ∇ log P(h)
        advantage = self.advantage(reward())
        return [-advantage * gradient for gradient in torch.autograd.grad(log_p, self.variables())]

    def summary(self) -> dict[str, float]:
        p = {name: self.probabilities(name).tolist() for name in self.bases}
        optimizers = zip(self.bases.get("optimizer", ()), p.get("optimizer", ()))
        return {
            **super().summary(),
            **{f"eta/optimizer/{name}": value for name, value in optimizers},
            "controller/largest": sum(map(max, p.values())) / len(p),
        }
