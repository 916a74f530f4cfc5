"""Random search and Bayesian optimisation of the hyper-parameters by Optuna, AutoHAS's comparisons (its Fig. 2)."""

from typing import Any

from pydantic import Field

from kit.hyper import Searched, register
from kit.methods import Stage
from kit.methods import register as register_method
from kit.search.progress import say

# All options of TPE whose defaults differ between Optuna's versions, or might, and that none has deprecated. Optuna's
# own 10 startup trials, which are drawn at random, would be all of a short search.
TPE = {"n_startup_trials": 3, "n_ei_candidates": 24, "multivariate": False, "group": False, "constant_liar": False}
BRINGS = {"trials": {"paper": 10, "server": 8, "laptop": 4}}


@register("random-search", title="Random search", brings=BRINGS, sampler="RandomSampler", of_sampler={})
@register("bayesian", title="Bayesian optimisation", brings=BRINGS, sampler="TPESampler", of_sampler=TPE)
class Trials(Searched):
    """Each trial is a stage of its own: new weights, one setting, and its validation accuracy at the end. The last
    stage trains with the best setting.

    sampler: Optuna's, by name, and its arguments. Numbers are sampled between the ends of their basis. The study is
    built anew for each trial from the finished ones, with a seed of their number, so that a resumed search asks for the
    same settings.
    """

    needs = frozenset({"val"})
    trials = True

    class Options(Searched.Options):
        trials: int = Field(4, ge=2, le=1000, description="settings to try, over search_epochs")

    def __init__(self, *start: Any, sampler: str, of_sampler: dict[str, Any], **settings: Any):
        super().__init__(*start, **settings)
        self.sampler, self.of_sampler = sampler, of_sampler
        self.finished: list[dict[str, Any]] = []  # {"params": …, "score": …}
        self.asked: dict[str, float | str] | None = None  # the setting being tried

    def current(self) -> dict[str, float | str]:
        self.asked = self.asked or self.ask()
        return self.asked

    def ask(self) -> dict[str, float | str]:
        """The setting to try after those that have finished."""
        import optuna  # takes a second

        at_random = self.of_sampler.get("n_startup_trials", 0)
        if not self.finished and self.options.trials <= at_random:
            drawn = f"the first {at_random} settings are drawn at random, which is all of trials={self.options.trials}"
            say(f"{self.sampler}: {drawn}; set trials={at_random + 1} or more to let it learn from them")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = self.generator.initial_seed() % 2**31 + len(self.finished)
        sampler = getattr(optuna.samplers, self.sampler)(seed=seed, **self.of_sampler)
        study, space = optuna.create_study(direction="maximize", sampler=sampler), {}
        for name, basis in self.bases.items():
            if isinstance(basis[0], str):
                space[name] = optuna.distributions.CategoricalDistribution(basis)
            else:
                logarithmic = name in ("lr", "weight_decay") and basis[0] > 0
                space[name] = optuna.distributions.FloatDistribution(basis[0], basis[-1], log=logarithmic)
        for trial in self.finished:
            study.add_trial(optuna.create_trial(distributions=space, params=trial["params"], value=trial["score"]))
        return dict(study.ask(space).params)

    def record_score(self, score: float | None) -> None:
        self.finished.append({"params": self.current(), "score": float(score)})
        self.asked = None

    def best(self) -> dict[str, float | str]:
        """The setting with the highest validation accuracy, the earliest of equals; the first one while it is tried."""
        return max(self.finished, key=lambda trial: trial["score"])["params"] if self.finished else self.current()

    def summary(self) -> dict[str, float]:
        scores = [trial["score"] for trial in self.finished]
        best = {"trials/best": max(scores)} if scores else {}
        return super().summary() | {"trials/told": float(len(scores))} | best

    def state_dict(self) -> dict:
        return {"finished": self.finished, "asked": self.asked}

    def load_state_dict(self, state: dict) -> None:
        self.finished, self.asked = list(state["finished"]), state["asked"]


STAGES = (Stage("trial", restart=True, repeat=True), Stage("training", restart=True, hyper="derived"))
for _name, _title in (("random-search", "Random search"), ("bayesian", "Bayesian optimisation")):
    title = f"{_title} of η on MobileNetV2"
    register_method(_name, title, arch="given", stages=STAGES, hyper=_name, space="mobile")
