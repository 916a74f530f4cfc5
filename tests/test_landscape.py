"""The landscape: right on a quadratic whose surface and curvature are known, exact at the centre, the model left
alone, and several runs measured alike.
"""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from loss_landscapes.metrics import Loss, LossPerturbations
from loss_landscapes.metrics.metric import Metric, MetricPipeline
from scipy import stats
from tests_micro import micro_config
from torch import nn
from torch.nn import functional as F

import kit
from kit import figures
from kit.data import ImageSet
from kit.errors import KitError
from kit.run import store
from kit.search.progress import Silent
from kit.studies import landscape, report


@pytest.fixture(scope="module")
def data() -> ImageSet:
    g = torch.Generator().manual_seed(0)
    return ImageSet(torch.randint(0, 256, (60, 1, 8, 8), generator=g, dtype=torch.uint8), torch.arange(60) % 3)


class Net(nn.Module):
    def __init__(self, after=lambda scores: None):
        super().__init__()
        self.after = after
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

    def forward(self, x):
        scores = self.layers(x.float() / 255)
        self.after(scores)
        return scores


def network(**options) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net(**options)
        net(torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8))  # BatchNorm statistics away from their start
    return net


# ---- one model -----------------------------------------------------------------------------------


def test_directions_have_the_filters_norms_and_leave_biases_and_norms_alone():
    net = network()
    d, other, second = landscape.direction(net, 1), landscape.direction(net, 2), landscape.direction(net, 1, "η")
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1:
            torch.testing.assert_close(d[name].flatten(1).norm(dim=1), parameter.detach().flatten(1).norm(dim=1))
            assert not torch.equal(d[name], other[name]) and not torch.equal(d[name], second[name])
        else:
            assert not d[name].any()
    assert all(torch.equal(values, landscape.direction(net, 1)[name]) for name, values in d.items())


def test_the_centre_is_the_trained_model_and_the_model_is_never_touched(data):
    net = network().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    plane = landscape.plane(net, data, steps=5, seed=3)

    def spoil(wrapper):
        wrapper.modules[0].layers[0].weight.data.fill_(7.0)
        return 0.0

    landscape.plane(net, data, steps=3, metric=spoil)
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with torch.no_grad():
        losses = F.cross_entropy(net.eval()(data.images), data.labels, reduction="none")
    assert plane.centre == float(losses.sum()) / len(data)
    assert plane.coordinates.tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0] and np.isfinite(plane.values).all()


def test_a_runs_centre_is_its_recorded_test_loss(finished):
    test, model = kit.load_dataset(finished.config.dataset).test, finished.model().to(memory_format=torch.channels_last)
    found = landscape.plane(model, test, steps=3, radius=0.3), landscape.line(model, test, steps=3, directions=1)
    assert found[0].centre == found[1].centre == finished.metrics["test_loss"]


# ---- a quadratic ---------------------------------------------------------------------------------


def quadratic():
    """Mean squared error of a linear map, float64: a quadratic with Hessian 2 / outputs · I ⊗ mean(x xᵀ)."""
    g = torch.Generator().manual_seed(1)
    net = nn.Linear(6, 4, bias=False).double()
    x, y = torch.randn(50, 6, generator=g, dtype=torch.float64), torch.randn(50, 4, generator=g, dtype=torch.float64)
    return net, x, y


def test_a_quadratic_gives_its_own_surface_with_a_metric_of_the_library(data):
    net, x, y = quadratic()
    plane = landscape.plane(net, data, steps=5, radius=0.5, seed=4, metric=Loss(F.mse_loss, x, y))
    one, two = (landscape.direction(net, 4, which)["weight"] for which in ("δ", "η"))
    a, b = (torch.tensor(plane.coordinates).view(shape) for shape in ((5, 1, 1, 1), (1, 5, 1, 1)))
    expected = (x @ (net.weight.detach() + a * one + b * two).mT - y).square().mean(dim=(-1, -2))
    np.testing.assert_allclose(plane.values, expected, rtol=1e-12)


def test_a_quadratic_rises_by_half_its_curvature_times_the_radius_squared(data):
    net, x, y = quadratic()
    lines = landscape.line(net, data, directions=5, steps=5, seed=2, metric=Loss(F.mse_loss, x, y))
    names = ("δ", "η", "direction 3", "direction 4", "direction 5")
    directions = (landscape.direction(net, 2, name)["weight"] for name in names)
    along = np.array([float(2 / 4 * (x @ d.T).square().sum() / len(x)) for d in directions])
    assert lines.coordinates.tolist() == [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]
    for r in (0.25, 0.5, 1.0):
        rises = along * r**2 / 2
        expected = (rises.mean(), *stats.t.interval(0.95, 4, rises.mean(), stats.sem(rises)))
        assert [lines.rises()[f"rise@{r:g}{end}"] for end in ENDS] == pytest.approx(expected, rel=1e-9)
    assert (lines.values[:, 3] == lines.centre).all()


def test_the_largest_eigenvalue_is_that_of_the_whole_hessian(data):
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(
                torch.randn(3, 64, generator=torch.Generator().manual_seed(0), dtype=torch.double)
            )

        def forward(self, x):
            return x.flatten(1).double() / 255 @ self.weight.T

    net = Linear()
    features = data.images.flatten(1).double() / 255
    loss = lambda w: F.cross_entropy(features @ w.view(3, 64).T, data.labels)
    hessian = torch.autograd.functional.hessian(loss, net.weight.detach().flatten())
    expected = float(torch.linalg.eigvalsh(hessian).max())
    assert landscape.largest_eigenvalue(net, data, batch_size=16) == pytest.approx(expected, rel=1e-3)


def test_sharpness_is_the_mean_rise_over_the_lines_and_the_first_two_span_the_plane(data):
    net = network()
    result = landscape.sharpness(net, data, directions=3, seed=2, eigenvalue_images=30)
    lines = landscape.line(net, data, directions=3, steps=5, seed=2)
    assert lines.rises() == pytest.approx({name: value for name, value in result.items() if name in lines.rises()})
    _, part = kit.data.stratified_split(data.labels, 0.5)
    eigenvalue = landscape.largest_eigenvalue(net, data.take(part))
    assert result["directions"] == 3 and result["eigenvalue"] == pytest.approx(eigenvalue, rel=1e-6)
    plane, places = landscape.plane(net, data, steps=5, seed=2), np.isin(lines.coordinates, [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(lines.values[:2, places], [plane.values[:, 2], plane.values[2, :]], rtol=1e-6)


# ---- the library's metrics, bad input -----------------------------------------------------


class Accuracy(Metric):
    def __init__(self, data: ImageSet):
        super().__init__()
        self.data = data

    def __call__(self, wrapper) -> float:
        return (wrapper.forward(self.data.images).argmax(dim=1) == self.data.labels).float().mean().item()


def test_metrics_of_the_librarys_kind_may_give_arrays_and_move_the_copy(data):
    net, images = network(), (F.cross_entropy, data.images, data.labels)
    plane = landscape.plane(net, data, steps=3, metric=MetricPipeline([Loss(*images), Accuracy(data)]))
    loss = landscape.plane(net, data, steps=3).values
    np.testing.assert_allclose(plane.values[..., 0], loss, rtol=1e-5)
    assert plane.values.shape == (3, 3, 2) and ((plane.values[..., 1] >= 0) & (plane.values[..., 1] <= 1)).all()
    shaken = MetricPipeline([LossPerturbations(*images, 3, 1.0), Loss(*images)])  # moves biases and norms, too
    found = landscape.plane(net, data, steps=3, metric=lambda wrapper: shaken(wrapper)[1])
    np.testing.assert_allclose(found.values, loss, rtol=1e-5)


def test_what_makes_no_grid_is_refused(data):
    for name, value in {"steps": 20, "radius": 0.0, "directions": 0}.items():
        with pytest.raises(KitError, match=f"{name}={re.escape(str(value))}.*: give "):
            landscape.line(network(), data, **{name: value})


def test_a_grid_is_fine_where_a_point_costs_little_by_a_rule_that_knows_no_clock(data, monkeypatch):
    net = network()
    work = sum(weight.numel() for weight in net.parameters()) * data.images.numel()
    assert landscape.side(0, net, data) == 51 and landscape.side(5, net, data) == 5
    monkeypatch.setattr(landscape, "CHEAP", work)
    assert len(landscape.plane(net, data, metric=lambda _: 0.0).coordinates) == 51
    monkeypatch.setattr(landscape, "CHEAP", work - 1)
    assert len(landscape.plane(net, data, metric=lambda _: 0.0).coordinates) == 21


# ---- several runs --------------------------------------------------------------------------------

ENDS = ("", "/low", "/high")
SMALL = {"steps": 3, "directions": 3, "radius": 0.5}


@pytest.fixture(scope="module")
def two(finished, tmp_path_factory):
    """The same run under two seeds: the same landscape, kept beside each."""
    folder, paths = tmp_path_factory.mktemp("two"), []
    for seed in (0, 1):
        paths.append(folder / finished.path.name.replace("-s0-", f"-s{seed}-"))
        shutil.copytree(finished.path, paths[-1])
        config = json.loads((paths[-1] / "config.json").read_text())
        (paths[-1] / "config.json").write_text(json.dumps(config | {"seed": seed}))
    return paths


@pytest.fixture(scope="module")
def measured(two):
    return landscape.compare(two, **SMALL)


def steeper(item: landscape.Landscape, by: float) -> landscape.Landscape:
    """As if another method had found it, on steeper ground."""
    run = kit.Run(item.run.path)
    run.config = run.config.model_copy(update={"method": "ista"})
    lines = landscape.LossLines(item.lines.coordinates, item.lines.values + by * (item.lines.coordinates != 0), 0)
    return dataclasses.replace(item, run=run, label="B", lines=lines)


def test_compare_measures_all_runs_alike_and_reads_it_the_next_time(two, measured, finished, monkeypatch):
    assert [item.label for item in measured] == ["DHA · seed 0", "DHA · seed 1"]
    one, other = measured
    assert one.plane.centre == other.plane.centre == finished.metrics["test_loss"] and one.images == 60
    assert np.array_equal(one.plane.values, other.plane.values) and one.eigenvalue == other.eigenvalue > 0
    monkeypatch.delattr(landscape, "plane")  # nothing is measured again
    again = landscape.compare(two, **SMALL)
    assert np.array_equal(again[0].lines.values, one.lines.values) and again[0].eigenvalue == one.eigenvalue
    assert landscape.compare(two[:1], images=61, **SMALL)[0].images == 60


def test_what_cannot_be_compared_is_refused(two, interrupted, tmp_path):
    with pytest.raises(KitError, match="no runs"):
        landscape.compare([])
    with pytest.raises(KitError, match=f"not a run directory.*runs nearby: .*{two[0].name}"):
        landscape.compare([two[0], two[0].parent / "nothing"])
    with pytest.raises(KitError, match=r"has no model yet \(interrupted\)"):
        landscape.compare([two[0], interrupted])
    altered = shutil.copytree(two[0], tmp_path / "altered")
    metrics = json.loads((altered / "metrics.json").read_text())
    (altered / "metrics.json").write_text(json.dumps(metrics | {"test_images": 61}))
    with pytest.raises(KitError, match="tested on 61 images of micro_digits .*, here are 60 images"):
        landscape.compare([two[0], altered])


def test_the_report_says_the_numbers_and_is_made_again_from_its_summary(measured, tmp_path):
    items = [*measured, *(steeper(item, by) for item, by in zip(measured, (0.1, 0.12)))]
    assert [item.run.config.method for item in landscape.one_each(items)] == ["dha", "ista"]
    path = report.write("landscape", [item.run for item in items], tmp_path, note="Alone.", measured=items)
    text, csv = path.read_text(), path.with_suffix(".csv").read_bytes()
    kinds = landscape.PICTURES if not figures.why_no_png() else ()
    ends = (".md", ".csv", ".json", ".html", ".tex", *(f"-{kind}.png" for kind in kinds))
    assert {file.name for file in tmp_path.iterdir()} == {f"landscape-micro_digits{end}" for end in ends}
    mean, low, high = (measured[0].lines.rises()[f"rise@0.5{end}"] for end in ENDS)
    for said in (f"{mean:.3g} [{low:.3g}, {high:.3g}]", "`channels` 4", "Alone.", "at most 0 nats", "60 test images"):
        assert said in text
    assert "`ista` − `dha` = +0.11 over 2 seeds: too few seeds for an interval." in text
    path.unlink(), path.with_suffix(".csv").unlink()
    assert report.rewrite(path.with_suffix(".json")) == path
    assert path.read_text() == text and path.with_suffix(".csv").read_bytes() == csv


def test_the_path_of_three_epochs_lies_in_its_plane_and_ends_at_the_model(micro, tmp_path):
    run = kit.search(micro_config("plain", epochs=6, trajectory=3), out=tmp_path, progress=Silent())
    again = kit.search(micro_config("plain", epochs=6), out=tmp_path, progress=Silent())  # it decides nothing
    assert again.path == run.path and len(list((run.path / "trajectory").iterdir())) == 3
    found = landscape.trajectory(run, steps=5)
    assert found.epochs.tolist() == [2, 4, 6] and found.values.shape == (5, 5)
    np.testing.assert_allclose(found.path[-1], 0, atol=1e-9)
    assert found.share.sum() == pytest.approx(1) and found.share[0] >= found.share[1] > 0
    assert found.losses[-1] == pytest.approx(run.metrics["test_loss"], rel=1e-5)
    data, model = run.config.sets().test, run.model()
    ends = {name: weight.detach().clone() for name, weight in model.network.named_parameters()}
    for epoch, place, loss in zip(found.epochs, found.path, found.losses):
        held, _ = store.read_tensors(run.path / "trajectory" / f"epoch-{epoch:05d}.safetensors")
        length = sum(float((held[name] - end).square().sum()) for name, end in ends.items()) ** 0.5
        assert np.linalg.norm(place) == pytest.approx(length, rel=1e-5, abs=1e-6)
        model.network.load_state_dict({name: held[name] for name in ends}, strict=False)  # its own statistics stay
        with torch.no_grad():
            assert float(F.cross_entropy(model(data.images), data.labels)) == pytest.approx(loss, rel=1e-4)
    figure = figures.landscape_trajectory(found)
    assert len(figure.data[1].x) == 3 and "epochs 2 to 6" in figure.layout.title.text


def test_a_run_without_a_path_says_how_to_keep_one(finished):
    with pytest.raises(KitError, match=r"kept the weights of 0 epochs: search with trajectory=10, resume=False"):
        landscape.trajectory(finished)
