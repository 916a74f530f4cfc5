"""Resource limits: nothing that breaks one is allowed, nothing possible is refused, and what must hold is timed for
real.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch
from tests_micro import micro_config

import kit
from kit import KitError, space
from kit.arch import random_picks
from kit.search.progress import Silent
from kit.space import latency
from kit.space.limits import BOUNDS, Limits
from kit.space.network import Cost, Picks, Slot


class Sum:
    """As much of a network as limits look at: costs that add up over slots."""

    def __init__(self, seed: int, slots: int = 4, candidates: int = 4, picks: int = 1, against: bool = True):
        chance = np.random.RandomState(seed)
        self.slots = tuple(Slot(str(i), tuple((str(c), 0) for c in range(candidates)), picks) for i in range(slots))
        self.params = chance.randint(1, 100, (slots, candidates))
        # costs that pull against each other: what has few parameters takes many multiply-adds
        self.macs = (
            100 - self.params + chance.randint(0, 12, self.params.shape)
            if against
            else chance.randint(1, 100, self.params.shape)
        )
        self.ms = chance.rand(slots, candidates)

    def cost(self, picks: Picks) -> Cost:
        return Cost(
            *(
                int(sum(table[i, c] for i, chosen in enumerate(picks) for c in chosen))
                for table in (self.params, self.macs)
            )
        )

    def children(self) -> list[Picks]:
        return list(itertools.product(*(itertools.combinations(range(len(s.candidates)), s.takes) for s in self.slots)))


class Clock:
    """A latency table whose predictions add up."""

    def __init__(self, network: Sum):
        self.network = network

    def predict(self, picks: Picks) -> float:
        return 1.0 + float(sum(self.network.ms[i, c] for i, chosen in enumerate(picks) for c in chosen))


def cheap(limits: Limits) -> Picks | None:
    return limits.best([np.zeros(len(slot.candidates)) for slot in limits.network.slots])


# ---- several at once -----------------------------------------------------------------------------


@pytest.mark.parametrize(("picks", "candidates"), [(1, 4), (2, 4), (2, 2)])
@pytest.mark.parametrize("against", [False, True])
def test_limits_are_refused_exactly_when_no_child_keeps_to_them(picks: int, candidates: int, against: bool):
    verdicts = []
    for seed in range(12):
        net = Sum(seed, 4, candidates, picks, against)
        clock, chance = Clock(net), np.random.RandomState(seed)
        every = np.array([[*net.cost(child), clock.predict(child)] for child in net.children()])
        for n in (2, 3):
            # around the cheapest of each cost at once: some combinations are possible, most are not
            bounds = every.min(axis=0) + (every.mean(axis=0) - every.min(axis=0)) * chance.uniform(0.2, 1.3, 3)
            given = {"max_params": int(bounds[0]), "max_macs": int(bounds[1])} | (
                {"max_latency_ms": bounds[2], "latency": clock} if n == 3 else {}
            )
            possible = (every[:, :n] <= [int(bounds[0]), int(bounds[1]), bounds[2]][:n]).all(axis=1).any()
            if possible:
                limits = Limits(net, **given)
                assert limits.allow(cheap(limits))
            else:
                with pytest.raises(KitError, match="no architecture of this space keeps to"):
                    Limits(net, **given)
            verdicts.append(possible)
    assert candidates == picks or 0 < sum(verdicts) < len(verdicts)


@pytest.mark.parametrize("scale", [1, 10**9 + 7])
def test_the_answer_is_exact_at_the_boundary(scale: int):
    """Pairs of limits that one child meets exactly, and one less: beyond what a solver's tolerance tells apart."""
    for seed in range(4):
        net = Sum(seed, slots=3, candidates=3)
        net.params, net.macs = net.params * scale, net.macs * scale
        costs = sorted({tuple(net.cost(child)) for child in net.children()})
        for params, macs in costs[::4]:
            limits = Limits(net, params, macs)
            assert limits.allow(cheap(limits))
            possible = any(p <= params and m <= macs - 1 for p, m in costs)
            try:
                found = cheap(Limits(net, params, macs - 1)) is not None
            except KitError:
                found = False
            assert found == possible


@functools.cache
def built() -> space.Network:
    torch.manual_seed(0)
    return space.build("cell", 3, (3, 8, 8), channels=4, cells=3)


def test_the_additive_table_is_the_spaces_own_cost():
    net, g = built(), torch.Generator().manual_seed(0)
    fixed, rows = Limits(net).additive("max_macs")
    for _ in range(30):
        picks = random_picks(net.slots, g, Limits(net))
        assert fixed + sum(row[list(chosen)].sum() for row, chosen in zip(rows, picks)) == net.cost(picks).macs


def test_the_reach_is_that_of_all_children():
    net = Sum(3, candidates=4, picks=2)
    limits, every = Limits(net, latency=Clock(net)), net.children()
    for name, cost in zip(
        BOUNDS, (lambda c: net.cost(c).params, lambda c: net.cost(c).macs, lambda c: Clock(net).predict(c))
    ):
        assert limits.reach(name) == pytest.approx((min(map(cost, every)), max(map(cost, every))))


def test_refusals_name_the_limit_and_what_can_be_reached():
    net = built()
    low, high = Limits(net).reach("max_macs")
    with pytest.raises(
        KitError, match=f"keeps to max_params=1,000,000,000, max_macs=7: it reaches .*max_macs={low:,} to {high:,}"
    ):
        Limits(net, max_macs=7, max_params=10**9)
    small = Sum(0)
    (low, _), (least, _) = (Limits(small).reach(name) for name in BOUNDS[:2])
    with pytest.raises(
        KitError,
        match=f"no architecture of this space keeps to max_params={low}, max_macs={least}: it reaches max_params={low}",
    ):
        Limits(small, low, least)
    timed = Limits(small, max_macs=10**6, max_latency_ms=1e3, latency=Clock(small))
    assert str(timed) == "max_macs=1,000,000, max_latency_ms=1,000" and timed.costs(cheap(timed)).endswith(" ms")
    assert str(Limits(small)) == "no limits"


def test_the_best_child_within_the_limits_is_that_of_all_children():
    net, chance = Sum(2, slots=5), np.random.RandomState(0)
    every = net.children()
    limits = Limits(net, *(int(np.quantile([net.cost(c)[i] for c in every], 0.6)) for i in range(2)))
    for _ in range(5):
        gain = chance.rand(5, 4)
        total = lambda child, gain=gain: sum(gain[i, c] for i, chosen in enumerate(child) for c in chosen)
        assert limits.best(gain) == max(filter(limits.allow, every), key=total)


def test_where_draws_break_the_limits_a_random_child_within_them_is_taken():
    net, g = Sum(2, slots=5), torch.Generator().manual_seed(0)
    limits = Limits(net, max_params=int(1.2 * Limits(net).reach("max_params")[0]))
    found = {random_picks(net.slots, g, limits, tries=1) for _ in range(20)}
    assert len(found) > 1 and all(map(limits.allow, found))


def test_the_table_is_that_of_the_network_to_deploy_and_made_once(micro: str, tmp_path, monkeypatch):
    def alone(network, device, batch):
        made.append((network.settings["channels"], batch))
        return [[0.1] * len(slot.candidates) for slot in network.slots]

    made = []
    monkeypatch.setattr(latency, "candidate_times", alone)
    monkeypatch.setattr(latency, "time_child", lambda *_: 3.0)
    config = micro_config("seq-nas+hpo", search_channels=2, latency_batch=2, max_latency_ms=1e4)
    run = kit.search(config, out=tmp_path, progress=Silent())
    assert made == [(config.channels, 2)]
    table = latency.stored(run.path / "latency.json")
    assert table.predict(space.outline("cell").picks_of(run.genotype)) <= 1e4 and str(table).startswith("batch 2, ")
    said = r"no architecture of this space keeps to max_latency_ms=1e-06: .*batch 2, .*1 thread\(s\)"
    with pytest.raises(KitError, match=said):
        kit.search(config.but(max_latency_ms=1e-6), out=tmp_path, progress=Silent())
