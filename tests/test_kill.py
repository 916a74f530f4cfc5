"""Nothing is lost: kills at random moments and at every write, a full disk, a dead notebook kernel. A hundred kills:
`make torture`.
"""

from __future__ import annotations

import errno
import os
import queue
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests_micro import assert_same_run, micro_config
from torture import Torture

import kit
from kit import KitError, Run
from kit.run import store
from kit.search.progress import Silent

TESTS = Path(__file__).resolve().parent


def test_killed_again_and_again_it_is_the_same_run(tmp_path: Path):
    torture = Torture(tmp_path)
    torture.run(5)
    assert torture.kills == 5 and torture.finished >= 1  # every finished run was compared with an undisturbed one
    assert torture.torn >= 1 and max(torture.epochs) > 0  # in the middle of a write, and after a checkpoint


# ---- at every write ------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a run as a kill does: nothing in between catches it."""


def kill(real: Callable, *given, late: bool) -> None:
    """Before or after the file is in its place."""
    if late:
        real(*given)
    raise Killed


def fill_up(real: Callable, *given, late: bool) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("name", "strike"), [("replace", kill), ("fsync", fill_up)])
def test_struck_at_any_write_it_is_the_same_run(name, strike, finished: Run, tmp_path: Path, monkeypatch):
    """Each attempt is struck at one write, the n-th attempt at its n-th, until one gets through; every other kill comes
    after the write, and every other time the disk stays full."""
    real, folder, attempts = getattr(os, name), tmp_path / finished.path.name, 0
    for at in range(1, 40):
        left, late = [at], at % 2 == 0

        def write(*given, left=left, late=late):
            left[0] -= 1
            if left[0] == 0 or (left[0] < 0 and late and strike is fill_up):
                strike(real, *given, late=late)
            return real(*given)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, write)
            try:
                run = kit.search(finished.config, out=tmp_path, progress=Silent())
                break
            except (Killed, KitError) as error:
                assert isinstance(error, Killed) or "No space left on device" in str(error)
        attempts += 1
        assert not list(folder.rglob("*.tmp"))
        if (folder / "config.json").is_file():
            there = "finished" if (folder / "metrics.json").exists() else "interrupted"  # killed after its last write
            assert Run.load(folder).status == ("failed" if strike is fill_up and not late else there)
    assert attempts >= 5 and not (folder / "failure.json").exists()
    assert_same_run(run, finished)


def test_a_checkpoint_that_does_not_fit_leaves_nothing_half_done(tmp_path: Path, finished: Run):
    """A real short write, in the middle of a tensor file: no file may grow beyond a size, as if the disk were full."""
    folder, (soft, hard) = tmp_path / finished.path.name, resource.getrlimit(resource.RLIMIT_FSIZE)
    size = min(path.stat().st_size for path in (finished.path / "checkpoints").iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        with pytest.raises(KitError, match="File too large"):
            kit.search(finished.config, out=tmp_path, progress=Silent())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in store.read_json(folder / "failure.json")["message"]
    assert not list((folder / "checkpoints").glob("*")) and Run.load(folder).status == "failed"
    assert_same_run(kit.search(finished.config, out=tmp_path, progress=Silent()), finished)


# ---- a notebook ----------------------------------------------------------------------------------

CELL = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import torch; torch.set_num_threads(1)
import kit, tests_micro
from kit.search.progress import Lines
tests_micro.register_micro()
run = kit.search(tests_micro.micro_config(epochs=3, search_epochs=2), out={out!r}, progress=Lines(every=0))
print("test accuracy", run.metrics["test_accuracy"])
"""


@pytest.mark.filterwarnings("default")  # jupyter's own
def test_after_the_kernel_died_the_same_cell_goes_on(micro: str, tmp_path: Path):
    jupyter = pytest.importorskip("jupyter_client.manager")
    config, out, said = micro_config(epochs=3, search_epochs=2), tmp_path / "kernel", []
    for died in (False, True):
        manager, client = jupyter.start_new_kernel(kernel_name="python3")
        try:
            client.execute(CELL.format(root=str(TESTS.parent), tests=str(TESTS), out=str(out)))
            said.append(printed(client, "test accuracy" if died else "epoch 1/3"))
            if not died:
                os.kill(manager.provisioner.pid, signal.SIGSTOP)
                with pytest.raises(KitError, match=f"in use by process {manager.provisioner.pid}: wait"):
                    kit.search(config, out=out, progress=Silent())
                os.kill(manager.provisioner.pid, signal.SIGKILL)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
        if not died:
            left = Run.load(out / config.name)
            assert left.status == "interrupted" and left.metrics == {} and left.history["epoch"].max() >= 1
            with pytest.raises(KitError, match="no model yet \\(interrupted\\)"):
                left.model()
    assert "goes on after epoch" in said[1] and "goes on" not in said[0]
    assert_same_run(Run.load(out / config.name), kit.search(config, out=tmp_path / "whole", progress=Silent()))


def printed(client, until: str, patience: float = 120.0) -> str:
    """What the cell has printed when `until` is among it."""
    text, end = "", time.monotonic() + patience
    while until not in text:
        try:
            message = client.get_iopub_msg(timeout=max(0.1, end - time.monotonic()))
        except queue.Empty:
            pytest.fail(f"the kernel never printed {until!r}: {text}")
        assert message["msg_type"] != "error", "\n".join(message["content"]["traceback"])
        text += message["content"].get("text", "") if message["msg_type"] == "stream" else ""
    return text
