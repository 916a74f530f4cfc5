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


def total(rows: list[list[float]], picks: space.Picks) -> float:
    return sum(rows[slot][c] for slot, chosen in enumerate(picks) for c in chosen)


def scripted(monkeypatch, truth) -> tuple[list[list[float]], list[space.Picks]]:
    """A machine on which children take truth(sum of their candidates' times) ms. Returns the candidates' times, and the
    list of children that were timed, in order."""
    slots, order = built().slots, []
    alone = [[0.1 * (c % 7) + 0.02 * i for c in range(len(slot.candidates))] for i, slot in enumerate(slots)]
    monkeypatch.setattr(latency, "candidate_times", lambda *_: alone)
    monkeypatch.setattr(latency, "time_child", lambda net, picks, *_: order.append(picks) or truth(total(alone, picks)))
    return alone, order


@pytest.mark.parametrize("name", SIZES)
def test_a_whole_table_of_a_real_space(name: str, monkeypatch):
    monkeypatch.setattr(latency, "SECONDS", 0.001)
    net, threads = built(name), torch.get_num_threads()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    table = latency.table(net, "cpu", batch=2)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads  # the caller's are as they were
    assert [len(row) for row in table.candidates_ms] == [len(slot.candidates) for slot in net.slots]
    assert table.predict(children(net, 1)[0]) > 0
    assert str(table) == f"batch 2, {table.hardware}, {threads} thread(s)" and table.hardware
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_fixed_part_and_scale_come_from_the_quickest_and_the_slowest_child(monkeypatch):
    alone, order = scripted(monkeypatch, lambda ms: 2.0 + 0.5 * ms)
    table = latency.table(built(), "cpu")
    assert table.fixed_ms == pytest.approx(2.0) and len(order) == 2
    sums = [total(alone, picks) for picks in (*order, *children(built(), 300))]
    assert sums[0] == min(sums) and sums[1] == max(sums)
    for picks in children(built(), 5):
        assert table.predict(picks) == pytest.approx(2.0 + 0.5 * total(alone, picks))


def test_operations_that_make_no_difference_leave_the_fixed_part(monkeypatch):
    scripted(monkeypatch, lambda ms: 10.0 - ms / 10)
    table = latency.table(built(), "cpu")
    assert not any(map(any, table.candidates_ms)) and table.predict(children(built(), 1)[0]) > 9


def test_a_run_has_one_table(monkeypatch, tmp_path):
    path = tmp_path / "run" / "latency.json"
    _, order = scripted(monkeypatch, lambda ms: 1.0 + ms / 3)
    first = latency.table(built(), "cpu", batch=4, path=path)
    scripted(monkeypatch, lambda ms: 99.0)
    again = latency.table(built(), "cpu", batch=4, path=path)
    assert again == first and len(order) == 2
    assert latency.stored(path) == first and latency.stored(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    "change",
    [lambda v: v.pop("batch"), lambda v: v.update(fixed_ms="x")],
)
def test_an_altered_table_is_refused(change, monkeypatch, tmp_path):
    path = tmp_path / "latency.json"
    scripted(monkeypatch, lambda ms: 1.0)
    latency.table(built(), "cpu", path=path)
    values = json.loads(path.read_text())
    change(values)
    for text in (json.dumps(values), "{"):
        path.write_text(text)
        with pytest.raises(KitError, match="latency.json is not a latency table: remove the file"):
            latency.table(built(), "cpu", path=path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_children_are_timed_on_a_gpu():
    table = latency.table(built(), "cuda", batch=2)
    assert table.hardware == torch.cuda.get_device_name() and table.predict(children(built(), 1)[0]) > 0
