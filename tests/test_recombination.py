"""Any learner beside any other that fits: they step, each moves what is its own, and they resume bit-identically."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from tests_micro import micro_config

from kit import data
from kit.arch import ARCH
from kit.augment import AUGMENT
from kit.errors import KitError
from kit.hyper import HYPER
from kit.registry import Part
from kit.search import build, signals
from kit.search.learner import generator
from kit.search.signals import Parts
from kit.search.step import STEPS, TwoLevelOptions
from kit.space import SPACES as NETWORKS


def last(parts: dict[str, Part], fits: Callable[[type], bool]) -> list[str]:
    """Names of parts that no other one extends: what those inherit is tested with them."""
    makes = {name: part.make for name, part in parts.items() if fits(part.make)}
    extended = lambda make: any(issubclass(other, make) and other is not make for other in makes.values())
    return [name for name, make in makes.items() if not extended(make)]


ARCHES = last(ARCH, lambda make: make.searches)
POLICIES = last(AUGMENT, lambda make: make.learns) + ["flip-crop"]
# "reinforce" has one that extends it, and a population a step of its own
HYPERS = [name for name, part in HYPER.items() if not part.make.trials and name not in ("reinforce", "pbt")]
SMALL = {
    "cell": {"channels": 2, "search_channels": 2},
    "choice": {"cells": 4, "channels": 8, "search_channels": 8},
    "mobile": {"cells": 4},
    "nas-bench-201": {"cells": 3, "channels": 4, "search_channels": 4, "reductions": 1},
    "partial-cell": {"channels": 4, "search_channels": 4},
}
SPACES = [name for name, part in NETWORKS.items() if part.make.searchable]
# learners in this order: the mixture of all a cell's operations does not meet ift, which would take half of the time
KINDS = {"arch": ARCHES[::-1], "augment": POLICIES, "hyper": HYPERS, "space": SPACES, "step": list(STEPS)}


def fits(arch: str, space: str) -> bool:
    return NETWORKS[space].make.absorbs_gates or not ARCH[arch].make.weighs


def scenes() -> list[dict[str, str]]:
    """Few choices of all five kinds, in which every two names of different kinds that fit stand together somewhere."""
    rows = [dict(zip(KINDS, names)) for names in itertools.product(*KINDS.values())]
    pairs = [set(itertools.combinations(row.items(), 2)) for row in rows if fits(row["arch"], row["space"])]
    left, chosen = set().union(*pairs), []
    while left:
        best = max(pairs, key=lambda row: len(row & left))
        left -= best
        chosen.append(dict(sorted(item for pair in best for item in pair)))
    return chosen


class Scene:
    """A stage's parts on six images a batch, stepping by the named step function."""

    def __init__(self, chosen: dict[str, str]):
        values = dict(chosen)
        self.step, space = STEPS[values.pop("step")].make, values.pop("space")
        # a method that retrains takes every architecture learner
        self.config = micro_config(
            "snas",
            space=space,
            hyper_space="lr"
            + ",mixup,dropout,drop_path,optimizer" * (values["hyper"] not in ("mixture", "reinforce-in-turn")),
            first_order=False,  # asks most of a child
            copies=2,
            strength_target=0.05,  # so low that an untrained network is above it
            **(values | SMALL[space]),
        )
        self.sets = data.load_dataset(self.config.dataset)
        self.parts = self._parts()
        self.batches = {
            name: data.Batches(part, 6, generator(0, name))
            for name, part in (("train", self.sets.train), ("fresh", self.sets.train), ("val", self.sets.val))
        }

    def _parts(self) -> Parts:
        made = build.Plan(self.config, self.config.stages[0], self.sets, torch.device("cpu")).parts()
        made.net.train()
        made.draws = TwoLevelOptions(children=2)
        return made

    def take(self, times: int) -> list[torch.Tensor]:
        return [self.step(self.parts, self.batches, 0.9).losses for _ in range(times)]


def variables(of: Parts) -> dict[str, list[torch.Tensor]]:
    return {name: [v.detach().clone() for v in getattr(of, name).variables()] for name in ("arch", "augment", "hyper")}


@pytest.mark.parametrize("chosen", scenes(), ids=lambda chosen: "-".join(chosen.values()))
def test_they_step_move_and_resume_together(chosen: dict[str, str], micro: str, monkeypatch: pytest.MonkeyPatch):
    # an untrained network's accuracy may be the same twice, and a reward that does not differ from its baseline moves
    # nothing
    rewards = itertools.cycle([0.2, 0.7, 0.4, 0.9])
    monkeypatch.setattr(signals, "accuracy", lambda net, held, child: next(rewards))
    scene = Scene(chosen)
    before, weights = variables(scene.parts), [p.detach().clone() for p in scene.parts.net.parameters()]
    losses = scene.take(2)
    assert all(torch.isfinite(x).all() for x in losses)
    assert any((p.detach() != w).any() for p, w in zip(scene.parts.net.parameters(), weights))
    for name, values in variables(scene.parts).items():
        learns = getattr(scene.parts, name).variables() != []
        assert any((a != b).any() for a, b in zip(values, before[name])) == learns, name
        assert all(torch.isfinite(v).all() for v in values)

    again = Scene(chosen)
    again.parts.load_state_dict(copy.deepcopy(scene.parts.state_dict()))
    for name, batches in again.batches.items():
        batches.load_state_dict(scene.batches[name].state_dict())
    rewards = itertools.repeat(0.5)
    assert all(torch.equal(a, b) for a, b in zip(scene.take(1), again.take(1)))
    ours, theirs = variables(scene.parts), variables(again.parts)
    assert all(torch.equal(a, b) for name in ours for a, b in zip(ours[name], theirs[name]))


def test_what_does_not_fit_is_refused():
    searched = [name for name, part in ARCH.items() if part.make.searches]
    rows = [(arch, space) for arch in searched for space in SPACES if not fits(arch, space)]
    assert ("sparse-coding", "choice") in rows
    for arch, space in rows:
        with pytest.raises(KitError, match=f"{arch}.* weighs operations, and space '{space}'"):
            micro_config("snas", arch=arch, space=space)
