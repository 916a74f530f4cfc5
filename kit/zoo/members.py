"""PBT, population-based training (Jaderberg et al. 2017), of η and of policies that have settings of their own."""

from copy import deepcopy
from typing import Any

import torch
from pydantic import Field

from kit.errors import KitError
from kit.hyper import Searched, read_bases, register
from kit.methods import Stage
from kit.methods import register as register_method
from kit.search import signals
from kit.search.step import STEPS, Outcome, one_level


@register("pbt", title="Population-based training", brings={"members": {"paper": 16}, "exploits": {"paper": 66}})
class Pbt(Searched):
    """Networks, a setting each, begin with the same weights and train in turn, `exploits` turns each, which share the
    stage's epochs; after each it is scored on the validation batches. One in the worst quarter (one at least) when its
    next turn comes goes on as a copy of one of the best quarter, momentum and setting included, and its setting is
    explored. The best one ends the stage. A setting: numbers of `hyper_space`, drawn between their bases' ends;
    explored, each is drawn anew with a chance of 0.25, else becomes 0.8 or 1.2 times itself. A policy may have `past`
    settings, turn by turn, and `explored()`, which gives another one."""

    needs = frozenset({"val"})
    kept = ("members", "passed", "eta")
    current = best = lambda self: self.eta

    class Options(Searched.Options):
        members: int = Field(4, ge=2, le=64, description="pbt: networks that share their stage's epochs")
        exploits: int = Field(4, ge=1, le=1000, description="pbt: turns of each; bad ones then follow good ones")

    @classmethod
    def check(cls, config: Any) -> None:
        own = [epochs for stage, epochs in zip(config.stages, config.stage_epochs) if stage.step == "population"]
        if not own or "optimizer" in read_bases(config.hyper_space):
            raise KitError("hyper='pbt' evolves numbers, no optimizer, and a population: use method='pbt' or 'pba'")
        if own[0] < (p := config.members):
            field = "search_epochs" if config.stages[-1].restart else "epochs"
            raise KitError(f"members={p} networks share {field}={own[0]}: set {field}={p} or more")

    def __init__(self, *start: Any, **settings: Any):
        super().__init__(*start, **settings)
        self.members, self.passed, self.eta = (), 0, self.fresh()  # members: net, sgd, eta, past and score of each

    def uniform(self) -> float:
        return float(torch.rand((), generator=self.generator, dtype=torch.float64))

    def fresh(self) -> dict[str, float]:
        return {name: basis[0] + (basis[-1] - basis[0]) * self.uniform() for name, basis in self.bases.items()}

    def explored(self, eta: dict[str, float]) -> dict[str, float]:
        within = lambda value, basis: min(max(value * (0.8 if self.uniform() < 0.5 else 1.2), basis[0]), basis[-1])
        moved = {name: within(value, self.bases[name]) for name, value in eta.items()}
        return moved | {name: value for name, value in self.fresh().items() if self.uniform() < 0.25}

    def parent(self, who: int) -> int:
        order = sorted(range(len(self.members)), key=lambda i: self.members[i]["score"])
        few = max(1, len(order) // 4)
        return order[int(few * self.uniform()) - few] if who in order[:few] else who

    def train(self, parts: signals.Parts, batches: signals.Batches, schedule: float) -> Outcome:
        p, held_out, policy = self.options.members, batches["val"], parts.augment
        turns = p * max(1, min(self.options.exploits, self.steps // p))  # a step each, at least
        before, turn, after = ((self.passed + i) * turns // self.steps for i in (-1, 0, 1))
        who = turn % p
        if before < turn:
            self.members = self.members or (self.copied(parts, 0.0),) * p
            parent = self.parent(who) if turn >= p else who
            self.enter(parts, self.members[parent])
            self.eta = self.fresh() if turn < p else self.eta if parent == who else self.explored(self.eta)
            if turn >= p and policy.past:
                policy.past = (*policy.past, policy.past[-1] if parent == who else policy.explored())
        outcome, child, self.passed = one_level(parts, batches, schedule), parts.arch.derived(), self.passed + 1
        if turn < after:
            score = sum(signals.accuracy(parts.net, next(held_out), child) for _ in range(held_out.steps_per_epoch))
            self.members = (*self.members[:who], self.copied(parts, score), *self.members[who + 1 :])
        if self.passed == self.steps:
            self.enter(parts, max(self.members, key=lambda member: member["score"]))
            self.members = ()  # they have served
        return outcome

    def copied(self, parts: signals.Parts, score: float) -> dict[str, Any]:
        own = {"net": dict(parts.net.state_dict()), "sgd": parts.sgd.state_dict()}
        return deepcopy(own) | {"eta": self.eta, "past": getattr(parts.augment, "past", ()), "score": score}

    def enter(self, parts: signals.Parts, member: dict[str, Any]) -> None:
        for name in ("net", "sgd"):
            getattr(parts, name).load_state_dict(member[name])
        self.eta, parts.augment.past = member["eta"], tuple(member["past"])


@STEPS.register("population", title="A population in turn (PBT, PBA)")
def population(parts: signals.Parts, batches: signals.Batches, schedule: float) -> Outcome:
    return (parts.hyper.train if isinstance(parts.hyper, Pbt) else one_level)(parts, batches, schedule)


ONE = (Stage("training", step="population"),)
register_method("pbt", "PBT of η on MobileNetV2", arch="given", stages=ONE, hyper="pbt", space="mobile")
