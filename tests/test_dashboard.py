"""The dashboard without a browser: buttons steer the search, mistakes stand in the panel, nothing piles up."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from test_process import SMALL, until
from tests_micro import assert_same_run

import kit
from kit import KitError, Run, files
from kit.run import store
from kit.search.progress import Silent

widgets = pytest.importorskip("ipywidgets.widgets")
pytest.importorskip("anywidget")  # plotly's FigureWidget is made of it
from kit.lab.panel import CHILDREN, PROGRESS, Dashboard  # noqa: E402

VALUES = {**SMALL, "method": "dha", "search_epochs": 4}


def text(panel: Dashboard) -> str:
    panel.refresh()
    return f"{panel.line.value} {panel.message.value}"


@pytest.fixture(autouse=True)
def _nothing_left_running():
    yield
    for child in CHILDREN.values():
        child.kill()
    CHILDREN.clear()


def test_the_buttons_start_stop_and_resume_a_search(tmp_path: Path):
    config = kit.Config(**{**VALUES, "epochs": 40}, out=str(tmp_path / "beside"))  # time enough to be paused
    panel = Dashboard(config)
    assert "ready" in text(panel) and panel.shown.layout.display == "none" and panel.buttons["stop"].disabled
    panel.buttons["start"].click()
    assert panel.state == "running" and panel.buttons["start"].disabled and panel.fields["seed"].disabled
    panel.buttons["pause"].click()
    assert "paused" in text(panel) and panel.buttons["pause"].description == "continue" and panel.child.paused
    panel.buttons["pause"].click()
    assert panel.state == "running" and panel.buttons["pause"].description == "pause"
    until(lambda: (panel.folder / "history.parquet").exists(), "the first epoch")
    panel.buttons["pause"].click()
    again = Dashboard(config)  # the cell is run again: the new panel has the search in hand
    assert again.state == "paused" and again.buttons["start"].disabled and not again.buttons["stop"].disabled
    again.buttons["stop"].click()
    for each in (again, panel):
        assert "interrupted" in text(each) and each.buttons["start"].description == "resume"
    assert not again.fields["seed"].disabled
    again.buttons["start"].click()
    until(lambda: "finished" in text(again), "the search to end")
    assert "40 of 40 epochs" in text(again) and "test accuracy" in text(again)
    assert again.bar.value == again.bar.max == 40
    assert_same_run(Run.load(again.folder), kit.search(config, out=tmp_path / "here", progress=Silent()))
    again.buttons["start"].click()  # a finished run is not computed again
    assert again.state == "idle" and "finished before" in text(again)


def test_in_a_kernel_the_panel_brings_itself_up_to_date(tmp_path: Path):
    async def cells() -> Dashboard:
        panel = Dashboard(kit.Config(**{**VALUES, "batch_size": 4096}, out=str(tmp_path)), every=0.05)
        panel.buttons["start"].click()
        await asyncio.wait_for(panel.watching, 240)
        return panel

    panel = asyncio.run(cells())
    assert "4096" in panel.message.value and "Traceback" not in panel.message.value and panel.state == "idle"


def test_what_is_typed_is_checked_and_a_mistake_stands_in_the_panel(tmp_path: Path):
    panel = Dashboard(kit.Config(**VALUES, out=str(tmp_path)))
    for name, value, says in (
        ("epochs", "three", "epochs=&#x27;three&#x27;"),
        ("lr", "-1", "greater than 0"),
        ("dataset", "digit", "Did you mean"),
        ("augment", "pear-softmax", "Did you mean &#x27;pair-softmax&#x27;"),
        ("hold_out", "perhaps", "valid boolean"),
        ("tau_reach", "-1", "greater than 0"),
    ):
        widget = panel.fields[name]
        before, widget.value = widget.value, value
        panel.buttons["start"].click()
        assert says in panel.message.value and panel.state == "idle", name
        assert [each.description for each in panel.fields.values() if each.layout.border_top] == [name]
        widget.value = before
        assert panel.message.value == "" and not widget.layout.border_top


def test_the_form_gives_back_the_configuration_that_it_was_given(tmp_path: Path):
    for config in (
        kit.Config(**VALUES, out=str(tmp_path)),
        kit.Config(method="seq-dha", preset="paper", seed=3, image_size=8),
        kit.Config(method="plain", lr=0.1234567891, hold_out=True, augment="none", deterministic=True),
    ):
        assert Dashboard(config).config() == config
    panel = Dashboard(kit.Config())
    assert panel.fields["lr"].placeholder == "0.1" and panel.fields["lr"].value == ""
    panel.fields["preset"].value = "paper"
    assert panel.fields["lr"].placeholder == "0.025" and panel.config() == kit.Config(preset="paper")


def test_every_field_is_in_one_group_with_its_description_range_and_choices(tmp_path: Path):
    panel = Dashboard(kit.Config(out=str(tmp_path)))
    assert set(panel.fields) == set(kit.Config.model_fields) - {"plugin_digest"}
    assert panel.fields["epochs"].tooltip == "epochs: of the whole run: search and tuning together, ≥ 1"
    assert panel.fields["arch"].options == tuple(kit.config.PARTS["arch"]) and panel.fields["lr"].options == ()
    assert panel.fields["deterministic"].options == ("true", "false")
    assert panel.fields["precision"].options == ("auto", "float32", "bfloat16")
    tabs = next(child for child in panel.children if isinstance(child, widgets.Tab))
    names = {title: [field.description for field in box.children] for title, box in zip(tabs.titles, tabs.children)}
    assert list(names) == ["data", "α", "τ", "η", "limits", "training"]
    for title, name in (("α", "arch_reach"), ("τ", "tau_reach"), ("η", "hyper_reach"), ("limits", "max_macs")):
        assert name in names[title]


def test_a_run_is_opened_from_the_list_and_images_are_shown_before_there_is_one(micro: str, tmp_path: Path):
    one = kit.search(kit.Config(**{**VALUES, "seed": 1, "tau_reach": 0.7}, out=str(tmp_path)), progress=Silent())
    panel = Dashboard(kit.Config(**{**VALUES, "seed": 2, "lr": 0.3}, out=str(tmp_path)))
    assert panel.run is None and panel.images.layout.display is None and len(panel.images.children[0].data) == 12
    assert panel.runs.options == (one.path.name,)
    panel.runs.value = one.path.name
    assert panel.run.path == one.path and panel.config() == one.config and panel.images.layout.display == "none"
    assert panel.fields["lr"].value == "" and panel.fields["tau_reach"].value == "0.7"


def test_a_run_in_the_hands_of_another_process_is_watched_and_not_started(interrupted: Run):
    with files.exclusive(interrupted.path):
        panel = Dashboard(run=interrupted)
        assert panel.state == "elsewhere" and panel.buttons["start"].disabled and "1 of 2 epochs" in text(panel)
        panel.start()
        assert panel.child is None and not CHILDREN and panel.bar.value == 1
        (interrupted.path / PROGRESS).write_text("1.4 epoch 1.4/2, 812 images/s, 0:00:07 left")
        assert "epoch 1.4/2, 812 images/s, 0:00:07 left" in text(panel) and panel.bar.value == 1.4
        store.write_json(interrupted.path / "metrics.json", {"test_accuracy": 0.5, "epochs": 2})
        assert "50.00%" in text(panel)


def test_runs_are_shown_whatever_their_state(finished: Run, interrupted: Run):
    panel = Dashboard(run=finished)
    assert panel.run.path == finished.path and f"{finished.metrics['test_accuracy']:.2%}" in text(panel)
    assert all(len(figure.data) for figure in panel.figures.values())
    failure = {"error": "NonFinite", "message": "the loss is nan at step 6", "epoch": 1}
    store.write_json(interrupted.path / "failure.json", failure)
    panel = Dashboard(run=interrupted)
    assert "failed" in text(panel) and "the loss is nan at step 6" in text(panel)
    fresh = Dashboard(kit.Config(**VALUES))
    assert fresh.run is None and fresh.shown.layout.display == "none"


def test_the_function_refuses_what_is_no_configuration(finished: Run):
    for arguments, says in (
        ({"config": {"dataset": "digits"}}, "takes a configuration"),
        ({"config": finished.config, "run": finished}, "or a run"),
        ({"run": finished.path / "x"}, "is not a run directory"),
    ):
        with pytest.raises(KitError, match=says):
            kit.dashboard(**arguments, live=True)


def test_many_updates_leave_nothing_behind(finished: Run):
    panel, kept = Dashboard(run=finished), set()
    for k in range(3):
        os.utime(finished.path / "history.parquet", (k, k))
        panel.refresh()
        traces = [len(figure.data) for figure in panel.figures.values()]
        kept.add((len(widgets.widget._instances), *traces))
    assert len(kept) == 1


def test_without_a_page_the_search_runs_in_line_and_the_figures_are_shown(
    micro: str, finished: Run, monkeypatch: pytest.MonkeyPatch
):
    shown = []
    monkeypatch.setattr("kit.figures.show", shown.append)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    run = kit.dashboard(finished.config.but(out=str(finished.path.parent)))
    assert run.path == finished.path and len(shown) == 3 and all(figure.data for figure in shown)
    monkeypatch.setenv("JPY_SESSION_NAME", "/notebooks/dashboard.ipynb")
    assert isinstance(kit.dashboard(run=finished.path), Dashboard)
