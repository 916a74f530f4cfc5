"""Multi-trial search of the hyper-parameters by Optuna: random search and Bayesian optimisation, AutoHAS's comparisons
(its Fig. 2).

Each trial is a stage of its own: new weights, one setting, its validation accuracy told at the end. The last stage
trains with the best.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field

from kit.errors import KitError
from kit.hyper.base import BasesOptions, Searched, Setting, Values, register
from kit.hyper.bases import Basis, read_bases

LOGARITHMIC = ("lr", "weight_decay")
STARTUP = 3  # trials that Optuna's TPE draws at random; its own 10 would be all of a short search


TRIALS = {"trials": {"paper": 10, "server": 8, "laptop": 4}}


class TrialsOptions(BasesOptions):
    trials: int = Field(4, ge=2, le=1000, description="of random search and Bayesian optimisation, over search_epochs")


@register("random-search", title="Random search", brings=TRIALS, sampler="random")
@register("bayesian", title="Bayesian optimisation", brings=TRIALS, sampler="tpe")
class Trials(Searched):
    """sampler: "random" or "tpe" (Optuna's Bayesian sampler). Bases give the ranges, sampled continuously; the
    optimizer's give choices.

    Optuna's study is built anew from the trials told so far, with a seed of their number, so that a resumed search asks
    the same.
    """

    needs = frozenset({"val"})
    trials = True
    Options = TrialsOptions

    @classmethod
    def build(cls, at: Setting, **settings: Any) -> Trials:
        bases = read_bases(at.config.hyper_space)
        return cls(at.lr, at.weight_decay, bases, at.generator, device=at.device, **settings)

    def __init__(
        self,
        lr: float,
        weight_decay: float,
        bases: Mapping[str, Basis],
        generator: torch.Generator,
        *,
        sampler: str,
        device: torch.device | str = "cpu",
    ):
        super().__init__(lr, weight_decay, device)
        if importlib.util.find_spec("optuna") is None:
            raise KitError("random search and Bayesian optimisation run on Optuna: pip install optuna")
        self.bases, self.sampler, self.device = dict(bases), sampler, torch.device(device)
        self.seed = generator.initial_seed() % 2**31
        self.told: list[dict[str, Any]] = []  # {"params": …, "score": …}
        self.asked: dict[str, float | str] | None = None

    # ---- the step's values -----------------------------------------------------------------------

    def draw(self) -> dict[str, float]:
        return self._regular(self._current())

    def sample(self, schedule: float = 1.0) -> Values:
        return self._values(self._current(), schedule)

    def derived_draw(self) -> dict[str, float]:
        return self._regular(self.best())

    def derived(self, schedule: float = 1.0) -> Values:
        return self._values(self.best(), schedule)

    # ---- asking and telling ----------------------------------------------------------------------

    def _current(self) -> dict[str, float | str]:
        if self.asked is None:
            self.asked = self._ask()
        return self.asked

    def _ask(self) -> dict[str, float | str]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = self.seed + len(self.told)
        sampler = (
            optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
            if self.sampler == "tpe"
            else optuna.samplers.RandomSampler(seed=seed)
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        space = self._distributions(optuna)
        for trial in self.told:
            study.add_trial(
                optuna.trial.create_trial(params=trial["params"], distributions=space, value=trial["score"])
            )
        return dict(study.ask(space).params)

    def _distributions(self, optuna: Any) -> dict[str, Any]:
        space = {}
        for name, basis in self.bases.items():
            if basis.categorical:
                space[name] = optuna.distributions.CategoricalDistribution(basis.values)
            else:
                low, high = basis.values[0], basis.values[-1]
                space[name] = optuna.distributions.FloatDistribution(low, high, log=name in LOGARITHMIC and low > 0)
        return space

    def tell(self, score: float | None) -> None:
        self.told.append({"params": self._current(), "score": float(score)})
        self.asked = None

    def best(self) -> dict[str, float | str]:
        """The setting with the highest validation accuracy, the earliest of equals; before any is told, the one being
        tried.
        """
        return max(self.told, key=lambda trial: trial["score"])["params"] if self.told else self._current()

    def found(self) -> dict[str, float | str]:
        return super().found() | self.best()

    def summary(self) -> dict[str, float]:
        best = {"trials/best": max(trial["score"] for trial in self.told)} if self.told else {}
        return super().summary() | {"trials/told": float(len(self.told))} | best

    def state_dict(self) -> dict:
        return {"told": [dict(trial) for trial in self.told], "asked": None if self.asked is None else dict(self.asked)}

    def load_state_dict(self, state: dict) -> None:
        self.told = [dict(trial) for trial in state["told"]]
        self.asked = None if state["asked"] is None else dict(state["asked"])
