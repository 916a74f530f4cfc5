"""A run in a process of its own: it obeys, says how it ended, and never outlives the process that started it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests_micro import assert_same_run

import kit
from kit import Run
from kit.__main__ import main
from kit.lab.process import ChildProcess
from kit.search.progress import Silent

# digits themselves: a data set that this process registered is not known to another one
SMALL = dict(
    dataset="digits", method="plain", epochs=8, channels=4, cells=3, batch_size=64, train_images=128, device="cpu"
)
ENDLESS = {**SMALL, "epochs": 5000}


def until(happened: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 480  # a machine that does nothing else needs few
    while not (found := happened()):
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.02)
    return found


def process_at_work(folder: Path) -> psutil.Process:
    """Of the run in that directory, once it has saved an epoch."""

    def found() -> psutil.Process | None:
        with contextlib.suppress(psutil.NoSuchProcess, ValueError, OSError):
            return any(folder.glob("checkpoints/*")) and psutil.Process(int((folder / ".lock").read_text()))

    return until(found, "the first epoch")


def gone(process: psutil.Process) -> bool:
    psutil.wait_procs([process], timeout=120)
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def start(folder: Path, **values: Any) -> tuple[ChildProcess, Path]:
    config = kit.Config(**{**SMALL, **values})
    return ChildProcess(config.model_dump(), folder / config.name, threads=1), folder / config.name


def test_killed_and_started_again_it_is_the_same_run(tmp_path):
    values = {"epochs": 40}  # a machine may look away for a few
    child, folder = start(tmp_path, **values)
    process = process_at_work(folder)
    assert not child.ended
    child.kill()
    assert child.ended and child.end() == "" and gone(process)
    run = Run.load(folder)
    assert run.status == "interrupted"
    assert start(tmp_path, **values)[0].end() == ""
    assert_same_run(Run.load(folder), kit.search(run.config, out=tmp_path / "here", progress=Silent()))


def test_a_paused_run_goes_on_where_it_was_or_is_killed(tmp_path):
    child, folder = start(tmp_path, **ENDLESS)
    process = process_at_work(folder)
    child.pause()
    until(lambda: process.status() == psutil.STATUS_STOPPED, "the pause")
    saved = sorted(folder.glob("checkpoints/*"))
    time.sleep(0.5)
    assert child.paused and not child.ended and sorted(folder.glob("checkpoints/*")) == saved
    child.pause(False)
    until(lambda: sorted(folder.glob("checkpoints/*")) != saved, "the next epoch")
    child.pause()
    child.hung = 1.0  # a run that is frozen completes no epoch either
    assert child.end() == "killed: no epoch was completed for 1 s (hung=1)"
    assert gone(process) and Run.load(folder).status == "interrupted"


def test_a_kill_from_elsewhere_is_told(tmp_path):
    child, folder = start(tmp_path, **ENDLESS)
    process_at_work(folder).kill()
    cause = child.end()
    assert "killed by signal 9 (SIGKILL)" in cause and "memory" in cause


def test_what_is_refused_is_told_in_one_line(tmp_path, micro):
    child, folder = start(tmp_path, batch_size=4096)
    assert child.end().startswith("KitError: batch_size=4096") and not folder.exists()
    child, folder = start(tmp_path, dataset=micro)
    assert f"unknown dataset '{micro}'" in (said := child.end()) and "plugins='my_file.py'" in said


PARENT = """
import sys, time
from pathlib import Path
import kit
from kit.lab.process import ChildProcess
loaded = {{"plotly", "ipywidgets", "anywidget", "matplotlib", "IPython", "ray", "papermill"}} & set(sys.modules)
assert not loaded, f"import kit is to stay fast, and loads {{loaded}}"
configs = [kit.Config(**{values!r}, seed=seed) for seed in (0, 1)]
folders = [Path({out!r}) / config.name for config in configs]
busy, paused = [ChildProcess(config.model_dump(), folder, threads=1) for config, folder in zip(configs, folders)]
while not all(any(folder.glob("checkpoints/*.safetensors")) for folder in folders):
    time.sleep(0.05)
paused.pause()
print(*folders, sep="\\n", flush=True)
{last}
"""


@pytest.mark.parametrize("last", ["time.sleep(1000)", "input(); sys.exit(3)"])
def test_no_run_outlives_its_parent_not_even_a_paused_one(tmp_path, last):
    script = PARENT.format(values=ENDLESS, out=str(tmp_path), last=last)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as parent:
        folders = [Path(parent.stdout.readline().strip()) for _ in range(2)]
        busy, paused = [process_at_work(folder) for folder in folders]
        until(lambda: paused.status() == psutil.STATUS_STOPPED, "the pause")
        assert busy.is_running()
        if "exit" in last:
            parent.communicate("now\n")
        else:
            parent.send_signal(signal.SIGKILL)
        assert parent.wait(120) == (3 if "exit" in last else -signal.SIGKILL)
    assert gone(busy) and gone(paused)


def test_the_command_line_explains_itself_and_refuses_what_is_no_parameter(capsys):
    with pytest.raises(SystemExit) as end:
        main([])
    said = capsys.readouterr().out
    assert end.value.code == 2 and "usage: python -m kit" in said and "batch_size" in said
    with pytest.raises(SystemExit) as end:
        main(["epoch=3"])
    assert end.value.code == 1 and "Did you mean 'epochs'" in capsys.readouterr().err
