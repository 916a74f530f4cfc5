"""Figures of runs and tables: they show the recorded numbers, name their axes, and open damaged or unfinished runs."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import struct
import subprocess
import sys

import IPython.display
import numpy as np
import pandas as pd
import plotly.colors
import plotly.graph_objects as go
import pytest
import torch
from tests_recorded import blocks_walk, tau_walk, write_run

import kit
from kit import figures
from kit.errors import KitError
from kit.lab import notebook
from kit.search.progress import Silent


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
    given = {"epoch": np.arange(13), "alpha": support.astype("f4"), "support": support, "frozen": support[:, :, 0]}
    gone = ("eta/lr", "eta/weight_decay", "tau/kl_from_uniform", "alpha/frozen", "stage")
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
    for name in ("loss", "val_loss", "eta/lr", "eta/weight_decay", "alpha/frozen", "lr"):
        expected = run.curve(name).to_numpy()
        assert any(len(y) == len(expected) and np.allclose(y, expected) for y in shown), name
    assert any(len(y) == 12 and np.allclose(y, 100 * run.curve("val_accuracy")) for y in shown)
    assert {"loss [nats]", "accuracy [%]", "η: weight decay"} <= set(texts(figure)) and "epoch" in titles(figure)
    entries = [trace.name for trace in figure.data if trace.showlegend]
    assert sorted(entries) == sorted(["training", "validation", "η", "effective", "τ", "α"])


def test_curves_have_the_test_accuracy_and_no_panel_for_what_is_fixed(run, fixed):
    assert "test accuracy 97.00%" in figures.curves(run).layout.title.text
    for draw in (figures.curves, figures.evolution):
        assert not any(text.startswith(("α", "τ")) for text in texts(draw(fixed)))


def test_the_search_is_shaded_in_every_panel(drawn):
    shaded = {s.yref for s in drawn.layout.shapes if s.type == "rect" and (s.x0, s.x1) == (0, 4)}
    assert len(shaded) == len(texts(drawn)) - texts(drawn).count("") > 6


def test_operations_are_mapped_over_the_epochs(run, drawn):
    tau, alpha = (trace for trace in drawn.data if trace.type == "heatmap")
    p = run.tau["probabilities"].astype(float)
    share = (p.sum(axis=1) + p.sum(axis=2)) / 2
    assert np.allclose(tau.z, np.log2(14 * share).T, atol=2e-3) and list(tau.y) == list(kit.augment.OPS)
    slots, skip = kit.space.cell.cell_slots(), list(alpha.y).index("skip")
    for epoch, support in enumerate(run.alpha["support"]):
        ops = [slot.candidates[c][0] for slot, row in zip(slots, support) for c in np.flatnonzero(row)]
        assert np.array(alpha.z)[skip, epoch] == ops.count("skip_connect") and np.array(alpha.z)[:, epoch].sum() == 16


def test_architecture_draws_alpha_and_what_is_chosen(run, fixed):
    figure = figures.architecture(run)
    alpha, support = np.abs(run.alpha["alpha"]), run.alpha["support"]
    bold = [np.array(trace.y, float) for trace in figure.data if trace.line.width == 3]
    assert np.allclose(np.sort(np.concatenate([y[np.isfinite(y)] for y in bold])), np.sort(alpha[support]), atol=1e-6)
    assert {trace.line.color for trace in figure.data} <= {figures.look(op).color for op in kit.space.CELL_OPS}
    assert "epoch" in titles(figure) and "|α|" in titles(figure) and "normal/0" in texts(figure)
    assert "α is fixed" in texts(figures.architecture(fixed))[0]


def test_policy_shows_what_a_policy_learns(folder, run, fixed):
    p = run.tau["probabilities"].astype(float)
    (pairs,) = figures.policy(run).data
    assert np.allclose(pairs.z, np.log2(p[-1] * 196), atol=1e-3) and list(pairs.x) == list(kit.augment.OPS)
    assert "τ is fixed" in texts(figures.policy(fixed))[0] and "τ is fixed" in texts(figures.tau_evolution(fixed))[0]
    walk = tau_walk(np.random.default_rng(1), 12, 15, more=True)
    daas = figures.policy(write_run(folder / "daas", augment="policy-gradient", arrays={"tau": walk}))
    assert np.allclose(daas.data[1].z, walk["magnitude"][-1])
    assert daas.layout.yaxis.ticktext[0] == f"{daas.data[0].y[0]} {walk['apply'][-1][0]:.0%}"


def test_a_slider_moves_the_policy(run):
    figure, p = figures.tau_evolution(run), run.tau["probabilities"].astype(float)
    assert [frame.name for frame in figure.frames] == [str(e) for e in range(13)]
    assert np.allclose(figure.frames[5].data[0].z, np.log2(p[5] * 196), atol=1e-3)
    assert figure.layout.sliders[0].active == 12 and np.allclose(figure.data[0].z, figure.frames[-1].data[0].z)
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax


def test_what_a_users_own_learner_reports_has_panels(folder):
    own = write_run(folder / "own")
    history = own.history
    rows = history[history["name"] == "eta/lr"]
    names = {"eta/optimizer/sgd": 1.0, "eta/optimizer/adam": 2.0, "eta/label_smoothing": 3.0, "alpha/rank_loss": 4.0}
    more = [rows.assign(name=name, value=rows["value"] * scale) for name, scale in names.items()]
    pd.concat([history, *more]).to_parquet(own.path / "history.parquet", index=False)
    figure = figures.curves(kit.Run.load(own.path))
    assert {"η: optimizer", "η: label smoothing", "α: rank loss"} <= set(texts(figure))
    assert {"sgd", "adam"} <= {trace.name for trace in figure.data}


def test_alpha_of_600_epochs_stays_small(folder):
    long = write_run(folder / "long", 600, arrays={"tau": {}})
    figure = figures.architecture(long)
    assert len(figure.to_json()) < 5e6 and {min(trace.x) for trace in figure.data} == {0}


# ---- runs with gaps ------------------------------------------------------------------------------


def test_a_run_that_is_not_finished_opens_with_what_it_has(folder):
    going = write_run(folder / "going", 5, finished=False)
    path = going.path / "config.json"
    path.write_text(path.read_text().replace('"epochs": 5', '"epochs": 20'))
    going = kit.Run.load(going.path)
    assert "interrupted, 5 of 20 epochs; search to epoch 1; tuning to epoch 5" in figures.standing(going)
    assert figures.evolution(going).data
    failure = {"error": "NonFinite", "message": "the loss is nan at step 9."}
    (going.path / "failure.json").write_text(json.dumps(failure))
    assert "NonFinite: the loss is nan at step 9." in figures.standing(going)


@pytest.mark.parametrize("file", ["history.parquet", "tau.npz"])
def test_a_file_that_cannot_be_read_is_one_clear_error_where_it_is_needed(folder, file):
    broken = write_run(folder / f"broken-{file}", 4)
    (broken.path / file).write_bytes(b"not what it should be")
    broken = kit.Run.load(broken.path)
    assert figures.cells(broken).data
    with pytest.raises(KitError, match=f"{file} holds no (arrays|table)"):
        figures.evolution(broken)


def test_nothing_recorded_is_one_error(folder):
    (folder / "early").mkdir()
    (folder / "early" / "config.json").write_text(json.dumps(kit.Config(dataset="digits").model_dump()))
    early = kit.Run.load(folder / "early")
    for draw in (figures.curves, figures.evolution, figures.architecture):
        with pytest.raises(KitError, match="early has no completed epoch to draw yet"):
            draw(early)
    assert "0 of 25 epochs" in figures.standing(early)


def test_skips_above_half_are_called_a_collapse(folder):
    for skips in (0.5, 0.6):
        collapsing = write_run(folder / f"skips{skips}", 6)
        history = collapsing.history
        rows = history[history["name"] == "loss"].assign(name="alpha/skips", value=skips)
        pd.concat([history, rows]).to_parquet(collapsing.path / "history.parquet", index=False)
        assert ("collapse" in figures.standing(kit.Run.load(collapsing.path))) == (skips > 0.5)


# ---- several runs --------------------------------------------------------------------------------


def test_overlay_has_one_colour_per_method_and_means(run, fixed):
    figure = figures.overlay([run, run, fixed], "loss")
    assert len(figure.data) == 4  # two seeds and their mean, and the one run of the other method
    assert {trace.line.color for trace in figure.data} == {figures.look(m).color for m in ("dha", "plain")}
    mean = next(trace for trace in figure.data if "n = 2" in (trace.name or ""))
    assert np.allclose(mean.y, run.curve("loss")) and titles(figure) == ["epoch", "loss [nats]"]
    with pytest.raises(KitError, match="no curve 'los'.*loss"):
        figures.overlay([run], "los")


def test_ablation_has_the_tables_numbers_best_first():
    runs = pd.DataFrame({"method": ["dha", "dha", "plain"], "test_accuracy": [0.97, 0.99, 0.95]})
    figure = figures.ablation(summary()[::-1], runs)
    means, seeds = figure.data[:3], figure.data[3:]
    assert [(trace.x[0], trace.y[0]) for trace in means] == [(98.0, "dha"), (97.0, "seq-dha"), (95.0, "plain")]
    assert means[0].error_x.array[0] == pytest.approx(0.4) and np.isnan(means[2].error_x.array[0])
    assert list(figure.layout.yaxis.categoryarray)[-1] == "dha"  # on top
    assert figure.layout.yaxis.ticktext[0] == "DHA (n = 5)"
    assert sorted(x for trace in seeds for x in trace.x) == [95.0, 97.0, 99.0]


def test_accuracy_against_time_puts_each_method_at_its_time():
    figure = figures.accuracy_against_time(summary())
    means = {trace.legendgroup: (trace.x[0], trace.y[0]) for trace in figure.data}
    assert means["dha"] == pytest.approx((130, 98.0)) and len(means) == 3
    assert titles(figure) == ["wall-clock [s]", "test accuracy [%]: mean and 95% interval"]
    assert all(name.ay == pytest.approx(name.y) for name in figure.layout.annotations)  # where there is room


def test_the_names_of_many_methods_stand_apart_in_the_order_of_their_results():
    methods = kit.methods()[:19]
    rows = pd.DataFrame({"method": methods, "title": methods, "n": 5, "seconds": np.geomspace(10, 500, 19)})
    rows["accuracy_mean"] = [0.97 + 0.001 * (k % 4) for k in range(19)]  # several reach the same
    ends = {"accuracy_low": rows["accuracy_mean"] - 0.01, "accuracy_high": rows["accuracy_mean"] + 0.01}
    figure = figures.accuracy_against_time(rows.assign(**ends))
    names, (low, high) = figure.layout.annotations, figure.layout.yaxis.range
    assert [name.text for name in names] == sorted(methods, key=lambda m: rows.set_index("method").accuracy_mean[m])
    pixels = (figure.layout.height - figure.layout.margin.t - figure.layout.margin.b) / (high - low)
    assert (np.diff([name.ay for name in names]) * pixels > 15.9).all() and {name.ax for name in names} == {
        figure.layout.xaxis.range[1]
    }
    assert low <= names[0].ay and names[-1].ay <= high
    for name in names:  # the line leads to the point; the axis of time is logarithmic
        (trace,) = (trace for trace in figure.data if trace.name == name.text)
        assert (name.x, name.y) == pytest.approx(
            (np.log10(trace.x[0]), trace.y[0])
        ) and figure.layout.showlegend is False


def test_limits_are_drawn_beside_what_was_found():
    found = summary()[:1].assign(bound=1e5, cost_mean=9e4)
    rows = pd.DataFrame({"method": ["dha"], "bound": [1e5], "cost": [9e4], "test_accuracy": [0.98]})
    figure = figures.under_limits(found, rows, "params")
    assert [shape.x0 for shape in figure.layout.shapes] == [1e5] and "≤ 100,000" in texts(figure)
    assert figure.data[0].x[0] == figure.data[1].x[0] == 9e4


def test_planted_shows_every_seed_and_the_mean():
    figure = figures.planted({"sparse": [[0.1, 0.5], [0.3, 0.7]], "gumbel": [[0.2, 0.2]]}, 100, "planted")
    assert [list(trace.y) for trace in figure.data] == [[0.1, 0.5], [0.3, 0.7], [0.2, 0.6], [0.2, 0.2]]
    assert [trace.name for trace in figure.data if trace.name] == ["sparse (n = 2)", "gumbel (n = 1)"]


def test_predictions_mark_the_wrong_ones():
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    said = kit.Prediction(torch.tensor([0, 1, 1]), torch.eye(2)[[0, 1, 1]], ["cat", "dog", "dog"])
    figure = figures.predictions(images, said, truth=["cat", "cat", "dog"])
    words = ["cat<br>100%", "dog<br>100%<br>✗ cat", "dog<br>100%"]
    assert texts(figure) == words and len(figure.data) == 3


def test_every_method_looks_different():
    looks = [figures.look(name) for name in kit.methods()]
    assert len({(look.color, look.dash) for look in looks}) == len(looks)
    assert figures.look("my_method") == figures.look("my_method") and figures.look("my_method").title == "my method"


# ---- on their way out ----------------------------------------------------------------------------


def test_pictures_have_the_asked_size_and_no_slider(browser, run, tmp_path):
    moving = figures.tau_evolution(run)
    assert size(figures.png(moving, width=1000)) == (1000, moving.layout.height)
    surface = go.Figure(go.Surface(z=[[1, 2], [3, 4]]))
    paths = [tmp_path / "new" / name for name in ("curves.png", "surface.png")]
    assert figures.save_all(dict(zip(paths, (figures.curves(run), surface))), width=640)
    assert [size(path.read_bytes())[0] for path in paths] == [1280, 1280]  # twice the width, for papers and screens
    _, own = notebook.config({"pictures": "svg, pdf"}, extra={"pictures": figures.Formats})
    assert figures.save_all({tmp_path / "a.b-curves.png": figures.curves(run)}, 640, own["pictures"])
    png, svg, pdf = ((tmp_path / f"a.b-curves.{kind}").read_bytes() for kind in ("png", "svg", "pdf"))
    assert size(png)[0] == 1280 and svg.startswith(b"<svg") and b'width="640"' in svg and pdf.startswith(b"%PDF")
    with pytest.raises(KitError, match="unknown picture format 'gif'. Valid: png, svg, pdf"):
        figures.save_all({tmp_path / "curves.gif": figures.curves(run)})
    with pytest.raises(KitError, match="parameter pictures='png,gif' of type str: should be 'png', 'svg' or 'pdf'"):
        notebook.config({"pictures": "png,gif"}, extra={"pictures": figures.Formats})


def test_show_publishes_both_faces_in_one_output(browser, run, monkeypatch):
    published = []
    monkeypatch.setattr(IPython.display, "publish_display_data", published.append)
    figures.show(figures.policy(run), width=700)
    mime, shown = "application/vnd.plotly.v1+json", published[-1]
    assert set(shown) == {mime, "image/png", "text/plain"} and shown[mime]["data"]
    # JupyterLab forgets the height of a responsive figure when it resizes it: it would vanish when drawn again
    assert shown[mime]["config"]["responsive"] is False
    assert size(base64.b64decode(shown["image/png"]))[0] == 700
    how = []
    monkeypatch.setattr(IPython.display, "publish_display_data", lambda data, **given: how.append(given))
    figures.show(go.Figure(), place="here", again=True)
    assert how == 2 * [{"transient": {"display_id": "here"}, "update": True}]  # text, so that JupyterLab draws anew


WITHOUT = """
import IPython.display, plotly.graph_objects as go
from kit import figures
print(figures.save_all({{{path!r}: go.Figure()}}))
IPython.display.publish_display_data = lambda data: print(sorted(data), data.get("text/plain"))
figures.show(go.Figure())
"""


def test_without_a_browser_figures_stay_interactive_and_one_line_says_why(tmp_path):
    path = str(tmp_path / "figure.png")
    environment = {**os.environ, "BROWSER_PATH": "/nonexistent"}
    script = [sys.executable, "-c", WITHOUT.format(path=path)]
    said = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0 and not os.path.exists(path), said.stderr
    why, saved, *_, shown = said.stdout.splitlines()
    assert "no PNG" in why and "plotly_get_chrome" in why and saved == "False"
    assert "plotly.v1+json" in shown and "image/png" not in shown and "plotly_get_chrome" in shown


def contrast(a: str, b: str) -> float:
    """WCAG's ratio of two colours, "#rrggbb"."""
    linear = lambda part: part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
    luminance = lambda color: sum(
        weight * linear(part / 255) for weight, part in zip((0.2126, 0.7152, 0.0722), plotly.colors.hex_to_rgb(color))
    )
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_figures_are_legible_on_a_white_and_on_a_dark_page(drawn):
    layout = drawn.layout.template.layout
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)"  # the page shows through
    for page in ("#ffffff", "#111111"):  # of JupyterLab's two themes
        assert contrast(layout.font.color, page) > 4 and min(contrast(color, page) for color in layout.colorway) > 2


def test_blocks_have_a_panel_each(folder):
    walk = blocks_walk(np.random.default_rng(2), 12, 6)
    changes = {"space": "choice", "channels": 16, "cells": 6, "image_size": 16}
    choice = write_run(folder / "choice", arrays={"alpha": walk}, **changes)
    assert len({trace.xaxis for trace in figures.architecture(choice).data}) == 6
    *_, counts = figures.evolution(choice).data
    assert set(counts.y) <= {"shuffle 3×3", "shuffle 5×5", "shuffle 7×7", "xception"}
    assert (np.array(counts.z).sum(axis=0) == 6).all()


def test_what_few_images_leave_out_is_left_out_everywhere_and_a_given_policy_keeps_it(tmp_path, capsys):
    """AutoContrast changes one image of the data set, which is not among the few that are trained on."""

    def loader(root, image_size):
        images = torch.randint(0, 256, (60, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        images[:, :, 0, :2] = torch.tensor([0, 255], dtype=torch.uint8)
        images[0] //= 2
        parts = zip(images.split(20), (torch.arange(20) % 2).expand(3, 20))
        return kit.data.Source(("a", "b"), *parts)

    kit.data.register("one_narrow", loader)
    values = {"dataset": "one_narrow", "train_images": 20, "batch_size": 8, "epochs": 1, "channels": 4, "cells": 2}
    run = kit.search(kit.Config(method="plain", augment="pair-softmax", reductions=1, **values), out=tmp_path)
    assert "τ leaves out AutoContrast, Equalize, Color: on these images" in capsys.readouterr().out
    names = list(figures.policy(run).data[0].x)
    assert names == run.policy["ops"] and len(names) == 11
    again = run.config.model_dump() | {"policy": str(run.path), "seed": 1}
    assert kit.search(kit.Config(**again), out=tmp_path, progress=Silent()).policy["ops"] == names
