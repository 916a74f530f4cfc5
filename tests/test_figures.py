"""Figures of runs and tables: they show the recorded numbers, name their axes, and open damaged or unfinished runs."""

from __future__ import annotations

import json
import math
import os
import re
import struct
import subprocess
import sys

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from tests_recorded import alpha_walk, blocks_walk, tau_walk, write_run

import kit
from kit import figures
from kit.errors import KitError
from kit.figures.record import Record, thinned


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("figures")


@pytest.fixture(scope="module")
def run(folder) -> kit.Run:
    return write_run(folder / "digits-dha-s0-short", hold_out=True)


@pytest.fixture(scope="module")
def drawn(run) -> go.Figure:
    return figures.evolution(run)


@pytest.fixture(scope="module")
def fixed(folder) -> kit.Run:
    """A network that is given, with nothing learned but its weights."""
    support = np.ones((13, 8, 2), bool)
    given = {
        "epoch": np.arange(13),
        "alpha": support.astype("f4"),
        "support": support,
        "frozen": np.ones((13, 8), bool),
    }
    gone = ("eta/lr", "eta/weight_decay", "tau/kl_from_uniform", "alpha/frozen")
    return write_run(folder / "plain", method="plain", arrays={"alpha": given, "tau": {}}, leave_out=gone)


@pytest.fixture
def browser():
    if figures.why_no_png():
        pytest.skip(figures.why_no_png())


def size(data: bytes) -> tuple[int, int]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def texts(figure: go.Figure) -> list[str]:
    return [re.sub("<[^b][^>]*>|</?b>", "", note.text or "") for note in figure.layout.annotations]


def titles(figure: go.Figure) -> list[str]:
    axes = [*figure.select_xaxes(), *figure.select_yaxes()]
    return [axis.title.text for axis in axes if axis.title.text]


def summary() -> pd.DataFrame:
    rows = [
        ("dha", "DHA", 5, 0.98, 0.976, 0.984, 130.0),
        ("seq-dha", "NAS, then DA + HPO", 5, 0.97, 0.965, 0.975, 190.0),
        ("plain", "DARTS V2 cells, trained", 1, 0.95, math.nan, math.nan, 60.0),
    ]
    return pd.DataFrame(
        rows, columns=["method", "title", "n", *(f"accuracy_{k}" for k in ("mean", "low", "high")), "seconds"]
    )


# ---- one run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [figures.curves, figures.evolution])
def test_curves_show_the_historys_values(run, draw):
    figure = draw(run)
    shown = [np.array(trace.y, float) for trace in figure.data if trace.type == "scatter"]
    for name in ("loss", "val_loss", "eta/lr", "eta/weight_decay", "alpha/frozen"):
        expected = run.curve(name).to_numpy()
        assert any(len(y) == len(expected) and np.allclose(y, expected) for y in shown), name
    lr = run.curve("lr")
    assert any(len(y) == sum(lr > 0) and np.allclose(y, lr[lr > 0]) for y in shown)  # a schedule ends at 0
    assert "nats" in titles(figure) and titles(figure).count("epoch") >= 1


def test_curves_have_the_test_accuracy_and_no_panel_for_what_is_fixed(run, fixed):
    star = next(trace for trace in figures.curves(run).data if trace.marker.symbol == "star")
    assert list(star.y) == [97.0] and list(star.x) == [12]
    words = texts(figures.curves(fixed))
    assert not any(text.startswith(("α", "τ")) for text in words) and any("not learned" in text for text in words)
    words = texts(figures.evolution(fixed))
    assert not any(text.startswith(("α", "τ")) for text in words) and not figures.evolution(fixed).frames
    assert "τ is fixed" in figures.evolution(fixed).layout.title.text


def test_stages_are_marked_in_every_panel_over_epochs(drawn):
    shaded = {s.yref for s in drawn.layout.shapes if s.type == "rect" and (s.x0, s.x1) == (0, 4)}
    cursors = {s.yref for s in drawn.layout.shapes if s.type == "line" and s.x0 == s.x1 == 12}
    axes = [axis for axis in drawn.select_xaxes() if axis.matches == "x" or axis is drawn.layout.xaxis]
    assert shaded == cursors and len(shaded) == len(axes) > 6
    assert {"search", "tuning"} <= set(texts(drawn))


def test_a_frame_shows_its_epoch(run, drawn):
    p = run.tau["probabilities"].astype(float)
    assert [frame.name for frame in drawn.frames] == [str(e) for e in range(13)]
    frame, heat = (
        drawn.frames[5],
        next(k for k, trace in enumerate(drawn.data) if trace.type == "heatmap" and trace.xgap),
    )
    moved = dict(zip(frame.traces, frame.data))[heat]
    assert np.allclose(moved.z, np.log2(p[5] * p[5].size), atol=1e-3)
    assert np.allclose(drawn.data[heat].z, np.log2(p[-1] * p[-1].size), atol=1e-3)
    assert drawn.data[heat].zmin == -drawn.data[heat].zmax
    axis = f"xaxis{drawn.data[heat].xaxis[1:]}"
    assert frame.layout[axis].title.text == "second operation · after epoch 5"
    assert {shape.x0 for shape in frame.layout.shapes} == {5}


def test_picks_have_the_operations_colours_and_freezing_is_marked(run, drawn):
    rows = next(trace for trace in drawn.data if trace.type == "heatmap" and trace.showscale is False)
    ops = Record(run).candidates
    assert np.array(rows.z).shape == (16, 13) and [color for _, color in rows.colorscale][::2] == [
        figures.look(op).color for op in ops
    ]
    support, slots = run.alpha["support"][5], kit.space.cell.cell_slots()
    wanted = sorted(ops.index(slots[i].candidates[c][0]) for i in range(8) for c in np.flatnonzero(support[i]))
    assert sorted(np.array(rows.z)[:, 5].tolist()) == wanted
    diamonds = next(t for t in drawn.data if t.type == "scatter" and t.marker.symbol == "diamond")
    assert list(diamonds.x) == [4] * 8 and len(set(diamonds.y)) == 8


def test_a_pick_keeps_its_row_while_it_stays(folder):
    walk = alpha_walk(np.random.default_rng(0), 3, 2)
    walk["support"][:] = False
    for epoch, picks in enumerate([(3, 5), (5, 9), (5, 9), (1, 9)]):
        walk["support"][epoch, 7, list(picks)] = True
    record = Record(write_run(folder / "rows", 3, arrays={"alpha": walk}))
    first = record.picked[7][0].tolist()
    assert sorted(first) == [3, 5]
    assert [set(row) for row in record.picked[7].tolist()] == [{3, 5}, {5, 9}, {5, 9}, {1, 9}]
    assert all(row[first.index(5)] == 5 for row in record.picked[7][:3].tolist())
    assert (record.picked[0] == -1).all()  # no picks recorded


def test_architecture_draws_alpha_and_what_is_chosen(run, fixed):
    figure = figures.architecture(run)
    alpha, support = np.abs(run.alpha["alpha"]), run.alpha["support"]
    bold = [np.array(trace.y, float) for trace in figure.data if trace.line.width == 3]
    assert np.allclose(np.sort(np.concatenate([y[np.isfinite(y)] for y in bold])), np.sort(alpha[support]), atol=1e-6)
    assert titles(figure).count("epoch") == 4 and titles(figure).count("|α|") == 2
    assert texts(figure).count("◆") == 8 and "α is fixed" in texts(figures.architecture(fixed))[0]


def test_policy_shows_what_a_policy_learns(folder, run, fixed):
    p = run.tau["probabilities"].astype(float)
    pairs, first, second = (trace for trace in figures.policy(run).data if trace.type == "heatmap")
    assert np.allclose(pairs.z, np.log2(p[-1] * 196), atol=1e-3) and list(pairs.x) == list(kit.augment.OPS)
    assert np.allclose(first.z, np.log2(14 * p.sum(axis=2)).T, atol=2e-3)
    assert np.allclose(second.z, np.log2(14 * p.sum(axis=1)).T, atol=2e-3)
    assert "τ is fixed" in texts(figures.policy(fixed))[0] and "τ is fixed" in texts(figures.tau_evolution(fixed))[0]
    walk = tau_walk(np.random.default_rng(1), 12, 15, more=True)
    daas = write_run(folder / "daas", augment="policy-gradient", arrays={"tau": walk})
    figure = figures.tau_evolution(daas)
    shown = [np.array(trace.z, float) for trace in figure.data if trace.type == "heatmap"]
    for expected in (walk["magnitude"][-1], walk["apply"].T):
        assert any(z.shape == expected.shape and np.allclose(z, expected, atol=1e-4) for z in shown)
    assert len(figure.frames) == 13 and len(figure.frames[0].data) == 2
    odd = write_run(folder / "odd", arrays={"tau": tau_walk(np.random.default_rng(1), 12, 3)})
    assert list(figures.policy(odd).data[0].x) == ["operation 0", "operation 1", "operation 2"]


def test_what_a_users_own_learner_reports_has_panels(folder):
    own = write_run(folder / "own")
    history = own.history
    rows = history[history["name"] == "eta/lr"]
    names = {"eta/optimizer/sgd": 1.0, "eta/optimizer/adam": 2.0, "eta/label_smoothing": 3.0, "alpha/rank_loss": 4.0}
    more = [rows.assign(name=name, value=rows["value"] * scale) for name, scale in names.items()]
    pd.concat([history, *more]).to_parquet(own.path / "history.parquet", index=False)
    words = " ".join(texts(figures.evolution(kit.Run.load(own.path))))
    assert all(text in words for text in ("η: optimizer", "━ sgd", "━ adam", "η: label smoothing", "α: rank loss"))


def test_figures_of_600_epochs_are_thinned_and_the_data_are_not(folder):
    long = write_run(folder / "long", 600)
    for draw in (figures.evolution, figures.tau_evolution, figures.cells_animated):
        figure = draw(long)
        assert len(figure.frames) == 60 == len(figure.layout.sliders[0].steps), draw.__name__
        assert [figure.frames[0].name, figure.frames[-1].name] == ["0", "600"] and len(figure.to_json()) < 4e6
    assert len(figures.architecture(long).to_json()) < 4e6
    assert all(len(trace.x) <= 240 for trace in figures.evolution([long, long]).data)
    assert len(long.tau["probabilities"]) == 601 and long.curve("loss").size == 600


@pytest.mark.parametrize("count, most", [(1, 60), (61, 60), (601, 60), (7, 2)])
def test_thinning_keeps_both_ends(count, most):
    at = thinned(count, most)
    assert at[0] == 0 and at[-1] == count - 1 and len(at) == min(count, most) == len(set(at))


# ---- runs with gaps ------------------------------------------------------------------------------


def test_a_run_that_is_not_finished_opens_with_what_it_has(folder):
    going = write_run(folder / "going", 5, finished=False)
    path = going.path / "config.json"
    path.write_text(path.read_text().replace('"epochs": 5', '"epochs": 20'))
    going = kit.Run.load(going.path)
    text = figures.standing(going)
    assert "not finished (stopped, or still going on), 5 of 20 epochs" in text and "so far" in text
    assert len(figures.evolution(going).frames) == 6
    failure = {"error": "NonFinite", "message": "the loss is nan at step 9."}
    (going.path / "failure.json").write_text(json.dumps(failure))
    text = figures.standing(going)
    assert "failed, 5 of 20 epochs" in text and "NonFinite: the loss is nan at step 9." in text


@pytest.mark.parametrize("file", ["history.parquet", "alpha.npz", "tau.npz"])
def test_a_file_that_cannot_be_read_is_one_clear_error_where_it_is_needed(folder, file):
    broken = write_run(folder / f"broken-{file}", 4)
    (broken.path / file).write_bytes(b"not what it should be")
    broken = kit.Run.load(broken.path)
    says = f"{file} holds no (arrays|table)"
    assert re.search(says, figures.standing(broken)) and figures.cells(broken).data
    with pytest.raises(KitError, match=says):
        figures.evolution(broken)
    for draw, needs in ((figures.curves, "history"), (figures.architecture, "alpha"), (figures.tau_evolution, "tau")):
        if needs in file:
            with pytest.raises(KitError, match=says):
                draw(broken)
        elif "history" not in file:
            assert draw(broken).data


def test_arrays_of_a_foreign_shape_are_one_clear_error(folder):
    flat = {"epoch": np.arange(5), "probabilities": np.ones((5, 14)), "counts": np.ones((5, 14))}
    odd = write_run(folder / "flat", 4, arrays={"tau": flat})
    assert "cannot be drawn: its probabilities is [5, 14]" in figures.standing(odd)
    with pytest.raises(KitError, match="flat cannot be drawn"):
        figures.policy(odd)


def test_nothing_recorded_is_one_error(folder):
    (folder / "early").mkdir()
    (folder / "early" / "config.json").write_text(json.dumps(kit.Config(dataset="digits").model_dump()))
    early = kit.Run.load(folder / "early")
    for draw in (
        figures.curves,
        figures.evolution,
        figures.tau_evolution,
        figures.architecture,
        figures.cells_animated,
    ):
        with pytest.raises(KitError, match="early has no completed epoch to draw yet"):
            draw(early)
    assert "0 of 25 epochs" in figures.standing(early)
    with pytest.raises(KitError, match="no runs to draw"):
        figures.evolution([])


def test_skips_above_half_are_called_a_collapse(folder):
    for skips in (0.5, 0.6):
        collapsing = write_run(folder / f"skips{skips}", 6)
        history = collapsing.history
        rows = history[history["name"] == "loss"].assign(name="alpha/skips", value=skips)
        pd.concat([history, rows]).to_parquet(collapsing.path / "history.parquet", index=False)
        assert ("Collapse" in figures.standing(kit.Run.load(collapsing.path))) == (skips > 0.5)


# ---- several runs --------------------------------------------------------------------------------


def test_several_runs_are_overlaid_in_their_colours(folder, run):
    other = write_run(folder / "digits-dha-s1-other", 8, seed=1)
    figure = figures.evolution([run, other])
    legend = {trace.name: trace.line.color for trace in figure.data if trace.showlegend is not False}
    assert list(legend) == [run.path.name, other.path.name] and len(set(legend.values())) == 2
    losses = [trace for trace in figure.data if trace.yaxis in (None, "y") and trace.line.dash == "solid"]
    assert [(t.line.color, len(t.x)) for t in losses] == [(legend[run.path.name], 12), (legend[other.path.name], 8)]
    assert figures.comparable([run, other]) == "2 runs. Everything that they recorded is comparable."


def test_runs_on_different_spaces_say_what_is_not_comparable(folder, run):
    walk = blocks_walk(np.random.default_rng(2), 12, 6)
    changes = {"space": "choice", "channels": 16, "cells": 6, "augment": "policy-gradient", "image_size": 16}
    choice = write_run(folder / "choice", arrays={"alpha": walk}, **changes)
    text = figures.comparable([run, choice])
    assert "α's entropy and skips: the runs differ in space (cell, choice)" in text and "image_size" in text
    words = " ".join(texts(figures.evolution([run, choice])))
    assert "α: frozen slots" in words and "α: entropy" not in words and "not comparable: α's" in words


def test_overlay_has_one_colour_per_method_and_means(run, fixed):
    figure = figures.overlay([run, run, fixed], "loss")
    assert len(figure.data) == 4  # two seeds and their mean, and the one run of the other method
    assert {trace.line.color for trace in figure.data} == {figures.look(m).color for m in ("dha", "plain")}
    mean = next(trace for trace in figure.data if "n = 2" in (trace.name or ""))
    assert np.allclose(mean.y, run.curve("loss")) and titles(figure) == ["epoch", "loss [nats]"]
    with pytest.raises(KitError, match="no.*curve 'los'.*loss"):
        figures.overlay([run], "los")


def test_ablation_keeps_the_tables_order_and_numbers():
    runs = pd.DataFrame({"method": ["dha", "dha", "plain"], "test_accuracy": [0.97, 0.99, 0.95]})
    figure = figures.ablation(summary(), runs)
    means = [trace for trace in figure.data if not trace.name.endswith("seeds")]
    assert [(trace.x[0], trace.y[0]) for trace in means] == [(98.0, 0), (97.0, 1), (95.0, 2)]
    assert means[0].error_x.array[0] == pytest.approx(0.4) and np.isnan(means[2].error_x.array[0])
    low, high = figure.layout.yaxis.range
    assert low > high and list(figure.layout.yaxis.ticktext)[0] == "DHA (n = 5)"  # the table's first row on top
    seeds = [x for trace in figure.data if trace.name.endswith("seeds") for x in trace.x]
    assert sorted(seeds) == [95.0, 97.0, 99.0]
    with pytest.raises(KitError, match="summary has no column title"):
        figures.ablation(summary().drop(columns="title"))


def test_accuracy_against_time_puts_each_method_at_its_time():
    figure = figures.accuracy_against_time(summary())
    means = {trace.name: (trace.x[0], trace.y[0]) for trace in figure.data if trace.showlegend is not False}
    assert means["DHA"] == pytest.approx((130 / 60, 98.0)) and len(means) == 3
    assert titles(figure)[0] == "wall-clock of a run [min]" and "[%]" in titles(figure)[1]


def test_planted_shows_every_seed_and_the_mean():
    figure = figures.planted({"sparse": [[0.1, 0.5], [0.3, 0.7]], "gumbel": [[0.2, 0.2]]}, 100, "planted")
    assert [list(trace.y) for trace in figure.data] == [[0.1, 0.5], [0.3, 0.7], [0.2, 0.6], [0.2, 0.2]]
    assert [trace.name for trace in figure.data if trace.name] == ["sparse (n = 2)", "gumbel (n = 1)"]


def test_predictions_mark_the_wrong_ones():
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    said = kit.Prediction(torch.tensor([0, 1, 1]), torch.eye(2)[[0, 1, 1]], ["cat", "dog", "dog"])
    figure = figures.predictions(images, said, truth=["cat", "cat", "dog"])
    assert texts(figure) == ["cat 100%", "dog 100%<br>✗ is cat", "dog 100%"] and len(figure.data) == 3
    rows = figures.pictures(images, ["first", "second", "third"], columns=2)
    above = {note.text: (note.x < 0.5, note.y > 0.9) for note in rows.layout.annotations if note.text}
    assert above == {"first": (True, True), "second": (False, True), "third": (True, False)}
    with pytest.raises(KitError, match="3 images, 3 predictions and 2 true names"):
        figures.predictions(images, said, truth=["cat", "cat"])


def test_every_method_looks_different():
    looks = [figures.look(name) for name in kit.methods()]
    assert len({(look.color, look.dash) for look in looks}) == len(looks)
    assert figures.look("my_method") == figures.look("my_method") and figures.look("my_method").title == "my method"


# ---- on their way out ----------------------------------------------------------------------------


def test_pictures_have_the_asked_size_and_no_slider(browser, run, drawn, tmp_path):
    assert size(figures.png(drawn, width=1000)) == (1000, drawn.layout.height - 100)
    surface = go.Figure(go.Surface(z=[[1, 2], [3, 4]]))
    paths = [tmp_path / "new" / name for name in ("curves.png", "surface.png")]
    assert figures.save_all(dict(zip(paths, (figures.curves(run), surface))), width=640)
    assert [size(path.read_bytes())[0] for path in paths] == [640, 640]
    assert size(figures.png(surface, width=300, height=200)) == (300, 200)


def test_show_publishes_both_faces_in_one_output(browser, run, monkeypatch):
    import base64

    import IPython.display

    published = []
    monkeypatch.setattr(IPython.display, "publish_display_data", published.append)
    figures.show(figures.policy(run), width=700)
    mime = "application/vnd.plotly.v1+json"
    assert set(published[0]) == {mime, "image/png", "text/plain"} and published[0][mime]["data"]
    # JupyterLab forgets the height of a responsive figure when it resizes it: it would vanish when drawn again
    assert published[0][mime]["config"]["responsive"] is False
    assert size(base64.b64decode(published[0]["image/png"]))[0] == 700


WITHOUT = """
import IPython.display, plotly.graph_objects as go
from kit import figures
print(figures.save(go.Figure(), {path!r}) or figures.save(go.Figure(go.Scatter(y=[1, 2])), {path!r}))
IPython.display.publish_display_data = lambda data: print(sorted(data), data["text/plain"])
figures.show(go.Figure())
"""


def test_without_a_browser_figures_stay_interactive_and_one_line_says_why(tmp_path):
    path = str(tmp_path / "figure.png")
    environment = {**os.environ, "BROWSER_PATH": "/nonexistent"}
    script = [sys.executable, "-c", WITHOUT.format(path=path)]
    said = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0 and not os.path.exists(path), said.stderr
    why, saved, shown = said.stdout.splitlines()
    assert "no PNG" in why and "plotly_get_chrome" in why and saved == "False"
    assert "plotly.v1+json" in shown and "image/png" not in shown and "plotly_get_chrome" in shown


def test_figures_are_legible_on_a_dark_page(drawn):
    layout = drawn.layout.template.layout
    assert (layout.paper_bgcolor, layout.plot_bgcolor) == ("white", "white")
    slider, menu = drawn.layout.sliders[0], drawn.layout.updatemenus[0]
    assert slider.font.color == slider.currentvalue.font.color == menu.font.color == layout.font.color


def test_a_method_that_is_gone_is_drawn_without_its_stages(folder):
    gone = write_run(folder / "gone", 4)
    path = gone.path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"method": "method-of-2031"}))
    try:
        gone = kit.Run.load(gone.path)
    except KitError as error:
        assert "method-of-2031" in str(error)
        return
    assert "4 of 4 epochs" in figures.standing(gone) and figures.curves(gone).data
