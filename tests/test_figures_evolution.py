"""α, τ and η over the epochs: what is drawn, subsampling, runs with gaps, several runs."""

from __future__ import annotations

import io
import json
import re
import struct

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from kit.figures.recorded import thinned
from matplotlib.image import imread
from tests_recorded import WIDTHS, alpha_walk, blocks_walk, tau_walk, write_run

import kit
from kit import figures
from kit.errors import KitError
from kit.figures import animation, recorded, tiles
from kit.figures.style import INK, OP_COLORS

LONG = 600
MEGABYTE = 1e6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("evolution")


@pytest.fixture(scope="module")
def run(folder) -> kit.Run:
    return write_run(folder / "digits-dha-s0-short", hold_out=True)


@pytest.fixture(scope="module")
def drawn(run) -> go.Figure:
    return figures.evolution(run)


@pytest.fixture(scope="module")
def long_run(folder) -> kit.Run:
    return write_run(folder / "digits-dha-s0-long", LONG)


def size(data: bytes) -> tuple[int, int]:
    return struct.unpack(">II", data[16:24])


def notes(figure: go.Figure) -> list[str]:
    return [re.sub(r"</?b>", "", note.text or "") for note in figure.layout.annotations]


def named(figure: go.Figure, name: str) -> list:
    return [trace for trace in figure.data if trace.name == name]


def cursors(figure: go.Figure) -> list[int]:
    return [
        k
        for k, t in enumerate(figure.data)
        if t.mode == "lines" and t.hoverinfo == "skip" and t.x is not None and len(t.x) == 2 and t.x[0] == t.x[1]
    ]


# ---- one run -------------------------------------------------------------------------------------


def test_the_curves_show_the_historys_values(run, drawn):
    for name, history in (
        ("train", "loss"),
        ("validation", "val_loss"),
        ("learned", "eta/lr"),
        ("learned", "eta/weight_decay"),
    ):
        expected = run.curve(history).to_numpy()
        assert any(
            len(t.y) == len(expected) and np.allclose(np.array(t.y, float), expected, rtol=1e-5)
            for t in named(drawn, name)
        ), history
    (effective,) = named(drawn, "effective")  # weight decay has no schedule: its effective value is the learned one
    lr = run.curve("lr")
    assert np.allclose(np.array(effective.y, float), lr[lr > 0], rtol=1e-5)
    assert drawn.layout[f"yaxis{effective.yaxis[1:]}"].type == "log"
    assert any("= effective, no schedule" in text for text in notes(drawn))


def test_all_panels_share_the_epochs(drawn):
    where = {trace.xaxis for trace in drawn.data} - {"x30"}  # x30: the map's own
    assert where == {"x", "x2"} and drawn.layout.xaxis2.matches == "x"
    panels = {trace.yaxis for trace in drawn.data} - {"y30"}
    lines = cursors(drawn)
    assert {drawn.data[k].yaxis for k in lines} == panels and all(drawn.data[k].x[0] == 12 for k in lines)
    shaded = {shape.yref for shape in drawn.layout.shapes if shape.type == "rect" and (shape.x0, shape.x1) == (0, 4)}
    assert shaded == {f"{axis} domain" for axis in panels}
    assert {"search", "tuning"} <= set(notes(drawn))


def test_a_frame_shows_its_epoch(run, drawn):
    p = run.tau["probabilities"].astype(float)
    assert [frame.name for frame in drawn.frames] == [str(e) for e in range(13)]
    frame = drawn.frames[5]
    changes = dict(zip(frame.traces, frame.data))
    assert all(list(changes[k].x) == [5, 5] for k in cursors(drawn))
    (told,) = [trace for trace in changes.values() if trace.customdata is not None]
    assert np.allclose(told.customdata, (p[5] * p[5].size).ravel(), rtol=6e-3)
    assert frame.layout["xaxis30"].title.text == "second operation · after epoch 5"
    # the likeliest pair of all epochs has the scale's last colour, in the frame of its epoch
    epoch, first, second = np.unravel_index(np.abs(np.log2(p * 196)).argmax(), p.shape)
    last = drawn.data[tiles.LEVELS - 1 if p[epoch, first, second] > 1 / 196 else 0]
    k = next(k for k, trace in enumerate(drawn.data) if trace is last)
    moved = dict(zip(drawn.frames[epoch].traces, drawn.frames[epoch].data))[k]
    assert np.nanmean(moved.x[:5]) == pytest.approx(second, abs=0.2) and np.nanmin(moved.y) >= -0.5
    assert any(
        abs(np.mean(moved.x[i : i + 4]) - second) < 0.01 and abs(np.mean(moved.y[i : i + 4]) - first) < 0.01
        for i in range(0, len(moved.x), 6)
    )


def test_every_tile_is_drawn_once(drawn):
    for frame in drawn.frames:
        tiles_ = [
            trace for trace in frame.data if trace.x is not None and trace.customdata is None and len(trace.x) != 2
        ]
        assert sum((np.isfinite(np.array(t.x, float)).sum() // 5) for t in tiles_) == 14 * 14


def test_picks_have_the_operations_colours_and_freezing_is_marked(run, drawn):
    support = run.alpha["support"]
    bars = [trace for trace in drawn.data if trace.showlegend and trace.fill == "toself"]
    assert {trace.fillcolor for trace in bars} == {OP_COLORS[op] for op in kit.space.CELL_OPS}
    held = sum(_length(trace) for trace in bars if np.isfinite(trace.x[0]))
    assert held == pytest.approx(support.sum())  # every pick of every epoch is one epoch long
    (diamonds,) = [trace for trace in drawn.data if trace.marker.symbol == "diamond"]
    assert list(diamonds.x) == [4] * 8 and len(set(diamonds.y)) == 8


def _length(trace) -> float:
    x = np.append(np.array(trace.x, float), np.nan).reshape(-1, 6)
    return float((x[:, 1] - x[:, 0]).sum())


def test_a_pick_keeps_its_row_while_it_stays(folder):
    walk = alpha_walk(np.random.default_rng(0), 3, 2)
    walk["support"][:] = False
    for epoch, picks in enumerate([(3, 5), (5, 9), (5, 9), (1, 9)]):
        walk["support"][epoch, 7, list(picks)] = True
    seen = recorded.read(write_run(folder / "rows", 3, arrays={"alpha": walk}))
    assert seen.picked[7].tolist() == [[3, 5], [9, 5], [9, 5], [9, 1]] or seen.picked[7].tolist() == [
        [5, 3],
        [5, 9],
        [5, 9],
        [1, 9],
    ]
    assert (seen.picked[0] == -1).all()  # no picks recorded


def test_skips_above_half_of_a_cells_picks_are_called_a_collapse(folder):
    walk = alpha_walk(np.random.default_rng(3), 6, 3)
    skip = list(kit.space.CELL_OPS).index("skip_connect")
    for name, skips in (("four", 4), ("five", 5)):
        support = np.zeros_like(walk["support"])
        for slot in range(8):
            for k in range(2):  # candidate = 7 · edge + operation
                many = slot >= 4 and 2 * (slot - 4) + k < skips
                support[:, slot, 7 * k + (skip if many else (slot + k) % 6)] = True
        collapsing = write_run(folder / name, 6, arrays={"alpha": {**walk, "support": support}})
        heading = [text for text in notes(figures.evolution(collapsing)) if "skips" in text]
        assert ("collapse (reduction)" in heading[0]) == (skips == 5)
        assert ("Collapse: more than half of the picks are skips (reduce 62%" in figures.standing(collapsing)) == (
            skips == 5
        )
        assert ("Collapse" in figures.standing(collapsing)) == (skips == 5)


def test_a_policy_that_is_fixed_leaves_one_column_without_a_slider(folder):
    plain = write_run(folder / "ista", method="ista", arrays={"tau": {}}, leave_out=("eta/lr", "eta/weight_decay"))
    figure = figures.evolution(plain)
    assert not figure.frames and not figure.layout.sliders and {trace.xaxis for trace in figure.data} == {"x"}
    assert "τ is fixed" in figure.layout.title.text and any("not learned" in text for text in notes(figure))
    assert "τ is fixed" in notes(figures.tau_evolution(plain))[0]


def test_a_given_architecture_draws_no_alpha(folder):
    support = np.ones((13, 8, 2), bool)
    given = {
        "epoch": np.arange(13),
        "alpha": support.astype("f4"),
        "support": support,
        "frozen": np.ones((13, 8), bool),
    }
    plain = write_run(folder / "plain", method="plain", arrays={"alpha": given, "tau": {}})
    assert not any("α" in text for text in notes(figures.evolution(plain)))
    assert "fixed" in notes(figures.cells_animated(plain))[0]


def test_a_list_of_named_values_has_a_panel_of_its_own(folder):
    chosen = write_run(folder / "optimizer")
    history = chosen.history
    more = history[history["name"] == "eta/lr"]
    both = [
        more.assign(name=f"eta/optimizer/{name}", value=more["value"] * scale)
        for name, scale in (("sgd", 1.0), ("adam", 2.0))
    ]
    pd.concat([history, *both]).to_parquet(chosen.path / "history.parquet", index=False)
    figure = figures.evolution(kit.Run.load(chosen.path))
    assert (
        any(text == "η: optimizer" for text in notes(figure))
        and len(named(figure, "sgd")) == len(named(figure, "adam")) == 1
    )


# ---- τ -------------------------------------------------------------------------------------------


def test_tau_shows_marginals_entropy_and_what_other_policies_learn(folder, run):
    figure = figures.tau_evolution(run)
    p = run.tau["probabilities"].astype(float)
    bars = {trace.name: trace for trace in figure.data if trace.type == "bar"}
    assert np.allclose(bars["first operation"].x, 100 * p[-1].sum(axis=1), atol=1e-3)
    assert np.allclose(bars["second operation"].y, 100 * p[-1].sum(axis=0), atol=1e-3)
    (line,) = named(figure, "entropy")
    assert line.y[0] == pytest.approx(-(p[0] * np.log(p[0])).sum(), rel=1e-5)
    daas = write_run(
        folder / "daas",
        augment="policy-gradient",
        arrays={"tau": tau_walk(np.random.default_rng(1), 12, 15, more=True)},
    )
    figure = figures.tau_evolution(daas)
    assert {"τ: probability of being applied", "τ: distribution of the magnitude"} <= set(notes(figure))
    told = [trace.customdata for trace in figure.data if trace.type == "scatter" and trace.mode == "none"]
    assert any(
        len(values) == 150 and np.allclose(values, daas.tau["magnitude"][-1].ravel(), rtol=6e-3, atol=1e-6)
        for values in told
    )
    assert any(
        len(values) == 13 * 15 and np.allclose(values, daas.tau["apply"].T.ravel(), rtol=6e-3, atol=1e-6)
        for values in told
    )
    assert list(figure.layout.yaxis10.ticktext) == list(kit.augment.DAAS_OPS)


def test_an_unknown_number_of_operations_is_numbered(folder):
    odd = write_run(folder / "odd", arrays={"tau": tau_walk(np.random.default_rng(1), 12, 3)})
    assert list(figures.tau_evolution(odd).layout.yaxis10.ticktext) == ["operation 0", "operation 1", "operation 2"]


# ---- 600 epochs ----------------------------------------------------------------------------------


def test_figures_of_600_epochs_are_thinned_and_the_data_are_not(long_run):
    for draw in (figures.evolution, figures.tau_evolution, figures.cells_animated):
        figure = draw(long_run)
        assert len(figure.frames) == 60 == len(figure.layout.sliders[0].steps), draw.__name__
        assert [figure.frames[0].name, figure.frames[-1].name] == ["0", "600"]
        assert len(figure.to_json()) < 4 * MEGABYTE
    for draw in (figures.architecture, lambda r: figures.evolution([r, r])):
        assert len(draw(long_run).to_json()) < 4 * MEGABYTE
    assert all(len(t.x) <= 240 for t in figures.evolution(long_run).data if t.mode == "lines" and not t.fill)
    assert (
        len(long_run.tau["probabilities"]) == len(long_run.alpha["alpha"]) == 601 and long_run.curve("loss").size == 600
    )


@pytest.mark.parametrize("count, most", [(1, 60), (60, 60), (61, 60), (601, 60), (600, 240), (7, 2)])
def test_thinning_keeps_both_ends_and_the_spread(count, most):
    at = thinned(count, most)
    assert at[0] == 0 and at[-1] == count - 1 and len(at) == min(count, most) == len(set(at))
    assert max(np.diff(at), default=0) <= -(-(count - 1) // max(len(at) - 1, 1))


# ---- runs with gaps ------------------------------------------------------------------------------


def test_a_run_that_is_not_finished_opens_with_what_it_has(folder):
    going = write_run(folder / "going", 5, finished=False)
    (going.path / "config.json").write_text(
        (going.path / "config.json").read_text().replace('"epochs": 5', '"epochs": 20')
    )
    going = kit.Run.load(going.path)
    text = figures.standing(going)
    assert "not finished (stopped, or still going on), 5 of 20 epochs" in text and "so far" in text
    assert len(figures.evolution(going).frames) == 6
    (going.path / "failure.json").write_text(
        json.dumps({"error": "NonFinite", "message": "the loss is nan at step 9."})
    )
    assert "failed, 5 of 20 epochs" in figures.standing(
        going
    ) and "NonFinite: the loss is nan at step 9." in figures.standing(going)


def test_an_older_layout_opens_and_says_what_is_missing(folder):
    lacks = ("stage", "alpha.npz/frozen", "alpha.npz/epoch", "tau.npz/counts", "space", "arch")
    old = write_run(folder / "old", method="dha", leave_out=lacks)
    values = json.loads((old.path / "config.json").read_text())
    (old.path / "config.json").write_text(
        json.dumps(values | {"method": "dha-v0"})
    )  # a method that this version does not know
    old = kit.Run.load(old.path)
    text = figures.standing(old)
    assert "Not recorded, so not drawn" in text and all(
        name in text for name in ("stage", "alpha.npz: frozen", "alpha.npz: epoch")
    )
    figure = figures.evolution(old)
    assert (
        len(figure.frames) == 13
        and not any(shape.type == "rect" for shape in figure.layout.shapes)
        and "dha-v0" in figure.layout.title.text
    )
    for draw in (figures.tau_evolution, figures.architecture, figures.cells_animated, figures.cells):
        assert draw(old).data


@pytest.mark.parametrize("file", ["history.parquet", "alpha.npz", "tau.npz"])
def test_a_file_that_cannot_be_read_costs_its_panels_only(folder, file):
    broken = write_run(folder / f"broken-{file}", 4)
    (broken.path / file).write_bytes(b"not what it should be")
    broken = kit.Run.load(broken.path)
    assert f"{file} (cannot be read" in figures.standing(broken)
    text = " ".join(notes(figures.evolution(broken)))
    assert (
        ("loss" in text) == (file != "history.parquet")
        and ("α:" in text) == (file != "alpha.npz")
        and ("τ:" in text) == (file != "tau.npz")
    )


def test_arrays_of_a_foreign_shape_are_left_out(folder):
    flat = {"epoch": np.arange(5), "probabilities": np.ones((5, 14)), "counts": np.ones((5, 14))}
    odd = write_run(folder / "flat", 4, arrays={"tau": flat})
    assert "tau.npz: probabilities (of shape [5, 14])" in figures.standing(odd) and not figures.evolution(odd).frames


def test_nothing_recorded_is_one_error(folder):
    (folder / "early").mkdir()
    (folder / "early" / "config.json").write_text(json.dumps(kit.Config(dataset="digits").model_dump()))
    early = kit.Run.load(folder / "early")
    for draw in (figures.evolution, figures.tau_evolution, figures.cells_animated):
        with pytest.raises(KitError, match="early has no completed epoch to draw yet"):
            draw(early)
    assert "0 of 25 epochs" in figures.standing(early)
    with pytest.raises(KitError, match="no runs to draw"):
        figures.evolution([])


# ---- several runs --------------------------------------------------------------------------------


def test_several_runs_are_overlaid_in_their_colours(folder, run):
    other = write_run(folder / "digits-dha-s1-other", 8, seed=1)
    figure = figures.evolution([run, other])
    legend = {trace.name: trace.line.color for trace in figure.data if trace.showlegend is not False}
    assert list(legend) == [run.path.name, other.path.name] and len(set(legend.values())) == 2
    losses = [
        trace
        for trace in figure.data
        if trace.yaxis in (None, "y") and trace.mode == "lines+markers" and trace.line.dash == "solid"
    ]
    assert [(trace.line.color, len(trace.x)) for trace in losses] == [
        (legend[run.path.name], 12),
        (legend[other.path.name], 8),
    ]
    assert [list(t.x) for t in figure.data if t.marker.symbol == "circle-open"] == [[4], [2]]  # where a search ended
    assert figures.comparable([run, other]) == "2 runs. Everything that they recorded is comparable."
    assert figures.evolution([run]).frames  # one run alone is drawn as one


def test_runs_on_different_spaces_say_what_is_not_comparable(folder, run):
    choice = write_run(
        folder / "choice",
        arrays={"alpha": blocks_walk(np.random.default_rng(2), 12, 6)},
        space="choice",
        channels=16,
        cells=6,
        augment="policy-gradient",
        image_size=16,
    )
    text = figures.comparable([run, choice])
    assert "different candidates (cell, choice); the share of frozen slots can be compared" in text
    assert "different data (digits, digits at 16×16)" in text
    figure = figures.evolution([run, choice])
    headings = " ".join(notes(figure))
    assert (
        "α: frozen slots" in headings
        and "α: mean entropy" not in headings
        and "α: share of skips" not in headings
        and "not comparable: α's" in headings
    )


# ---- how it looks --------------------------------------------------------------------------------


def test_every_figure_has_a_static_twin_without_the_slider(run, folder, drawn):
    for figure in (drawn, figures.tau_evolution(run), figures.evolution([run, run])):
        controls = animation.CONTROLS if figure.frames else 0
        assert size(figures.png(figure)) == (1200, figure.layout.height - controls)


def test_the_static_twin_keeps_tiles_apart_and_in_order():
    wire = {"x": [0, 10], "y": [0.75, 0.75], "mode": "lines", "line": {"color": "#00ff00", "width": 9}}
    figure = go.Figure(
        [wire, tiles.filled([(0, 1, 0, 1), (9, 10, 0, 1)], "#ff0000"), tiles.filled([(0, 1, 0, 0.5)], "#0000ff")]
    )
    figure.update_layout(
        xaxis={"range": [0, 10], "visible": False},
        yaxis={"range": [0, 1], "visible": False},
        plot_bgcolor="white",
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
    )
    picture = imread(io.BytesIO(figures.png(figure, width=200, height=100)))[..., :3]
    at = {
        (50, 100): (1, 1, 1),
        (25, 100): (0, 1, 0),
        (25, 10): (1, 0, 0),
        (25, 190): (1, 0, 0),
        (75, 10): (0, 0, 1),
    }  # row, column: the blue one was drawn later
    assert all(np.allclose(picture[place], color, atol=0.02) for place, color in at.items())


def test_figures_are_legible_on_a_dark_page(drawn):
    layout = drawn.layout.template.layout
    assert (layout.paper_bgcolor, layout.plot_bgcolor, layout.font.color) == ("white", "white", INK)
    slider, menu = drawn.layout.sliders[0], drawn.layout.updatemenus[0]
    assert slider.font.color == slider.currentvalue.font.color == menu.font.color == INK and menu.bgcolor == "white"


def test_axes_are_named(drawn):
    units = {axis.title.text for axis in drawn.select_yaxes() if axis.title.text}
    assert {"nats", "learning rate", "weight decay", "%", "node", "first operation"} <= units
    assert drawn.layout.xaxis.title.text == drawn.layout.xaxis2.title.text == "epoch"


def test_widths_are_those_of_the_cell_space():
    assert WIDTHS == [14, 21, 28, 35] * 2
