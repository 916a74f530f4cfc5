"""Side-by-side runs: every combination once, finished ones read, a failing one does not stop the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from tests_micro import assert_same_run

import kit
from kit.lab import sweep
from kit.lab.sweep import local, table
from kit.lab.sweep.process import Job
from kit.run import store
from kit.search.engine import Search
from kit.search.progress import Silent

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


def test_a_grid_refuses_an_unknown_axis_before_it_makes_any_configuration():
    with pytest.raises(kit.KitError, match="unknown parameter 'methods'. Did you mean 'method'"):
        sweep.grid(methods=["dha"])


def test_axes_are_read_from_flat_parameters():
    axes = sweep.axes.read("digits", "plain, random", 2, "lr=0.01:0.1, channels=4", {"epochs": 1, "lr": 0.5})
    assert axes == {
        "epochs": 1,
        "dataset": ["digits"],
        "method": ["plain", "random"],
        "seed": [0, 1],
        "lr": [0.01, 0.1],
        "channels": [4],
    }
    assert len(sweep.grid(**axes)) == 8
    assert sweep.axes.read("digits", "plain", "0,3", "", {})["seed"] == [0, 3]


@pytest.mark.parametrize(
    "given, says",
    [
        (("", "dha", 1, ""), "datasets='': an empty axis"),
        (("digits", ",", 1, ""), "methods=',': an empty axis"),
        (("digits", "dha", 0, ""), "makes no runs"),
        (("digits", "dha", "a", ""), "neither a number of seeds"),
        (("digits", "dha", 1, "lr"), "is not name=value:value"),
        (("digits", "dha", 1, "lr=fast"), "parameter lr='fast'.*a number"),
        (("digits", "dha", 1, "learning=1"), "unknown parameter 'learning'"),
        (("digits", "dha", 1, "seed=1"), "seed is an axis already"),
        (("digits", "dha", 1, "lr="), "lr: an empty axis"),
    ],
)
def test_axes_that_cannot_be_read_are_refused(given, says):
    with pytest.raises(kit.KitError, match=says):
        sweep.grid(**sweep.axes.read(*given, {}))


@pytest.mark.parametrize(
    "given, says",
    [
        ({"backend": "slurm"}, "unknown backend 'slurm'. Valid: local, ray"),
        ({"workers": 0}, "workers=0 is not a whole number of 1"),
        ({"threads": 0}, "threads=0"),
        ({"retries": -1}, "retries=-1"),
        ({"gpus": 1.5}, "gpus=1.5 of each run is neither"),
        ({"gpus": -1}, "gpus=-1"),
        ({"gpus": 99}, "gpus=99 for each run, and this machine has"),
        ({"notebook": "none.ipynb"}, "notebook='none.ipynb' is no file"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(tmp_path, given, says):
    with pytest.raises(kit.KitError, match=says):
        sweep.run([kit.Config()], out=tmp_path / "runs", quiet=True, **given)
    assert not list(tmp_path.glob("runs/*"))


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(kit.KitError, match="out=.*file/runs' cannot be written"):
        sweep.run([kit.Config()], out=tmp_path / "file" / "runs", quiet=True)


def test_cards_are_shared_out(monkeypatch):
    monkeypatch.setattr(local, "_cards", lambda: ["2", "5"])
    assert [place.cards for place in local.Local(None, 1, 1).free] == ["2", "5"]
    assert [place.cards for place in local.Local(None, 1, 0.5).free] == ["2", "2", "5", "5"]
    assert [place.cards for place in local.Local(None, 1, 2).free] == ["2,5"]
    assert {place.cards for place in local.Local(3, 1, 0).free} == {""}  # hidden: gpus=0 is for the CPU
    with pytest.raises(
        kit.KitError, match="workers=5 of gpus=0.5 each need 2.5 GPUs, and this machine has 2: workers=4 fit"
    ):
        local.Local(5, 1, 0.5)


def test_cores_are_set_where_the_slots_take_all(monkeypatch):
    monkeypatch.setattr(local, "_cores", lambda: [0, 1, 4, 5])
    assert [place.cores for place in local.Local(None, 2, 0).free] == [(0, 1), (4, 5)]
    assert [place.cores for place in local.Local(1, 1, 0).free] == [None]


def test_the_estimate_scales_with_epochs_and_leaves_out_what_is_finished(tmp_path):
    given = {**MICRO, "train_images": 256, "batch_size": 64}
    short, long = kit.Config(method="plain", **given), kit.Config(method="plain", **{**given, "epochs": 3})
    found = sweep.estimate([short, long], out=tmp_path, workers=2)
    assert found.macs[long.name] == 3 * found.macs[short.name] > 0
    assert (
        found.seconds[long.name] == pytest.approx(3 * found.seconds[short.name])
        and found.wall == found.seconds[long.name]
    )
    net = Search(short, tmp_path / "none").parts
    assert found.macs[short.name] == net.net.cost(net.arch.picks).macs * 64 * 4
    (tmp_path / long.name).mkdir()
    (tmp_path / long.name / "metrics.json").touch()
    assert list(sweep.estimate([short, long], out=tmp_path).seconds) == [short.name] and "2 runs to do" in str(found)


# ---- processes -----------------------------------------------------------------------------------

LONG = {**MICRO, "epochs": 500, "train_images": 128, "batch_size": 64}


def run_of(folder: Path) -> psutil.Process:
    """The process at work in a run directory, once it has saved an epoch."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if any(folder.glob("checkpoints/*.safetensors")):
            return psutil.Process(int((folder / ".lock").read_text()))
        time.sleep(0.02)
    raise AssertionError("the run never began")


def gone(process: psutil.Process) -> bool:
    psutil.wait_procs([process], timeout=10)
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def in_background(*args, **kwargs) -> tuple[threading.Thread, list]:
    results: list = []
    thread = threading.Thread(target=lambda: results.append(sweep.run(*args, quiet=True, **kwargs)))
    thread.start()
    return thread, results


def test_a_killed_run_is_retried_as_asked_from_its_checkpoint(tmp_path):
    config = kit.Config(method="plain", **{**LONG, "epochs": 12})
    thread, results = in_background([config], out=tmp_path, workers=1, retries=1)
    process = run_of(tmp_path / config.name)
    assert os.getpgid(process.pid) == process.pid  # a group of its own
    process.kill()
    thread.join(60)
    (result,) = results
    assert not result.failures and result.attempts == {config.name: 2} and gone(process)
    history = result.runs[0].history
    assert list(history[history["name"] == "loss"]["epoch"]) == list(range(1, 13))
    assert_same_run(result.runs[0], kit.search(config, out=tmp_path / "whole", progress=Silent()))


def test_a_killed_run_without_retries_is_listed(tmp_path):
    config = kit.Config(method="plain", **LONG)
    thread, results = in_background([config], out=tmp_path, workers=1)
    run_of(tmp_path / config.name).kill()
    thread.join(60)
    assert [(f.name, f.cause) for f in results[0].failures] == [(config.name, "killed by signal 9")]
    with pytest.raises(kit.KitError, match="1 of 1 runs failed: .*killed by signal 9"):
        sweep.require_all(results[0])
    failure = store.read_json(tmp_path / config.name / "failure.json")  # written for it
    assert (failure["error"], failure["message"]) == ("Killed", "killed by signal 9") and failure["epoch"] >= 0
    assert kit.Run.load(tmp_path / config.name).status == "failed"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_when_the_sweep_ends_early_nothing_of_it_lives_on(tmp_path, how):
    config = kit.Config(method="plain", **LONG)
    # a suite that runs in the background hands down a SIGINT that is ignored
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += f"import kit; from kit import sweep; sweep.run([kit.Config(**{config.model_dump()!r})], out={str(tmp_path)!r}, workers=1)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = run_of(tmp_path / config.name)
    server = process.parent()
    parent.send_signal(how)
    assert parent.wait(20) != 0 and gone(process) and gone(server)
    assert kit.Run.load(tmp_path / config.name).status == "interrupted"


NOTEBOOK = """
assert batch_size < 4096, "too large: 4096"
import kit
from kit.lab import notebook
values, _ = notebook.config(globals())
run = kit.search(kit.Config(**values))
print("test images", run.metrics["test_images"])
"""


def write_notebook(path: Path) -> str:
    book = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    cells = [
        nbformat.v4.new_code_cell("dataset = 'digits'\nout = 'runs'", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(NOTEBOOK),
    ]
    book.cells = cells
    nbformat.write(book, path)
    return str(path)


def test_a_notebook_per_run_is_kept_also_when_it_fails_or_is_killed(tmp_path):
    book, out = write_notebook(tmp_path / "one.ipynb"), tmp_path / "runs"
    small = {**MICRO, "train_images": 128, "batch_size": 64}
    good, bad = kit.Config(method="plain", **small), kit.Config(method="plain", **{**small, "batch_size": 4096})
    killed = kit.Config(method="plain", **LONG)
    thread, results = in_background([good, bad, killed], out=out, workers=2, notebook=book)
    kernel = run_of(out / killed.name)
    kernel.parent().kill()  # papermill's process: the kernel notices that it is alone
    thread.join(120)
    (result,) = results
    causes = {f.name: f.cause for f in result.failures}
    assert [run.config.name for run in result.runs] == [good.name] and causes.keys() == {bad.name, killed.name}
    assert (
        causes[bad.name].startswith("AssertionError: ")
        and "4096" in causes[bad.name]
        and causes[killed.name] == "killed by signal 9"
    )
    assert gone(kernel)
    books = {name: nbformat.read(out / f"{name}.ipynb", as_version=4) for name in (good.name, bad.name, killed.name)}
    assert "test images" in str(books[good.name].cells[-1].outputs)
    assert "4096" in str([cell.get("outputs") for cell in books[bad.name].cells])
    assert not list(out.glob(".*.ipynb")) and all("widgets" not in kept.metadata for kept in books.values())


# ---- what it shows -------------------------------------------------------------------------------


def test_the_live_table_counts_states_and_keeps_no_widget(tmp_path, monkeypatch):
    pages = []
    monkeypatch.setattr(
        "IPython.display.display",
        lambda page, display_id: pages.append(page.data) or SimpleNamespace(update=lambda p: pages.append(p.data)),
    )
    live, job, other = table.Live(), *(Job(kit.Config(seed=seed), tmp_path / f"run{seed}") for seed in (0, 1))
    live.open(3, [job, other], 1, 1)
    assert "0 running, 0 failed, 2 queued, 0 done, 1 finished before" in pages[-1]
    live.running(job)
    (job.folder / "checkpoints").mkdir(parents=True)
    (job.folder / "checkpoints" / "epoch-00007.safetensors").touch()
    live.tick()
    assert "1 running" in pages[-1] and f"epoch 7/{job.config.epochs}, about " in pages[-1]
    live.ended(job, "KitError: a < b", False)
    assert "1 failed, 1 queued" in pages[-1] and "a &lt; b" in pages[-1]


def test_the_summary_has_a_row_per_override(tmp_path):
    runs = [
        SimpleNamespace(config=kit.Config(seed=seed, lr=lr), metrics={"test_accuracy": a, "seconds": 1.0})
        for seed, lr, a in ((0, 0.1, 0.5), (1, 0.1, 0.7), (0, 0.2, 0.9))
    ]
    rows = sweep.summary(runs)
    assert (
        list(rows["lr"]) == ["0.1", "0.2"]
        and list(rows["n"]) == [2, 1]
        and list(rows["test accuracy"]) == pytest.approx([0.6, 0.9])
    )
    assert sweep.summary([]).empty
