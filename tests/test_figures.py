"""Figures: they show the run's own numbers, name their axes, mark the stages, and have a static twin."""

from __future__ import annotations

import math
import struct

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

import kit
from kit import figures
from kit.errors import KitError
from kit.figures import static
from kit.search.progress import Silent

TINY = {
    "dataset": "digits",
    "epochs": 2,
    "search_epochs": 1,
    "channels": 4,
    "cells": 3,
    "batch_size": 256,
    "device": "cpu",
}
TWICE = {  # one input through two operations, in both cells
    "normal": [
        [("sep_conv_3x3", 0), ("max_pool_3x3", 0)],
        [("skip_connect", 1), ("dil_conv_5x5", 1)],
        [("sep_conv_5x5", 3), ("dil_conv_3x3", 3)],
        [("avg_pool_3x3", 4), ("sep_conv_3x3", 4)],
    ],
    "reduce": [
        [("sep_conv_3x3", 1), ("dil_conv_3x3", 1)],
        [("avg_pool_3x3", 0), ("skip_connect", 0)],
        [("max_pool_3x3", 1), ("sep_conv_3x3", 2)],
        [("dil_conv_5x5", 0), ("dil_conv_5x5", 2)],
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("figures")


@pytest.fixture(scope="module")
def dha(folder) -> kit.Run:
    return kit.search(kit.Config(method="dha", **TINY), out=folder, progress=Silent())


@pytest.fixture(scope="module")
def plain(folder) -> kit.Run:
    return kit.search(kit.Config(method="plain", **{**TINY, "epochs": 1}), out=folder, progress=Silent())


def size(data: bytes) -> tuple[int, int]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def titles(figure: go.Figure) -> list[str]:
    """The titles of all axes that have one."""
    axes = [*figure.select_xaxes(), *figure.select_yaxes()]
    return [axis.title.text for axis in axes if axis.title.text]


def notes(figure: go.Figure) -> str:
    return " ".join(note.text or "" for note in figure.layout.annotations)


def summary() -> pd.DataFrame:
    rows = [
        ("dha", "DHA", 5, 0.98, 0.004, 0.976, 0.984, 130.0),
        ("seq-dha", "NAS, then DA + HPO", 5, 0.97, 0.005, 0.965, 0.975, 190.0),
        ("plain", "DARTS V2 cells, trained", 1, 0.95, math.nan, math.nan, math.nan, 60.0),
    ]
    names = ["method", "title", "n", "accuracy_mean", "accuracy_std", "accuracy_low", "accuracy_high", "seconds"]
    return pd.DataFrame(rows, columns=names).assign(memory_mb=800.0, params=5e4, macs=6e5)


# ---- one run -------------------------------------------------------------------------------------


def test_curves_show_the_historys_values(dha):
    figure = figures.curves(dha)
    by_axis = {trace.xaxis: trace for trace in figure.data if trace.mode == "lines+markers"}
    assert len(figure.data) == 11  # nine panels; the test accuracy and the share of skips are second traces
    drawn = {tuple(np.round(trace.y, 12)) for trace in figure.data}
    for name, scale in (
        ("loss", 1),
        ("train_accuracy", 100),
        ("lr", 1),
        ("eta/lr", 1),
        ("eta/weight_decay", 1),
        ("tau/kl_from_uniform", 1),
    ):
        assert tuple(np.round(dha.curve(name) * scale, 12)) in drawn, name
    assert list(by_axis["x"].x) == [1, 2]
    star = next(trace for trace in figure.data if trace.mode == "markers")
    assert list(star.y) == [dha.metrics["test_accuracy"] * 100] and list(star.x) == [2]


def test_curves_name_their_axes_and_mark_the_stages(dha):
    figure = figures.curves(dha)
    assert len([text for text in titles(figure) if text != "epoch"]) == 9  # every panel's y axis
    assert "epoch" in titles(figure) and "cross-entropy [nats]" in titles(figure) and "accuracy [%]" in titles(figure)
    rules = [shape for shape in figure.layout.shapes if shape.type == "line"]
    shades = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert (
        len(rules) == len(shades) == 9
        and {shape.x0 for shape in rules} == {1}
        and {(s.x0, s.x1) for s in shades} == {(0, 1)}
    )
    assert "search" in notes(figure) and "tuning" in notes(figure)


def test_curves_leave_out_what_a_method_does_not_move(plain):
    figure = figures.curves(plain)
    assert len(figure.data) == 4 and not figure.layout.shapes  # loss, accuracy, test, lr
    assert not any("η:" in note.text or "α" in note.text for note in figure.layout.annotations)


def test_policy_shows_ratio_to_uniform_and_marginals(dha):
    figure = figures.policy(dha)
    p = dha.tau["probabilities"][-1].astype(float)
    heat, second, first = figure.data
    assert np.allclose(heat.z, np.log2(p * p.size)) and heat.zmin == -heat.zmax
    assert np.allclose(np.array(heat.customdata)[:, :, 1], p * p.size)
    assert np.allclose(first.x, 100 * p.sum(axis=1)) and np.allclose(second.y, 100 * p.sum(axis=0))
    assert list(heat.x) == list(heat.y) == dha.policy["ops"]
    assert {"first operation", "second operation", "share [%]"} <= set(titles(figure))


def test_fixed_learners_get_a_note_instead_of_a_figure(plain):
    assert "τ is fixed" in notes(figures.policy(plain)) and plain.config.augment in notes(figures.policy(plain))
    assert "α is fixed" in notes(figures.architecture(plain))
    assert "wrn-16-2" in notes(figures.cell({"network": "wrn-16-2"}))


def test_architecture_draws_alpha_and_what_is_chosen(dha):
    figure = figures.architecture(dha)
    alpha, support = np.abs(dha.alpha["alpha"]), dha.alpha["support"]
    bold = [trace for trace in figure.data if trace.mode == "lines+markers"]
    shown = np.concatenate([trace.y[np.isfinite(trace.y)] for trace in bold])
    assert np.allclose(np.sort(shown), np.sort(alpha[support]), atol=1e-6)
    assert {trace.line.color for trace in bold} <= set(figures.OP_COLORS.values())
    assert titles(figure).count("epoch") == 4 and titles(figure).count("|α|") == 2
    assert len([s for s in figure.layout.shapes if s.type == "line"]) == 8


def test_a_run_without_an_epoch_is_refused_by_name(dha, tmp_path):
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "config.json").write_text((dha.path / "config.json").read_text())
    with pytest.raises(KitError, match="early has no completed epoch"):
        figures.curves(kit.Run.load(tmp_path / "early"))


# ---- cells ---------------------------------------------------------------------------------------


def test_a_cell_draws_every_edge_apart(dha):
    for genotype in (TWICE, dha.genotype):
        figure = figures.cell(genotype, title="cells")
        named = [note for note in figure.layout.annotations if note.bgcolor in figures.OP_COLORS.values()]
        assert len(named) == 16  # 2 cells, 4 nodes, 2 operations
        places = {(note.xref, note.x, note.y) for note in named}
        rows = {(note.xref, note.y) for note in named}
        assert (
            len(places) == len(rows) == 16
        )  # a row of its own for each: also where two operations share input and node
        colored = [trace for trace in figure.data if trace.line.color in figures.OP_COLORS.values()]
        assert len(colored) == 16 and len({(trace.xaxis, *trace.y.tolist()) for trace in colored}) == 16


def test_a_cell_refuses_what_is_no_genotype():
    with pytest.raises(KitError, match="normal"):
        figures.cell({"normal": []})


# ---- many runs -----------------------------------------------------------------------------------


def test_overlay_has_one_colour_per_method_and_means(dha, plain):
    figure = figures.overlay([dha, dha, plain], "loss")
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert len(lines) == 4  # two seeds and their mean, and the one run of the other method
    assert {trace.line.color for trace in lines} == {figures.method_look(m)[0] for m in ("dha", "plain")}
    mean = next(trace for trace in lines if "n = 2" in trace.name)
    assert np.allclose(mean.y, dha.curve("loss")) and titles(figure) == ["epoch", "cross-entropy [nats]"]
    rings = [trace for trace in figure.data if trace.mode == "markers" and trace.x[0] is not None]
    assert [list(ring.x) for ring in rings] == [[1], [1]]  # where the search stage ended
    with pytest.raises(KitError, match="no.*curve 'los'.*loss"):
        figures.overlay([dha], "los")


def test_ablation_keeps_the_tables_order_and_numbers():
    runs = pd.DataFrame(
        {"method": ["dha", "dha", "plain"], "test_accuracy": [0.97, 0.99, 0.95], "seconds": [120.0, 140.0, 60.0]}
    )
    figure = figures.ablation(summary(), runs)
    means = [trace for trace in figure.data if not trace.name.endswith("seeds")]
    assert [trace.x[0] for trace in means] == [98.0, 97.0, 95.0] and [trace.y[0] for trace in means] == [0, 1, 2]
    assert (
        means[0].error_x.array[0] == pytest.approx(0.4) and means[2].error_x.array is None
    )  # one seed has no interval
    low, high = figure.layout.yaxis.range
    assert low > high  # the table's first row on top
    assert "test accuracy [%]" in titles(figure)[0] and list(figure.layout.yaxis.ticktext)[0] == "DHA (n = 5)"
    seeds = [trace for trace in figure.data if trace.name.endswith("seeds")]
    assert sorted(x for trace in seeds for x in trace.x) == [95.0, 97.0, 99.0]
    with pytest.raises(KitError, match="summary has no column title"):
        figures.ablation(summary().drop(columns="title"))


def test_accuracy_against_time_puts_each_method_at_its_time():
    figure = figures.accuracy_against_time(summary())
    assert [(round(t.x[0], 6), t.y[0]) for t in figure.data] == [
        (round(s / 60, 6), a) for s, a in ((130, 98.0), (190, 97.0), (60, 95.0))
    ]
    assert titles(figure)[0] == "wall-clock of a run [min]" and "[%]" in titles(figure)[1]
    assert all(name in notes(figure) for name in summary()["title"])


def test_predictions_mark_the_wrong_ones():
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    said = kit.Prediction(torch.tensor([0, 1, 1]), torch.eye(2)[[0, 1, 1]], ["cat", "dog", "dog"])
    figure = figures.predictions(images, said, truth=["cat", "cat", "dog"])
    texts = [note.text for note in figure.layout.annotations]
    assert texts == ["cat 100%", "dog 100%<br>✗ is cat", "dog 100%"] and len(figure.data) == 3
    assert size(figures.png(figure, width=600))[0] == 600
    with pytest.raises(KitError, match="3 images, 3 predictions and 2 true names"):
        figures.predictions(images, said, truth=["cat", "cat"])


# ---- the static twin -----------------------------------------------------------------------------


def test_every_figure_has_a_static_twin_of_the_asked_size(dha, plain, tmp_path):
    drawn = [
        figures.curves(dha),
        figures.policy(dha),
        figures.policy(plain),
        figures.architecture(dha),
        figures.cell(TWICE),
        figures.ablation(summary()),
        figures.accuracy_against_time(summary()),
        figures.overlay([dha, plain], "lr"),
    ]
    for figure in drawn:
        assert size(figures.png(figure)) == (1200, figure.layout.height)
    data = figures.png(drawn[0], tmp_path / "new" / "curves.png", width=640, height=480)
    assert size(data) == (640, 480) and (tmp_path / "new" / "curves.png").read_bytes() == data


def test_the_static_twin_puts_data_where_plotly_does():
    figure = go.Figure(go.Scatter(x=[1, 10, 100], y=[0, 1, 2], mode="lines"))
    figure.update_layout(
        xaxis={"type": "log", "range": [0, 2]}, yaxis={"range": [2, 0]}, margin={"l": 100, "r": 100, "t": 50, "b": 50}
    )
    sheet = static.Sheet(figure, 1000, 500)
    sheet.draw()
    axes = sheet.axes("x", "y")
    assert np.allclose(axes.transData.transform((10, 1)), (500, 250)) and np.allclose(
        axes.transData.transform((1, 2)), (100, 50)
    )


def test_the_static_twin_does_not_cut_a_long_title():
    figure = go.Figure(
        go.Scatter(y=[1, 2]),
        layout={"template": figures.TEMPLATE, "title": {"text": "DHA: NAS + DA + HPO, joint " * 6}},
    )
    sheet = static.Sheet(figure, 1000, None)
    sheet.draw()
    (title,) = sheet.picture.texts
    box = title.get_window_extent(sheet.canvas.get_renderer())
    assert 0 < box.x0 and box.x1 < 1000


def test_the_static_twin_draws_what_others_figures_use():
    figure = go.Figure(layout={"barmode": "stack", "title": {"text": "<b>a</b> & $b$"}})
    figure.add_bar(x=["a", "b"], y=[1, 2], name="one")
    figure.add_bar(x=["a", "b"], y=[2, 1], name="two", error_y={"array": [0.1, 0.2]})
    figure.add_scatter(
        x=["a", "b"], y=np.array([3.0, 2.0]), yaxis="y2", text=["p", "q"], mode="markers+text", textposition="top right"
    )
    figure.update_layout(yaxis2={"overlaying": "y", "side": "right", "tickformat": ".0%"})
    figure.add_annotation(x="a", y=2, text="here<br><b>now</b>", ax=30, ay=-20, bgcolor="rgba(255, 0, 0, 0.5)")
    figure.add_hline(y=1.5, line_dash="dash")
    contour = go.Figure(go.Contour(z=np.outer(range(5), range(5)).tolist(), colorscale="Viridis", ncontours=6))
    for drawn in (figure, contour, go.Figure()):
        assert size(figures.png(drawn, width=500)) == (500, 450)


def test_the_static_twin_refuses_what_it_cannot_draw():
    with pytest.raises(KitError, match="'surface'.*scatter, bar"):
        figures.png(go.Figure(go.Surface(z=[[1, 2], [3, 4]])))


def test_show_publishes_both_faces_in_one_output(dha, monkeypatch):
    import IPython.display

    published = []
    monkeypatch.setattr(IPython.display, "publish_display_data", published.append)
    figures.show(figures.policy(dha), width=700)
    figures.show(go.Figure(go.Surface(z=[[1, 2], [3, 4]])))
    both, surface = published
    assert (
        set(both) == {"application/vnd.plotly.v1+json", "image/png", "text/plain"}
        and both["application/vnd.plotly.v1+json"]["data"]
    )
    # JupyterLab forgets the height of a responsive figure when it resizes it: it would vanish at the first drawing
    # after that
    assert both["application/vnd.plotly.v1+json"]["config"]["responsive"] is False
    import base64

    assert size(base64.b64decode(both["image/png"]))[0] == 700
    assert "image/png" not in surface and "no static picture" in surface["text/plain"]


def test_every_method_looks_different():
    from kit.figures.style import method_look

    looks = [method_look(name) for name in kit.methods()]
    assert len(set(looks)) == len(looks)
