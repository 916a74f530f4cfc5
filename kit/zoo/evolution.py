"""Evolution over the weights of one supernet, which is trained under children drawn uniformly: single path one-shot
(SPOS; Guo et al. 2020: 74.3% on ImageNet with ShuffleNetV2 choice blocks) by accuracy alone, NSGA-Net (Lu et al. 2019:
2.75% test error on CIFAR-10 with cells; 96.18% in DHA's Table 1) by accuracy and multiply-adds. NSGA-Net's paper trains
every network for a while: here it is the search alone. Both evolve by Optuna's NSGA-II."""

from collections.abc import Callable
from math import comb, prod
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kit import registry
from kit.arch import random_picks, register
from kit.arch.base import Searcher
from kit.errors import KitError
from kit.methods import RETRAIN, Stage
from kit.methods import register as register_method
from kit.space import Child, Picks, Slot

# of Optuna's sampler, all that its versions may set otherwise; SPOS mutates a tenth of the genes, NSGA-Net one a child
SPOS = {"crossover_prob": 0.5, "swapping_prob": 0.5, "mutation_prob": 0.1}
NSGA = {"crossover_prob": 0.9, "swapping_prob": 0.5, "mutation_prob": None}
BRINGS = {"candidates": {"paper": 1200, "server": 200}, "population": {"paper": 40, "server": 20}}  # NSGA-Net
OF_SPOS = {"candidates": {"paper": 1000, "server": 200}, "population": {"paper": 50, "server": 20}}


@register("spos", title="Evolution (SPOS)", brings=OF_SPOS | {"epochs": {"paper": 120 + 240}}, of=SPOS)
@register("nsga-net", title="NSGA-II (NSGA-Net)", brings=BRINGS, of=NSGA, macs=True)
class Evolution(Searcher):
    """Generations of `population` different children, `candidates` in all, fewer in a space that has no more. `front`:
    the best one or, with `macs`, those that none beats in both, the most accurate first. That one is found: a limit on
    the cost says which part of the front is meant. `alpha` becomes the front's share of each candidate."""

    needs, retrain = frozenset({"val"}), True
    kept = (*Searcher.kept, "alpha", "front")

    class Options(registry.Options):
        candidates: int = Field(40, ge=1, le=100_000, description="children scored when the search stage ends")
        population: int = Field(10, ge=2, le=10_000, description="children of a generation")

    @classmethod
    def check(cls, config: Any) -> None:
        super().check(config)
        if 2 * config.population > config.candidates:
            given = f"population={config.population} leaves no second generation of candidates={config.candidates}"
            raise KitError(f"{given}: set candidates={2 * config.population} or more, or a smaller population")

    def __init__(self, *given: Any, of: dict[str, Any], macs: bool = False, **settings: Any):
        super().__init__(*given, **settings)
        self.of, self.macs, self.front = of, macs, (random_picks(self.slots, self.generator, self.limits),)
        self.alpha = self.valid / self.valid.sum(1, keepdim=True).double()

    picks = property(lambda self: self.front[0])

    def sample(self) -> Child:
        return Child(self.picks if self.finished else random_picks(self.slots, self.generator, self.limits))

    def distributions(self) -> Tensor:
        return self.alpha / self.alpha.sum(1, keepdim=True)

    def choose(self, score: Callable[[Picks], float]) -> None:
        import optuna  # takes a second

        known: dict[Picks, float] = {}  # the errors

        def objectives(trial: Any) -> list[float]:
            picks = tuple(asked(trial, slot) for slot in self.slots)
            if picks in known or not self.limits.allow(picks):
                raise optuna.TrialPruned  # it is no member of its generation
            trial.set_user_attr("picks", picks)
            known[picks] = 1 - score(picks)
            return [known[picks], self.limits.network.cost(picks).macs] if self.macs else [known[picks]]

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        size, every = self.options.population, (comb(len(slot.candidates), slot.takes) for slot in self.slots)
        most, seed = min(self.options.candidates, prod(every)), int(torch.randint(2**31, (), generator=self.generator))
        sampler = optuna.samplers.NSGAIISampler(population_size=size, seed=seed, **self.of)
        study = optuna.create_study(directions=["minimize"] * (1 + self.macs), sampler=sampler)
        for first in [self.picks, *(self.sample().picks for _ in range(size - 1))]:
            study.enqueue_trial({f"{s.name}/{k}": c for s, own in zip(self.slots, first) for k, c in enumerate(own)})
        study.optimize(objectives, 20 * most, callbacks=[lambda *_: len(known) >= most and study.stop()])
        self.front = tuple(trial.user_attrs["picks"] for trial in sorted(study.best_trials, key=lambda t: t.values))
        takes = self.alpha.new_zeros(len(self.front), *self.alpha.shape)
        self.alpha = takes.scatter_(2, torch.tensor(self.front), 1.0).mean(0)


def asked(trial: Any, slot: Slot) -> tuple[int, ...]:
    """A slot's candidates as Optuna suggests them; of two that are alike the later one is the next that is free."""
    every, picks = list(range(len(slot.candidates))), []
    for k in range(slot.takes):
        first = trial.suggest_categorical(f"{slot.name}/{k}", every)
        picks.append(next(c for c in every[first:] + every if c not in picks))
    return tuple(sorted(picks))


STAGES = (Stage("search", search=True), RETRAIN)
register_method("spos", "SPOS: uniform paths, then evolution, retrained", arch="spos", stages=STAGES, space="choice")
register_method("nsga-net", "NSGA-Net: NSGA-II, shared weights, retrained", arch="nsga-net", stages=STAGES)
