"""Files that survive: whole or not there, altered ones told from whole ones, one clear error when the disk is full."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
from tests_micro import assert_same_run

import kit
from kit import KitError, Run, files
from kit.run import store

STATE = {
    "a": torch.arange(5.0),
    "list": [torch.tensor([True, False]), 3, None, "x", 0.1 + 0.2],
    "half": torch.ones(3, dtype=torch.bfloat16),
    "inner": {"none": {}, "empty": torch.zeros(0, 2), "scalar": torch.tensor(7), "other": torch.ones(2, 2)},
}


def test_a_state_comes_back(tmp_path: Path):
    store.write_state(tmp_path / "state", STATE)
    got = store.read_state(tmp_path / "state")
    assert torch.equal(got["list"][0], STATE["list"][0]) and got["list"][1:] == STATE["list"][1:]
    for before, after in ((STATE, got), (STATE["inner"], got["inner"])):
        assert before.keys() == after.keys()
        for name, value in before.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(after[name], value) and after[name].dtype == value.dtype
    with pytest.raises(TypeError, match="a state holds tensors.*not set"):
        store.write_state(tmp_path / "state", {"a": {1}})


def test_a_checkpoint_that_is_cut_short_is_refused(tmp_path: Path):
    path = tmp_path / "state"
    store.write_state(path, STATE)
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(KitError, match="state is not a checkpoint that can be read"):
            store.read_state(path)


def test_a_checkpoint_with_a_flipped_byte_is_refused_and_the_one_before_it_is_used(
    micro: str, finished: Run, tmp_path: Path, capsys
):
    path = tmp_path / "state"
    store.write_state(path, STATE)
    whole = path.read_bytes()
    for at in range(8, len(whole)):  # of the header, the tree and the tensors; the first eight are the header's length
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(KitError, match="is not a checkpoint that can be read"):
            store.read_state(path)
    run = shutil.copytree(finished.path, tmp_path / finished.path.name)
    (run / "metrics.json").unlink()
    newest = max((run / "checkpoints").iterdir())
    content = bytearray(newest.read_bytes())
    content[-100] ^= 16
    newest.write_bytes(content)
    assert_same_run(kit.search(finished.config, out=tmp_path), finished)
    assert "its checksum is another" in (said := capsys.readouterr().out) and "goes on after epoch 1" in said


def test_a_full_disk_is_one_clear_error_and_harms_nothing(tmp_path: Path, monkeypatch):
    path = tmp_path / "values.json"
    store.write_json(path, {"old": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for write in (lambda: store.write_json(path, {"new": 2}), lambda: store.write_state(path, STATE)):
        with pytest.raises(KitError, match="values.json cannot be written .*No space left on device.*is unharmed"):
            write()
    assert store.read_json(path) == {"old": 1} and list(tmp_path.iterdir()) == [path]


def test_files_are_readable_for_whom_the_umask_says(tmp_path: Path):
    before = os.umask(0o027)
    try:
        store.write_tensors(tmp_path / "tensors", {"a": torch.ones(2)})
        store.write_state(tmp_path / "state", STATE)
        store.write_json(tmp_path / "json", {})
    finally:
        os.umask(before)
    files = list(tmp_path.iterdir())
    assert len(files) == 3 and all(stat.S_IMODE(file.stat().st_mode) == 0o640 for file in files)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null"])
def test_what_is_no_json_object_is_refused_by_its_name(text: str, tmp_path: Path):
    (tmp_path / "values.json").write_text(text)
    with pytest.raises(KitError, match="values.json cannot be read"):
        store.read_json(tmp_path / "values.json")


def test_one_at_a_time_works_on_a_folder(tmp_path: Path):
    folder = tmp_path / "run"
    assert not files.in_use(folder)
    with files.exclusive(folder):
        assert files.in_use(folder)
        for other in (lambda: files.exclusive(folder).__enter__(), lambda: files.put_aside(folder)):
            with pytest.raises(KitError, match=f"run is in use by process {os.getpid()}: wait for it"):
                other()
    assert not files.in_use(folder)
    for n in (1, 2):
        folder.mkdir(exist_ok=True)
        files.put_aside(folder)
        assert not folder.exists() and (tmp_path / f"run.old{n}").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match="cannot be made"):
        files.exclusive(tmp_path / "file" / "run").__enter__()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_one_error_with_the_remedy(number: int, tmp_path: Path, monkeypatch):
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(KitError, match=f"{tmp_path}/run cannot be made and locked .* another folder for out.*-o flock"):
        files.exclusive(tmp_path / "run").__enter__()
    assert not files.in_use(tmp_path / "run")
