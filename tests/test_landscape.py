"""The landscape: right on a quadratic whose surface and curvature are known, exact at the centre, the model left
alone.
"""

import functools
import json
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
from kit.data import ImageSet
from kit.errors import KitError
from kit.studies import landscape
from kit.studies.landscape import grid, walker
from kit.studies.landscape import runs as several


@pytest.fixture
def data() -> ImageSet:
    g = torch.Generator().manual_seed(0)
    return ImageSet(torch.randint(0, 256, (60, 1, 8, 8), generator=g, dtype=torch.uint8), torch.arange(60) % 3)


def network() -> nn.Module:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
            )

        def forward(self, x):
            return self.layers(x.float() / 255)

    net = Net()
    net(torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8))  # BatchNorm statistics away from their start
    return net


def state_of(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same_state(net: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Stop(Exception):
    pass


def stop_at(n: int):
    def stop(done: int, _: int) -> None:
        if done >= n:
            raise Stop

    return stop


# ---- directions ----------------------------------------------------------------------------------


def test_directions_have_the_filters_norms_and_leave_biases_and_norms_alone():
    net = network()
    d = landscape.direction(net, seed=1)
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1:
            torch.testing.assert_close(d[name].flatten(1).norm(dim=1), parameter.detach().flatten(1).norm(dim=1))
        else:
            assert not d[name].any()
    again, other, second = landscape.direction(net, 1), landscape.direction(net, 2), landscape.direction(net, 1, "η")
    assert all(torch.equal(d[n], again[n]) for n in d)
    assert not torch.equal(d["layers.0.weight"], other["layers.0.weight"]) and not torch.equal(
        d["layers.0.weight"], second["layers.0.weight"]
    )


# ---- exact, and the model left alone -------------------------------------------------------------


def test_the_centre_is_the_trained_model_and_the_model_stays(data):
    net = network().train()
    before = state_of(net)
    plane = landscape.plane(net, data, steps=5, seed=3)
    assert net.training and same_state(net, before) and all(p.requires_grad for p in net.parameters())
    net.eval()
    with torch.no_grad():
        expected = float(F.cross_entropy(net(data.images), data.labels, reduction="none").sum()) / len(data)
    assert plane.centre == expected
    assert plane.coordinates.tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0] and np.isfinite(plane.values).all()


def test_an_exception_leaves_the_model_alone(data):
    net = network()
    before = state_of(net)
    for points in (None, 4):
        with pytest.raises(Stop):
            landscape.plane(net, data, steps=5, points_per_pass=points, progress=stop_at(7))

    def broken(wrapper):
        wrapper.modules[0].layers[0].weight.data.fill_(7.0)
        raise Stop

    with pytest.raises(Stop):
        landscape.plane(net, data, steps=5, metric=broken)
    with pytest.raises(Stop):
        landscape.largest_eigenvalue(net, data.images, data.labels, progress=stop_at(1))
    assert same_state(net, before)


def test_a_runs_centre_is_its_recorded_test_loss(finished):
    test = kit.load_dataset(finished.config.dataset).test
    model = finished.model().to(
        memory_format=torch.channels_last
    )  # as it was trained: kernels round by the memory format
    before = state_of(model)
    plane = landscape.plane(model, test, steps=3, radius=0.1)
    lines = landscape.line(model, test, steps=3, directions=2, radius=0.1)
    assert plane.centre == lines.centre == finished.metrics["test_loss"]
    assert plane.values.max() > plane.centre and same_state(model, before)


def test_a_model_trained_in_bfloat16_is_evaluated_in_float32(micro, tmp_path, no_hessian):
    from kit.search.progress import Silent

    run = kit.search(
        micro_config("plain", precision="bfloat16", epochs=1, search_epochs=1), out=tmp_path, progress=Silent()
    )
    test = kit.load_dataset(run.config.dataset).test
    with torch.no_grad():
        scores = run.model().to(memory_format=torch.channels_last)(test.images)
    expected = float(F.cross_entropy(scores, test.labels, reduction="none").sum()) / len(test)
    (found,) = landscape.compare([run], steps=3, directions=1)
    assert found.plane.centre == expected != run.metrics["test_loss"]
    assert found.plane.centre == pytest.approx(run.metrics["test_loss"], rel=0.02) and not found.exact


# ---- several points in a pass --------------------------------------------------------------------


@pytest.mark.parametrize("points", [2, 7, 100])
def test_several_points_in_a_pass_give_what_one_by_one_gives(data, points):
    net = network()
    alone = landscape.plane(net, data, steps=5, seed=1, batch_size=32)
    together = landscape.plane(net, data, steps=5, seed=1, batch_size=32, points_per_pass=points)
    # float32, sums in another order
    np.testing.assert_allclose(together.values, alone.values, rtol=2e-5)
    assert together.centre == alone.centre


def test_several_points_in_a_pass_on_a_found_network(finished):
    test = kit.load_dataset(finished.config.dataset).test
    model = finished.model().to(memory_format=torch.channels_last)  # strides that are not those of a plain tensor
    alone, together = (landscape.plane(model, test, steps=3, radius=0.3, points_per_pass=n) for n in (1, 8))
    np.testing.assert_allclose(together.values, alone.values, rtol=1e-4)
    assert together.centre == alone.centre == finished.metrics["test_loss"]


def test_a_pass_that_does_not_fit_is_halved(data, monkeypatch):
    net, sizes = network(), []
    expected = landscape.plane(net, data, steps=3)
    stacked = walker.Walker.stacked

    def small(self, axes, points):
        sizes.append(len(points))
        if len(points) > 2:
            raise torch.OutOfMemoryError("too many")
        return stacked(self, axes, points)

    monkeypatch.setattr(walker.Walker, "stacked", small)
    found = landscape.plane(net, data, steps=3, points_per_pass=8)
    np.testing.assert_allclose(found.values, expected.values, rtol=2e-5)
    assert sizes == [8, 4, 2, 2, 2, 2]


def test_a_pass_takes_what_the_memory_holds(data, monkeypatch, capsys):
    for name, value in {
        "memory_allocated": 100,
        "max_memory_allocated": 300,
        "memory_reserved": 150,
        "mem_get_info": (2950, 8000),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda *_: None)
    w = walker.Walker(network(), data)
    assert w._affordable([w.axis(0, "δ")]) == 9  # 0.6 · (2950 + 150 − 100) / 200

    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 3)

        def forward(self, x):
            y = self.layer(x.float().flatten(1) / 255)
            return y if y.sum().item() > -1e9 else -y  # vmap has no single number to give

    w = walker.Walker(Picky(), data)
    assert (
        w._affordable([w.axis(0, "δ")]) == 1
        and "one point per pass: torch.func.vmap cannot run this model" in capsys.readouterr().out
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_on_the_gpu_a_pass_takes_several_points(data):
    net = network().cuda()
    w = walker.Walker(net, data.to("cuda"))
    axes = [w.axis(0, "δ"), w.axis(0, "η")]
    assert w._size(axes) > 1
    points = np.random.default_rng(0).uniform(-1, 1, (6, 2))
    np.testing.assert_allclose(w.stacked(axes, points), [w.value(axes, p) for p in points], rtol=1e-3)


# ---- a quadratic ---------------------------------------------------------------------------------


def quadratic():
    """Mean squared error of a linear map, float64: a quadratic of its weight, with Hessian 2/(outputs) · I ⊗ mean(x
    xᵀ).
    """
    g = torch.Generator().manual_seed(1)
    net = nn.Linear(6, 4, bias=False).double()
    x, y = torch.randn(50, 6, generator=g, dtype=torch.float64), torch.randn(50, 4, generator=g, dtype=torch.float64)
    return net, x, y


def curvature(net: nn.Module, x: torch.Tensor, seed: int, which: str) -> float:
    """dᵀ H d along a direction."""
    d = landscape.direction(net, seed, which)["weight"]
    return float(2 / 4 * (x @ d.T).square().sum() / len(x))


def test_a_quadratic_gives_its_own_surface_with_a_metric_of_the_library(data):
    net, x, y = quadratic()
    plane = landscape.plane(net, data, steps=7, radius=0.5, seed=4, metric=Loss(F.mse_loss, x, y))
    one, two = (landscape.direction(net, 4, which)["weight"] for which in ("δ", "η"))
    w = net.weight.detach()
    for i, a in enumerate(plane.coordinates):
        for j, b in enumerate(plane.coordinates):
            expected = float((x @ (w + a * one + b * two).T - y).square().mean())
            assert plane.values[i, j] == pytest.approx(expected, rel=1e-12)


def test_a_quadratic_rises_by_half_its_curvature_times_the_radius_squared(data):
    net, x, y = quadratic()
    lines = landscape.line(
        net, data, directions=5, steps=5, radius=1.0, radii=(0.25, 0.5), seed=2, metric=Loss(F.mse_loss, x, y)
    )
    along = np.array([curvature(net, x, 2, name) for name in ("δ", "η", "direction 3", "direction 4", "direction 5")])
    assert lines.coordinates.tolist() == [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]
    for r in (0.25, 0.5, 1.0):
        np.testing.assert_allclose(lines.rises(r), along * r**2 / 2, rtol=1e-9)
        mean, low, high = lines.rise(r)
        half = stats.t.ppf(0.975, 4) * np.std(along * r**2 / 2, ddof=1) / 5**0.5
        assert (mean, low, high) == pytest.approx((along.mean() * r**2 / 2, mean - half, mean + half), rel=1e-9)
    mean, low, high = lines.band()
    at_one = lines.values[:, -1]
    assert mean[-1] == pytest.approx(at_one.mean())
    assert (low[-1], high[-1]) == pytest.approx(stats.t.interval(0.95, 4, at_one.mean(), stats.sem(at_one)))
    assert low[3] == mean[3] == high[3] == lines.centre
    with pytest.raises(KitError, match="no value at radius 0.75; they have: 0.25, 0.5, 1"):
        lines.rise(0.75)


def test_the_first_two_lines_are_the_axes_of_the_plane(data):
    net = network()
    plane, lines = landscape.plane(net, data, steps=5, seed=6), landscape.line(net, data, steps=5, directions=3, seed=6)
    np.testing.assert_allclose(lines.values[0], plane.values[:, 2], rtol=1e-6)
    np.testing.assert_allclose(lines.values[1], plane.values[2, :], rtol=1e-6)
    assert not np.allclose(lines.values[2], lines.values[0])


def test_the_largest_eigenvalue_of_a_quadratic():
    net, x, y = quadratic()
    expected = float(torch.linalg.eigvalsh(2 / 4 * x.T @ x / len(x)).max())
    found = landscape.largest_eigenvalue(net, x, y, loss=F.mse_loss, batch_size=16, iterations=500, tol=1e-12)
    assert found == pytest.approx(expected, rel=1e-6)
    seen = []
    usual = landscape.largest_eigenvalue(
        net, x, y, loss=F.mse_loss, tol=1e-6, progress=lambda done, total: seen.append((done, total))
    )
    assert usual == pytest.approx(expected, rel=1e-4)
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1)) and seen[-1][0] == seen[-1][1] < seen[0][1]


def test_sharpness_is_the_mean_rise_over_the_lines(data):
    net = network()
    result = landscape.sharpness(net, data, radii=(0.5, 1.0), directions=4, seed=2, eigenvalue_images=30)
    lines = landscape.line(net, data, directions=4, steps=3, radius=1.0, radii=(0.5,), seed=2)
    for r in (0.5, 1.0):
        assert (result[f"rise@{r:g}"], result[f"rise@{r:g}/low"], result[f"rise@{r:g}/high"]) == pytest.approx(
            lines.rise(r), rel=1e-5
        )
    assert result["directions"] == 4
    _, kept = kit.data.stratified_split(data.labels, 0.5)
    assert result["eigenvalue"] == pytest.approx(
        landscape.largest_eigenvalue(net, data.images[kept], data.labels[kept]), rel=1e-6
    )


# ---- the library's metrics -----------------------------------------------------------------------


class Accuracy(Metric):
    def __init__(self, images: torch.Tensor, labels: torch.Tensor):
        super().__init__()
        self.images, self.labels = images, labels

    def __call__(self, wrapper) -> float:
        return (wrapper.forward(self.images).argmax(dim=1) == self.labels).float().mean().item()


def test_metrics_of_the_librarys_kind_plug_in(data):
    net = network()
    loss = landscape.plane(net, data, steps=3, metric=Loss(F.cross_entropy, data.images, data.labels))
    np.testing.assert_allclose(loss.values, landscape.plane(net, data, steps=3).values, rtol=1e-5)
    accuracy = landscape.plane(net, data, steps=3, metric=Accuracy(data.images, data.labels))
    with torch.no_grad():
        expected = float((net.eval()(data.images).argmax(dim=1) == data.labels).float().mean())
    assert accuracy.centre == expected and ((accuracy.values >= 0) & (accuracy.values <= 1)).all()


def test_metrics_may_give_arrays_and_may_move_the_copy(data, tmp_path):
    net = network()
    both = MetricPipeline([Loss(F.cross_entropy, data.images, data.labels), Accuracy(data.images, data.labels)])
    plane = landscape.plane(net, data, steps=3, metric=both, path=tmp_path / "both.npz")
    assert plane.values.shape == (3, 3, 2)
    np.testing.assert_allclose(plane.values[..., 0], landscape.plane(net, data, steps=3).values, rtol=1e-5)
    assert np.array_equal(
        landscape.plane(net, data, steps=3, metric=both, path=tmp_path / "both.npz").values, plane.values
    )
    with pytest.raises(KitError, match=r"arrays of shape \[2\]"):
        plane.centre
    # adds to the weights, biases and norms included, and takes the same away again up to rounding
    shaken = MetricPipeline(
        [
            LossPerturbations(F.cross_entropy, data.images, data.labels, 3, 1.0),
            Loss(F.cross_entropy, data.images, data.labels),
        ]
    )

    def last(wrapper) -> float:
        first, value = shaken(wrapper)
        assert first.shape == (3,)
        return value

    again = [landscape.plane(net, data, steps=3, metric=last).values for _ in range(2)]
    np.testing.assert_allclose(again[0], landscape.plane(net, data, steps=3).values, rtol=1e-5)


# ---- resuming ------------------------------------------------------------------------------------


def test_an_interrupted_plane_goes_on_and_a_foreign_file_is_refused(data, tmp_path, monkeypatch):
    net, path = network(), tmp_path / "plane.npz"
    whole = landscape.plane(net, data, steps=5)
    monkeypatch.setattr(grid, "SAVE_EVERY", 0.0)
    with pytest.raises(Stop):
        landscape.plane(net, data, steps=5, path=path, progress=stop_at(12))
    evaluated = []
    value = walker.Walker.value
    monkeypatch.setattr(
        walker.Walker, "value", lambda self, axes=(), at=(): evaluated.append(tuple(at)) or value(self, axes, at)
    )
    assert np.array_equal(landscape.plane(net, data, steps=5, path=path).values, whole.values)
    assert len(evaluated) == 25 - 12
    assert (
        np.array_equal(landscape.plane(net, data, steps=5, path=path).values, whole.values)
        and len(evaluated) == 25 - 12
    )
    with pytest.raises(KitError, match="another model, data set or grid"):
        landscape.plane(net, data, steps=5, seed=9, path=path)
    with pytest.raises(KitError, match="another model, data set or grid"):
        landscape.plane(net, data, steps=5, path=path, metric=Accuracy(data.images, data.labels))
    other = ImageSet(data.images.flip(0), data.labels)
    with pytest.raises(KitError, match="another model, data set or grid"):
        landscape.plane(net, ImageSet(255 - other.images, other.labels), steps=5, path=path)
    with torch.no_grad():
        net.layers[4].bias += 1
    with pytest.raises(KitError, match="another model, data set or grid"):
        landscape.plane(net, data, steps=5, path=path)


def test_interrupted_lines_go_on(data, tmp_path, monkeypatch):
    net, path = network(), tmp_path / "lines.npz"
    monkeypatch.setattr(grid, "SAVE_EVERY", 0.0)
    with pytest.raises(Stop):
        landscape.line(net, data, steps=5, directions=3, path=path, progress=stop_at(9))
    counted = []
    found = landscape.line(
        net, data, steps=5, directions=3, path=path, progress=lambda done, total: counted.append((done, total))
    )
    assert counted == [(n, 15) for n in range(10, 16)]
    assert np.array_equal(found.values, landscape.line(net, data, steps=5, directions=3).values)


# ---- several runs --------------------------------------------------------------------------------


@pytest.fixture
def two(finished, micro, tmp_path_factory):
    """The same configuration at two seeds; copies, since landscapes are kept beside the models."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(finished.path, folder / finished.path.name)
    other = folder / finished.path.name.replace("-s0-", "-s1-")
    shutil.copytree(finished.path, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"seed": 1}))
    return [folder / finished.path.name, other]


@pytest.fixture
def no_hessian(monkeypatch):
    """Its products are most of a comparison's time, and have tests of their own."""

    def quick(model, images, labels, progress):
        progress(1, 1)
        return float(len(images))

    monkeypatch.setattr(several, "largest_eigenvalue", quick)


SMALL = {"steps": 3, "directions": 3, "radius": 0.5, "radii": (0.25, 0.5), "eigenvalue_images": 20}


def test_compare_measures_all_runs_alike_and_keeps_what_is_done(two, finished, monkeypatch):
    said, short = [], functools.partial(landscape.largest_eigenvalue, iterations=3)
    monkeypatch.setattr(several, "largest_eigenvalue", short)
    found = landscape.compare(two, **SMALL, progress=lambda what, done, total: said.append((what, done, total)))
    assert [item.label for item in found] == ["DHA · seed 0", "DHA · seed 1"]
    assert all(
        item.exact and item.plane.centre == finished.metrics["test_loss"] and item.images == 60 for item in found
    )
    # the same model on the same seed: the same landscape
    assert np.array_equal(found[0].plane.values, found[1].plane.values) and found[0].eigenvalue == found[1].eigenvalue
    assert ("DHA · seed 1: lines", 15, 15) in said and any(what == "DHA · seed 0: eigenvalue" for what, *_ in said)
    test = several.some(kit.load_dataset(finished.config.dataset).test, 20)
    assert found[0].eigenvalue == pytest.approx(short(finished.model(), test.images, test.labels), rel=1e-3)
    assert sorted(p.suffix for p in (two[0] / "landscape").iterdir()) == [".npz"] * 3
    said.clear()
    again = landscape.compare(two, **SMALL, progress=lambda *what: said.append(what))
    assert (
        not said
        and np.array_equal(again[0].lines.values, found[0].lines.values)
        and again[0].eigenvalue == found[0].eigenvalue
    )


def test_an_interrupted_comparison_goes_on(two, monkeypatch, no_hessian):
    monkeypatch.setattr(grid, "SAVE_EVERY", 0.0)

    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == ("DHA · seed 0: lines", 9):
            raise Stop

    with pytest.raises(Stop):
        landscape.compare(two, **SMALL, progress=stop)
    said = []
    landscape.compare(two, **SMALL, progress=lambda what, done, total: said.append((what, done)))
    assert said[0] == ("DHA · seed 0: lines", 10)


def test_the_table_says_what_its_numbers_rest_on(two, no_hessian):
    found = landscape.compare(two[:1], **SMALL, progress=lambda *_: None)
    (row,) = landscape.table(found, (0.25, 0.5)).to_dict("records")
    assert (row["rise@0.5"], row["rise@0.5/low"], row["rise@0.5/high"]) == found[0].lines.rise(0.5)
    assert (row["directions"], row["images"], row["eigenvalue_images"], row["test_loss"]) == (
        3,
        60,
        20,
        found[0].plane.centre,
    )
    (method,) = landscape.by_method(found, (0.25,)).to_dict("records")
    assert method["n"] == 1 and method["rise@0.25"] == row["rise@0.25"] and np.isnan(method["rise@0.25/low"])


def test_findings_pair_the_directions(two, no_hessian):
    one, other = landscape.compare(two, **SMALL, progress=lambda *_: None)
    assert all("not distinguishable" in text for text in landscape.findings([one, other], (0.5,)))
    steeper = landscape.Lines(other.lines.coordinates, other.lines.values + 0.1 * (other.lines.coordinates != 0), 0)
    other = landscape.Landscape(other.run, "B", other.plane, steeper, other.eigenvalue, 60, 20)
    (text,) = landscape.findings([one, other], (0.5,))
    assert "= +0.1 [+0.1, +0.1], n = 3 directions: DHA · seed 0 is flatter" in text
    (text,) = landscape.findings([other, one], (0.5,))
    assert "DHA · seed 0 is flatter" in text


def test_a_part_of_the_test_images_is_drawn_evenly(two, no_hessian):
    (found,) = landscape.compare(two[:1], **SMALL, images=20, progress=lambda *_: None)
    assert found.images == 20 and not found.exact
    with pytest.raises(KitError, match="images=61: there are 60; 0 takes them all"):
        landscape.compare(two[:1], **SMALL, images=61)


def test_a_directory_that_cannot_be_written_is_left_alone(two, monkeypatch, capsys, no_hessian):
    monkeypatch.setattr(several.os, "access", lambda *_: False)
    landscape.compare(two[:1], **SMALL, progress=lambda *_: None)
    assert "computed and not kept" in capsys.readouterr().out and not (two[0] / "landscape").exists()


def test_headless_progress_is_lines(two, capsys, no_hessian):
    landscape.compare(two[:1], **SMALL)
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["DHA · seed 0: plane 9/9", "DHA · seed 0: lines 15/15"] and "eigenvalue" in said[2]


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, said",
    [
        ({"steps": 20}, "steps=20: give an odd number from 3.*steps=21"),
        ({"steps": 1}, "steps=3"),
        ({"radius": 0.0}, "radius=0.0"),
        ({"points_per_pass": 0}, "points_per_pass=0"),
        ({"metric": len, "points_per_pass": 4}, "one model at a time"),
    ],
)
def test_what_makes_no_grid_is_refused(data, given, said):
    with pytest.raises(KitError, match=said):
        landscape.plane(network(), data, **given)


def test_lines_need_a_direction_and_positive_radii(data):
    with pytest.raises(KitError, match="directions=0"):
        landscape.line(network(), data, directions=0)
    with pytest.raises(KitError, match="radii="):
        landscape.line(network(), data, radii=(0.5, -1.0))


def test_what_cannot_be_compared_is_refused_before_any_compute(two, interrupted, tmp_path, monkeypatch):
    monkeypatch.setattr(walker, "Walker", None)
    with pytest.raises(KitError, match="no runs"):
        landscape.compare([])
    with pytest.raises(KitError, match=f"not a run directory.*runs nearby: .*{two[0].name}"):
        landscape.compare([two[0], two[0].parent / "nothing"])
    with pytest.raises(KitError, match=r"has no model yet \(interrupted\)"):
        landscape.compare([two[0], interrupted])
    with pytest.raises(KitError, match="odd number"):
        landscape.compare(two, steps=4)
    config = json.loads((two[1] / "config.json").read_text())
    (two[1] / "config.json").write_text(json.dumps(config | {"dataset": "digits"}))
    with pytest.raises(
        KitError,
        match=rf"same test images.*2 kinds.*micro_digits \(1×8×8, 10 classes\): {two[0].name}; digits .*: {two[1].name}",
    ):
        landscape.compare(two)


def test_data_that_have_changed_since_are_refused(two):
    metrics = json.loads((two[0] / "metrics.json").read_text())
    (two[0] / "metrics.json").write_text(json.dumps(metrics | {"test_images": 61}))
    with pytest.raises(KitError, match="tested on 61 images, micro_digits has 60 here"):
        landscape.compare(two[:1])


def test_gather_reads_paths_or_searches_methods(two, finished):
    runs = landscape.gather(f"{two[0]}, {two[1]}", "dha", 0, {})
    assert [run.path for run in runs] == two
    values = {
        k: v
        for k, v in finished.config.model_dump().items()
        if k
        in (
            "dataset",
            "device",
            "epochs",
            "search_epochs",
            "channels",
            "cells",
            "search_channels",
            "search_cells",
            "batch_size",
            "precision",
        )
    }
    (run,) = landscape.gather("", "dha", 0, {**values, "out": str(finished.path.parent)})
    assert run.path == finished.path
    with pytest.raises(KitError, match=f"nix is not a run directory.*; runs nearby: .*{two[0].name}"):
        landscape.gather(f"{two[0]}, {two[0].parent / 'nix'}", "dha", 0, {})
    with pytest.raises(KitError, match="name run directories or methods"):
        landscape.gather("", " ", 0, {})
    with pytest.raises(KitError, match="seed='x'"):
        landscape.gather("", "dha", "x", {})


# ---- on paper ------------------------------------------------------------------------------------


def test_the_report_says_the_numbers_and_what_they_rest_on(two, tmp_path, no_hessian):
    from kit.studies import report as kit_report
    from kit.studies.landscape import report

    found = landscape.compare(two, steps=5, directions=3, eigenvalue_images=20, progress=lambda *_: None)
    path = report.write(found, tmp_path / "reports", note="Alone on the machine.")
    text, table = path.read_text(), path.with_suffix(".csv").read_bytes()
    assert path.name == "landscape-micro_digits.md" and all(
        (path.parent / name).is_file()
        for name in (
            "landscape-micro_digits.csv",
            *(f"landscape-micro_digits-{kind}.png" for kind in ("contours", "surfaces", "lines")),
        )
    )
    mean, low, high = found[0].lines.rise(0.5)
    assert f"{mean:.3g} [{low:.3g}, {high:.3g}]" in text and "Alone on the machine." in text
    assert "bit for bit." in text and "n = 3 random directions" in text and "60 test images" in text
    assert (
        "-p methods dha -p seed 0,1 -p steps 5 -p radius 1.0 -p directions 3 -p direction_seed 0" in text
        and "-p channels 4" in text
    )
    assert (
        "## By method" in text and "n = 2 seeds" not in text and "## One model" not in text
    )  # one method: nothing to compare with
    assert "Guessing costs ln(10) = 2.30 nats" in text
    path.unlink(), path.with_suffix(".csv").unlink()
    assert kit_report.rewrite(path.with_suffix(".json")) == path  # from the summary alone
    assert path.read_text() == text and path.with_suffix(".csv").read_bytes() == table
    assert str(tmp_path) not in path.with_suffix(".json").read_text()
    with pytest.raises(KitError, match="no landscapes"):
        report.write([], tmp_path)


def test_methods_are_paired_by_seed(two, no_hessian):
    found = landscape.compare(two, **SMALL, progress=lambda *_: None)
    other = []
    for item, shift in zip(found, (0.1, 0.12)):
        at = item.lines.coordinates
        run = kit.Run(item.run.path)
        run.config = run.config.model_copy(update={"method": "ista"})
        lines = landscape.Lines(at, item.lines.values + shift * (at != 0), 0)
        other.append(landscape.Landscape(run, "B", item.plane, lines, item.eigenvalue, 60, 20))
    (text,) = landscape.method_findings([*found, *other], (0.5,))
    assert "rise of ista − rise of dha = +0.11 [" in text and "n = 2 seeds" in text
    assert landscape.method_findings([*found, other[0]], (0.5,)) == []
    assert [item.run.config.method for item in landscape.one_each([*found, *other])] == ["dha", "ista"]
