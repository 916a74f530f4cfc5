"""Nothing is lost: 25 kills at random moments, a full disk, a dead notebook kernel. A hundred kills: `make torture`."""

from __future__ import annotations

import errno
import multiprocessing
import os
import queue
import resource
import signal
import sys
import time
from pathlib import Path

import pytest
from tests_micro import assert_same_run, micro_config, register_micro
from torture import Torture

import kit
from kit import KitError, Run
from kit.run import store
from kit.search.progress import Silent

TESTS = Path(__file__).resolve().parent


def test_killed_twenty_five_times_it_is_the_same_run(tmp_path: Path):
    torture = Torture(tmp_path)
    torture.run(25)
    assert torture.kills == 25 and torture.finished >= 1  # every finished run was compared with an undisturbed one
    assert (
        torture.torn >= 1 and max(torture.epochs) > 0
    )  # some kills came while a file was written, some after a checkpoint


# ---- a full disk ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stays_full", [False, True])
def test_a_disk_that_fills_up_at_any_write_costs_nothing(stays_full: bool, finished: Run, tmp_path: Path, monkeypatch):
    """The disk is full at the first write, freed, full at the second of the next attempt, and so on to the last."""
    real, folder, stopped_at = os.fsync, tmp_path / finished.path.name, []
    for at in range(1, 40):
        left = [at]

        def fsync(descriptor: int, left=left) -> None:
            left[0] -= 1
            if left[0] == 0 or (stays_full and left[0] < 0):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            try:
                run = kit.search(finished.config, out=tmp_path, progress=Silent())
                break
            except (OSError, KitError) as error:
                assert "No space left on device" in str(error)
        stopped_at.append(at)
        assert (
            Run.load(folder).status == ("interrupted" if stays_full else "failed")
            if (folder / "config.json").is_file()
            else at == 1
        )
        assert not [path for path in folder.rglob("*.tmp")]
    assert len(stopped_at) >= 5
    assert_same_run(run, finished)
    assert not (folder / "failure.json").exists()


def limited(values: dict, out: str, size: int) -> None:
    """In a process of its own: no file may grow beyond `size` bytes, as if the disk ended there."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    sys.stderr = open(os.devnull, "w")  # the error is looked at in failure.json
    register_micro()
    kit.search(kit.Config(**values), out=out, progress=Silent())


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path: Path, finished: Run):
    """A real short write, in the middle of a tensor file."""
    folder = tmp_path / finished.path.name
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kit.search.engine", "pyarrow.parquet"])
    process = context.Process(target=limited, args=(finished.config.model_dump(), str(tmp_path), 100_000), daemon=True)
    process.start()
    process.join()
    assert process.exitcode == 1
    failure = store.read_json(folder / "failure.json")
    assert (
        "File too large" in failure["message"]
        and not list((folder / "checkpoints").glob("*"))
        and Run.load(folder).status == "failed"
    )
    assert_same_run(kit.search(finished.config, out=tmp_path, progress=Silent()), finished)


# ---- a notebook ----------------------------------------------------------------------------------

CELL = """
import sys, os
sys.path[:0] = [{root!r}, {tests!r}]
import torch; torch.set_num_threads(1)
import kit, kit.search.progress, tests_micro
tests_micro.register_micro()
run = kit.search(tests_micro.micro_config(epochs=9, search_epochs=4), out={out!r}, progress=kit.search.progress.Lines(every=0))
print("test accuracy", run.metrics["test_accuracy"])
"""


@pytest.mark.filterwarnings("default")  # jupyter's own
def test_after_the_kernel_died_the_same_cell_goes_on(micro: str, tmp_path: Path):
    jupyter = pytest.importorskip("jupyter_client.manager")
    config = micro_config(epochs=9, search_epochs=4)
    cell = CELL.format(root=str(TESTS.parent), tests=str(TESTS), out=str(tmp_path / "kernel"))
    said = []
    for kill in (True, False):
        manager, client = jupyter.start_new_kernel(kernel_name="python3")
        try:
            pid = manager.provisioner.pid
            client.execute(cell)
            said.append(_output(client, "epoch 3/9" if kill else "test accuracy"))
            if kill:
                os.kill(pid, signal.SIGKILL)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
    assert "goes on after epoch" in said[1] and "goes on" not in said[0]
    run = Run.load(tmp_path / "kernel" / config.name)
    assert_same_run(run, kit.search(config, out=tmp_path / "whole", progress=Silent()))


def _output(client, until: str, patience: float = 120.0) -> str:
    """What the cell has printed when `until` is among it."""
    text, end = "", time.monotonic() + patience
    while until not in text:
        try:
            message = client.get_iopub_msg(timeout=max(0.1, end - time.monotonic()))
        except queue.Empty:
            pytest.fail(f"the kernel never printed {until!r}: {text}")
        content = message["content"]
        if message["msg_type"] == "error":
            pytest.fail("\n".join(content["traceback"]))
        text += content.get("text", "") if message["msg_type"] == "stream" else ""
    return text
