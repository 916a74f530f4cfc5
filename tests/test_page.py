"""The page of a run: whole, unfinished, failed or damaged; nothing fetched, nothing injected, a bounded size."""

from __future__ import annotations

import json
import re
import shutil

import plotly.graph_objects as go
import pytest
from tests_micro import micro_config
from tests_pages import Fetched, browser, write_run

import kit
from kit import figures
from kit.errors import KitError
from kit.search.progress import Silent
from kit.studies import page, render


@pytest.fixture(scope="module")
def written(finished, tmp_path_factory):
    return page.write(finished, tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture
def quick(monkeypatch):
    """Fewer figures, and pictures of one byte: drawing takes most of a page's time, and `written` has all of them."""
    monkeypatch.setattr(page, "FIGURES", {"α": (figures.architecture,), "τ": (figures.policy,)})
    monkeypatch.setattr(figures, "png", lambda figure: b"!")


@pytest.fixture
def copied(finished, tmp_path, quick):
    """A finished run that a test may spoil."""
    shutil.copytree(finished.path, tmp_path / finished.path.name)
    return kit.Run.load(tmp_path / finished.path.name)


def words(text: str) -> str:
    return " ".join(" ".join(Fetched(text).words).split())


def alter(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_page_is_whole_small_and_fetches_nothing(finished, written):
    text = written.read_text()
    found, shown, m = Fetched(text), words(text), finished.metrics
    assert found.fetched == [] and text.count("Plotly.newPlot(") >= 4 and found.pictures >= 4
    assert len(text.encode()) < 10_000_000 and "class=banner" not in text
    for part in (
        f"{m['test_accuracy']:.2%} [",
        f"n = {m['test_images']} images",
        f"{m['params']:,}",
        f"{m['macs']:,}",
        finished.provenance["commit"],
        finished.provenance["split"],
        f"run = kit.Run.load('{finished.path}')",
        "[N, 1, 8, 8]",
        "epochs = 2",
        *(operation for operation, _ in finished.genotype["normal"][0]),
    ):
        assert str(part) in shown, part


def test_the_same_run_gives_the_same_page(finished, quick):
    assert page.page(finished) == page.page(finished)


def test_it_lies_in_the_run_directory_or_where_it_is_asked(copied, tmp_path, capsys):
    assert page.write(copied) == copied.path / "report.html"
    assert page.write(str(copied.path), tmp_path) == tmp_path / f"{copied.path.name}.html"
    (tmp_path / "file").touch()
    with pytest.raises(KitError, match="cannot be written.*OUT="):
        page.write(copied, tmp_path / "file" / "page.html")
    assert page.main([]) == 2 and "make report RUN=" in capsys.readouterr().err
    assert page.main([str(tmp_path / "nope")]) == 1 and "is not a run directory" in capsys.readouterr().err
    assert page.main([str(copied.path), str(tmp_path / "p.html")]) == 0
    assert re.search(r"p\.html \(\d\.\d MB\)", capsys.readouterr().out)


def test_an_unfinished_run_shows_what_it_has_and_a_failed_one_why(interrupted, quick):
    text = page.page(interrupted)
    for said in ("It is not finished", "1 of 2 epochs are completed", "kit.search(run.config, out=", "After epoch 1"):
        assert said in words(text), said
    failure = {
        "error": "NonFinite",
        "message": "the loss is nan",
        "epoch": 1,
        "step": 7,
        "traceback": "line 1 <module>",
    }
    (interrupted.path / "failure.json").write_text(json.dumps(failure))
    text = page.page(interrupted)
    assert "It failed." in words(text) and "NonFinite: the loss is nan (epoch 1, step 7)" in words(text)
    assert "line 1 &lt;module&gt;" in text


def test_a_run_without_an_epoch_has_a_page(tmp_path, quick):
    shown = words(page.page(write_run(tmp_path, None, method="dha")))
    assert "0 of 25 epochs are completed" in shown and "No epoch is completed yet" in shown


def test_what_a_method_leaves_fixed_is_said(micro, tmp_path, quick):
    run = kit.search(micro_config("plain", epochs=1), out=tmp_path, progress=Silent())
    for said in ("τ is fixed in this run", "α is fixed in this run", "flip-crop", "DARTS V2 cells, trained"):
        assert said in words(page.page(run)), said


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda path: (path / "tau.npz").write_bytes(b""), "tau.npz holds no arrays"),
        (lambda path: (path / "history.parquet").write_bytes(b"PAR1"), "history.parquet holds no table"),
        (lambda path: (path / "metrics.json").write_text("{"), "metrics.json cannot be read"),
        (lambda path: (path / "metrics.json").write_text("[1]"), "/metrics.json"),
        (lambda path: alter(path / "metrics.json", test_accuracy="high", val_accuracy=0.5), "high, of 60 images"),
        (lambda path: (path / "model" / "model.json").unlink(), "model.json"),
        (lambda path: alter(path / "model" / "model.json", network=[], policy=3), "has a policy that is none"),
    ],
)
def test_what_is_missing_or_damaged_is_said_and_the_rest_stands(copied, spoil, says):
    spoil(copied.path)
    shown = words(page.page(kit.Run.load(copied.path)))
    assert says in shown and "Configuration" in shown and "micro_digits" in shown


def test_nothing_from_a_runs_files_becomes_markup(copied):
    evil = "</script><script src=http://evil/x.js>alert(1)</script><img src=x onerror=alert(1)>"
    before = Fetched(page.page(copied))
    model = {"classes": [evil] * 10, "genotype": {"network": evil}, "policy": {"name": evil, "ops": [evil] * 14}}
    alter(copied.path / "model" / "model.json", **model)
    alter(copied.path / "metrics.json", **{evil: evil, "seconds": evil})
    alter(copied.path / "provenance.json", **{"commit": evil, "versions": {evil: evil}})
    (copied.path / "failure.json").write_text(json.dumps({"error": evil, "message": evil, "traceback": evil}))
    text = page.page(kit.Run.load(copied.path))
    after = Fetched(text)
    assert after.fetched == [] and "<script src" not in text and "<img src=x" not in text
    assert len(after.scripts) <= len(before.scripts) and any(evil in said for said in after.words)
    (figure,) = render.interactive([go.Figure(layout={"title": {"text": evil}})])
    assert Fetched(figure).fetched == [] and "<script src" not in figure


def test_figures_that_would_make_a_page_too_large_are_pictures(quick, monkeypatch):
    shown = [go.Figure(go.Scatter(y=list(range(n)))) for n in (10, 100_000)]
    monkeypatch.setattr(render, "FIGURES_LIMIT", 100_000)
    small, large = render.interactive(shown)
    assert "Plotly.newPlot(" in small and "<noscript><img" in small
    assert "Plotly.newPlot(" not in large and "<img" in large and "Too large" in large


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
