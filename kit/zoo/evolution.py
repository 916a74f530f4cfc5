"""Searches over the weights of one supernet, which is trained under children drawn uniformly: random search with weight
sharing (Li & Talwalkar 2019: 2.85 ± 0.08% test error on CIFAR-10 with DARTS's cells); single path one-shot (SPOS; Guo
et al. 2020: 74.3% on ImageNet with ShuffleNetV2 choice blocks) by accuracy alone; NSGA-Net (Lu et al. 2019: 2.75% test
error on CIFAR-10 with cells; 96.18% in DHA's Table 1) by accuracy and multiply-adds. NSGA-Net's paper trains every
network for a while: here it is the search alone. The last two evolve by Optuna's NSGA-II."""

from collections.abc import Callable
from itertools import combinations
from math import prod
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kit import registry
from kit.arch import ARCH, random_picks, register
from kit.arch.base import Searcher
from kit.errors import KitError
from kit.methods import RETRAIN, Stage
from kit.methods import register as register_method
from kit.space import Child, Picks

# of Optuna's sampler, all that its versions may set otherwise; SPOS mutates a tenth of the genes, NSGA-Net one a child
SPOS = {"crossover_prob": 0.5, "swapping_prob": 0.5, "mutation_prob": 0.1}
NSGA = {"crossover_prob": 0.9, "swapping_prob": 0.5, "mutation_prob": None}
BRINGS = {"candidates": {"paper": 1200, "server": 200}, "population": {"paper": 40, "server": 20}}  # NSGA-Net
OF_SPOS = {"candidates": {"paper": 1000, "server": 200}, "population": {"paper": 50, "server": 20}}


@register("random-shared", title="Best of random children", brings=OF_SPOS, of=None)
@register("spos", title="Evolution (SPOS)", brings=OF_SPOS | {"epochs": {"paper": 120 + 240}}, of=SPOS)
@register("nsga-net", title="NSGA-II (NSGA-Net)", brings=BRINGS, of=NSGA, macs=True)
class Evolution(Searcher):
    """Generations of `population` different children, `candidates` in all, fewer in a space that has no more; random
    search has one generation of them all. A gene is what a slot takes. `front`: the best child or, with `macs`, those
    that none beats in both, the most accurate first. That one is found: a limit on the cost says which part of the
    front is meant. `alpha` becomes the front's share of each candidate."""

    needs, retrain = frozenset({"val"}), True
    kept = (*Searcher.kept, "alpha", "front")

    class Options(registry.Options):
        candidates: int = Field(40, ge=1, le=100_000, description="children scored when the search stage ends")
        population: int = Field(10, ge=2, le=10_000, description="children of a generation")

    @classmethod
    def check(cls, config: Any) -> None:
        super().check(config)
        if ARCH[config.arch].settings["of"] and 2 * config.population > config.candidates:
            given = f"population={config.population} leaves no second generation of candidates={config.candidates}"
            raise KitError(f"{given}: set candidates={2 * config.population} or more, or a smaller population")

    def __init__(self, *given: Any, of: dict[str, Any] | None, macs: bool = False, **settings: Any):
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
        genes = {slot.name: list(combinations(range(len(slot.candidates)), slot.takes)) for slot in self.slots}

        def objectives(trial: Any) -> list[float]:
            picks = tuple(own[trial.suggest_categorical(name, range(len(own)))] for name, own in genes.items())
            if picks in known or not self.limits.allow(picks):
                raise optuna.TrialPruned  # it is no member of its generation
            trial.set_user_attr("picks", picks)
            known[picks] = 1 - score(picks)
            return [known[picks], self.limits.network.cost(picks).macs] if self.macs else [known[picks]]

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        most = min(self.options.candidates, prod(map(len, genes.values())))
        size, seed = self.options.population, int(torch.randint(2**31, (), generator=self.generator))
        sampler = optuna.samplers.NSGAIISampler(population_size=size, seed=seed, **(self.of or {}))
        study = optuna.create_study(directions=["minimize"] * (1 + self.macs), sampler=sampler)
        drawn = size if self.of else self.options.candidates
        for first in [self.picks, *(self.sample().picks for _ in range(drawn - 1))]:
            study.enqueue_trial({name: own.index(picks) for (name, own), picks in zip(genes.items(), first)})
        trials = 20 * most if self.of else drawn
        study.optimize(objectives, trials, callbacks=[lambda *_: len(known) >= most and study.stop()])
        self.front = tuple(trial.user_attrs["picks"] for trial in sorted(study.best_trials, key=lambda t: t.values))
        takes = self.alpha.new_zeros(len(self.front), *self.alpha.shape)
        self.alpha = takes.scatter_(2, torch.tensor(self.front), 1.0).mean(0)


STAGES = (Stage("search", search=True), RETRAIN)
register_method("random-shared", "Random search with weight sharing, retrained", arch="random-shared", stages=STAGES)
register_method("spos", "SPOS: uniform paths, then evolution, retrained", arch="spos", stages=STAGES, space="choice")
register_method("nsga-net", "NSGA-Net: NSGA-II, shared weights, retrained", arch="nsga-net", stages=STAGES)
