"""η: learners of the training hyper-parameters. An η learner is added by one entry in `HYPER`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from kit import errors
from kit.hyper.base import DerivedHyper, Fixed, HyperLearner, Values
from kit.hyper.bases import DEFAULT_BASES, Basis, read_bases
from kit.hyper.controller import Controller
from kit.hyper.gradients import Fresh, Hgd, HyperGradient, Ift, LookAhead, Validation
from kit.hyper.trials import Trials


@dataclass(frozen=True)
class Settings:
    """What a learner starts from. step: its own step size; bases: the hyper-parameters that AutoHAS and the trials
    search.
    """

    lr: float
    weight_decay: float
    step: float
    bases: Mapping[str, Basis]
    generator: torch.Generator
    baseline: float = 0.95
    device: torch.device | str = "cpu"


def _gradient(kind: type[HyperGradient] | type[Hgd]) -> Callable[[Settings], HyperLearner]:
    return lambda s: kind(s.lr, s.weight_decay, step=s.step, device=s.device)


@dataclass(frozen=True)
class Entry:
    """kind: for what it needs; build: from its settings; bases: it searches the hyper-parameters of `hyper_space`;
    trials: it runs whole
    stages, one per trial."""

    kind: type[HyperLearner]
    build: Callable[[Settings], HyperLearner]
    bases: bool = False
    trials: bool = False


HYPER: Mapping[str, Entry] = {
    "fixed": Entry(Fixed, lambda s: Fixed(s.lr, s.weight_decay, s.device)),
    "lookahead": Entry(LookAhead, _gradient(LookAhead)),
    "fresh": Entry(Fresh, _gradient(Fresh)),
    "validation": Entry(Validation, _gradient(Validation)),
    "hgd": Entry(Hgd, _gradient(Hgd)),
    "ift": Entry(Ift, _gradient(Ift)),
    "reinforce": Entry(
        Controller,
        lambda s: Controller(
            s.lr, s.weight_decay, s.bases, s.generator, step=s.step, baseline=s.baseline, device=s.device
        ),
        bases=True,
    ),
    "random-search": Entry(
        Trials,
        lambda s: Trials(s.lr, s.weight_decay, s.bases, s.generator, sampler="random", device=s.device),
        bases=True,
        trials=True,
    ),
    "bayesian": Entry(
        Trials,
        lambda s: Trials(s.lr, s.weight_decay, s.bases, s.generator, sampler="tpe", device=s.device),
        bases=True,
        trials=True,
    ),
}


def build(
    name: str,
    lr: float,
    weight_decay: float,
    *,
    step: float,
    bases: Mapping[str, Basis] | None = None,
    generator: torch.Generator | None = None,
    baseline: float = 0.95,
    device: torch.device | str = "cpu",
) -> HyperLearner:
    """An η learner by name, from the starting values; see `Settings`. bases: None takes the default ones."""
    if name not in HYPER:
        raise errors.unknown("hyper", name, HYPER)
    chosen = DEFAULT_BASES if bases is None else bases
    return HYPER[name].build(Settings(lr, weight_decay, step, chosen, generator or torch.Generator(), baseline, device))


__all__ = [
    "Basis",
    "Controller",
    "DEFAULT_BASES",
    "DerivedHyper",
    "Fixed",
    "Fresh",
    "HYPER",
    "Hgd",
    "HyperGradient",
    "HyperLearner",
    "Ift",
    "LookAhead",
    "Settings",
    "Trials",
    "Validation",
    "Values",
    "build",
    "read_bases",
]
