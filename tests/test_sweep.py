"""Side-by-side runs: every combination once, finished ones read, a failing one does not stop the others."""

import pytest

import kit
from kit import sweep

MICRO = dict(epochs=1, search_epochs=1, channels=4, cells=3, batch_size=512, search_channels=4, search_cells=3)


def test_grid_makes_every_combination_and_refuses_an_empty_axis():
    configs = sweep.grid(method=["dha", "ista"], seed=range(3), epochs=4)
    assert [(c.method, c.seed, c.epochs) for c in configs] == [(m, s, 4) for m in ("dha", "ista") for s in range(3)]
    with pytest.raises(kit.KitError, match="method: an empty axis"):
        sweep.grid(method=[])
    with pytest.raises(kit.KitError, match="Did you mean 'dha'"):
        sweep.grid(method=["ista", "dhaa"])


def test_runs_finish_in_processes_and_are_reused(tmp_path, capfd):
    configs = sweep.grid(method=["plain", "random"], seed=[0], **MICRO)
    first = sweep.run(configs, out=tmp_path, workers=2)
    assert not first.failures and [run.config.method for run in first.runs] == ["plain", "random"]
    written = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("metrics.json")}
    again = sweep.run(configs, out=tmp_path, workers=2)
    assert [run.metrics for run in again.runs] == [run.metrics for run in first.runs]
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("metrics.json")} == written
    assert "2 runs, 2 of them finished before" in capfd.readouterr().out


def test_a_process_gives_the_same_run_as_this_one(tmp_path):
    config = kit.Config(method="dha", **MICRO)
    inside = kit.search(config, out=tmp_path / "here")
    outside = sweep.run([config], out=tmp_path / "there", workers=1, quiet=True).runs[0]
    assert inside.metrics["test_loss"] == outside.metrics["test_loss"]


def test_a_failing_run_is_named_with_its_cause_and_the_others_finish(tmp_path):
    good, bad = kit.Config(method="plain", **MICRO), kit.Config(method="plain", **{**MICRO, "batch_size": 4096})
    result = sweep.run([bad, good], out=tmp_path, workers=1, quiet=True)
    assert [run.config.batch_size for run in result.runs] == [512]
    assert [f.name for f in result.failures] == [bad.name]
    assert "4096" in result.failures[0].cause
