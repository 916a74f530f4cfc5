"""The page of a run: whole, unfinished or failed; nothing fetched, nothing injected."""

from __future__ import annotations

import json
import runpy
import shutil
import sys

import plotly.graph_objects as go
import pytest
from tests_pages import Fetched, browser, write_run

import kit
from kit import figures
from kit.errors import KitError
from kit.studies import page


@pytest.fixture(scope="module")
def written(finished, tmp_path_factory):
    return page.write(finished, tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture
def quick(monkeypatch):
    """Fewer figures, and pictures of one byte: drawing takes most of a page's time, and `written` has all of them."""
    monkeypatch.setattr(page, "FIGURES", (figures.architecture,))
    monkeypatch.setattr(figures, "png", lambda figure: b"!")


def words(text: str) -> str:
    return " ".join(" ".join(Fetched(text).words).split())


def test_the_page_is_whole_and_fetches_nothing(finished, written):
    text = written.read_text()
    found, shown, m = Fetched(text), words(text), finished.metrics
    assert found.fetched == [] and text.count("Plotly.newPlot(") == found.pictures == len(page.FIGURES)
    assert len(text.encode()) < 10_000_000
    operations = [operation for operation, _ in finished.genotype["normal"][0]]
    for part in (f"{m['params']:,}", f"{m['macs']:,}", finished.provenance["split"], *operations):
        assert str(part) in shown, part


def test_it_lies_in_the_run_directory_or_where_it_is_asked(finished, tmp_path, quick, monkeypatch):
    run = kit.Run.load(shutil.copytree(finished.path, tmp_path / finished.path.name))
    assert page.write(run) == run.path / "report.html"
    (tmp_path / "file").touch()
    with pytest.raises(KitError, match="cannot be written.*OUT="):
        page.write(run, tmp_path / "file" / "page.html")
    monkeypatch.setattr(sys, "argv", ["page", str(tmp_path / "nope")])
    with pytest.raises(SystemExit, match="is not a run directory(?s:.*)make report RUN="):  # a text: exit code 1
        runpy.run_path(page.__file__, run_name="__main__")


def test_an_unfinished_run_shows_what_it_has_and_a_failed_one_why(interrupted, quick):
    text = words(page.of_run(interrupted))
    for said in (f"{interrupted.path.name}: interrupted, 1 of", "goes on with it", "train_accuracy"):
        assert said in text, said
    failure = {"error": "NonFinite", "message": "the loss is <b>nan</b>", "epoch": 1, "step": 7}
    (interrupted.path / "failure.json").write_text(json.dumps(failure))
    assert "NonFinite: the loss is <b>nan</b>" in words(page.of_run(interrupted))


def test_a_run_without_an_epoch_has_a_page(tmp_path, quick):
    assert "interrupted, 0 of 25 epochs" in words(page.of_run(write_run(tmp_path, None, method="dha")))


def test_nothing_from_a_runs_files_becomes_markup(finished, tmp_path, quick):
    evil = "</script><script src=http://evil/x.js>alert(1)</script><img src=x onerror=alert(1)>![](http://evil/x.png)"
    run = kit.Run.load(shutil.copytree(finished.path, tmp_path / finished.path.name))
    before = Fetched(page.of_run(run))
    for name, key in (("model/model.json", "classes"), ("provenance.json", "split")):
        held = json.loads((run.path / name).read_text())
        (run.path / name).write_text(json.dumps(held | {key: [evil] * 10 if key == "classes" else evil}))
    text = page.of_run(kit.Run.load(run.path))
    after = Fetched(text)
    assert after.fetched == [] and "<script src" not in text and "<img src=x" not in text
    assert len(after.scripts) <= len(before.scripts) and any(evil.partition("![")[0] in said for said in after.words)
    drawn = page.assemble("t", go.Figure(layout={"title": {"text": evil}}))
    assert Fetched(drawn).fetched == [] and "<script src" not in drawn


def test_the_page_draws_in_a_browser_without_a_network(written):
    with browser(color_scheme="dark") as view:
        view.goto(written.as_uri())
        view.locator(".figure .main-svg").first.wait_for()
        assert [a for a in view.asked if not a.startswith(("data:", "blob:"))] == [written.as_uri()]
        assert view.errors == [] and view.evaluate("document.documentElement.scrollWidth") <= 1200


def test_the_page_shows_pictures_without_javascript(written):
    with browser(java_script_enabled=False) as view:
        view.goto(written.as_uri())
        pictures = view.locator("img")
        assert pictures.count() >= 4 and all(pictures.nth(i).is_visible() for i in range(pictures.count()))
