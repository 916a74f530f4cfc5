"""A run is what it says it is, and nothing that was saved is deleted."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from tests_micro import Stop, StopAfterEachEpoch, assert_same_run, micro_config

import kit
from kit import KitError, Run
from kit.run import store
from kit.run.run import Records
from kit.search.progress import Silent
from kit.studies import report


def search(config: kit.Config, out: Path, **how) -> Run:
    return kit.search(config, out=out, progress=Silent(), **how)


# ---- what belongs to another run (2) -----------------------------------------------------------------


@pytest.fixture(scope="module")
def other(micro: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run with another seed."""
    return search(micro_config(seed=1), tmp_path_factory.mktemp("other"))


def test_a_checkpoint_of_another_run_is_put_aside(interrupted: Run, finished: Run, other: Run, capsys):
    (newest,) = (other.path / "checkpoints").glob("epoch-00002*")
    shutil.copy(newest, interrupted.path / "checkpoints")
    assert_same_run(search(interrupted.config, interrupted.path.parent), finished)
    assert f"belongs to another run, {{'run': '{other.path.name}'" in (said := capsys.readouterr().out)
    assert "epoch-00002.safetensors.damaged1" in said


def test_a_finished_directory_renamed_is_not_another_run(other: Run, tmp_path: Path):
    shutil.copytree(other.path, tmp_path / micro_config().name)
    with pytest.raises(KitError, match=f"holds the results of another run, '{other.path.name}'.*resume=False"):
        search(micro_config(), tmp_path)
    assert Run.load(tmp_path / micro_config().name).config.seed == 1  # as it is, it can be read
    assert search(micro_config(), tmp_path, resume=False).config.seed == 0


def test_a_sweep_names_what_it_cannot_read_and_keeps_the_rest(finished: Run, other: Run, tmp_path: Path):
    shutil.copytree(finished.path, tmp_path / finished.path.name)
    configs = [micro_config(), micro_config(seed=1), micro_config(seed=2), micro_config(seed=2)]
    shutil.copytree(finished.path, tmp_path / configs[1].name)
    Path(shutil.copytree(finished.path, tmp_path / configs[2].name), "config.json").write_bytes(b"{")
    result = kit.sweep.run(configs, out=tmp_path)
    assert [run.path.name for run in result.runs] == [finished.path.name]
    assert set(result.failures) == {config.name for config in configs[1:]}


def test_results_copied_from_another_run_are_refused(finished: Run, other: Run, tmp_path: Path):
    run = shutil.copytree(finished.path, tmp_path / finished.path.name)
    shutil.copy(other.path / "metrics.json", run)
    with pytest.raises(KitError, match="the results of another run"):
        search(micro_config(), tmp_path)


# ---- nothing is deleted (3, 8) -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_what_cannot_be_read_now_is_raised_and_kept(number: int, interrupted: Run, finished: Run, monkeypatch):
    real, kept = os.open, sorted((interrupted.path / "checkpoints").iterdir())

    def fails(path, *given, **options):
        if str(path).endswith(".safetensors"):
            raise OSError(number, os.strerror(number))
        return real(path, *given, **options)

    with monkeypatch.context() as patch, pytest.raises(KitError, match=f"cannot be read|{os.strerror(number)}"):
        patch.setattr(os, "open", fails)
        search(interrupted.config, interrupted.path.parent)
    assert sorted((interrupted.path / "checkpoints").iterdir()) == kept
    assert_same_run(search(interrupted.config, interrupted.path.parent), finished)


def test_a_checkpoint_that_does_not_say_whose_it_is_is_put_aside(interrupted: Run, finished: Run, capsys):
    (newest,) = (interrupted.path / "checkpoints").glob("epoch-00001*")
    state = store.read_state(newest)
    store.write_state(newest, {name: value for name, value in state.items() if name != "identity"} | {"epoch": 0})
    assert_same_run(search(interrupted.config, interrupted.path.parent), finished)
    assert "belongs to another run, None" in capsys.readouterr().out


def test_a_flipped_bit_in_the_history_is_noticed(finished: Run, tmp_path: Path):
    run = Run.load(shutil.copytree(finished.path, tmp_path / finished.path.name))
    path = run.path / "history.parquet"
    content = bytearray(path.read_bytes())
    values = pq.ParquetFile(path).metadata.row_group(0).column(3)
    content[(values.dictionary_page_offset or values.data_page_offset) + values.total_compressed_size - 4] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(KitError, match="history.parquet holds no table.*altered"):
        _ = run.history


def test_damaged_files_stay_under_another_name(interrupted: Run, capsys):
    for name in ("checkpoints/epoch-00001.safetensors",):
        (interrupted.path / name).write_bytes(b"damaged")
    search(interrupted.config, interrupted.path.parent)
    (kept,) = (interrupted.path / "checkpoints").glob("*.damaged1")
    assert kept.read_bytes() == b"damaged" and kept.name in capsys.readouterr().out


@pytest.mark.parametrize("harm", ["removed", "damaged"])
def test_a_lost_history_is_said_and_the_run_goes_on(harm: str, interrupted: Run, finished: Run, capsys):
    for name in ("history.parquet", "alpha.npz"):
        (interrupted.path / name).unlink() if harm == "removed" else (interrupted.path / name).write_bytes(b"no")
    run = search(interrupted.config, interrupted.path.parent)
    assert "the history of 1 epochs, from 1 on, is lost" in capsys.readouterr().out
    assert run.metrics["test_accuracy"] == finished.metrics["test_accuracy"] and set(run.history["epoch"]) == {2}
    assert f"{run.path.name}: the history of 1 epochs is lost" in capsys.readouterr().out  # whenever it is read
    assert harm == "removed" or (run.path / "history.parquet.damaged1").read_bytes() == b"no"


@pytest.mark.parametrize("last", [1, 2])  # two is the last epoch: then the results are written
def test_a_run_whose_directory_is_removed_says_so_and_leaves_nothing(last: int, micro: str, tmp_path: Path):
    class Remove(Silent):
        def epoch(self, done: int, *_) -> None:
            if done == last:
                shutil.rmtree(tmp_path / micro_config().name)

    with pytest.raises(KitError, match="was removed while the run went on"):
        kit.search(micro_config(), out=tmp_path, progress=Remove())
    assert not list(tmp_path.iterdir())


def test_stray_files_beside_the_checkpoints_are_left_alone(interrupted: Run, finished: Run):
    for name in ("epoch-last.safetensors", "epoch-1.safetensors", "notes.txt"):
        (interrupted.path / "checkpoints" / name).write_text("mine")
    (interrupted.path / "checkpoints" / "epoch-00007.safetensors").mkdir()
    run = search(interrupted.config, interrupted.path.parent)
    assert_same_run(run, finished)
    assert (run.path / "checkpoints" / "notes.txt").read_text() == "mine"


# ---- files (7, 9, 12) --------------------------------------------------------------------------------


def test_only_regular_files_are_replaced(finished: Run, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "mine")
    for name in ("pipe", "link"):
        with pytest.raises(KitError, match="a link, or not a regular file"):
            finished.export(tmp_path / f"{name}.safetensors")
    with pytest.raises(KitError, match="cannot be read.*regular file"):
        os.mkfifo(tmp_path / "list.csv")
        kit.load_dataset(tmp_path / "list.csv")


def test_temporary_files_of_killed_processes_are_tidied(interrupted: Run):
    for name in (".metrics.json.1.tmp", "checkpoints/.epoch-00002.safetensors.2.tmp", "model/.model.safetensors.3.tmp"):
        (interrupted.path / name).parent.mkdir(exist_ok=True)
        (interrupted.path / name).write_bytes(b"half")
    assert not list(search(interrupted.config, interrupted.path.parent).path.rglob("*.tmp"))


# ---- reports (4, 6) ----------------------------------------------------------------------------------


def test_a_run_given_twice_counts_once(finished: Run, other: Run, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(kit.figures, "save_all", lambda *_, **__: [])
    copy = Run.load(shutil.copytree(finished.path, tmp_path / "copy"))
    path = report.write("ablation", [finished, finished, copy, other], tmp_path)
    assert "2 of 4 runs are given twice: each counts once" in capsys.readouterr().out
    rows = pd.read_csv(path.with_suffix(".csv"))
    assert list(rows["seed"]) == [0, 1] and "| 2 |" in path.read_text()


def test_unequal_budgets_are_refused(finished: Run, micro: str, tmp_path: Path):
    longer = search(micro_config(epochs=3), tmp_path)
    with pytest.raises(KitError, match="at one budget, and these runs have epochs=2.* and epochs=3"):
        report.write("ablation", [finished, longer], tmp_path)


# ---- growth (11) -------------------------------------------------------------------------------------


def test_late_epochs_write_no_more_than_early_ones(tmp_path: Path, monkeypatch):
    """Bytes that are written for the history, α and τ, the checkpoint's part included."""
    records, spent, real = Records(tmp_path), [0] * 301, os.replace
    (tmp_path / "config.json").touch()

    def replace(source, target):
        spent[epoch] += os.path.getsize(source)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    for epoch in range(1, 301):
        records.add(epoch, epoch, {"loss": 1 / epoch, "accuracy": epoch / 1000})
        records.snapshot(epoch, alpha={"alpha": torch.rand(14, 8)}, tau={"probabilities": torch.rand(14, 14)})
        records.write(epoch)
        spent[epoch] += 1400 * len(records.state_dict()["tau"])
    each = [sum(spent[i : i + 50]) / 50 for i in range(51, 301, 50)]
    assert max(each) < 2 * each[0]
    again = Records(tmp_path)
    assert again.load_state_dict(records.state_dict(), 300) == "" and again.held["rows"] == records.held["rows"]


def test_a_long_run_resumes_from_what_its_files_do_not_have(
    interrupted: Run, finished: Run, micro: str, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr("kit.run.run.SHARE", 1)
    with pytest.raises(Stop):
        kit.search(micro_config(epochs=4), out=tmp_path, progress=StopAt(3))
    assert Run.load(tmp_path / micro_config(epochs=4).name).history["epoch"].max() == 1
    run, whole = (search(micro_config(epochs=4), out) for out in (tmp_path, tmp_path / "whole"))
    assert_same_run(run, whole)


class StopAt(StopAfterEachEpoch):
    def __init__(self, last: int):
        self.last = last

    def epoch(self, done: int, *_) -> None:
        if done == self.last:
            raise Stop
