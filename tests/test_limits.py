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
from kit.space.limits import BOUNDS, Limits, additive
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
    """A latency table whose predictions add up; `measure` tells what the machine really does."""

    margin = 1.25

    def __init__(self, network: Sum, truth=lambda predicted: predicted):
        self.network, self.truth, self.timed = network, truth, {}

    def predict(self, picks: Picks) -> float:
        return 1.0 + float(sum(self.network.ms[i, c] for i, chosen in enumerate(picks) for c in chosen))

    def bound(self, picks: Picks) -> float:
        return self.timed.get(picks, self.margin * self.predict(picks))

    def measure(self, picks: Picks, limit: float) -> float:
        return self.timed.setdefault(picks, self.truth(self.predict(picks)))


# ---- several at once -----------------------------------------------------------------------------


@pytest.mark.parametrize(("picks", "candidates"), [(1, 4), (2, 4), (2, 2)])
@pytest.mark.parametrize("against", [False, True])
def test_limits_are_refused_exactly_when_no_child_keeps_to_them(picks: int, candidates: int, against: bool):
    verdicts = []
    for seed in range(12):
        net = Sum(seed, 4, candidates, picks, against)
        clock, chance = Clock(net), np.random.RandomState(seed)
        every = np.array([[*net.cost(child), clock.margin * clock.predict(child)] for child in net.children()])
        for n in (2, 3):
            # around the cheapest of each cost at once: some combinations are possible, most are not
            bounds = every.min(axis=0) + (every.mean(axis=0) - every.min(axis=0)) * chance.uniform(0.2, 1.3, 3)
            given = {"max_params": int(bounds[0]), "max_macs": int(bounds[1])} | (
                {"max_latency_ms": bounds[2], "latency": clock} if n == 3 else {}
            )
            possible = (every[:, :n] <= [int(bounds[0]), int(bounds[1]), bounds[2]][:n]).all(axis=1).any()
            if possible:
                limits = Limits(net, **given)
                assert limits.allow(limits.witness)
            else:
                with pytest.raises(KitError, match="at once: loosen one of them|is less than any architecture needs"):
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
            assert limits.allow(limits.witness)
            possible = any(p <= params and m <= macs - 1 for p, m in costs)
            try:
                found = Limits(net, params, macs - 1).witness is not None
            except KitError:
                found = False
            assert found == possible


@functools.cache
def built() -> space.Network:
    torch.manual_seed(0)
    return space.build("cell", 3, (3, 8, 8), channels=4, cells=3)


def test_the_additive_table_is_the_spaces_own_cost():
    net, g = built(), torch.Generator().manual_seed(0)
    fixed, rows = additive(net, lambda picks: net.cost(picks).macs)
    for _ in range(30):
        picks = random_picks(net.slots, g, Limits(net))
        assert fixed + sum(row[list(chosen)].sum() for row, chosen in zip(rows, picks)) == net.cost(picks).macs


def test_the_reach_is_that_of_all_children():
    net = Sum(3, candidates=4, picks=2)
    limits, every = Limits(net, latency=Clock(net)), net.children()
    for name, cost in zip(
        BOUNDS, (lambda c: net.cost(c).params, lambda c: net.cost(c).macs, lambda c: 1.25 * Clock(net).predict(c))
    ):
        assert limits.reach(name) == pytest.approx((min(map(cost, every)), max(map(cost, every))))
    with pytest.raises(KitError, match="max_latency_ms needs a latency table"):
        Limits(net, max_latency_ms=3.0)


def test_refusals_name_the_limit_and_what_can_be_reached():
    net = built()
    low, high = Limits(net).reach("max_macs")
    with pytest.raises(
        KitError, match=f"max_macs=7 is less than any architecture needs: this space reaches {low:,} to {high:,}"
    ):
        Limits(net, max_macs=7, max_params=10**9)
    small = Sum(0)
    (low, _), (least, _) = (Limits(small).reach(name) for name in BOUNDS[:2])
    with pytest.raises(
        KitError,
        match=f"no architecture of this space keeps to max_params={low}, max_macs={least} at once"
        ".*max_params alone can go "
        f"down to {low}; max_macs alone can go down to {least}",
    ):
        Limits(small, low, least)
    timed = Limits(small, max_macs=10**6, max_latency_ms=1e3, latency=Clock(small))
    assert str(timed) == "max_macs=1,000,000, max_latency_ms=1,000" and timed.costs(timed.witness).endswith(" ms")
    assert str(Limits(small)) == "no limits"


def test_a_child_over_the_limits_is_repaired_with_as_few_slots_as_come():
    net = Sum(2, slots=5)
    every, clock = net.children(), Clock(net)
    limits = Limits(net, *(int(np.quantile([net.cost(c)[i] for c in every], 0.6)) for i in range(2)), latency=clock)
    for child in every[::7]:
        got = limits.repaired(child, order=(4, 2, 0, 1, 3))
        assert limits.allow(got) and (got == child) == limits.allow(child)
        taken = [slot for slot in (4, 2, 0, 1, 3) if got[slot] != child[slot]]
        before = list(got)
        if taken:  # with the last slot as it was, the child is over the limits still
            before[taken[-1]] = child[taken[-1]]
            assert not limits.allow(tuple(before))
    assert Limits(net).repaired(every[3]) == every[3]
    slow = Clock(net, truth=lambda predicted: 99.0)
    timed = Limits(net, max_latency_ms=3.0, latency=slow)
    assert not timed.confirm(timed.witness)
    with pytest.raises(KitError, match="when it is timed: loosen max_latency_ms"):
        timed.repaired(max(every, key=slow.predict))


# ---- timed for real ------------------------------------------------------------------------------


def test_a_child_that_is_slower_than_predicted_is_never_the_result():
    net = Sum(1)
    slow = Clock(net, truth=lambda predicted: 3 * predicted)
    limits = Limits(net, max_latency_ms=1.25 * 2.5, latency=slow)
    picks = min(net.children(), key=slow.predict)
    assert limits.allow(picks) and not limits.confirm(picks) and not limits.allow(picks)
    quick = Clock(net)
    limits = Limits(net, max_latency_ms=1.25 * 2.5, latency=quick)
    over = next(c for c in net.children() if not limits.allow(c))
    assert not limits.confirm(over) and not quick.timed  # what the table refuses is not even timed
    assert limits.confirm(picks) and list(quick.timed) == [picks]


def test_settling_takes_the_first_choice_that_holds():
    net = Sum(1)
    clock = Clock(net, truth=lambda predicted: predicted * (2.0 if len(clock.timed) < 3 else 1.0))
    limits = Limits(net, max_latency_ms=3.0, latency=clock)
    in_order = [child for child in net.children() if limits.allow(child)]
    assert limits.settle(lambda: next(c for c in in_order if limits.allow(c))) == in_order[3]
    never = Limits(net, max_latency_ms=3.0, latency=Clock(net, truth=lambda predicted: 1e3))
    with pytest.raises(
        KitError, match="100 architectures within max_latency_ms=3 by the latency table were timed and none keeps to it"
    ):
        never.settle(lambda: in_order[0])
    # without a limit on it nothing is timed
    assert Limits(net, max_params=10**6).settle(lambda: in_order[0]) == in_order[0]


def test_what_a_search_found_is_repaired_when_its_own_time_breaks_the_limit(micro: str, tmp_path, monkeypatch):
    alone = [[0.1 + 0.1 * (c % 7) for c in range(14 + 7 * (slot % 4))] for slot in range(8)]

    def truth(network, picks, *_):
        predicted = 1.0 + sum(alone[slot][c] for slot, chosen in enumerate(picks) for c in chosen)
        return (
            predicted if len(timed) < latency.CALIBRATION + latency.CHECKS else 3 * predicted
        )  # the machine is busy from then on

    timed: list[Picks] = []
    monkeypatch.setattr(latency, "candidate_times", lambda *_: alone)
    monkeypatch.setattr(
        latency, "time_child", lambda network, picks, *_: (truth(network, picks), timed.append(picks))[0]
    )
    run = kit.search(micro_config("seq-nas+hpo", max_latency_ms=9.5), out=tmp_path, progress=Silent())
    stored = latency.recorded(run.path / "latency.json", space.picks_of(run.genotype))
    assert (
        stored[0] <= 9.5 and len(timed) > latency.CALIBRATION + latency.CHECKS + 1
    )  # the first that was found was slower
    assert run.predict(kit.load_dataset(micro).test.images[:3]).names  # its weights are those of its operations


def test_the_table_is_that_of_the_network_to_deploy_and_made_once(micro: str, tmp_path, monkeypatch):
    made, real = [], latency.LatencyTable.fit
    for name, few in (("SECONDS", 0.001), ("CALIBRATION", 3), ("CHECKS", 2)):
        monkeypatch.setattr(latency, name, few)
    monkeypatch.setattr(latency.LatencyTable, "fit", lambda table: made.append(table) or real(table))
    config = micro_config("seq-nas+hpo", search_channels=2, latency_batch=2, max_latency_ms=1e4)
    run = kit.search(config, out=tmp_path, progress=Silent())
    assert len(made) == 1 and made[0].network.channels == config.channels and made[0].batch == 2
    table = latency.read(run.path / "latency.json", made[0].network)
    assert table.batch == 2 and table.timed[space.picks_of(run.genotype)] <= 1e4
    said = r"max_latency_ms=1e-06 is less than any architecture needs: .*batch 2, .*1 thread\(s\)"
    with pytest.raises(KitError, match=said):
        kit.search(config.but(max_latency_ms=1e-6), out=tmp_path, progress=Silent())
