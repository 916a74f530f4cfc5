"""What a run leaves behind: it is read with suspicion, and what it predicts is what it measured."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_micro import Stop, StopAfterEachEpoch, assert_same_run, micro_config

import kit
from kit import KitError, Run, files
from kit.run import provenance, store
from kit.run.run import open_all
from kit.search.progress import Silent


@pytest.fixture
def copied(finished: Run, tmp_path: Path) -> Run:
    """The finished run, to be altered."""
    return Run.load(shutil.copytree(finished.path, tmp_path / finished.path.name))


# ---- what is no run, or none of this version -----------------------------------------------------


def test_a_missing_run_is_an_error_that_lists_those_nearby(finished: Run, tmp_path: Path):
    for path in (finished.path.parent, finished.path.parent / "other", finished.path / "x"):
        with pytest.raises(KitError, match=f"is not a run directory.*runs nearby: {re.escape(str(finished.path))}"):
            Run.load(path)
    with pytest.raises(KitError, match="kit.search\\(kit.Config"):
        Run.load(tmp_path / "empty" / "nothing" / "at" / "all")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"dataset": None}, "this version of kit: its config.json lacks fields"),
        ({"later": 1}, "this version of kit.*unknown parameter 'later'"),
        ({"method": "method-of-2031"}, "this version of kit.*unknown method"),
        ({"epochs": "many"}, "this version of kit.*epochs='many'"),
        ({"batch_size": None}, "this version of kit: its config.json lacks fields"),
    ],
)
def test_a_configuration_of_another_version_is_refused(change: dict, why: str, finished: Run, tmp_path: Path):
    values = store.read_json(finished.path / "config.json") | change
    store.write_json(tmp_path / "config.json", {name: value for name, value in values.items() if name != "batch_size"})
    if "batch_size" not in change:
        store.write_json(tmp_path / "config.json", values)
    with pytest.raises(KitError, match=f"{re.escape(str(tmp_path))}.*{why}"):
        Run.load(tmp_path)


def test_a_field_that_decides_nothing_may_be_missing(copied: Run):
    values = store.read_json(copied.path / "config.json")
    del values["trajectory"]
    store.write_json(copied.path / "config.json", values)
    assert Run.load(copied.path).config == copied.config


def test_opening_a_run_executes_no_plug_in(finished: Run, tmp_path: Path):
    mark, plugin = tmp_path / "executed", tmp_path / "mine.py"
    plugin.write_text(f"open({str(mark)!r}, 'w')")
    values = finished.config.model_dump() | {"plugins": str(plugin), "arch": "mine"}
    store.write_json(tmp_path / "config.json", values)
    with pytest.raises(KitError, match="never executes its plug-in .*mine.py"):
        Run.load(tmp_path)
    assert not mark.exists()


def test_a_directory_of_another_program_is_no_run(tmp_path: Path):
    store.write_json(tmp_path / "config.json", {"model_type": "bert"})
    with pytest.raises(KitError, match="run of this version of kit: unknown parameter"):
        Run.load(tmp_path)


def test_a_run_is_read_where_its_data_are_not(copied: Run):
    store.write_json(copied.path / "config.json", copied.config.model_dump() | {"dataset": "/gone/photos"})
    run = Run.load(copied.path)
    assert run.config.dataset == "/gone/photos" and run.predict(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)).names


def test_a_broken_config_is_an_error_that_names_the_file_and_the_search_mends_it(copied: Run):
    (copied.path / "config.json").write_text("{")
    with pytest.raises(KitError, match="config.json cannot be read"):
        Run.load(copied.path)
    (copied.path / "metrics.json").unlink()
    assert kit.search(micro_config(), out=copied.path.parent, progress=Silent()).config == micro_config()


def test_runs_are_opened_by_paths_with_commas(finished: Run, copied: Run):
    assert [run.path for run in open_all(f"{finished.path}, {copied.path},")] == [finished.path, copied.path]
    assert open_all("") == []


# ---- properties ----------------------------------------------------------------------------------


def test_what_was_not_written_yet_is_empty(finished: Run, tmp_path: Path):
    shutil.copy(finished.path / "config.json", tmp_path)
    run = Run.load(tmp_path)
    for name in ("metrics", "provenance", "failure", "alpha", "tau", "genotype", "policy", "hyper"):
        assert getattr(run, name) == {}, name
    assert list(run.history.columns) == ["step", "epoch", "name", "value"] and run.history.empty
    for question in (run.model, run.card, lambda: run.classes, lambda: run.curve("loss")):
        with pytest.raises(KitError, match=r"has no model yet \(interrupted\)|is not finished|has no curve"):
            question()


def test_the_status_says_how_it_stands(finished: Run, tmp_path: Path):
    shutil.copy(finished.path / "config.json", tmp_path)
    run = Run.load(tmp_path)
    assert finished.status == "finished" and finished.finished and not run.finished
    assert run.status == "interrupted" and repr(run).endswith("interrupted>")
    with files.exclusive(tmp_path):
        assert run.status == "running"
    store.write_json(tmp_path / "failure.json", {"error": "NonFinite", "message": "the loss is nan"})
    assert run.status == "failed" and run.failure["message"] == "the loss is nan"
    assert repr(finished).endswith(f"test accuracy {finished.metrics['test_accuracy']:.4f}>")


def test_an_unknown_curve_is_refused_with_the_known_ones(finished: Run):
    assert list(finished.curve("loss").index) == [1, 2]
    with pytest.raises(KitError, match="no curve 'los'; it has: .*loss"):
        finished.curve("los")


class Bomb:
    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_nothing_in_a_run_directory_is_ever_unpickled(copied: Run, tmp_path: Path):
    mark = tmp_path / "executed"
    bomb, stream = pickle.dumps(Bomb(mark)), io.BytesIO()
    torch.save(Bomb(mark), stream)
    pickle.loads(bomb)
    assert mark.exists()  # it does go off where it is unpickled
    mark.unlink()
    for poison in (bomb, stream.getvalue()):
        (copied.path / "model" / "model.safetensors").write_bytes(poison)
        with pytest.raises(KitError, match="model.safetensors holds no tensors"):
            copied.model()
    np.savez(copied.path / "tau.npz", probabilities=np.array([Bomb(mark)], dtype=object))
    (copied.path / "alpha.npz").write_bytes(bomb)
    for name in ("tau", "alpha"):
        with pytest.raises(KitError, match=f"{name}.npz holds no arrays"):
            getattr(copied, name)
    (copied.path / "history.parquet").write_bytes(bomb)
    with pytest.raises(KitError, match="history.parquet holds no table"):
        _ = copied.history
    with pytest.raises(KitError, match="is not a checkpoint"):
        store.read_state(copied.path / "alpha.npz")
    assert not mark.exists()


def test_weights_of_another_network_are_refused(copied: Run):
    weights = copied.path / "model" / "model.safetensors"
    tensors, _ = store.read_tensors(weights)
    store.write_tensors(weights, {name: tensor.reshape(-1)[:1] for name, tensor in tensors.items()})
    with pytest.raises(KitError, match="model.safetensors does not hold the weights of the network"):
        copied.model()


# ---- the result ----------------------------------------------------------------------------------


def test_predictions_are_what_the_metrics_say(finished: Run, micro: str):
    test = kit.load_dataset(micro).test
    got = finished.predict(test.images, batch_size=7)
    assert got.labels.dtype == torch.int64 and got.labels.shape == (60,)
    assert got.probabilities.dtype == torch.float32 and got.probabilities.shape == (60, 10)
    torch.testing.assert_close(got.probabilities.sum(1), torch.ones(60))
    assert torch.equal(got.labels, got.probabilities.argmax(1))
    assert got.names == [finished.classes[i] for i in got.labels.tolist()]
    assert (got.labels == test.labels).float().mean().item() == pytest.approx(finished.metrics["test_accuracy"])
    loss = -got.probabilities.log()[torch.arange(60), test.labels].mean()
    assert loss.item() == pytest.approx(finished.metrics["test_loss"], rel=1e-4)


def test_reading_the_model_draws_nothing_from_the_callers_generator(finished: Run):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert not any(module.training for module in finished.model().modules())
    assert torch.equal(torch.rand(2), expected)


def test_devices_are_checked(finished: Run):
    with pytest.raises(KitError, match="device='gpu' is not auto, cpu, cuda or cuda:N"):
        finished.predict(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(KitError, match="this machine has 0 CUDA device"):
            finished.model("cuda")
    assert finished.model("auto") is not None


# ---- going on, and what is written ---------------------------------------------------------------


@pytest.mark.parametrize("harm", ["empty", "cut"])
def test_a_broken_newest_checkpoint_is_left_for_the_one_before(
    harm: str, interrupted: Run, finished: Run, capsys, monkeypatch
):
    out, order, replace = interrupted.path.parent, [], os.replace
    with pytest.raises(Stop):  # after its second and last epoch, before the test
        kit.search(interrupted.config, out=out, progress=StopAfterEachEpoch())
    newest = interrupted.path / "checkpoints" / "epoch-00002.safetensors"
    content = newest.read_bytes()
    newest.write_bytes({"empty": b"", "cut": content[:-9]}[harm])
    (interrupted.path / ".alpha.npz.123.tmp").write_bytes(b"left by a process that was killed")
    monkeypatch.setattr(os, "replace", lambda a, b: order.append(Path(b).name) or replace(a, b))
    run = kit.search(interrupted.config, out=out, progress=Silent())
    assert "epoch-00002.safetensors is not a checkpoint that can be read" in capsys.readouterr().out
    assert_same_run(run, finished)
    assert not list(run.path.rglob("*.tmp"))
    # they say that the run is finished: a death while the model is written must not leave them
    assert order[-1] == "metrics.json" and order.count("metrics.json") == 1 and "model.safetensors" in order


def test_with_every_checkpoint_gone_the_run_begins_again(interrupted: Run, finished: Run):
    for path in (interrupted.path / "checkpoints").glob("*"):
        path.write_bytes(b"")
    assert_same_run(kit.search(interrupted.config, out=interrupted.path.parent, progress=Silent()), finished)


def test_time_in_which_the_process_was_stopped_is_none_of_the_runs(micro: str, tmp_path: Path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(provenance, "monotonic", lambda: now[0])
    watch = provenance.Stopwatch(7.0)
    for later, seconds in ((1.0, 8.0), (2.5, 9.5), (1000.0, 9.5), (1001.0, 10.5)):  # SIGSTOP before the third
        now[0] = later
        assert watch.read() == seconds

    class Stopped(Silent):
        def epoch(self, *_) -> None:
            now[0] += 1000

    assert kit.search(micro_config(), out=tmp_path, progress=Stopped()).metrics["seconds"] < 1
