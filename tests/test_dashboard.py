"""The dashboard without a browser: the process beside the kernel obeys and dies with it, mistakes stand in the panel,
nothing piles up.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import plotly.graph_objects as go
import pytest
import torch
from tests_micro import Stop, StopAfterEachEpoch, assert_same_run, micro_config

import kit
from kit import KitError, Run
from kit.augment import ALL_OPS
from kit.figures.style import op_title
from kit.lab.live import samples, views
from kit.run import store
from kit.search.progress import Silent
from kit.space.cell import cell_slots

widgets = pytest.importorskip("ipywidgets.widgets")
pytest.importorskip("anywidget")
from kit.lab.live import panel as panel_module  # noqa: E402
from kit.lab.live import worker as worker_module  # noqa: E402
from kit.lab.live.panel import Dashboard, Pace  # noqa: E402
from kit.lab.live.worker import Worker  # noqa: E402

# digits themselves: a data set that this process registered is not known to another one
TINY = {
    "dataset": "digits",
    "method": "dha",
    "epochs": 6,
    "search_epochs": 3,
    "channels": 4,
    "cells": 3,
    "batch_size": 128,
    "train_images": 400,
    "device": "cpu",
    "precision": "float32",
}
PATIENCE = 240.0  # seconds; no test takes them unless the machine does


def until(happened: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.02)


def process_state(pid: int) -> str:
    """R, S, D (it works), T (stopped), Z (dead) or "" (gone)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return ""


def text(panel: Dashboard) -> str:
    return f"{panel.line.value} {panel.message.value}"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the process is to compute as this one does


@pytest.fixture
def panels():
    """Makes panels; whatever they left running is killed."""
    made: list[Dashboard] = []

    def make(*args: object, **changes: object) -> Dashboard:
        made.append(Dashboard(*args, **{"every": 0.05, **changes}))
        return made[-1]

    yield make
    for worker in list(worker_module.WORKERS.values()):
        os.killpg(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
        worker.close()
    for panel in made:
        until(lambda panel=panel: panel.poller is None, "the panel's thread to end")


# ---- the process ---------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads process states from /proc")
def test_started_paused_resumed_stopped_and_started_again_it_is_the_same_run(tmp_path: Path, panels):
    config = kit.Config(**TINY, out=str(tmp_path / "beside"))
    panel = panels(config)
    assert panel.state == "idle" and not panel.buttons["start"].disabled and panel.buttons["pause"].disabled
    panel.buttons["start"].click()
    pid, folder = panel.worker.process.pid, panel.worker.folder
    assert panel.state == "running" and panel.buttons["start"].disabled and panel.form.fields["seed"].disabled
    until(lambda: (folder / "history.parquet").exists(), "the first epoch")
    panel.buttons["pause"].click()
    assert panel.state == "paused" and not panel.buttons["resume"].disabled
    until(lambda: process_state(pid) == "T", "the process to stand still")
    again = panels(config)  # the cell is run again: the new panel has the search in hand
    assert again.state == "paused" and again.worker is not None
    until(lambda: panel.worker is None, "the older panel to let go")
    assert "made later" in text(panel) and panel.state == "idle" and process_state(pid) == "T"
    again.buttons["resume"].click()
    until(lambda: process_state(pid) not in "T", "the process to go on")
    again.buttons["stop"].click()
    until(lambda: again.state == "idle", "the process to end")
    assert process_state(pid) in ("", "Z") and Run.load(folder).status == "interrupted"
    until(lambda: "interrupted" in again.line.value, "the panel to say so")
    assert (
        "Start goes on from there" in text(again)
        and not (folder / "failure.json").exists()
        and not list(folder.rglob("*.tmp"))
    )
    again.buttons["start"].click()
    assert again.worker.process.pid != pid
    until(lambda: again.state == "idle", "the search to end")
    until(lambda: "finished" in again.line.value, "the panel to say so")
    assert "epoch 6 of 6" in text(again) and "test accuracy" in text(again) and again.bar.value == again.bar.max == 6
    assert_same_run(Run.load(folder), kit.search(config, out=tmp_path / "here", progress=Silent()))
    again.buttons["start"].click()  # a finished run is not computed again
    assert again.state == "idle" and "finished before" in text(again)


PARENT = """
import json, os, sys, time
sys.path.insert(0, {root!r})
import kit
print(json.dumps([name for name in ("plotly", "ipywidgets", "anywidget", "matplotlib", "IPython") if name in sys.modules]))
from kit.lab.live.worker import Worker
workers = [Worker(kit.Config(**{tiny!r}, seed=seed, out={out!r})) for seed in (0, 1)]
workers[1].pause()
print(json.dumps([worker.process.pid for worker in workers]), flush=True)
time.sleep(1000)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads process states from /proc")
def test_no_search_outlives_its_kernel_not_even_a_paused_one(tmp_path: Path):
    script = PARENT.format(root=str(Path(kit.__file__).parent.parent), tiny={**TINY, "epochs": 1000}, out=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert (
            json.loads(parent.stdout.readline()) == []
        )  # `import kit` imports nothing that only figures and widgets need
        pids = json.loads(parent.stdout.readline())
        until(lambda: list(tmp_path.glob("*/history.parquet")), "the first epoch")
        until(lambda: process_state(pids[1]) == "T", "the other one to stand still")
        assert process_state(pids[0]) not in ("", "Z", "T")
        parent.kill()
    for pid in pids:
        until(lambda pid=pid: process_state(pid) in ("", "Z"), f"process {pid} to follow its parent")


def test_a_search_that_does_not_end_when_asked_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    worker = Worker.__new__(Worker)
    worker.folder, worker.paused, worker.deadline, worker.log = tmp_path, False, 0.0, open(os.devnull, "rb")
    deaf = "trap '' TERM; echo deaf; while true; do sleep 0.1; done"
    worker.process = subprocess.Popen(["sh", "-c", deaf], stdout=subprocess.PIPE, process_group=0)
    with worker.process, worker.log:
        assert worker.process.stdout.readline() == b"deaf\n"
        monkeypatch.setattr(worker_module, "GRACE", 0.0)
        worker.pause()
        worker.stop()
        until(lambda: worker.state == "ended", "the kill")
        assert worker.process.returncode == -signal.SIGKILL and worker.cause() == ""
        worker.deadline = 0.0  # as if something else had killed it
        assert "killed by SIGKILL" in worker.cause()


def test_a_search_that_fails_says_why_in_the_panel(tmp_path: Path, panels):
    panel = panels(kit.Config(**{**TINY, "batch_size": 4096}, out=str(tmp_path)))
    panel.buttons["start"].click()
    until(lambda: not panel.buttons["start"].disabled, "the search to fail")
    assert "4096" in text(panel) and "Traceback" not in text(panel) and panel.state == "idle"


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("epochs", "three", "epochs=&#x27;three&#x27;"),
        ("lr", "-1", "greater than 0"),
        ("method", "ista", ""),
        ("dataset", "digit", "Did you mean"),
        ("seed", "", ""),
        ("search_epochs", "7", "more than epochs=6"),
        ("hold_out", "perhaps", "true or false"),
        ("augment", "pear-softmax", "Did you mean &#x27;pair-softmax&#x27;"),
        ("recover", "never", "&#x27;step&#x27;, &#x27;epoch&#x27;"),
    ],
)
def test_what_is_typed_is_checked_and_a_mistake_stands_in_the_panel(
    field: str, value: str, says: str, tmp_path: Path, panels
):
    panel = panels(kit.Config(**TINY, out=str(tmp_path)))
    panel.form.fields[field].value = value
    assert ("kit-error" in panel.message.value) == bool(says) and says in panel.message.value
    if says:
        panel.buttons["start"].click()
        assert panel.worker is None and says in panel.message.value
        panel.form.fields[field].value = str(TINY.get(field, ""))
        assert panel.message.value == ""


def test_the_form_gives_back_the_configuration_that_it_was_given(panels, tmp_path: Path):
    for config in (
        kit.Config(**TINY, out=str(tmp_path)),
        kit.Config(method="seq-dha", preset="paper", seed=3, image_size=8),
        kit.Config(method="plain", lr=0.1234567891, hold_out=True, augment="none", deterministic=True),
    ):
        assert panels(config).form.config() == config
    form = panels(kit.Config()).form
    assert form.fields["lr"].placeholder == "0.1" and form.fields["lr"].value == ""
    form.fields["preset"].value = "paper"
    assert form.fields["lr"].placeholder == "0.025" and form.config() == kit.Config(preset="paper")


def test_a_run_in_use_is_refused_by_name(interrupted: Run, panels):
    config = kit.Config(**TINY, out=str(interrupted.path.parent))
    folder = worker_module.folder_of(config)
    with store.exclusive(folder):
        panel = panels(config)
        panel.buttons["start"].click()
        assert panel.worker is None and f"{folder} is in use by process {os.getpid()}" in panel.message.value
    with store.exclusive(interrupted.path):  # one that goes on elsewhere can be watched
        panel.open(interrupted.path)
        assert "It is shown as it goes on" in text(panel) and panel.poller is not None
        store.write_json(interrupted.path / "metrics.json", {"test_accuracy": 0.5})
        until(lambda: "finished" in panel.line.value and "50.00%" in panel.line.value, "the panel to see that it ended")


def test_a_data_set_of_this_process_alone_is_refused_by_name(micro: str, panels, tmp_path: Path):
    panel = panels(micro_config(out=str(tmp_path)))
    panel.buttons["start"].click()
    assert panel.worker is None and f"&#x27;{micro}&#x27; was registered in this notebook" in panel.message.value


def test_runs_are_opened_whatever_their_state_and_what_is_none_is_refused(
    finished: Run, interrupted: Run, panels, tmp_path: Path
):
    panel = panels(kit.Config(**TINY, out=str(interrupted.path.parent)))
    assert panel.path.options == (str(interrupted.path),)
    panel.path.value = str(finished.path)
    panel.buttons["open"].click()
    assert (
        panel.run.path == finished.path
        and "finished" in panel.line.value
        and f"{finished.metrics['test_accuracy']:.2%}" in panel.line.value
    )
    assert (
        panel.form.config().method == finished.config.method
        and len(panel.board.curves["data"]) > 3
        and panel.board.cells["data"]
    )
    panel.open(interrupted.path)
    assert (
        "interrupted" in panel.line.value
        and "epoch 1 of 2" in panel.line.value
        and panel.bar.value == 1
        and panel.board.policy["data"]
    )
    store.write_json(
        interrupted.path / "failure.json", {"error": "NonFinite", "message": "the loss is nan at step 6", "epoch": 1}
    )
    panel.open(interrupted.path)
    assert "failed" in panel.line.value and "the loss is nan at step 6" in panel.message.value
    for path, says in ((tmp_path / "nothing", "is not a run directory"), ("", "no run to open")):
        panel.path.value = str(path)
        panel.buttons["open"].click()
        assert says in panel.message.value and panel.run.path == interrupted.path
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"layers": 3}')
    panel.path.value = str(foreign)
    panel.buttons["open"].click()
    assert "names no dataset" in panel.message.value


def test_a_run_of_another_version_opens_with_what_it_has(finished: Run, panels, tmp_path: Path):
    old = shutil.copytree(finished.path, tmp_path / "old")
    values = store.read_json(old / "config.json")
    for name in ("momentum", "precision", "tau_lr"):
        del values[name]
    store.write_json(old / "config.json", {**values, "method": "method-of-2031", "epochs": "many"})
    (old / "alpha.npz").unlink()
    panel = panels(run=Run.load(old))
    assert panel.run.path == old and "method-of-2031" in str(panel.board.samples["layout"]["annotations"])
    assert not any(thread.name == "kit-dashboard" for thread in threading.enumerate())


def test_the_function_refuses_what_is_no_configuration(finished: Run):
    for arguments, says in (
        ({"config": {"dataset": "digits"}}, "takes a kit.Config"),
        ({"config": finished.config, "run": finished}, "not both"),
        ({"run": finished.path / "x"}, "is not a run directory"),
    ):
        with pytest.raises(KitError, match=says):
            kit.dashboard(**arguments, live=True)


# ---- the views -----------------------------------------------------------------------------------


def test_two_hundred_updates_leave_nothing_behind(finished: Run, panels, monkeypatch: pytest.MonkeyPatch):
    panel = panels(run=finished)
    calls: list[int] = []

    def fake(run: Run, compact: bool) -> dict[str, go.Figure]:
        calls.append(1)
        return {name: go.Figure([{"y": [len(calls)]}] * 3) for name in ("curves", "policy", "samples", "cells")}

    monkeypatch.setattr(panel_module, "views", fake)
    history, before = finished.path / "history.parquet", None
    for k in range(200):
        os.utime(history, (k, k))
        panel.refresh(now=True)
        kept = (
            len(widgets.widget._instances),
            len(panel.box.children),
            threading.active_count(),
            len(panel.board.get_state()),
            *(len(getattr(panel.board, name)["data"]) for name in ("curves", "policy", "samples", "cells")),
        )
        before = before or kept
        assert kept == before and panel.board.curves["data"][0]["y"] == [k + 1]
    assert len(calls) == 200


def test_drawing_leaves_the_cores_to_the_search(finished: Run, panels, monkeypatch: pytest.MonkeyPatch):
    panel = panels(run=finished)
    drawn: list[int] = []
    monkeypatch.setattr(panel, "_draw", lambda mark: drawn.append(1))
    panel.seen, panel.took = None, 1000.0
    panel.refresh()
    assert not drawn  # the last drawing took long
    panel.took = 0.0
    panel.refresh()
    assert drawn == [1]


def test_samples_are_drawn_from_the_policy_of_the_newest_checkpoint(finished: Run):
    state = samples.newest(finished)
    assert state["epoch"] == 2
    shown = samples.few(finished.config.dataset, None, None)
    assert shown.images.shape == (6, 1, 8, 8) and len(set(shown.names)) == 6
    pair = (ALL_OPS.index("Invert") - 1, ALL_OPS.index("ShearX"))  # Identity, ShearX
    state["parts"]["augment"]["tau"][pair] = 50.0
    _, draw = samples.draw_from(finished, state, shown, 8)
    words = [samples.describe(draw, i, False) for i in range(8)]
    assert all(word.startswith("Identity<br>ShearX ") for word in words) and len(set(words)) == 8
    assert any("−" in word for word in words)
    assert samples.augmented(finished) == samples.augmented(finished)  # the same checkpoint, the same pictures


def test_the_cells_are_those_of_the_last_epoch(interrupted: Run, finished: Run, micro: str, tmp_path: Path):
    drawn = views.views(interrupted)["cells"]
    assert "after epoch 1" in drawn.layout.title.text and "found" in views.views(finished)["cells"].layout.title.text
    picked = {
        op
        for slot, used in zip(cell_slots(), interrupted.alpha["support"][-1])
        for (op, _), here in zip(slot.candidates, used)
        if here
    }
    assert {op_title(op) for op in picked} <= {note.text for note in drawn.layout.annotations}
    with pytest.raises(Stop):
        kit.search(micro_config("plain"), out=tmp_path, progress=StopAfterEachEpoch())
    given = views.views(Run.load(tmp_path / micro_config("plain").name))
    assert (
        given["cells"].layout.title.text == "The given architecture: darts-v2"
        and "τ is fixed" in given["policy"].layout.annotations[0].text
    )


def test_without_a_page_the_search_runs_in_line_and_the_figures_are_shown(
    micro: str, finished: Run, monkeypatch: pytest.MonkeyPatch, capsys
):
    from kit import figures

    shown = []
    monkeypatch.setattr(figures, "show", lambda figure: shown.append(figure))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    run = kit.dashboard(finished.config.but(out=str(finished.path.parent)))
    assert run.path == finished.path and len(shown) == 4 and all(figure.data for figure in shown)
    run = kit.dashboard(micro_config("plain", epochs=1, out=str(finished.path.parent.parent / "in-line")))
    assert run.finished and "epoch 1/1" in capsys.readouterr().out and len(shown) == 8
    monkeypatch.setenv("JPY_SESSION_NAME", "/notebooks/dashboard.ipynb")
    panel = kit.dashboard(run=finished.path)
    assert (
        isinstance(panel, Dashboard)
        and panel._repr_mimebundle_()["text/plain"] == f"<Dashboard of {finished.path.name}: finished>"
    )
    panel.show()
    assert len(shown) == 12


def test_the_time_left_knows_pauses():
    pace = Pace()
    assert "not known" in pace.left(3)
    pace.last = (time.monotonic() - 10, 2)
    pace.at(4, running=True)
    assert (
        pace.left(3) == "about 15 s left"
        and pace.left(60) == "about 5 min left"
        and pace.left(7200) == "about 10 h left"
    )
    pace.at(4, running=False)
    pace.at(5, running=True)  # the first epoch after a pause has no beginning
    assert pace.epochs == 2


def test_the_checkpoint_of_a_gpu_has_another_kind_of_generator(finished: Run):
    state = samples.newest(finished)
    state["parts"]["augment"]["generator"] = torch.zeros(16, dtype=torch.uint8)  # as CUDA's
    _, draw = samples.draw_from(finished, state, samples.few(finished.config.dataset, None, None), 2)
    assert draw.ops.shape == (2, 2)
