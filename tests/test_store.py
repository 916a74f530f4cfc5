"""Files that survive: whole or not there, altered ones told from whole ones, and one clear error when the disk is
full.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from tests_micro import assert_same_run

import kit
from kit import KitError, Run
from kit.run import store
from kit.search.progress import Silent

STATE = {
    "a": torch.arange(5.0),
    "list": [torch.tensor([True, False]), 3, None, "x"],
    "half": torch.ones(3, dtype=torch.bfloat16),
    "none": {},
    "empty": torch.zeros(0, 2),
}


def test_a_state_comes_back(tmp_path: Path):
    store.write_state(tmp_path / "state", STATE)
    got = store.read_state(tmp_path / "state")
    assert (
        torch.equal(got["a"], STATE["a"])
        and torch.equal(got["list"][0], STATE["list"][0])
        and got["list"][1:] == [3, None, "x"]
    )
    assert torch.equal(got["half"], STATE["half"]) and got["none"] == {} and got["empty"].shape == (0, 2)


def test_every_altered_byte_is_noticed(tmp_path: Path):
    path = tmp_path / "state"
    store.write_state(path, {"a": torch.arange(3.0), "n": 7})
    whole = path.read_bytes()
    for at in range(len(whole)):
        for flip in (1, 128):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            try:
                got = store.read_state(path)
            except KitError as error:
                assert "is not a checkpoint that can be read" in str(error)
            else:  # a blank in the header that means nothing
                assert torch.equal(got["a"], torch.arange(3.0)) and got["n"] == 7, at


def test_an_altered_checkpoint_is_left_for_the_one_before(interrupted: Run, finished: Run, capsys):
    (newest,) = (interrupted.path / "checkpoints").glob("epoch-*")
    content = bytearray(newest.read_bytes())
    content[-100] ^= 1
    newest.write_bytes(bytes(content))
    run = kit.search(interrupted.config, out=interrupted.path.parent, progress=Silent())
    assert "its checksum does not fit: it was altered); the checkpoint before it is used" in capsys.readouterr().out
    assert_same_run(run, finished)


def test_a_full_disk_is_one_clear_error_and_harms_nothing(tmp_path: Path, monkeypatch):
    path = tmp_path / "values.json"
    store.write_json(path, {"old": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        KitError,
        match=r"values.json cannot be written \(OSError: .*No space left on device\): what was saved before is unharmed",
    ):
        store.write_json(path, {"new": 2})
    assert store.read_json(path) == {"old": 1} and list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_left_is_removed(interrupted: Run):
    left = [
        interrupted.path / ".alpha.npz.123.tmp",
        interrupted.path / "checkpoints" / ".epoch-00002.safetensors.9.tmp",
    ]
    for path in left:
        path.write_bytes(b"half")
    run = kit.search(interrupted.config, out=interrupted.path.parent, progress=Silent())
    assert run.finished and not list(run.path.rglob("*.tmp"))
