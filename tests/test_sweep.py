"""Side-by-side runs: every combination once, finished ones read, a failing one does not stop the others."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import nbformat
import pytest
import torch

import kit
from kit import sweep
from kit.progress import Silent
from kit.sweep import board
from tests_micro import assert_same_run

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


def test_what_cannot_work_is_refused_before_anything_starts(tmp_path):
    config = kit.Config(method="plain", **MICRO)
    (tmp_path / "file").touch()
    with pytest.raises(kit.KitError, match="cannot be written to.*out="):
        sweep.run([config], out=tmp_path / "file")
    with pytest.raises(kit.KitError, match="backend='slurm' is not one of local, ray"):
        sweep.run([config], out=tmp_path, backend="slurm")
    with pytest.raises(kit.KitError, match="gives a run one GPU or none"):
        sweep.run([config], out=tmp_path, gpus=0.5)
    with pytest.raises(kit.KitError, match="notebook='none.ipynb' is not a file"):
        sweep.run([config], out=tmp_path, notebook="none.ipynb")
    assert not (tmp_path / config.name).exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(kit.KitError, match="no CUDA device"):
        sweep.run([kit.Config(method="plain", **MICRO)], out=tmp_path, gpus=1)


def test_a_run_that_fails_is_tried_again_as_often_as_asked(tmp_path, capfd):
    bad = kit.Config(method="plain", **{**MICRO, "batch_size": 4096})
    result = sweep.run([bad], out=tmp_path, workers=1, retries=2)
    assert len(result.failures) == 1 and capfd.readouterr().out.count("tried again") == 2


def of_group(group: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, member = stat.read_text().rpartition(")")[2].split()[:3]
            if int(member) == group and state != "Z":
                found.append(int(stat.parent.name))
    return found


def waited(condition, seconds: float = 60.0):
    until = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.02)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_worker_that_is_killed_is_started_again_goes_on_and_leaves_nothing(tmp_path):
    config = kit.Config(method="ista", **{**MICRO, "epochs": 6, "search_epochs": 2})
    folder, killed = tmp_path / "swept" / config.name, []

    def kill() -> None:
        if waited(lambda: board.epoch_of(folder) >= 2):
            pid = int((folder / ".lock").read_text())
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    result = sweep.run([config], out=tmp_path / "swept", workers=1, retries=1, quiet=True)
    killer.join()
    assert killed and not result.failures and waited(lambda: not of_group(killed[0]))
    assert_same_run(result.runs[0], kit.search(config, out=tmp_path / "alone", progress=Silent()))


def test_a_notebook_per_run_is_kept_also_when_it_fails(tmp_path):
    cells = ["import kit\nfrom kit import notebook\nvalues, _ = notebook.config(globals())\n_run = kit.search(kit.Config(**values))",
             "print(_run.metrics['test_accuracy'])"]  # fmt: skip
    source = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    source.cells = [nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]}), *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(source, tmp_path / "one.ipynb")
    good, bad = (kit.Config(method="plain", **{**MICRO, "batch_size": size}) for size in (512, 4096))
    result = sweep.run([good, bad], out=tmp_path / "out", workers=1, quiet=True, notebook=tmp_path / "one.ipynb")
    assert [run.path.name for run in result.runs] == [good.name] and "4096" in result.failures[0].cause
    kept = {name: nbformat.read(tmp_path / "out" / f"{name}.ipynb", 4) for name in (good.name, bad.name)}
    assert f"{result.runs[0].metrics['test_accuracy']}" in str(kept[good.name].cells[-1].outputs)
    assert "KitError" in str([cell.get("outputs") for cell in kept[bad.name].cells])
    assert not list((tmp_path / "out").glob(".*.ipynb"))


def test_the_cost_is_estimated_by_kind_of_run():
    table = sweep.estimate(sweep.grid(method=["plain", "ista"], seed=range(3), **MICRO), workers=2)
    assert table["method"].tolist() == ["plain", "ista"] and table["runs"].tolist() == [3, 3] and (table["macs"] > 0).all()
    expected = table["seconds_per_step"] * table["steps"] * 3 / 2 / 3600
    assert table["hours"].tolist() == pytest.approx(expected.tolist())


def test_the_table_says_where_every_run_is(tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    shown = board.Board(4, folders, dict.fromkeys(folders, 10), quiet=True)
    (tmp_path / "b" / "checkpoints").mkdir(parents=True)
    shown.start(folders[1])
    (tmp_path / "b" / "checkpoints" / "epoch-00004.safetensors").touch()
    shown.start(folders[2])
    shown.finish(folders[2], "KitError: <too large>")
    table = shown.table()
    assert "1 queued, 1 running, 0 done, 1 failed; 1 finished before" in table
    assert "epoch 4 of 10" in table and "&lt;too large&gt;" in table and "s left" in table
