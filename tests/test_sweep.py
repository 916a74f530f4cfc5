"""Side-by-side runs: every combination once, finished ones read, a failing one does not stop the others."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import nbformat
import numpy as np
import pytest
from test_process import ENDLESS, SMALL, gone, process_at_work, until

import kit
from kit import files
from kit.lab import sweep


def test_grid_makes_every_combination_and_refuses_what_makes_none():
    configs = sweep.grid(method=["dha", "ista"], seed=range(3), epochs=4)
    assert [(c.method, c.seed, c.epochs) for c in configs] == [(m, s, 4) for m in ("dha", "ista") for s in range(3)]
    assert sweep.grid(method=np.array(["dha", "ista"]), seed=np.arange(3), epochs=np.int64(4)) == configs
    for axes, says in (
        ({"method": []}, "method: an empty axis"),
        ({"method": ["ista", "dhaa"]}, "Did you mean 'dha'"),
        ({"methods": ["dha"]}, "unknown parameter 'methods'. Did you mean 'method'"),
    ):
        with pytest.raises(kit.KitError, match=says):
            sweep.grid(**axes)


def test_axes_are_read_from_flat_parameters():
    axes = sweep.axes("digits", "plain, random", 2, "lr=0.01:0.1, channels=4", {"epochs": 1, "lr": 0.5})
    assert axes == {
        "epochs": 1,
        "dataset": ["digits"],
        "method": ["plain", "random"],
        "seed": [0, 1],
        "lr": [0.01, 0.1],
        "channels": [4],
    }
    assert len(sweep.grid(**axes)) == 8
    assert sweep.axes("digits", "plain", "0,3", "", {})["seed"] == [0, 3]


@pytest.mark.parametrize(
    "given, says",
    [
        (("", "dha", 1, ""), "dataset: an empty axis"),
        (("digits", ",", 1, ""), "method: an empty axis"),
        (("digits", "dha", 0, ""), "seed: an empty axis"),
        (("digits", "dha", "a", ""), "neither a number of seeds"),
        (("digits", "dha", 1, "lr"), "is not name=value:value"),
        (("digits", "dha", 1, "lr=fast"), "parameter lr='fast'.*a valid number"),
        (("digits", "dha", 1, "learning=1"), "unknown parameter 'learning'"),
        (("digits", "dha", 1, "seed=1"), "is an axis already"),
        (("digits", "dha", 1, "lr="), "lr: an empty axis"),
    ],
)
def test_axes_that_cannot_be_read_are_refused(given, says):
    with pytest.raises(kit.KitError, match=says):
        sweep.grid(**sweep.axes(*given, {}))


@pytest.mark.parametrize(
    "given, says",
    [
        ({"backend": "slurm"}, "unknown backend 'slurm'. Valid: local, ray"),
        ({"workers": -1}, "workers=-1: give a whole number from 0 to 1,000"),
        ({"threads": 0}, "threads=0"),
        ({"retries": -1}, "retries=-1"),
        ({"gpus": 1.5}, "gpus=1.5 of each run is neither"),
        ({"gpus": 99}, "gpus=99 for each of .* this machine has"),
        ({"hung": -1}, "hung=-1: give a whole number from 0"),
        ({"notebook": "none.ipynb"}, "notebook='none.ipynb' is no file"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(tmp_path, given, says):
    with pytest.raises(kit.KitError, match=says):
        sweep.run([kit.Config()], out=tmp_path / "runs", **given)
    assert not list(tmp_path.iterdir())


def test_data_that_are_not_there_are_one_error_before_any_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "ChildProcess", None)
    with pytest.raises(kit.KitError, match="sport8"):
        sweep.run(sweep.grid(dataset="sport8", seed=range(3), root=str(tmp_path / "data")), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_cards_are_shared_out():
    assert sweep.places(["2", "5"], 1) == ["2", "5"]
    assert sweep.places(["2", "5"], 0.5) == ["2", "2", "5", "5"]
    assert sweep.places(["2", "5", "7"], 2) == ["2,5"]
    assert sweep.places(["2", "5"], 0) == sweep.places([], 1) == []


def test_a_failing_run_is_tried_again_as_asked_and_the_others_finish_and_are_reused(tmp_path, capfd):
    good = sweep.grid(**{**SMALL, "epochs": 1, "method": ["plain", "random"]}, search_channels=4, search_cells=3)
    bad = kit.Config(**{**SMALL, "batch_size": 4096})
    result = sweep.run([bad, *good], out=tmp_path, workers=2, retries=1)
    assert [run.config for run in result.runs] == good
    assert list(result.failures) == [bad.name] and "4096" in result.failures[bad.name]
    with pytest.raises(kit.KitError, match="1 of 3 runs failed: .*4096"):
        sweep.require_all(result)
    said = capfd.readouterr().out
    assert "3 runs, 0 of them finished before" in said and f"{good[0].name}: test accuracy" in said
    assert f"{bad.name}: failed: KitError" in said
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.json")}
    again = sweep.run(good, out=tmp_path)
    assert [run.metrics for run in again.runs] == [run.metrics for run in result.runs] and not again.failures
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.json")} == written
    assert "2 runs, 2 of them finished before" in capfd.readouterr().out


def test_what_another_process_works_on_comes_last_and_is_waited_for(tmp_path):
    """As in the second of two sweeps on one folder."""
    first, second = configs = sweep.grid(**{**SMALL, "epochs": 2, "seed": range(2)})
    results = []
    with files.exclusive(tmp_path / first.name):
        thread = threading.Thread(target=lambda: results.append(sweep.run(configs, tmp_path, workers=1)))
        thread.start()
        until((tmp_path / second.name / "metrics.json").exists, "the run that nobody works on")
        assert not results
    thread.join(480)
    ((runs, failures),) = results
    assert not failures and [run.config for run in runs] == configs


SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background hands down one that is ignored
from kit import sweep
configs = sweep.grid(**{short!r}, seed=range(2))
print(sweep.run(configs, {out!r}, workers=1).failures, flush=True)
sweep.run(sweep.grid(**{endless!r}, seed=range(2)), {out!r}, 1, retries=1)
"""


def test_a_script_without_a_guard_runs_a_sweep_and_ctrl_c_leaves_nothing_running(tmp_path):
    script, said, errors = (tmp_path / name for name in ("script.py", "said", "errors"))
    script.write_text(SCRIPT.format(short=SMALL | {"epochs": 1}, endless=ENDLESS, out=str(tmp_path)))
    with open(said, "w") as stdout, open(errors, "w") as stderr:
        parent = subprocess.Popen([sys.executable, script], stdout=stdout, stderr=stderr)
    config = kit.Config(**ENDLESS)
    process = process_at_work(tmp_path / config.name)
    sweep_said = said.read_text().split("{}\n")[0]
    assert "2 of 2 done, 0 failed" in sweep_said and sweep_said.count("0 of them finished before") == 1
    assert said.read_text().count("{}\n") == 1
    parent.send_signal(signal.SIGINT)
    assert parent.wait(120) != 0 and gone(process)
    assert errors.read_text() == "stopped after 0 of 2 runs; run again to go on\n"
    assert kit.Run.load(tmp_path / config.name).status == "interrupted"


NOTEBOOK = """
assert batch_size < 4096, "too large: 4096"
import kit
from kit.lab import notebook
values, _ = notebook.config(globals())
run = kit.search(kit.Config(**values))
print("test images", run.metrics["test_images"])
"""


def test_a_notebook_per_run_is_kept_also_when_it_fails_or_is_killed(tmp_path):
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = nbformat.v4.new_notebook(metadata={"kernelspec": spec})
    parameters = nbformat.v4.new_code_cell("dataset = 'digits'\nout = 'runs'", metadata={"tags": ["parameters"]})
    book.cells = [parameters, nbformat.v4.new_code_cell(NOTEBOOK)]
    nbformat.write(book, tmp_path / "one.ipynb")
    out, results = tmp_path / "runs", []
    good, bad, killed = configs = [
        kit.Config(**{**ENDLESS, **more}) for more in ({"epochs": 1}, {"batch_size": 4096}, {})
    ]
    given = {"out": out, "workers": 3, "notebook": str(tmp_path / "one.ipynb")}
    thread = threading.Thread(target=lambda: results.append(sweep.run(configs, **given)))
    thread.start()
    kernel = process_at_work(out / killed.name)
    kernel.suspend()  # frozen, it cannot notice that it is alone
    kernel.parent().kill()  # papermill's process
    thread.join(480)
    (result,) = results
    causes = result.failures
    assert [run.config.name for run in result.runs] == [good.name] and causes.keys() == {bad.name, killed.name}
    assert causes[bad.name].startswith("AssertionError: too large: 4096") and "signal 9" in causes[killed.name]
    assert gone(kernel)
    kept = {name: nbformat.read(out / f"{name}.ipynb", as_version=4) for name in (good.name, bad.name)}
    assert "test images" in str(kept[good.name].cells[-1].outputs)
    assert "4096" in str([cell.get("outputs") for cell in kept[bad.name].cells])
