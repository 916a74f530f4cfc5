"""AutoHAS's differentiable variant (its Table 3): η as a mixture of the same bases, by the validation loss."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kit.errors import KitError
from kit.hyper import Searched, read_bases, register
from kit.hyper.base import RateOptions
from kit.methods import TWO_LEVELS
from kit.methods import register as register_method
from kit.search.grads import Gradient, Trace

SMOOTH = ("lr", "weight_decay")


@register("mixture", title="Mixture of bases by the validation loss", brings={"hyper_lr": 0.05})
class Mixture(Searched):
    """h = Σ P_i B_i, P the softmax of logits (2.2): every step uses the mixture, and P descends L_val(θ') one step
    ahead. Of what AutoHAS searches lr and weight_decay alone have such a gradient: the others are laws of random
    numbers, or a choice, and are refused."""

    needs = frozenset({"val"})

    class Options(RateOptions, Searched.Options):
        pass

    @classmethod
    def check(cls, config: Any) -> None:
        if others := [name for name in read_bases(config.hyper_space) if name not in SMOOTH]:
            problem = f"hyper='mixture': {', '.join(others)} of hyper_space has no gradient through the weights' step"
            raise KitError(f"{problem}: name some of {', '.join(SMOOTH)}, or use hyper='reinforce'")

    def __init__(self, *start: Any, **settings: Any):
        super().__init__(*start, **settings)
        self.logits = {
            name: torch.zeros(len(basis), dtype=torch.float64, requires_grad=True) for name, basis in self.bases.items()
        }
        self.adam = torch.optim.Adam(list(self.logits.values()), lr=self.options.hyper_lr)

    def mixed(self) -> dict[str, Tensor]:
        """Each value as a function of its logits: float64 0-dim."""
        basis = lambda name: torch.tensor(self.bases[name], dtype=torch.float64)
        return {name: logits.softmax(0) @ basis(name) for name, logits in self.logits.items()}

    def current(self) -> dict[str, float | str]:
        return {name: float(value.detach()) for name, value in self.mixed().items()}

    best = current

    def estimate(self, trace: Trace, *, outer: Callable[[str], Gradient], **_: object) -> list[Tensor]:
        """outer(source): the gradient at θ' on a batch of that source."""
        slopes = dict(zip(SMOOTH, trace.hyper_gradient(outer("val"))))
        values = self.mixed()
        # the step's rate is lr by the schedule: ∂lr_t/∂lr = lr_t / lr
        inner = {"lr": trace.lr / values["lr"].detach()} if "lr" in values else {}
        along = sum(float(slopes[name] * inner.get(name, 1.0)) * value for name, value in values.items())
        return list(torch.autograd.grad(along, self.variables()))


COMPOSED = {"arch": "darts", "hyper": "mixture", "space": "mobile", "values": {"hyper_space": "lr,weight_decay"}}
register_method("autohas-diff", "AutoHAS, differentiable: NAS + HPO", stages=TWO_LEVELS, **COMPOSED)
