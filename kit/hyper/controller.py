"""Hyper-parameters from a few basis values each, and AutoHAS's controller of them (2.2; METHOD section 3)."""

from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kit import registry
from kit.errors import KitError, unknown
from kit.hyper.base import HyperLearner, RateOptions, Values, register, regular
from kit.search.grads import RATES, Trace
from kit.search.learner import Adam, Rewarded

Basis = tuple[float, ...] | tuple[str, ...]  # values to mix (numbers) or to choose from (optimizers)
#: by name the values that are searched where none are given
DEFAULTS: dict[str, Basis] = {
    "lr": (0.01, 0.025, 0.05, 0.1, 0.2),
    "weight_decay": (1e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    "mixup": (0.0, 0.05, 0.1, 0.15, 0.2),
    "dropout": (0.0, 0.1, 0.2, 0.3, 0.5),
    "drop_path": (0.0, 0.1, 0.2, 0.3, 0.5),
    "optimizer": tuple(RATES),
}
#: the least and greatest value of those that are numbers; the others take the values above
RANGES = {"lr": (1e-6, 10), "weight_decay": (0, 1), "mixup": (0, 1), "dropout": (0, 0.9), "drop_path": (0, 0.9)}


def read_bases(text: str) -> dict[str, Basis]:
    """Bases by name from "lr,mixup" (the default values) or "lr=0.01:0.1,optimizer=sgd:adam", or KitError."""
    bases: dict[str, Basis] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, given, values = (piece.strip() for piece in part.partition("="))
        if name not in DEFAULTS:
            raise unknown("hyper-parameter in hyper_space", name, DEFAULTS)
        bases[name] = _basis(name, values) if given else DEFAULTS[name]
    if not bases:
        raise KitError(f"hyper_space={text!r} names no hyper-parameter: name some of {', '.join(DEFAULTS)}")
    return bases


def _basis(name: str, text: str) -> Basis:
    words, usual = tuple(dict.fromkeys(map(str.strip, text.split(":")))), DEFAULTS[name]
    low, high = RANGES.get(name, (0, 0))
    allowed = f"numbers from {low:g} to {high:g}" if name in RANGES else f"some of {', '.join(usual)}"
    with suppress(ValueError):
        values = tuple(sorted(set(map(float, words)))) if name in RANGES else words
        if all(low <= value <= high if name in RANGES else value in usual for value in values):
            return values
    example = ":".join(map(str, usual))
    raise KitError(f"hyper_space has {name}={text}, but takes {allowed} with colons between: {name}={example}")


class Searched(HyperLearner):
    """Chooses the hyper-parameters that `bases` name; all others stay as configured."""

    class Options(registry.Options):
        hyper_space: str = Field("weight_decay,mixup", description="to choose from: names, or name=value:value:…")

    @classmethod
    def check(cls, config: Any) -> None:
        read_bases(config.hyper_space)

    def __init__(self, *start: Any, **settings: Any):
        super().__init__(*start, **settings)
        self.bases = read_bases(self.options.hyper_space)
        if self.blocks and "drop_path" in self.bases:  # AutoHAS searches one per block
            basis = self.bases.pop("drop_path")
            self.bases |= {f"drop_path/{i}": basis for i in range(self.blocks)}

    @abstractmethod
    def current(self) -> dict[str, float | str]: ...  # what this step uses, by name

    @abstractmethod
    def best(self) -> dict[str, float | str]: ...  # the search's result so far, by name

    def draw(self) -> dict[str, float]:
        return regular(self.current())

    def sample(self, schedule: float = 1.0) -> Values:
        return self._values(self.current(), schedule)

    def derived(self, schedule: float = 1.0) -> Values:
        return self._values(self.best(), schedule)

    def result(self) -> dict[str, float | str]:
        return super().result() | self.best()

    def _values(self, chosen: dict[str, float | str], schedule: float) -> Values:
        values = super().result() | chosen
        lr, decay = torch.tensor([values["lr"], values["weight_decay"]], dtype=torch.float32, device=self.log.device)
        return Values(lr * schedule, decay, values.get("optimizer", "sgd"))


@register("reinforce", title="REINFORCE over bases (AutoHAS)", brings={"hyper_lr": 0.05})
class Controller(Rewarded, Searched):
    """Independent categoricals by REINFORCE: a step draws a basis value for each hyper-parameter; the reward is the
    validation accuracy under the weights that it gives. On the CPU: the host decides by the draws what to launch."""

    needs = frozenset({"val"})
    kept = ("drawn", "baseline")

    class Options(RateOptions, Searched.Options, Rewarded.Options):
        pass

    def __init__(self, *start: Any, **settings: Any):
        super().__init__(*start, **settings)
        sizes = {name: len(basis) for name, basis in self.bases.items()}
        self.logits = {name: torch.zeros(n, dtype=torch.float64, requires_grad=True) for name, n in sizes.items()}
        self.adam = Adam(list(self.logits.values()), lr=self.options.hyper_lr)
        self.drawn: dict[str, int] = {}

    def probabilities(self) -> dict[str, Tensor]:
        return {name: logits.detach().softmax(0) for name, logits in self.logits.items()}

    def draw(self) -> dict[str, float]:
        drawn = lambda p: int(torch.multinomial(p, 1, generator=self.generator))
        self.drawn = {name: drawn(p) for name, p in self.probabilities().items()}
        return super().draw()

    def current(self) -> dict[str, float | str]:
        return {name: self.bases[name][i] for name, i in self.drawn.items()}

    def best(self) -> dict[str, float | str]:
        """C of eq. 4, 5: Σ P_i B_i of numbers, arg max of the optimizers."""
        mean = lambda p, basis: float(p @ torch.tensor(basis, dtype=torch.float64))
        likeliest = lambda p, basis: basis[int(p.argmax())]
        value = lambda p, basis: (likeliest if isinstance(basis[0], str) else mean)(p, basis)
        return {name: value(p, self.bases[name]) for name, p in self.probabilities().items()}

    def estimate(self, trace: Trace | None, *, reward: Callable[[], float], **_: object) -> list[Tensor]:
        log_p = torch.stack([self.logits[name].log_softmax(0)[i] for name, i in self.drawn.items()]).sum()
        advantage = self.advantage(reward())  # the gradient is −(Q − baseline) ∇ log P(h)
        gradients = torch.autograd.grad(log_p, self.variables(), materialize_grads=True)
        return [-advantage * gradient for gradient in gradients]

    def summary(self) -> dict[str, float]:
        p = {name: of.tolist() for name, of in self.probabilities().items()}
        rules = zip(self.bases.get("optimizer", ()), p.get("optimizer", ()))
        largest = {"controller/largest": sum(map(max, p.values())) / len(p)}
        return super().summary() | {f"eta/optimizer/{name}": value for name, value in rules} | largest
