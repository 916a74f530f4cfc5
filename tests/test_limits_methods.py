"""Parameters, multiply-adds and latency limited at once, in every method: no epoch's architecture and no result is over
one of them, and a given architecture over one is refused before it is trained."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from tests_micro import micro_config

import kit
from kit import KitError, space
from kit.arch import random_picks
from kit.methods import METHODS
from kit.search import build
from kit.search.progress import Silent
from kit.space import latency
from kit.space.limits import BOUNDS, Limits
from kit.space.network import Network, Picks

SMALL: dict[str, dict[str, Any]] = {
    "cell": {"search_channels": 2},
    "choice": {"cells": 4, "channels": 8, "search_channels": 8},
    "mobile": {"cells": 4},
}
ALL = [
    name for name, method in METHODS.items() if any(stage.search for stage in method.stages) or method.arch == "random"
]
SEARCHES = list({(METHODS[name].arch, METHODS[name].space): name for name in ALL}.values())  # one for each learner
GIVEN = [name for name in METHODS if name not in ALL][:3]
TIGHT = 0.35  # of the way from the least to the most that a child costs


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Operations have invented times, unrelated to their size, which add up: nothing waits, and no machine decides."""

    def alone(network: Network, *_) -> list[list[float]]:
        chance = np.random.RandomState(1)
        return [chance.rand(len(slot.candidates)).tolist() for slot in network.slots]

    def whole(network: Network, picks: Picks, *_) -> float:
        rows = alone(network)
        return 1.0 + sum(rows[slot][c] for slot, chosen in enumerate(picks) for c in chosen)

    monkeypatch.setattr(latency, "candidate_times", alone)
    monkeypatch.setattr(latency, "time_child", whole)


@functools.cache
def deployed(
    where: str, channels: int, cells: int, reductions: int | None, share: float
) -> tuple[dict[str, float], Limits]:
    """Three bounds that far into what the space reaches, and the limits they make."""
    net = space.build(where, 10, (1, 8, 8), channels=channels, cells=cells, reductions=reductions)
    free = Limits(net, latency=latency.table(net, "cpu"))
    bounds = {name: low + share * (high - low) for name in BOUNDS for low, high in [free.reach(name)]}
    bounds |= {name: int(bounds[name]) for name in BOUNDS[:2]}
    return bounds, Limits(net, **bounds, latency=free.latency)


def limited(method: str, share: float = TIGHT) -> tuple[kit.Config, Limits]:
    """The method's micro configuration under three limits, and those limits on the network that it deploys."""
    before = 4 if any(stage.repeat for stage in METHODS[method].stages) else max(1, len(METHODS[method].stages) - 1)
    short = {"epochs": before + 1, "search_epochs": before, "trials": 2, "train_images": 40, "batch_size": 20}
    few = {"candidates": 4, "population": 2}
    config = micro_config(method, **SMALL.get(METHODS[method].space, {}), **short, **few)
    bounds, limits = deployed(config.space, config.channels, config.cells, config.reductions, share)
    return config.but(**bounds), limits


@pytest.mark.parametrize("method", SEARCHES)
def test_no_architecture_of_any_method_is_over_one_of_three_limits(method: str, micro: str, tmp_path):
    config, limits = limited(method)
    chance = torch.Generator().manual_seed(0)
    drawn = [random_picks(limits.network.slots, chance, Limits(limits.network)) for _ in range(100)]
    assert sum(map(limits.allow, drawn)) < 40  # most children are over
    run = kit.search(config, out=tmp_path, progress=Silent())
    result = limits.network.picks_of(run.genotype)
    assert run.metrics["params"] <= config.max_params and run.metrics["macs"] <= config.max_macs
    assert latency.stored(run.path / "latency.json").predict(result) <= config.max_latency_ms
    assert (run.metrics["params"], run.metrics["macs"]) == tuple(limits.network.cost(result))
    stood = [tuple(tuple(np.flatnonzero(slot).tolist()) for slot in epoch) for epoch in run.alpha["support"]]
    assert len(stood) == config.epochs + 1
    assert METHODS[method].arch == "random" or all(
        limits.allow(picks) for picks in stood
    )  # a child alone has no candidates to tell


@pytest.mark.parametrize("method", GIVEN)
def test_a_given_architecture_over_one_limit_is_refused(method: str, micro: str, tmp_path):
    config, limits = limited(method, share=1.0)
    usual = limits.network.picks_of(build.read_genotype(config))
    costs = (*limits.network.cost(usual), latency.time_child(limits.network, usual))
    which = GIVEN.index(method) % len(BOUNDS)  # each limit is some method's
    bound = costs[which] - 1 if which < 2 else 0.99 * costs[which]
    with pytest.raises(
        KitError,
        match=r"given architecture costs .* parameters, .* multiply-adds, .* ms and breaks max_params=.*_ms=",
    ):
        kit.search(config.but(**{BOUNDS[which]: bound}), out=tmp_path, progress=Silent())
    assert not list(tmp_path.glob("*/checkpoints/*"))
