"""Landscape figures: the measured numbers on common levels, axes with names and units, and a static twin of each."""

from __future__ import annotations

import base64
import itertools
import math
import struct
from types import SimpleNamespace

import numpy as np
import plotly.graph_objects as go
import pytest

from kit import figures
from kit.errors import KitError
from kit.figures import landscape as drawn
from kit.figures import static_landscape
from kit.methods import METHODS
from kit.studies.landscape import Landscape, Lines, Plane


def bowl(label: str, method: str, steepness: float, seed: int = 0, n: int = 11, classes: int = 10) -> Landscape:
    """A parabola in a and b, as a landscape; nothing was trained for it."""
    at = np.arange(-(n // 2), n // 2 + 1) / (n // 2)
    a, b = np.meshgrid(at, at, indexing="ij")
    plane = Plane(at, 0.04 + steepness * (a**2 + 3 * b**2 + a * b), 0)
    lines = Lines(at, 0.04 + steepness * np.array([[1.0], [2.0], [3.0]]) * at**2, 0)
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


def size(data: bytes) -> tuple[int, int]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


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
    assert [t.showscale for t in planes] == [True, False, False]
    assert list(planes[0].colorbar.ticktext) == ["0.05", "0.1", "0.2", "0.5", "1", "2", "5", "10", "20"]
    xs, ys = [a.title.text for a in figure.select_xaxes()], [a.title.text for a in figure.select_yaxes()]
    assert xs == ["a · δ, relative to the filter norm"] * 3 and ys[0] == "b · η, relative to the filter norm"
    texts = " ".join(note.text for note in figure.layout.annotations)
    assert all(item.label in texts for item in three) and "test loss 0.04, accuracy 98.00%" in texts


def test_contour_labels_stand_on_their_lines(three):
    for item in three:
        marks, at = drawn.levels(three), item.plane.coordinates
        z = drawn.heights(item.plane.values.T, marks)
        places = drawn._label_places(at, z, marks)
        assert len(places) >= 5
        for (x, y), loss in places:
            there = drawn._bilinear(at, z, np.array([x]), np.array([y]))[0]
            assert there == pytest.approx(marks.index(loss), abs=0.12) and max(abs(x), abs(y)) <= 0.95
        apart = [math.dist(p, q) for i, (p, _) in enumerate(places) for q, _ in places[i + 1 :]]
        assert min(apart) > 0.1


def test_panels_are_square_at_the_pictures_width(three):
    for n, width in itertools.product(range(1, 7), (1200, 1000)):
        figure = figures.landscape_contours((three * 2)[:n], width=width)
        m, sides = figure.layout.margin, []
        for x, y in zip(figure.select_xaxes(), figure.select_yaxes()):
            sides += [
                (x.domain[1] - x.domain[0]) * (width - m.l - m.r),
                (y.domain[1] - y.domain[0]) * (figure.layout.height - m.t - m.b),
            ]
        assert max(sides) - min(sides) < 3, (n, width)


def test_surfaces_share_heights_colours_and_camera(three):
    figure = figures.landscape_surfaces(three)
    scenes = [figure.layout[f"scene{k}"] for k in ("", 2, 3)]
    assert len({(t.cmin, t.cmax) for t in figure.data}) == 1 and {tuple(s.zaxis.range) for s in scenes} == {(-1, 9)}
    assert len({str(s.camera) for s in scenes}) == 1
    assert [s.xaxis.title.text for s in scenes] == ["a · δ"] * 3 and [s.yaxis.title.text for s in scenes] == [
        "b · η"
    ] * 3
    assert scenes[0].zaxis.ticktext[-1] == "20 nats" and "relative to the filter norm" in figure.layout.title.text
    np.testing.assert_allclose(np.array(figure.data[1].customdata), three[1].plane.values.T)


def test_lines_show_mean_and_band(three):
    figure = figures.landscape_lines(three)
    means = [t for t in figure.data if t.name]
    assert [t.name for t in means] == [f"{item.label} (n = 3 directions)" for item in three]
    assert [t.line.color for t in means] == [figures.method_look(m)[0] for m in ("dha", "ista", "plain")]
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
    assert any("ln(classes)" in (note.text or "") for note in figure.layout.annotations)


def test_one_direction_has_no_band_and_two_runs_of_a_method_differ(three):
    alone = [bowl("a", "dha", 5.0), bowl("b", "dha", 6.0)]
    alone = [
        Landscape(x.run, x.label, x.plane, Lines(x.lines.coordinates, x.lines.values[:1], 0), 3.0, 449, 449)
        for x in alone
    ]
    figure = figures.landscape_lines(alone)
    assert len(figure.data) == 2 and len({(t.line.color, t.line.dash) for t in figure.data}) == 2


def test_too_many_panels_and_arrays_are_refused(three):
    with pytest.raises(KitError, match="7 landscapes: one figure shows 1 to 6"):
        figures.landscape_contours(three * 2 + three[:1])
    arrays = Plane(three[0].plane.coordinates, np.stack([three[0].plane.values] * 2, axis=-1), 0)
    with pytest.raises(KitError, match=r"a: its metric gives arrays of shape \[2\]"):
        figures.landscape_surfaces([Landscape(three[0].run, "a", arrays, three[0].lines, 0.0, 1, 1)])


# ---- the static twin -----------------------------------------------------------------------------


def test_every_figure_has_a_static_twin(three, tmp_path):
    for figure in (figures.landscape_contours(three), figures.landscape_lines(three[:1])):
        assert size(figures.png(figure)) == (1200, figure.layout.height)
        assert static_landscape.png(figure, width=600) == figures.png(figure, width=600)
    surfaces = figures.landscape_surfaces(three[:2])
    data = static_landscape.png(surfaces, tmp_path / "new" / "surfaces.png", width=700)
    assert size(data) == (700, surfaces.layout.height) and (tmp_path / "new" / "surfaces.png").read_bytes() == data


def test_the_static_surface_stands_where_plotlys_does(three):
    sheet = static_landscape.SurfaceSheet(figures.landscape_surfaces(three), 1200, None)
    sheet.draw()
    scenes = [axes for axes in sheet.picture.axes if axes.name == "3d"]
    assert len(scenes) == 3
    assert [axes.get_position().x0 for axes in scenes] == sorted(axes.get_position().x0 for axes in scenes)
    eye = drawn.CAMERA["eye"]
    assert scenes[0].azim == pytest.approx(math.degrees(math.atan2(eye["y"], eye["x"])))
    assert scenes[0].get_zlim() == (-1, 9)
    shown = [text.get_text() for text in scenes[0].get_zticklabels()]
    assert "20 nats" in shown and scenes[0].get_xlabel() == "a · δ" and scenes[0].get_ylabel() == "b · η"
    z = drawn.heights(three[0].plane.values, drawn.levels(three))
    np.testing.assert_allclose(scenes[0].zz_dataLim.intervalx, [z.min(), z.max()])
    assert len(scenes[0].collections[0].get_facecolor()) == 10 * 10  # every cell of the grid


def test_show_surfaces_publishes_both_faces(three, monkeypatch):
    import IPython.display

    published = []
    monkeypatch.setattr(IPython.display, "publish_display_data", published.append)
    figures.show_surfaces(figures.landscape_surfaces(three[:1]), width=500)
    (data,) = published
    assert data["application/vnd.plotly.v1+json"]["data"][0]["type"] == "surface" and "test loss" in data["text/plain"]
    assert size(base64.b64decode(data["image/png"]))[0] == 500


def test_plain_surfaces_have_a_twin_too():
    figure = go.Figure(go.Surface(z=np.outer(range(5), range(4)).tolist()))
    assert size(static_landscape.png(figure, width=400)) == (400, 450)
