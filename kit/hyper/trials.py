"""Random search and Bayesian optimisation of the hyper-parameters by Optuna, AutoHAS's comparisons (its Fig. 2).

Each trial is a stage of its own: new weights, one setting, and its validation accuracy at the end. The last stage
trains with the best setting.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from pydantic import Field

from kit.errors import KitError
from kit.hyper.base import BasesOptions, Searched, register

LOGARITHMIC = ("lr", "weight_decay")
# All options of TPE whose defaults differ between Optuna's versions, or might, and that none has deprecated. Optuna's
# own 10 startup trials, which are drawn at random, would be all of a short search.
TPE = {
    "n_startup_trials": 3,
    "n_ei_candidates": 24,
    "multivariate": False,
    "group": False,
    "constant_liar": False,
}
TRIALS = {"trials": {"paper": 10, "server": 8, "laptop": 4}}


class TrialsOptions(BasesOptions):
    trials: int = Field(4, ge=2, le=1000, description="of random search and Bayesian optimisation, over search_epochs")


@register("random-search", title="Random search", brings=TRIALS, sampler="random")
@register("bayesian", title="Bayesian optimisation", brings=TRIALS, sampler="tpe")
class Trials(Searched):
    """sampler: "random" or "tpe" (Optuna's Bayesian sampler). Numbers are sampled between the ends of their basis, the
    optimizer among its names.

    Optuna's study is built anew for each trial from the finished ones, with a seed of their number, so that a resumed
    search asks for the same settings.
    """

    needs = frozenset({"val"})
    trials = True
    Options = TrialsOptions

    def __init__(self, *start: Any, sampler: str, **settings: Any):
        super().__init__(*start, **settings)
        if importlib.util.find_spec("optuna") is None:
            raise KitError("random search and Bayesian optimisation run on Optuna: pip install optuna")
        self.sampler = sampler
        self.seed = self.generator.initial_seed() % 2**31
        self.finished: list[dict[str, Any]] = []  # {"params": …, "score": …}
        self.asked: dict[str, float | str] | None = None  # the setting being tried

    def current(self) -> dict[str, float | str]:
        if self.asked is None:
            self.asked = self.ask()
        return self.asked

    def ask(self) -> dict[str, float | str]:
        """The setting to try after those that have finished."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed, samplers = self.seed + len(self.finished), optuna.samplers
        tpe = self.sampler == "tpe"
        sampler = samplers.TPESampler(seed=seed, **TPE) if tpe else samplers.RandomSampler(seed=seed)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        space = self._distributions(optuna.distributions)
        for trial in self.finished:
            study.add_trial(
                optuna.trial.create_trial(params=trial["params"], distributions=space, value=trial["score"])
            )
        return dict(study.ask(space).params)

    def _distributions(self, kinds: Any) -> dict[str, Any]:
        space = {}
        for name, basis in self.bases.items():
            low, high = basis.values[0], basis.values[-1]
            if basis.categorical:
                space[name] = kinds.CategoricalDistribution(basis.values)
            else:
                space[name] = kinds.FloatDistribution(low, high, log=name in LOGARITHMIC and low > 0)
        return space

    def record_score(self, score: float | None) -> None:
        self.finished.append({"params": self.current(), "score": float(score)})
        self.asked = None

    def best(self) -> dict[str, float | str]:
        """The setting with the highest validation accuracy, the earliest of equals; the first one while it is tried."""
        return max(self.finished, key=lambda trial: trial["score"])["params"] if self.finished else self.current()

    def summary(self) -> dict[str, float]:
        best = {"trials/best": max(trial["score"] for trial in self.finished)} if self.finished else {}
        return super().summary() | {"trials/told": float(len(self.finished))} | best

    def state_dict(self) -> dict:
        return {"finished": list(self.finished), "asked": self.asked}

    def load_state_dict(self, state: dict) -> None:
        self.finished, self.asked = list(state["finished"]), state["asked"]
