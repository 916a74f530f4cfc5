"""Landscape figures: the measured numbers on common levels, axes with names and units."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from kit import figures
from kit.errors import KitError
from kit.figures import landscape as drawn
from kit.methods import METHODS
from kit.studies.landscape import Landscape, LossLines, Plane


def bowl(label: str, method: str, steepness: float, seed: int = 0, n: int = 11, classes: int = 10) -> Landscape:
    """A parabola in a and b, as a landscape; nothing was trained for it."""
    at = np.arange(-(n // 2), n // 2 + 1) / (n // 2)
    a, b = np.meshgrid(at, at, indexing="ij")
    plane = Plane(at, 0.04 + steepness * (a**2 + 3 * b**2 + a * b), 0)
    lines = LossLines(at, 0.04 + steepness * np.array([[1.0], [2.0], [3.0]]) * at**2, 0)
    config = SimpleNamespace(dataset="digits", method=method, seed=seed, composition=METHODS[method])
    run = SimpleNamespace(
        config=config, classes=[str(c) for c in range(classes)], metrics={"test_accuracy": 0.98, "test_loss": 0.04}
    )
    return Landscape(run, label, plane, lines, 3.0, 449, 449)


@pytest.fixture
def three() -> list[Landscape]:
    return [
        bowl("DHA · seed 0", "dha", 5.0),
        bowl("One-stage ISTA · seed 0", "ista", 20.0),
        bowl("Plain · seed 0", "plain", 60.0),
    ]


def test_levels_are_round_and_common_and_end_near_guessing(three):
    marks = drawn.levels(three)
    assert marks == [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20]  # above the lowest loss, 0.04; 8 ln 10 = 18.4
    assert drawn.levels(three, top=3) == [0.05, 0.1, 0.2, 0.5, 1, 2]
    two_classes = [bowl("a", "dha", 400.0, classes=2)]
    assert drawn.levels(two_classes)[-1] == 10
    flat = drawn.levels([bowl("a", "dha", 1e-4)])
    assert len(flat) == 6 and all(0.04 < m < 0.041 for m in flat)
    nothing = Plane(np.array([-1.0, 0, 1]), np.full((3, 3), 0.3), 0)
    still = drawn.levels([Landscape(three[0].run, "x", nothing, three[0].lines, 0.0, 1, 1)])
    assert still == sorted(set(still)) and still


def test_heights_are_the_levels_places_and_cut_beyond():
    marks = [0.05, 0.1, 0.2, 0.5]
    z = drawn.heights(np.array([0.05, 0.1, 0.2, 0.5, math.sqrt(0.1 * 0.2), 1e6, math.nan, 1e-9]), marks)
    np.testing.assert_allclose(z[:5], [0, 1, 2, 3, 1.5], atol=1e-12)
    assert (z[5:7] == 4 - 0.001).all() and z[7] == -0.999


def test_contours_show_the_planes_on_the_same_levels(three):
    figure = figures.landscape_contours(three)
    planes = [trace for trace in figure.data if trace.type == "contour"]
    marks = drawn.levels(three)
    assert len(planes) == 3 and {
        (t.zmin, t.zmax, t.contours.start, t.contours.end, t.contours.size) for t in planes
    } == {(-1, 9, -1, 9, 1)}
    for item, trace in zip(three, planes):
        np.testing.assert_allclose(np.array(trace.customdata), item.plane.values.T)  # x is a, along δ
        np.testing.assert_allclose(np.array(trace.z), drawn.heights(item.plane.values.T, marks))
    assert list(planes[0].colorbar.ticktext) == ["0.05", "0.1", "0.2", "0.5", "1", "2", "5", "10", "20"]
    xs, ys = [a.title.text for a in figure.select_xaxes()], [a.title.text for a in figure.select_yaxes()]
    assert xs == ["a · δ, relative to the filter norm"] * 3 and ys[0] == "b · η, relative to the filter norm"
    texts = " ".join(note.text for note in figure.layout.annotations)
    assert all(item.label in texts for item in three) and "test loss 0.04, accuracy 98.00%" in texts


@pytest.mark.parametrize("n", range(1, 7))
def test_panels_are_square_and_each_has_its_own_axes(three, n):
    figure = figures.landscape_contours((three * 2)[:n])
    planes = [trace for trace in figure.data if trace.type == "contour"]
    assert len({(trace.xaxis, trace.yaxis) for trace in planes}) == n
    for trace in planes:
        y = figure.layout[f"yaxis{trace.yaxis[1:]}"]
        assert y.scaleanchor == trace.xaxis and y.anchor == trace.xaxis
    assert sum(bool(trace.showscale) for trace in planes) == 1


def test_surfaces_share_heights_colours_and_camera(three):
    figure = figures.landscape_surfaces(three)
    scenes = [figure.layout[f"scene{k}"] for k in ("", 2, 3)]
    assert len({(t.cmin, t.cmax) for t in figure.data}) == 1 and {tuple(s.zaxis.range) for s in scenes} == {(-1, 9)}
    assert len({str(s.camera) for s in scenes}) == 1
    assert [s.xaxis.title.text for s in scenes] == ["a · δ"] * 3 and [s.yaxis.title.text for s in scenes] == [
        "b · η"
    ] * 3
    assert scenes[0].zaxis.ticktext[-1] == "20" and "relative to the filter norm" in figure.layout.title.text
    np.testing.assert_allclose(np.array(figure.data[1].customdata), three[1].plane.values.T)


def test_lines_show_mean_and_band(three):
    figure = figures.landscape_lines(three)
    means = [t for t in figure.data if t.name and "guessing" not in t.name]
    assert [t.name for t in means] == [f"{item.label} (n = 3 directions)" for item in three]
    assert [t.line.color for t in means] == [figures.look(m).color for m in ("dha", "ista", "plain")]
    bands = [t for t in figure.data if t.fill == "tonexty"]
    for item, mean, band in zip(three, means, bands):
        centre, _, high = item.lines.band()
        np.testing.assert_allclose(mean.y, centre)
        np.testing.assert_allclose(band.y, high)
    assert figure.layout.yaxis.type == "log" and all(low > 0 for t in figure.data for low in t.y)
    assert (
        figure.layout.xaxis.title.text == "t · d, relative to the filter norm"
        and "[nats]" in figure.layout.yaxis.title.text
    )
    assert any("ln(classes)" in (trace.name or "") for trace in figure.data)


def test_one_direction_has_no_band_and_two_runs_of_a_method_differ(three):
    alone = [bowl("a", "dha", 5.0), bowl("b", "dha", 6.0)]
    alone = [
        Landscape(x.run, x.label, x.plane, LossLines(x.lines.coordinates, x.lines.values[:1], 0), 3.0, 449, 449)
        for x in alone
    ]
    figure = figures.landscape_lines(alone)
    assert len({(t.line.color, t.line.dash) for t in figure.data if "direction" in t.name}) == 2


def test_too_many_panels_and_arrays_are_refused(three):
    with pytest.raises(KitError, match="7 landscapes: one figure shows 1 to 6"):
        figures.landscape_contours(three * 2 + three[:1])
    arrays = Plane(three[0].plane.coordinates, np.stack([three[0].plane.values] * 2, axis=-1), 0)
    with pytest.raises(KitError, match=r"a: its metric gives arrays of shape \[2\]"):
        figures.landscape_surfaces([Landscape(three[0].run, "a", arrays, three[0].lines, 0.0, 1, 1)])


def test_every_figure_can_be_saved(three, tmp_path):
    if figures.why_no_png():
        pytest.skip(figures.why_no_png())
    drawn_ = (
        figures.landscape_contours(three),
        figures.landscape_surfaces(three[:2]),
        figures.landscape_lines(three[:1]),
    )
    assert figures.save_all({tmp_path / f"{k}.png": figure for k, figure in enumerate(drawn_)}, width=600)
    assert all((tmp_path / f"{k}.png").stat().st_size > 5000 for k in range(3))
