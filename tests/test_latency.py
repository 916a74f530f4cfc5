"""The latency table: what belongs to a candidate, how its sum is judged, and that it is made once for a run."""

from __future__ import annotations

import functools
import json

import pytest
import torch

from kit import KitError, space
from kit.arch import random_picks
from kit.space import latency
from kit.space.limits import Limits

SIZES = {"cell": {"channels": 4, "cells": 3, "reductions": 1}, "choice": {"channels": 4, "cells": 4}, "wrn-16-2": {}}


@functools.cache
def built(name: str = "cell") -> space.Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return space.build(name, 3, (3, 8, 8), **SIZES[name])


def children(net: space.Network, n: int) -> list[space.Picks]:
    g = torch.Generator().manual_seed(0)
    return [random_picks(net.slots, g, Limits(net)) for _ in range(n)]


def scripted(monkeypatch, truth, network: space.Network | None = None) -> tuple[list[list[float]], list[space.Picks]]:
    """A machine on which children take truth(sum of their candidates' times, how many were timed before) ms. Returns
    the candidates' times, and the list of children that were timed, in order."""
    slots, order = (network or built()).slots, []
    alone = [[0.1 * (c % 7) + 0.02 * i for c in range(len(slot.candidates))] for i, slot in enumerate(slots)]

    def timed(network, picks, *_) -> float:
        order.append(picks)
        return truth(total(alone, picks), len(order) - 1)

    monkeypatch.setattr(latency, "candidate_times", lambda *_: alone)
    monkeypatch.setattr(latency, "time_child", timed)
    return alone, order


def total(rows: list[list[float]], picks: space.Picks) -> float:
    return sum(rows[slot][c] for slot, chosen in enumerate(picks) for c in chosen)


@pytest.mark.parametrize("name", SIZES)
def test_a_whole_table_of_a_real_space(name: str, monkeypatch):
    for setting, few in (("SECONDS", 0.001), ("CALIBRATION", 4), ("CHECKS", 3)):
        monkeypatch.setattr(latency, setting, few)
    net = built(name)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    table = latency.table(net, "cpu", batch=2, threads=1)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == 1  # the caller's are as they were
    assert len(table.timed) == (7 if net.slots else 1) and all(ms > 0 for ms in table.timed.values())
    assert [len(row) for row in table.candidates_ms] == [len(slot.candidates) for slot in net.slots]
    picks = children(net, 1)[0]
    assert table.margin >= 1.0 and table.predict(picks) > 0
    assert table.measure(picks) == table.timed[picks] == table.bound(picks)
    assert str(table) == f"batch 2, {table.hardware}, 1 thread(s)" and table.hardware
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_fixed_part_and_scale_come_from_whole_children(monkeypatch):
    alone, order = scripted(monkeypatch, lambda ms, _: 2.0 + 0.5 * ms)
    table = latency.table(built(), "cpu")
    assert len(order) == len(set(order)) == latency.CALIBRATION + latency.CHECKS
    assert table.fixed_ms == pytest.approx(2.0) and table.margin == pytest.approx(1.0)
    sums = [total(alone, picks) for picks in (*order, *children(built(), 300))]
    assert total(alone, order[0]) == min(sums) and total(alone, order[1]) == max(sums)
    for picks in children(built(), 5):
        assert table.predict(picks) == pytest.approx(2.0 + 0.5 * total(alone, picks))


def test_the_margin_covers_every_child_that_was_timed(monkeypatch):
    alone, order = scripted(monkeypatch, lambda ms, k: (1 + 0.02 * (k % 5)) * (1.0 + ms))
    table = latency.table(built(), "cpu")
    ratios = [table.timed[picks] / table.predict(picks) for picks in order]
    assert 1.01 < table.margin < 1.2 and max(ratios) == pytest.approx(table.margin)


def test_operations_that_make_no_difference_leave_the_fixed_part(monkeypatch):
    scripted(monkeypatch, lambda ms, _: 10.0 - ms / 10)
    table = latency.table(built(), "cpu")
    assert not any(map(any, table.candidates_ms)) and len({table.predict(p) for p in children(built(), 9)}) == 1


def test_a_child_over_the_limit_is_timed_again_before_it_counts(monkeypatch):
    net, taken = built(), iter([5.0, 3.0, 4.0, 9.0, 1.0, 7.0])
    table = latency.LatencyTable(net, "cpu", "", 1, 1, 0.0, [[0.1] * len(s.candidates) for s in net.slots])
    monkeypatch.setattr(latency, "time_child", lambda *_: next(taken))
    a, b, c = children(net, 3)
    assert table.measure(a, limit=2.0) == 3.0 and table.measure(b, limit=2.0) == 1.0  # the second after two tries
    assert table.measure(c) == 7.0 and table.measure(a, limit=0.1) == 3.0


def test_a_run_has_one_table(monkeypatch, tmp_path):
    path = tmp_path / "run" / "latency.json"
    _, order = scripted(monkeypatch, lambda ms, k: 1.0 + ms + 0.01 * k)
    first = latency.table(built(), "cpu", batch=4, path=path, threads=1)
    new = children(built(), 1)[0]
    ms, timed = first.measure(new), len(order)
    again = latency.table(built(), "cpu", batch=4, path=path)
    assert again == first and again.measure(new) == ms and len(order) == timed
    assert latency.recorded(path, new) == (ms, str(first)) and latency.recorded(path, ((0, 1),) * 8) is None
    assert latency.recorded(tmp_path / "none.json", new) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v["candidates_ms"].pop(),
        lambda v: v["candidates_ms"][0].pop(),
        lambda v: v.pop("device"),
        lambda v: v.update(margin=0.5),
        lambda v: v.update(other=1),
        lambda v: v.update(timed=[{"picks": [["a"]], "ms": 1}]),
        lambda v: v.update(margin="x"),
        lambda v: v.clear(),
    ],
)
def test_an_altered_table_is_refused(change, monkeypatch, tmp_path):
    path = tmp_path / "latency.json"
    scripted(monkeypatch, lambda ms, _: 1.0)
    latency.table(built(), "cpu", path=path)
    values = json.loads(path.read_text())
    change(values)
    for text in (json.dumps(values), "{"):
        path.write_text(text)
        with pytest.raises(KitError, match="latency.json is not a latency table of this network.*remove the file"):
            latency.table(built(), "cpu", path=path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_children_are_timed_on_a_gpu():
    table = latency.table(built(), "cuda", batch=2)
    assert table.hardware == torch.cuda.get_device_name() and all(ms > 0 for ms in table.timed.values())
