"""The latency table: what belongs to a candidate, how its sum is judged, and that it is made once for a run."""

from __future__ import annotations

import functools
import itertools
import json
import time

import pytest
import torch
from kit.space.cost import measure
from torch import nn

from kit import KitError, space
from kit.arch import random_picks
from kit.space import latency
from kit.space.limits import Limits
from kit.space.network import Child

CPU = torch.device("cpu")


@functools.cache
def built(channels: int = 3, name: str = "cell") -> space.Network:
    torch.manual_seed(0)
    return space.build(name, 3, (channels, 8, 8), channels=4, cells=3 if name == "cell" else 4, reductions=1)


def children(net: space.Network, n: int) -> list[space.Picks]:
    g = torch.Generator().manual_seed(0)
    return [random_picks(net.slots, g, Limits(net)) for _ in range(n)]


# ---- what is timed -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cell", "choice", "mobile"])
def test_a_candidates_time_is_that_of_its_modules_at_their_shapes(name: str, monkeypatch):
    """With multiply-adds for milliseconds the table must add up to the space's own cost."""
    monkeypatch.setattr(
        latency, "_time_module", lambda module, inputs, *_: float(measure(module, inputs[0][0][1:])[0].macs)
    )
    net = built(name=name)
    table = latency.candidate_times(net, CPU, batch=2, threads=1)
    assert [len(row) for row in table] == [len(slot.candidates) for slot in net.slots]
    assert all(any(row) for row in table)
    for a, b in itertools.pairwise(children(net, 20)):
        ours = [sum(table[slot][c] for slot, chosen in enumerate(picks) for c in chosen) for picks in (a, b)]
        assert ours[0] - ours[1] == net.cost(a).macs - net.cost(b).macs


def test_each_operation_and_shape_is_timed_once(monkeypatch):
    timed = []
    monkeypatch.setattr(latency, "_time_module", lambda module, inputs, *_: timed.append((repr(module), inputs)) or 1.0)
    latency.candidate_times(built(), CPU, batch=2, threads=1)
    assert len(timed) == len(set(timed)) and 20 < len(timed) < 60


@pytest.mark.parametrize("channels", [1, 3])
def test_operations_are_timed_in_the_memory_layout_that_they_meet(channels: int, monkeypatch):
    net = built(channels)
    inputs = latency.inputs_of_modules(net, CPU, batch=2)
    operations = {name: found for name, found in inputs.items() if ".ops." in name and name.count(".") == 3}
    assert len(operations) == sum(len(cell.ops) for cell in net.cells)
    assert {found[0][1] for found in operations.values()} == {torch.channels_last}
    assert all(found[0][0][0] == 2 for found in operations.values())
    met = []
    monkeypatch.setattr(latency, "_milliseconds", lambda call, device: met.append(call.__closure__) or 1.0)
    latency._time_module(net.cells[0].cpu().before, (((2, 12, 8, 8), torch.channels_last),), CPU, 1)
    (tensors,) = [c.cell_contents for c in met[0] if isinstance(c.cell_contents, list)]
    assert tensors[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["cell", "choice", "mobile", "wrn-16-2"])
def test_a_whole_table_of_a_real_space(name: str, monkeypatch):
    for setting, few in (("GROUPS", 2), ("MOST_GROUPS", 2), ("PASSES", 3), ("CALIBRATION", 4), ("CHECKS", 3)):
        monkeypatch.setattr(latency, setting, few)
    net = space.build(name, 3, (3, 8, 8)) if name.startswith("wrn") else built(name=name)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    table = latency.table(net, "cpu", batch=2, threads=1)
    assert (
        torch.equal(torch.rand(3), expected) and torch.get_num_threads() == 1
    )  # the caller's draws and threads are as they were
    assert len(table.timed) == (7 if net.slots else 1) and all(ms > 0 for ms in table.timed.values())
    assert table.margin >= 1.0 and (table.error is None) == (not net.slots)
    picks = children(net, 1)[0]
    assert table.predict(picks) > 0 and table.measure(picks) == table.timed[picks] == table.bound(picks)
    assert str(table) == f"batch 2, {table.hardware}, 1 thread(s)" and table.hardware


# ---- the sum and its margin ----------------------------------------------------------------------


def scripted(monkeypatch, alone: list[list[float]], truth) -> list[space.Picks]:
    """A machine on which children take truth(picks) ms; returns the list of children that were timed, in order."""
    order: list[space.Picks] = []
    monkeypatch.setattr(latency, "candidate_times", lambda *_: alone)
    monkeypatch.setattr(latency, "time_child", lambda network, picks, *_: order.append(picks) or truth(picks))
    return order


def test_fixed_part_and_scale_come_from_whole_children(monkeypatch):
    net = built()
    alone = [[0.1 * (c % 7) + 0.02 * slot for c in range(len(s.candidates))] for slot, s in enumerate(net.slots)]
    total = lambda picks: sum(alone[slot][c] for slot, chosen in enumerate(picks) for c in chosen)  # noqa: E731
    order = scripted(monkeypatch, alone, lambda picks: 2.0 + 0.5 * total(picks))
    table = latency.table(net, "cpu")
    assert len(order) == len(set(order)) == latency.CALIBRATION + latency.CHECKS  # none is suspect, none timed twice
    assert (
        table.fixed_ms == pytest.approx(2.0)
        and table.margin == pytest.approx(1.0)
        and table.error["max"] == pytest.approx(0, abs=1e-9)
    )
    for picks in children(net, 5):
        assert table.predict(picks) == pytest.approx(2.0 + 0.5 * total(picks))
    ends = sorted(total(picks) for picks in order)
    assert ends[0] == min(map(total, children(net, 300) + order)) and ends[-1] == max(
        map(total, children(net, 300) + order)
    )


def test_the_margin_covers_every_child_that_was_timed(monkeypatch):
    net = built()
    alone = [[0.1 + 0.1 * (c % 7) for c in range(len(s.candidates))] for s in net.slots]
    wobble = lambda picks: 1 + 0.2 * ((hash(picks) % 1000) / 1000 - 0.5)  # noqa: E731
    truth = lambda picks: (
        wobble(picks) * (1.0 + sum(alone[slot][c] for slot, chosen in enumerate(picks) for c in chosen))
    )  # noqa: E731
    order = scripted(monkeypatch, alone, truth)
    table = latency.table(net, "cpu")
    assert 1.02 < table.margin < 1.3
    assert all(truth(picks) <= table.margin * table.predict(picks) * (1 + 1e-9) for picks in order)
    assert max(truth(picks) / table.predict(picks) for picks in order) == pytest.approx(table.margin)
    checks = list(dict.fromkeys(order))[latency.CALIBRATION :]
    errors = sorted(abs(table.predict(picks) / truth(picks) - 1) for picks in checks)
    assert table.error == {
        "children": latency.CHECKS,
        "median": pytest.approx((errors[3] + errors[4]) / 2),
        "max": pytest.approx(errors[-1]),
    }


def test_a_child_timed_while_the_machine_was_busy_is_timed_again(monkeypatch):
    net = built()
    alone = [[0.1 + 0.1 * (c % 7) for c in range(len(s.candidates))] for s in net.slots]
    calls = []

    def truth(picks):
        calls.append(picks)
        busy = 4.0 if len(calls) in (5, 16) else 1.0
        return busy * (1.0 + sum(alone[slot][c] for slot, chosen in enumerate(picks) for c in chosen))

    scripted(monkeypatch, alone, truth)
    table = latency.table(net, "cpu")
    assert calls.count(calls[4]) == calls.count(calls[15]) == 2 and table.margin == pytest.approx(1.0)


def test_operations_that_make_no_difference_leave_the_fixed_part(monkeypatch):
    net = built()
    alone = [[0.1 * c for c in range(len(s.candidates))] for s in net.slots]
    scripted(
        monkeypatch,
        alone,
        lambda picks: 10.0 - sum(alone[slot][c] for slot, chosen in enumerate(picks) for c in chosen) / 10,
    )
    table = latency.table(net, "cpu")
    assert not any(map(any, table.candidates_ms)) and len({table.predict(p) for p in children(net, 9)}) == 1
    assert all(ms <= table.margin * table.predict(picks) * (1 + 1e-9) for picks, ms in table.timed.items())


def test_the_clock_takes_the_smallest_median(monkeypatch):
    monkeypatch.setattr(latency, "LONGEST", 60.0)

    def clock(*groups: list[float]) -> tuple[float, int]:
        taken, calls = iter(sum(groups, [])), []
        monkeypatch.setattr(latency, "_cpu_ms", lambda call, device: call() or next(taken))
        return latency._milliseconds(lambda: calls.append(1), CPU), len(calls) - latency.WARM_UP

    assert clock([9.0] * 9 + [1.0], [2.0] * 6 + [50.0] * 4, [2.05] * 10) == (2.0, 30)
    # the machine was busy for a while: more groups, until two agree
    assert clock([9.0] * 10, [2.0] * 10, [5.0] * 10, [4.0] * 10, [2.1] * 10) == (2.0, 50)
    assert clock(*([float(k)] * 10 for k in range(20, 0, -2))) == (2.0, 10 * latency.MOST_GROUPS)  # it never was quiet


def test_one_thread_has_a_clock_of_its_own():
    """What sleeps, or waits for a core, takes no time of the thread."""
    assert latency._cpu_ms(lambda: time.sleep(0.02), CPU) < 15 < 20 <= wall(lambda: time.sleep(0.02))


def wall(call) -> float:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 2)
        return latency._cpu_ms(call, CPU)


def test_a_child_over_the_limit_is_timed_again_before_it_counts(monkeypatch):
    net, taken = built(), iter([5.0, 3.0, 4.0, 9.0, 1.0, 7.0])
    table = latency.LatencyTable(net, "cpu", "", 1, 1, 0.0, [[0.1] * len(s.candidates) for s in net.slots], 1.0, None)
    monkeypatch.setattr(latency, "time_child", lambda *_: next(taken))
    a, b, c = children(net, 3)
    assert table.measure(a, limit=2.0) == 3.0 and table.measure(b, limit=2.0) == 1.0  # the second after two tries
    assert table.measure(c) == 7.0 and table.measure(a, limit=0.1) == 3.0


def test_a_child_is_timed_alone_and_in_evaluation_mode(monkeypatch):
    seen = []

    def clock(call, device):
        seen.append(call())
        return 1.0

    built_alone = []
    monkeypatch.setattr(latency, "_cpu_ms", clock)
    monkeypatch.setattr(latency, "build", lambda **spec: built_alone.append(space.build(**spec)) or built_alone[-1])
    latency.time_child(built(), children(built(), 1)[0], CPU, 5, 1)
    (net,) = built_alone
    assert not net.training and net.only_child() and not seen[0].requires_grad and seen[0].shape == (5, 3)


# ---- its file ------------------------------------------------------------------------------------


def test_a_run_has_one_table(monkeypatch, tmp_path):
    net, path = built(), tmp_path / "run" / "latency.json"
    alone = [[0.1 + 0.1 * (c % 7) for c in range(len(s.candidates))] for s in net.slots]
    order = scripted(monkeypatch, alone, lambda picks: 1.0 + 0.01 * len(order) + sum(alone[0][c] for c in picks[0]))
    first = latency.table(net, "cpu", batch=4, path=path, threads=1)
    new = children(net, 1)[0]
    ms = first.measure(new)
    monkeypatch.setattr(latency, "_measured", lambda *_: pytest.fail("the table was made again"))
    monkeypatch.setattr(latency, "time_child", lambda *_: pytest.fail("a child was timed again"))
    again = latency.table(net, "cpu", batch=4, path=path)
    assert (
        again.values() == first.values()
        and again.measure(new) == ms
        and again.timed == first.timed
        and again.path == path
    )
    # two processes that begin one run: the first file is both's
    monkeypatch.undo()
    scripted(monkeypatch, alone, lambda picks: 100.0)
    other, real = tmp_path / "other" / "latency.json", latency._measured

    def meanwhile(*args):
        made = real(*args)
        first.path = other
        first.save()
        return made

    monkeypatch.setattr(latency, "_measured", meanwhile)
    assert latency.table(net, "cpu", batch=4, path=other).fixed_ms == first.fixed_ms


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v["candidates_ms"].pop(),
        lambda v: v["candidates_ms"][0].pop(),
        lambda v: v.pop("margin"),
        lambda v: v.update(margin=0.5),
        lambda v: v.update(other=1),
        lambda v: v.update(timed=[{"picks": [["a"]], "ms": 1}]),
        lambda v: v.update(margin="x"),
        lambda v: v.clear(),
    ],
)
def test_an_altered_table_is_refused(change, monkeypatch, tmp_path):
    net, path = built(), tmp_path / "latency.json"
    scripted(monkeypatch, [[0.1] * len(s.candidates) for s in net.slots], lambda picks: 1.0)
    latency.table(net, "cpu", path=path)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(
        KitError, match="latency.json is not a latency table of this network.*remove the file to measure again"
    ):
        latency.table(net, "cpu", path=path)
    path.write_text("{")
    with pytest.raises(KitError, match="latency.json cannot be read"):
        latency.table(net, "cpu", path=path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: CUDA events are untested")
def test_on_a_gpu_events_time_the_children():
    table = latency.table(built(), "cuda", batch=2)
    assert (
        table.hardware == torch.cuda.get_device_name()
        and all(ms > 0 for ms in table.timed.values())
        and table.margin < 3
    )


def test_modules_without_a_choice_belong_to_every_child():
    class One(nn.Module):
        slots = (space.Slot("only", (("conv", 0),), 1),)

    assert latency._own_modules(One(), 0, 0) == []


def test_the_hooks_are_gone_after():
    net = built()
    latency.inputs_of_modules(net, CPU, batch=1)
    assert not any(m._forward_pre_hooks for m in net.modules())
    net(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), Child(children(net, 1)[0]))
