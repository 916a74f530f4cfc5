"""Any learner beside any other that fits: they step, each moves what is its own, and they resume bit-identically. What
does not fit is
refused with the reason (tests/test_config.py)."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from tests_micro import micro_config

import kit
from kit import data
from kit.arch import ARCH
from kit.augment import AUGMENT
from kit.errors import KitError
from kit.hyper import HYPER
from kit.search import build as compose
from kit.search.learner import generator
from kit.search.step import STEPS, Samples
from kit.space import SEARCHABLE

ARCHES = [name for name, entry in ARCH.items() if entry.build is not None]
POLICIES = [name for name, entry in AUGMENT.items() if entry.make.learns] + ["flip-crop"]
HYPERS = [name for name, entry in HYPER.items() if not entry.trials]
USUAL = {"arch": "dsnas", "augment": "flip-crop", "hyper": "fixed"}
SMALL = {
    "cell": {"channels": 2, "search_channels": 2},
    "choice": {"cells": 4, "channels": 8, "search_channels": 8},
    "mobile": {"cells": 4},
}
SPACES = [name for name, searchable in SEARCHABLE.items() if searchable]


KINDS = {"arch": ARCHES, "augment": POLICIES, "hyper": HYPERS, "space": SPACES, "step": list(STEPS)}
TOGETHER = (
    ("arch", "augment"),
    ("arch", "hyper"),
    ("augment", "hyper"),
    ("arch", "space"),
    ("arch", "step"),
    ("augment", "step"),
    ("hyper", "step"),
)


def pairs() -> list[dict[str, str]]:
    return [{a: x, b: y} for a, b in TOGETHER for x in KINDS[a] for y in KINDS[b]]


class Scene:
    """A stage's parts on six images a batch, stepping by the named step function."""

    def __init__(self, chosen: dict[str, str]):
        values = {**USUAL, **chosen}
        self.step, space = STEPS[values.pop("step", "one-level")], values.pop("space", "cell")
        # a method that retrains takes every architecture learner
        self.config = micro_config(
            "snas", space=space, hyper_space="lr,mixup,dropout,drop_path,optimizer", **(values | SMALL[space])
        )
        self.sets = data.load_dataset(self.config.dataset)
        self.parts = self._parts()
        self.batches = {
            name: data.Batches(part, 6, generator(0, name))
            for name, part in (("train", self.sets.train), ("fresh", self.sets.train), ("val", self.sets.val))
        }

    def _parts(self) -> compose.Parts:
        parts = compose.compose(self.config, 0, self.sets, torch.device("cpu"), data.normalization(self.sets.train))
        parts.net.train()
        return parts

    def take(self, times: int) -> list[torch.Tensor]:
        p, samples = self.parts, Samples(children=2, arch=1, policies=0, first_order=False)
        return [
            self.step(p.net, self.batches, p.arch, p.augment, p.hyper, p.sgd, 0.9, samples).losses for _ in range(times)
        ]


def variables(parts: compose.Parts) -> dict[str, list[torch.Tensor]]:
    return {
        name: [v.detach().clone() for v in getattr(parts, name).variables()] for name in ("arch", "augment", "hyper")
    }


@pytest.mark.parametrize("chosen", pairs(), ids=lambda chosen: "-".join(chosen.values()))
def test_a_pair_steps_moves_and_resumes(chosen: dict[str, str], micro: str, monkeypatch: pytest.MonkeyPatch):
    # an untrained network's accuracy may be the same twice, and a reward that does not differ from its baseline moves
    # nothing
    rewards = itertools.cycle([0.2, 0.7, 0.4, 0.9])
    monkeypatch.setattr(kit.step, "_accuracy", lambda net, held, child: next(rewards))
    try:
        scene = Scene(chosen)
    except KitError as error:
        assert "weighs operations" in str(error) and chosen.get("arch") == "sparse-coding" and chosen["space"] != "cell"
        return
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
