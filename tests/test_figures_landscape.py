"""Landscape figures: the measured numbers on common levels, axes with names and units."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from kit import figures
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


def test_contours_show_the_planes_on_the_same_levels(three):
    figure = figures.landscape_contours(three)
    planes = [trace for trace in figure.data if trace.type == "contour"]
    assert len({(t.contours.start, t.contours.end, t.contours.size, t.coloraxis) for t in planes}) == 1
    for item, trace in zip(three, planes):
        np.testing.assert_allclose(np.array(trace.customdata), item.plane.values.T)  # x is a, along δ
        most = np.quantile([other.plane.values for other in three], 0.98)
        inside = item.plane.values.T <= min(most, 10 * np.log(10))  # or ten times the loss of guessing
        np.testing.assert_allclose(np.array(trace.z)[inside], np.log10(item.plane.values.T)[inside])
        assert np.array(trace.z).max() <= figure.layout.coloraxis.cmax
    assert (
        figure.layout.coloraxis.colorbar.ticktext[0] == "0.04" and figure.layout.coloraxis.colorbar.ticktext[-1] == "23"
    )
    xs, ys = [a.title.text for a in figure.select_xaxes()], [a.title.text for a in figure.select_yaxes()]
    assert xs == ["a · δ, relative to the filter norm"] * 3 and ys[0] == "b · η"
    texts = " ".join(note.text for note in figure.layout.annotations)
    assert all(item.label in texts for item in three) and "test loss 0.04, accuracy 98.00%" in texts


@pytest.mark.parametrize("n", [1, 6])
def test_panels_are_square_and_each_has_its_own_axes(three, n):
    figure = figures.landscape_contours((three * 2)[:n])
    planes = [trace for trace in figure.data if trace.type == "contour"]
    assert len({(trace.xaxis, trace.yaxis) for trace in planes}) == n
    for trace in planes:
        y = figure.layout[f"yaxis{trace.yaxis[1:]}"]
        assert y.scaleanchor[1:].removeprefix("1") in (trace.xaxis[1:], "") and y.anchor == trace.xaxis


def test_a_flat_plane_and_a_broken_one_are_drawn(three):
    flat = bowl("flat", "dha", 0.0)
    broken = bowl("broken", "dha", 5.0)
    broken.plane.values[0, 0] = np.nan
    for item in (flat, broken):
        assert np.isfinite(np.array(figures.landscape_contours([item]).data[0].z)).all()


def test_surfaces_share_heights_colours_and_camera(three):
    figure = figures.landscape_surfaces(three)
    scenes = [figure.layout[f"scene{k}"] for k in ("", 2, 3)]
    assert len({trace.coloraxis for trace in figure.data}) == 1 and len({str(s.zaxis) for s in scenes}) == 1
    assert len({str(s.camera) for s in scenes}) == 1
    assert [(s.xaxis.title.text, s.yaxis.title.text) for s in scenes] == [("a · δ", "b · η")] * 3
    np.testing.assert_allclose(np.array(figure.data[1].customdata), three[1].plane.values.T)


def test_lines_show_every_direction_and_the_mean(three):
    figure = figures.landscape_lines(three)
    means = [t for t in figure.data if t.name]
    assert [t.name for t in means] == [f"{item.label} (n = 3)" for item in three]
    assert [t.line.color for t in means] == [figures.look(m).color for m in ("dha", "ista", "plain")]
    for k, (item, mean) in enumerate(zip(three, means)):
        np.testing.assert_allclose(mean.y, item.lines.values.mean(axis=0))
        np.testing.assert_allclose([t.y for t in figure.data[4 * k : 4 * k + 3]], item.lines.values)
    assert figure.layout.yaxis.type == "log" and all(low > 0 for t in figure.data for low in t.y)
    assert figure.layout.xaxis.title.text == "t · d, relative to the filter norm"
    assert "[nats]" in figure.layout.yaxis.title.text and "guessing" in figure.layout.title.text


def test_one_direction_is_its_mean_and_two_runs_of_a_method_differ(three):
    alone = [bowl("a", "dha", 5.0), bowl("b", "dha", 6.0)]
    alone = [
        Landscape(x.run, x.label, x.plane, LossLines(x.lines.coordinates, x.lines.values[:1], 0), 3.0, 449, 449)
        for x in alone
    ]
    figure = figures.landscape_lines(alone)
    assert len({(t.line.color, t.line.dash) for t in figure.data}) == len(figure.data) == 2


def test_every_figure_can_be_saved(three, tmp_path):
    if figures.why_no_png():
        pytest.skip(figures.why_no_png())
    kinds = (figures.landscape_contours, figures.landscape_surfaces, figures.landscape_lines)
    paths = {tmp_path / f"{draw.__name__}.png": draw(three[:2]) for draw in kinds}
    assert figures.save_all(paths, width=600) and all(path.stat().st_size > 5000 for path in paths)
