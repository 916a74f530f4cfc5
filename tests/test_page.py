"""The page of a run: whole, unfinished, failed, old, damaged or foreign; nothing fetched, nothing injected, under 10
MB.
"""

from __future__ import annotations

import json
import re
import shutil

import plotly.graph_objects as go
import pytest
from tests_micro import micro_config
from tests_pages import Fetched, browser, write_run

import kit
from kit.errors import KitError
from kit.search.progress import Silent
from kit.studies import markup, page


@pytest.fixture(scope="module")
def written(finished, tmp_path_factory):
    return page.write(finished, tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture
def quick(monkeypatch):
    """Pictures of one byte: drawing them takes most of a page's time, and `written` has real ones."""
    monkeypatch.setattr(markup, "png", lambda figure, width: b"!")


@pytest.fixture
def copied(finished, tmp_path, quick):
    """A finished run that a test may spoil."""
    shutil.copytree(finished.path, tmp_path / finished.path.name)
    return kit.Run.load(tmp_path / finished.path.name)


def words(text: str) -> str:
    return " ".join(" ".join(Fetched(text).words).split())


def alter(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# ---- a whole run ---------------------------------------------------------------------------------


def test_the_page_is_whole_small_and_fetches_nothing(finished, written):
    text = written.read_text()
    found = Fetched(text)
    data = [script for script in found.scripts if script.get("type") == "application/json"]
    assert len(data) >= 4 and text.count("<noscript><img") == found.pictures == len(
        data
    )  # every figure has its picture
    assert found.outside == [] and len(found.scripts) == len(data) + 2  # plotly.js once, and the call
    assert 4_000_000 < len(text.encode()) < markup.LIMIT
    shown = words(text)
    m = finished.metrics
    assert f"{m['test_accuracy']:.2%} [" in shown and f"n = {m['test_images']} test images" in shown
    for part in (
        f"{m['params']:,}",
        f"{m['macs']:,}",
        finished.provenance["commit"],
        finished.provenance["split"],
        "bit-identical on resume",
        f"run = kit.Run.load('{finished.path}')",
        "[N, 1, 8, 8]",
        "196 ordered pairs",
        "epochs = 2 (usually 25)",
    ):
        assert str(part) in shown, part
    for operation, _ in finished.genotype["normal"][0]:
        assert operation in shown
    assert "banner" not in text.split("</style>")[1]


def test_the_same_run_gives_the_same_page(finished, quick):
    assert page.render(finished) == page.render(finished)


def test_it_lies_in_the_run_directory_or_where_it_is_asked(copied, tmp_path):
    assert page.write(copied) == copied.path / "report.html"
    assert page.write(str(copied.path), tmp_path) == tmp_path / f"{copied.path.name}.html"
    (tmp_path / "file").touch()
    with pytest.raises(KitError, match="cannot be written.*OUT="):
        page.write(copied, tmp_path / "file" / "page.html")


def test_the_interval_is_wilsons():
    # Wilson 1927 for 9 of 10: (0.5958, 0.9821)
    assert page._accuracy(0.9, 10, "test") == "90.00% [59.58%, 98.21%], n = 10 test images"


# ---- a run that is not whole ---------------------------------------------------------------------


def test_an_unfinished_run_shows_what_it_has(interrupted, quick):
    text = page.render(interrupted)
    shown = words(text)
    assert (
        "It is not finished" in shown
        and "1 of 2 epochs are completed" in shown
        and "kit.search(run.config, out=" in shown
    )
    assert "After epoch 1" in shown and "the test set has not been looked at" in shown
    assert text.count('type="application/json"') >= 3


def test_a_run_without_an_epoch_has_a_page(tmp_path, quick):
    shown = words(page.render(write_run(tmp_path, None, method="dha")))
    assert (
        "0 of 25 epochs are completed" in shown
        and "No epoch is completed yet" in shown
        and "kit.search(run.config" in shown
    )


def test_what_a_method_leaves_fixed_is_a_sentence(micro, tmp_path, quick):
    run = kit.search(micro_config("plain", epochs=1), out=tmp_path, progress=Silent())
    text = page.render(run)
    assert text.count('type="application/json"') >= 2  # the curves and the given cells
    for said in ("τ is fixed in this run", "α is fixed in this run", "Fixed: flip-crop", "DARTS V2 cells, trained"):
        assert said in words(text), said


def test_a_run_that_this_version_would_not_go_on_with_does_not_say_so(tmp_path, quick):
    run = write_run(tmp_path, None, method="dha")
    alter(run.path / "config.json", epochs=26)  # names another directory
    assert "kit.search(run.config" not in words(page.render(kit.Run.load(run.path)))


def test_a_failed_run_says_why(interrupted, quick):
    failure = {
        "error": "NonFinite",
        "message": "the loss is nan at step 7",
        "epoch": 1,
        "step": 7,
        "traceback": "line 1 <module>",
    }
    (interrupted.path / "failure.json").write_text(json.dumps(failure))
    text = page.render(interrupted)
    assert "It failed." in words(text) and "NonFinite: the loss is nan at step 7 (epoch 1, step 7)" in words(text)
    assert "line 1 &lt;module&gt;" in text and "banner failed" in text


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda run: (run.path / "tau.npz").unlink(), "τ"),
        (lambda run: (run.path / "alpha.npz").write_bytes(b"PK"), "α"),
        (lambda run: (run.path / "tau.npz").write_bytes(b""), "tau.npz holds no arrays"),
        (lambda run: (run.path / "history.parquet").write_bytes(b"PAR1"), "history.parquet cannot be read"),
        (lambda run: (run.path / "history.parquet").unlink(), "has no completed epoch"),
        (lambda run: (run.path / "provenance.json").unlink(), "provenance.json is missing"),
        (lambda run: (run.path / "metrics.json").write_text("{"), "metrics.json cannot be read"),
        (lambda run: (run.path / "metrics.json").write_text("[1]"), "metrics.json does not hold what it should"),
        (lambda run: (run.path / "model" / "model.json").unlink(), "model/model.json is missing"),
        (
            lambda run: alter(run.path / "model" / "model.json", genotype={"blocks": ["a", "b"]}, network={}, hyper={}),
            '"blocks"',
        ),
        (
            lambda run: alter(run.path / "metrics.json", test_images=None, test_accuracy="high", val_accuracy=0.5),
            "50.00% (of 0 images)",
        ),
        (lambda run: alter(run.path / "metrics.json", test_accuracy=float("nan")), "nan% (of 60 images)"),
        (
            lambda run: alter(run.path / "model" / "model.json", network=[], hyper=[1], policy=3),
            "has a hyper that is none",
        ),
        (lambda run: alter(run.path / "model" / "model.json", classes=3), "A part of this page is missing"),
    ],
)
def test_what_is_missing_or_damaged_is_said_and_the_rest_stands(copied, spoil, says):
    spoil(copied)
    shown = words(page.render(kit.Run.load(copied.path)))
    assert says in shown and "Configuration" in shown and "micro_digits" in shown


def test_an_older_configuration_is_named(copied):
    config = json.loads((copied.path / "config.json").read_text())
    old = {name: value for name, value in config.items() if name not in ("space", "arch", "epochs")} | {
        "method": "autodha",
        "widht": "4",
    }
    (copied.path / "config.json").write_text(json.dumps(old))
    shown = words(page.render(page.opened(copied.path)))
    assert "Made by an older version of kit: its configuration does not say epochs, space, arch" in shown
    assert "not a field of this version" in shown and "autodha" in shown and "2 epochs" not in shown


def test_a_path_that_is_no_run_is_refused_with_the_runs_nearby(copied, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # not where a user has runs of their own
    foreign = tmp_path / "bert"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"architectures": []}')
    for path, says in (
        (tmp_path / "nope", "has no config.json"),
        (foreign, "not a run directory of kit"),
        (tmp_path, "has no config.json"),
    ):
        assert page.main([str(path)]) == 1
        said = capsys.readouterr().err
        assert says in said and f"runs nearby: {copied.path}\n" in said  # and not the foreign one
    assert page.main([]) == 2 and "make report RUN=" in capsys.readouterr().err
    assert page.main([str(copied.path), str(tmp_path / "p.html")]) == 0 and re.search(
        r"p\.html \(\d\.\d MB\)", capsys.readouterr().out
    )


# ---- what others wrote ---------------------------------------------------------------------------


def test_nothing_from_a_runs_files_becomes_markup(copied):
    evil = "</script><script src=http://evil/x.js>alert(1)</script><img src=x onerror=alert(1)>"
    before = Fetched(page.render(copied))
    classes = [evil] * 10
    alter(
        copied.path / "model" / "model.json",
        classes=classes,
        genotype={"network": evil},
        policy={"name": evil, "ops": [evil] * 14, evil: evil},
    )
    alter(copied.path / "metrics.json", **{evil: evil, "seconds": evil})
    alter(copied.path / "provenance.json", **{"commit": evil, "versions": {evil: evil}})
    alter(copied.path / "config.json", dataset=evil, out=evil, **{evil: evil})
    (copied.path / "failure.json").write_text(json.dumps({"error": evil, "message": evil, "traceback": evil}))
    text = page.render(page.opened(copied.path))
    after = Fetched(text)
    assert (
        after.outside == []
        and len(after.scripts) <= len(before.scripts)
        and "<script src" not in text
        and "<img src=x" not in text
    )
    assert after.pictures <= before.pictures and any(evil in said for said in after.words)
    picture = markup.Picture(go.Figure(layout={"title": {"text": evil}}))
    assert (
        Fetched(picture.interactive).scripts == [{"type": "application/json"}]
        and json.loads(picture.json)["layout"]["title"]["text"] == evil
    )
    assert Fetched(picture.interactive).outside == []


# ---- size ----------------------------------------------------------------------------------------


def test_a_page_that_would_be_too_large_keeps_pictures_of_its_largest_figures():
    large = markup.Picture(go.Figure(go.Scatter(y=list(range(200_000)), name="large")))
    small = markup.Picture(go.Figure(go.Scatter(y=[1, 2], name="small")))
    whole = markup.document("t", [large, small])
    limit = len(whole.encode()) - 1
    less = markup.document("t", [large, small], limit)
    assert (
        len(less.encode()) < limit
        and less.count('type="application/json"') == 1
        and '"small"' in less
        and "A picture only" in less
    )
    assert less.count("<img") == 2
    least = markup.document("t", [large, small], 1_000_000)  # without plotly.js
    assert 'type="application/json"' not in least and least.count("<img") == 2 and len(least.encode()) < 1_000_000
    with pytest.raises(KitError, match="more than 0 MB: show fewer figures"):
        markup.document("t", [large, small], 1000)


# ---- in a browser --------------------------------------------------------------------------------


def test_the_page_draws_in_a_browser_without_a_network(written):
    with browser(color_scheme="dark") as view:
        view.goto(written.as_uri())
        assert view.locator(".figure").count() >= 4
        view.locator(".figure:has(.plot .main-svg)").first.wait_for()
        view.locator(".figure:not(:has(.plot .main-svg))").first.wait_for(
            state="detached"
        )  # each comes alive in its turn
        assert [address for address in view.asked if not address.startswith(("data:", "blob:"))] == [
            written.as_uri()
        ] and view.errors == []
        assert view.evaluate("document.documentElement.scrollWidth") <= 1200
        assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 28)"


def test_the_page_shows_pictures_without_javascript(written):
    with browser(java_script_enabled=False) as view:
        view.goto(written.as_uri())
        pictures = view.locator("img")
        assert pictures.count() >= 4 and all(pictures.nth(i).is_visible() for i in range(pictures.count()))
