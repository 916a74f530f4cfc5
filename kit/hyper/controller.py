"""AutoHAS's controller of the hyper-parameters: independent categoricals over bases, trained with REINFORCE (METHOD
section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from kit.hyper.base import BasesOptions, RateOptions, Searched, Setting, Values, register
from kit.hyper.bases import Basis, read_bases
from kit.search.grads import Trace
from kit.search.learner import Baseline, BaselineOptions, adam_state, load_adam_state


@register("reinforce", title="REINFORCE over bases (AutoHAS)", brings={"hyper_lr": 0.05})
class Controller(Searched):
    """Every step draws one basis value per hyper-parameter; the reward is the validation accuracy under the weights
    that this step gives.

    Derived: the basis weighed by the probabilities (continuous), or the likeliest one (the optimizer). Hyper-parameters
    without a basis stay as configured. The controller lives on the CPU: its draws decide what the host launches.
    """

    needs = frozenset({"val"})

    class Options(RateOptions, BasesOptions, BaselineOptions):
        pass

    @classmethod
    def build(cls, at: Setting, **settings: Any) -> Controller:
        c = at.config
        own = {"step": c.hyper_lr, "baseline": c.reward_baseline, "device": at.device}
        return cls(at.lr, at.weight_decay, read_bases(c.hyper_space), at.generator, **own, **settings)

    def __init__(
        self,
        lr: float,
        weight_decay: float,
        bases: Mapping[str, Basis],
        generator: torch.Generator,
        *,
        step: float,
        baseline: float = 0.95,
        device: torch.device | str = "cpu",
    ):
        super().__init__(lr, weight_decay, device)
        self.bases, self.generator, self.device = dict(bases), generator, torch.device(device)
        self.logits = {
            name: torch.zeros(len(basis.values), dtype=torch.float64, requires_grad=True)
            for name, basis in self.bases.items()
        }
        self.adam = torch.optim.Adam(self.variables(), lr=step)
        self.baseline = Baseline(baseline)
        self.drawn: dict[str, int] = {}

    def variables(self) -> list[Tensor]:
        return list(self.logits.values())

    def probabilities(self, name: str) -> Tensor:
        return self.logits[name].detach().softmax(0)

    # ---- the step's values -----------------------------------------------------------------------

    def draw(self) -> dict[str, float]:
        self.drawn = {
            name: int(torch.multinomial(self.probabilities(name), 1, generator=self.generator)) for name in self.bases
        }
        return self._regular({name: self.bases[name].values[i] for name, i in self.drawn.items()})

    def sample(self, schedule: float = 1.0) -> Values:
        """What the last `draw` drew."""
        return self._values({name: self.bases[name].values[i] for name, i in self.drawn.items()}, schedule)

    def derived_draw(self) -> dict[str, float]:
        return self._regular(self._mixture())

    def derived(self, schedule: float = 1.0) -> Values:
        return self._values(self._mixture(), schedule)

    def _mixture(self) -> dict[str, float | str]:
        """C of eq. 4, 5: Σ P_i B_i, or arg max."""
        found: dict[str, float | str] = {}
        for name, basis in self.bases.items():
            p = self.probabilities(name)
            found[name] = (
                basis.values[int(p.argmax())]
                if basis.categorical
                else float(p @ torch.tensor(basis.values, dtype=torch.float64))
            )
        return found

    # ---- learning --------------------------------------------------------------------------------

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

    # ---- its state -------------------------------------------------------------------------------

    def found(self) -> dict[str, float | str]:
        return super().found() | self._mixture()

    def summary(self) -> dict[str, float]:
        optimizers = {}
        if "optimizer" in self.bases:
            p = self.probabilities("optimizer").tolist()
            optimizers = {f"eta/optimizer/{name}": value for name, value in zip(self.bases["optimizer"].values, p)}
        largest = [float(self.probabilities(name).max()) for name in self.bases]
        return super().summary() | optimizers | {"controller/largest": sum(largest) / len(largest)}

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
