"""Trials of whole settings by Optuna: random search and Bayesian optimisation, AutoHAS's comparisons (its Fig. 2), and
two that end bad trials early: asynchronous successive halving (ASHA; Li et al. 2020) and Hyperband (Li et al. 2018)."""

from typing import Any

from pydantic import Field

from kit.errors import KitError
from kit.hyper import HYPER, Searched, register
from kit.methods import Stage
from kit.methods import register as register_method
from kit.search.progress import say

# All options of TPE whose defaults differ between Optuna's versions, or might, and that none has deprecated. Optuna's
# own 10 startup trials, which are drawn at random, would be all of a short search.
TPE = {"n_startup_trials": 3, "n_ei_candidates": 24, "multivariate": False, "group": False, "constant_liar": False}
BRINGS = {"trials": {"paper": 10, "server": 8, "laptop": 4}}
MANY = {"trials": {"paper": 27, "server": 9, "laptop": 5}, "search_share": 0.6}


@register("random-search", title="Random search", brings=BRINGS)
@register("bayesian", title="Bayesian optimisation", brings=BRINGS, sampler="TPESampler", of_sampler=TPE)
@register("asha", title="Successive halving (ASHA)", brings=MANY, pruner="SuccessiveHalvingPruner")
@register("hyperband", title="Hyperband", brings=MANY, pruner="HyperbandPruner")
class Trials(Searched):
    """Each trial is a stage of its own, with new weights and one setting: numbers from between the ends of their bases.
    The last stage trains with that of the best whole trial, the earliest of equals. By ASHA and Hyperband a trial goes
    on after 1, r, r² … epochs (r: `reduction`; papers: 4 and 3), with its weights, if its validation accuracy is among
    the best 1/r that came so far; else it is over, and the last stage has the epochs that this saves. (The papers may
    take it up again.) The study is told all scores anew whenever it is asked: a resumed search goes on alike."""

    needs, trials = frozenset({"val"}), True
    kept = ("settings", "scores", "whole", "over")
    settings, scores = (), ()  # of every trial; the scores of its epochs; the current one is the last
    whole, over = (), True  # the numbers of the trials that had their whole stage; whether the current one has ended

    class Options(Searched.Options):
        trials: int = Field(4, ge=2, le=1000, description="settings to try, over search_epochs")
        reduction: int = Field(3, ge=2, le=100, description="asha, hyperband: of so many trials one goes on")

    @classmethod
    def check(cls, config: Any) -> None:
        super().check(config)
        if "pruner" in HYPER[config.hyper].settings and config.search_epochs < (least := 2 * config.trials):
            given = f"trials={config.trials}, two epochs each at least, share search_epochs={config.search_epochs}"
            raise KitError(f"{given}: set search_epochs={least} or more, or fewer trials")

    def __init__(self, *start: Any, sampler="RandomSampler", of_sampler=None, pruner=None, **settings: Any):
        super().__init__(*start, **settings)
        self.sampler, self.of_sampler, self.pruner = sampler, of_sampler or {}, pruner

    def told(self) -> tuple[dict[str, float | str], bool]:
        """The current trial's setting, and whether it is to end, by a study that has been told all scores."""
        import optuna  # takes a second

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        halving = {"min_resource": 1, "reduction_factor": self.options.reduction} if self.pruner else {}
        pruner = getattr(optuna.pruners, self.pruner or "NopPruner")(**halving)
        sampler = getattr(optuna.samplers, self.sampler)(seed=self.generator.initial_seed() % 2**31, **self.of_sampler)
        study = optuna.create_study(study_name="η", direction="maximize", sampler=sampler, pruner=pruner)
        for scores in self.scores:
            trial, ends = study.ask(), False
            for name, basis in self.bases.items():
                if isinstance(basis[0], str):
                    trial.suggest_categorical(name, basis)
                else:
                    trial.suggest_float(name, basis[0], basis[-1], log=name in ("lr", "weight_decay") and basis[0] > 0)
            for epoch, score in enumerate(scores, 1):
                trial.report(score, epoch)
                ends = trial.should_prune()
            if scores:
                study.tell(trial, scores[-1])
        return trial.params, ends

    def current(self) -> dict[str, float | str]:
        if self.over:
            if not self.scores and self.options.trials <= (n := self.of_sampler.get("n_startup_trials", 0)):
                say(f"{self.sampler} draws {n} settings at random at first: set trials={n + 1} or more to have others")
            self.scores, self.over = (*self.scores, ()), False
            self.settings = (*self.settings, self.told()[0])
        return self.settings[-1]

    def record_score(self, score: float | None, last: bool) -> bool:
        self.scores = (*self.scores[:-1], (*self.scores[-1], float(score)))
        self.whole = (*self.whole, len(self.scores) - 1) if last else self.whole
        self.over = last or (self.pruner is not None and self.told()[1])
        return self.over

    def best(self) -> dict[str, float | str]:
        best = max(self.whole, key=lambda number: self.scores[number][-1], default=-1)  # -1: as long as there is none
        return self.settings[best] if self.settings else self.current()

    def summary(self) -> dict[str, float]:
        best = {"trials/best": max(self.scores[number][-1] for number in self.whole)} if self.whole else {}
        return super().summary() | {"trials/told": float(sum(map(bool, self.scores)))} | best


STAGES = (Stage("trial", restart=True, repeat=True), Stage("training", restart=True, hyper="derived"))
for _n in ("random-search", "bayesian", "asha", "hyperband"):
    register_method(_n, f"{HYPER[_n].title} of η on MobileNetV2", arch="given", stages=STAGES, hyper=_n, space="mobile")
