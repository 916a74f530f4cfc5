"""The dashboard without a browser: buttons steer the search, mistakes stand in the panel, nothing piles up."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from test_process import SMALL, until
from tests_micro import assert_same_run

import kit
from kit import KitError, Run
from kit.run import store
from kit.search.progress import Silent

widgets = pytest.importorskip("ipywidgets.widgets")
pytest.importorskip("anywidget")  # plotly's FigureWidget is made of it
from kit.lab import views  # noqa: E402
from kit.lab.panel import CHILDREN, POLLERS, Dashboard  # noqa: E402

VALUES = {**SMALL, "method": "dha", "search_epochs": 4}


def text(panel: Dashboard) -> str:
    return f"{panel.line.value} {panel.message.value}"


@pytest.fixture
def panels():
    """Makes panels; whatever they leave running is killed."""
    yield lambda *args, **changes: Dashboard(*args, **{"every": 0.05, **changes})
    for child in CHILDREN.values():
        child.kill()
    until(lambda: not POLLERS, "the panels' threads to end")


def test_the_buttons_start_pause_resume_and_stop_a_search(tmp_path: Path, panels):
    config = kit.Config(**VALUES, out=str(tmp_path / "beside"))
    panel = panels(config)
    assert "ready" in text(panel) and panel.shown.layout.display == "none" and panel.buttons["pause"].disabled
    panel.buttons["start"].click()
    assert panel.state == "running" and panel.buttons["start"].disabled and panel.form.fields["seed"].disabled
    until(lambda: (panel.folder / "history.parquet").exists(), "the first epoch")
    panel.buttons["pause"].click()
    assert panel.state == "paused" and panel.buttons["pause"].description == "resume" and "paused" in text(panel)
    again = panels(config)  # the cell is run again: the new panel has the search in hand
    assert again.state == "paused"
    again.buttons["pause"].click()
    again.buttons["stop"].click()
    assert panel.state == "stopping"
    until(lambda: again.state == panel.state == "idle", "the process to end")
    until(lambda: "interrupted" in again.line.value, "the panel to say so")
    assert "start goes on" in text(again) and not again.form.fields["seed"].disabled
    again.buttons["start"].click()
    until(lambda: "finished" in again.line.value and again.state == "idle", "the search to end")
    assert "epoch 8 of 8" in text(again) and "test accuracy" in text(again) and again.bar.value == again.bar.max == 8
    assert_same_run(Run.load(again.folder), kit.search(config, out=tmp_path / "here", progress=Silent()))
    again.buttons["start"].click()  # a finished run is not computed again
    assert again.state == "idle" and "finished before" in text(again)


def test_a_search_that_fails_says_why_in_the_panel(tmp_path: Path, panels):
    panel = panels(kit.Config(**{**VALUES, "batch_size": 4096}, out=str(tmp_path)))
    panel.buttons["start"].click()
    until(lambda: not panel.buttons["start"].disabled, "the search to fail")
    assert "4096" in text(panel) and "Traceback" not in text(panel) and panel.state == "idle"


def test_what_is_typed_is_checked_and_a_mistake_stands_in_the_panel(tmp_path: Path, panels):
    panel = panels(kit.Config(**VALUES, out=str(tmp_path)))
    more = panel.form.more.value
    for name, value, says in (
        ("epochs", "three", "epochs=&#x27;three&#x27;"),
        ("lr", "-1", "greater than 0"),
        ("dataset", "digit", "Did you mean"),
        ("augment", "pear-softmax", "Did you mean &#x27;pair-softmax&#x27;"),
        ("other fields", f"{more} hold_out=perhaps", "true or false"),
        ("other fields", f"{more} hold_out", "is not name=value"),
        ("other fields", f"{more} holdout=true", "Did you mean &#x27;hold_out&#x27;"),
    ):
        widget = panel.form.more if name == "other fields" else panel.form.fields[name]
        before, widget.value = widget.value, value
        panel.buttons["start"].click()
        assert "kit-error" in panel.message.value and says in panel.message.value and panel.state == "idle", name
        widget.value = before
        assert panel.message.value == ""
    tooltip = panel.form.fields["batch_size"].tooltip
    assert "int" in tooltip and "ge=2" in tooltip


def test_the_form_gives_back_the_configuration_that_it_was_given(tmp_path: Path, panels):
    for config in (
        kit.Config(**VALUES, out=str(tmp_path)),
        kit.Config(method="seq-dha", preset="paper", seed=3, image_size=8),
        kit.Config(method="plain", lr=0.1234567891, hold_out=True, augment="none", deterministic=True),
    ):
        assert panels(config).form.config() == config
    form = panels(kit.Config()).form
    assert form.fields["lr"].placeholder == "0.1" and form.fields["lr"].value == ""
    form.fields["preset"].value = "paper"
    assert form.fields["lr"].placeholder == "0.025" and form.config() == kit.Config(preset="paper")


def test_a_run_in_the_hands_of_another_process_is_watched_and_not_started(interrupted: Run, panels):
    with store.exclusive(interrupted.path):
        panel = panels(run=interrupted)
        assert panel.state == "elsewhere" and panel.buttons["start"].disabled and "epoch 1 of 2" in text(panel)
        with pytest.raises(KitError, match="is in use by another process"):
            panel.start()
        store.write_json(interrupted.path / "metrics.json", {"test_accuracy": 0.5})
        until(lambda: "50.00%" in panel.line.value, "the panel to see that it ended")
    until(lambda: panel.poller is None, "the panel to stop looking")


def test_runs_are_shown_whatever_their_state(finished: Run, interrupted: Run, panels):
    panel = panels(run=finished)
    assert panel.run.path == finished.path and f"{finished.metrics['test_accuracy']:.2%}" in text(panel)
    assert all(len(panel.views[name].data) for name in ("curves", "policy", "cells")) and panel.samples.value
    assert repr(panel) == f"<Dashboard of {finished.path.name}: finished>"
    failure = {"error": "NonFinite", "message": "the loss is nan at step 6", "epoch": 1}
    store.write_json(interrupted.path / "failure.json", failure)
    panel = panels(run=interrupted)
    assert "failed" in text(panel) and "the loss is nan at step 6" in panel.message.value
    fresh = panels(kit.Config(**VALUES))
    assert fresh.run is None and fresh.shown.layout.display == "none"


def test_the_function_refuses_what_is_no_configuration(finished: Run):
    for arguments, says in (
        ({"config": {"dataset": "digits"}}, "takes a kit.Config"),
        ({"config": finished.config, "run": finished}, "not both"),
        ({"run": finished.path / "x"}, "is not a run directory"),
    ):
        with pytest.raises(KitError, match=says):
            kit.dashboard(**arguments, live=True)


def test_many_updates_leave_nothing_behind(finished: Run, panels):
    panel, kept = panels(run=finished), set()
    for k in range(4):
        os.utime(finished.path / "history.parquet", (k, k))
        panel.refresh()
        traces = [len(view.data) for view in panel.views.values()]
        kept.add((len(widgets.widget._instances), threading.active_count(), *traces))
    assert len(kept) == 1 and panel.seen[1] == 3 * 10**9


def test_samples_are_augmented_as_the_recorded_policy_does(finished: Run, monkeypatch: pytest.MonkeyPatch):
    page = views.samples(finished)
    assert page == views.samples(finished) and page.count("<img") == views.COLUMNS * (1 + views.ROWS)
    tau = {name: values.copy() for name, values in finished.tau.items()}
    tau["probabilities"][-1] = 0
    tau["probabilities"][-1][0, 1] = 1
    monkeypatch.setattr(Run, "tau", tau)
    first, second = kit.augment.OPS[:2]
    page = views.samples(finished)
    assert page.count(f"{first} ") == page.count(f"{second} ") == views.COLUMNS * views.ROWS


def test_without_a_page_the_search_runs_in_line_and_the_figures_are_shown(
    micro: str, finished: Run, monkeypatch: pytest.MonkeyPatch
):
    shown = []
    monkeypatch.setattr("kit.figures.show", shown.append)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    run = kit.dashboard(finished.config.but(out=str(finished.path.parent)))
    assert run.path == finished.path and len(shown) == 3 and all(figure.data for figure in shown)
    monkeypatch.setenv("JPY_SESSION_NAME", "/notebooks/dashboard.ipynb")
    panel = kit.dashboard(run=finished.path)
    panel.show()
    assert isinstance(panel, Dashboard) and len(shown) == 6
