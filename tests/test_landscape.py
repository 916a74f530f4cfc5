"""The landscape: right on a quadratic whose surface and curvature are known, exact at the centre, the model left
alone, and several runs measured alike.
"""

import functools
import json
import re
import shutil

import numpy as np
import pytest
import torch
from loss_landscapes.metrics import Loss, LossPerturbations
from loss_landscapes.metrics.metric import Metric, MetricPipeline
from scipy import stats
from torch import nn
from torch.nn import functional as F

import kit
from kit import figures
from kit.data import ImageSet
from kit.errors import KitError
from kit.studies import landscape
from kit.studies.landscape import report, runs, surface


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


class Stop(Exception):
    pass


def stop_at(n: int):
    def stop(*what) -> None:
        if what[-2] >= n:
            raise Stop

    return stop


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

    def broken(wrapper):
        wrapper.modules[0].layers[0].weight.data.fill_(7.0)
        raise Stop

    for options in ({"progress": stop_at(7)}, {"progress": stop_at(7), "points_per_pass": 4}, {"metric": broken}):
        with pytest.raises(Stop):
            landscape.plane(net, data, steps=5, **options)
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with torch.no_grad():
        losses = F.cross_entropy(net.eval()(data.images), data.labels, reduction="none")
    assert plane.centre == float(losses.sum()) / len(data)
    assert plane.coordinates.tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0] and np.isfinite(plane.values).all()


def test_a_runs_centre_is_its_recorded_test_loss_also_when_points_share_a_pass(finished):
    test, model = kit.load_dataset(finished.config.dataset).test, finished.model().to(memory_format=torch.channels_last)
    alone, together = (landscape.plane(model, test, steps=3, radius=0.3, points_per_pass=n) for n in (1, 8))
    lines = landscape.line(model, test, steps=3, directions=1, radius=0.3)
    assert alone.centre == together.centre == lines.centre == finished.metrics["test_loss"]
    np.testing.assert_allclose(together.values, alone.values, rtol=1e-4)


def test_a_pass_that_does_not_fit_is_halved_and_what_vmap_cannot_run_goes_one_by_one(data):
    alone, passes, said = landscape.plane(network(), data, steps=3), [], []

    def full(scores):
        passes.append(scores)
        if len(passes) == 3:  # after the network's own statistics and the centre
            raise torch.OutOfMemoryError("too many")

    for after, steps in ((full, [5, 9]), (lambda scores: scores.sum().item(), [*range(2, 10)])):
        said.clear()
        tell = lambda done, total: said.append(done)
        found = landscape.plane(network(after=after), data, steps=3, points_per_pass=8, progress=tell)
        np.testing.assert_allclose(found.values, alone.values, rtol=2e-5)  # float32, sums in another order
        assert found.centre == alone.centre and said == steps


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_on_the_gpu_a_pass_takes_several_points(data):
    net, there, said = network().cuda(), data.to("cuda"), []
    found = landscape.plane(net, there, steps=5, progress=lambda *done: said.append(done))
    np.testing.assert_allclose(found.values, landscape.plane(net, there, steps=5, points_per_pass=1).values, rtol=1e-3)
    assert said == [(25, 25)]


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
    metric = Loss(F.mse_loss, x, y)
    lines = landscape.line(net, data, directions=5, steps=5, radii=(0.25, 0.5), seed=2, metric=metric)
    names = ("δ", "η", "direction 3", "direction 4", "direction 5")
    directions = (landscape.direction(net, 2, name)["weight"] for name in names)
    along = np.array([float(2 / 4 * (x @ d.T).square().sum() / len(x)) for d in directions])
    assert lines.coordinates.tolist() == [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]
    for r in (0.25, 0.5, 1.0):
        rises = along * r**2 / 2
        np.testing.assert_allclose(lines.rises(r), rises, rtol=1e-9)
        expected = (rises.mean(), *stats.t.interval(0.95, 4, rises.mean(), stats.sem(rises)))
        assert lines.rise(r) == pytest.approx(expected, rel=1e-9)
    mean, low, high = lines.band()
    assert low[3] == mean[3] == high[3] == lines.centre and low[0] < mean[0] == lines.values[:, 0].mean() < high[0]
    with pytest.raises(KitError, match="no value at radius 0.75; they have: 0.25, 0.5, 1"):
        lines.rise(0.75)


def test_the_largest_eigenvalue_of_a_quadratic():
    net, x, y = quadratic()
    expected = float(torch.linalg.eigvalsh(2 / 4 * x.T @ x / len(x)).max())
    found = landscape.largest_eigenvalue(net, x, y, loss=F.mse_loss, batch_size=16, iterations=500, tol=1e-12)
    assert found == pytest.approx(expected, rel=1e-6)


def test_sharpness_is_the_mean_rise_over_the_lines_and_the_first_two_span_the_plane(data):
    net = network()
    result = landscape.sharpness(net, data, radii=(0.5, 1.0), directions=3, seed=2, eigenvalue_images=30)
    lines = landscape.line(net, data, directions=3, steps=5, seed=2)
    for r in (0.5, 1.0):
        assert tuple(result[f"rise@{r:g}{end}"] for end in ("", "/low", "/high")) == pytest.approx(lines.rise(r))
    _, part = kit.data.stratified_split(data.labels, 0.5)
    eigenvalue = landscape.largest_eigenvalue(net, data.images[part], data.labels[part])
    assert result["directions"] == 3 and result["eigenvalue"] == pytest.approx(eigenvalue, rel=1e-6)
    plane = landscape.plane(net, data, steps=5, seed=2)
    np.testing.assert_allclose(lines.values[:2], [plane.values[:, 2], plane.values[2, :]], rtol=1e-6)


# ---- the library's metrics, files, bad input -----------------------------------------------------


class Accuracy(Metric):
    def __init__(self, data: ImageSet):
        super().__init__()
        self.data = data

    def __call__(self, wrapper) -> float:
        return (wrapper.forward(self.data.images).argmax(dim=1) == self.data.labels).float().mean().item()


def test_metrics_of_the_librarys_kind_may_give_arrays_and_move_the_copy(data, tmp_path):
    net, images = network(), (F.cross_entropy, data.images, data.labels)
    both = MetricPipeline([Loss(*images), Accuracy(data)])
    plane, again = (landscape.plane(net, data, steps=3, metric=both, path=tmp_path / "both.npz") for _ in range(2))
    loss = landscape.plane(net, data, steps=3).values
    np.testing.assert_allclose(plane.values[..., 0], loss, rtol=1e-5)
    assert plane.values.shape == (3, 3, 2) and np.array_equal(again.values, plane.values)
    assert ((plane.values[..., 1] >= 0) & (plane.values[..., 1] <= 1)).all()
    shaken = MetricPipeline([LossPerturbations(*images, 3, 1.0), Loss(*images)])  # moves biases and norms, too
    found = landscape.plane(net, data, steps=3, metric=lambda wrapper: shaken(wrapper)[1])
    np.testing.assert_allclose(found.values, loss, rtol=1e-5)


def test_what_was_interrupted_goes_on_and_a_foreign_file_is_refused(data, tmp_path, monkeypatch):
    net, path, counted = network(), tmp_path / "kept.npz", []
    monkeypatch.setattr(surface, "SAVE_EVERY", 0.0)
    options = {"steps": 5, "directions": 3, "path": path}
    with pytest.raises(Stop):
        landscape.line(net, data, **options, progress=stop_at(9))
    lines = landscape.line(net, data, **options, progress=lambda *done: counted.append(done))
    assert counted == [(n, 15) for n in range(10, 16)]
    assert np.array_equal(lines.values, landscape.line(net, data, steps=5, directions=3).values)
    landscape.line(net, data, **options, progress=stop_at(0))  # nothing is left to do
    others = ImageSet(255 - data.images, data.labels)
    for given, changes in ((data, {"seed": 9}), (data, {"metric": Accuracy(data)}), (others, {}), (data, {"steps": 3})):
        with pytest.raises(KitError, match="another model, data set or grid"):
            landscape.line(net, given, **(options | changes))
    with torch.no_grad():
        net.layers[4].bias += 1
    with pytest.raises(KitError, match="another model, data set or grid"):
        landscape.line(net, data, **options)


def test_what_makes_no_grid_is_refused(data):
    refused = {"steps": 20, "radius": 0.0, "points_per_pass": 0, "directions": 0, "radii": (0.5, -1.0)}
    for name, value in refused.items():
        with pytest.raises(KitError, match=f"{name}={re.escape(str(value))}: give "):
            landscape.line(network(), data, **{name: value})
    with pytest.raises(KitError, match="one model at a time"):
        landscape.line(network(), data, metric=len, points_per_pass=4)


# ---- several runs --------------------------------------------------------------------------------

SMALL = {"steps": 3, "directions": 3, "radius": 0.5, "eigenvalue_images": 10}


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
    with pytest.MonkeyPatch.context() as patch:  # its products are most of a comparison's time
        patch.setattr(runs, "largest_eigenvalue", functools.partial(landscape.largest_eigenvalue, iterations=2))
        return landscape.compare(two, **SMALL, progress=lambda *what: None)


def steeper(item: landscape.Landscape, by: float) -> landscape.Landscape:
    """As if another method had found it, on steeper ground."""
    run = kit.Run(item.run.path)
    run.config = run.config.model_copy(update={"method": "ista"})
    lines = landscape.LossLines(item.lines.coordinates, item.lines.values + by * (item.lines.coordinates != 0), 0)
    return landscape.Landscape(run, "B", item.plane, lines, item.eigenvalue, item.images, item.eigenvalue_images)


def test_compare_measures_all_runs_alike_and_keeps_what_is_done(two, measured, finished, capsys):
    assert [item.label for item in measured] == ["DHA · seed 0", "DHA · seed 1"]
    one, other = measured
    assert one.plane.centre == other.plane.centre == finished.metrics["test_loss"] and one.images == 60
    assert np.array_equal(one.plane.values, other.plane.values) and one.eigenvalue == other.eigenvalue > 0
    again = landscape.compare(two, **SMALL, progress=stop_at(0))
    assert np.array_equal(again[0].lines.values, one.lines.values) and again[0].eigenvalue == one.eigenvalue
    landscape.compare(two[:1], **SMALL | {"steps": 5})
    said = capsys.readouterr().out.splitlines()
    assert said == ["DHA · seed 0: plane 25/25", "DHA · seed 0: lines 21/21"]
    with pytest.raises(KitError, match="images=61: there are 60; 0 takes them all"):
        landscape.compare(two[:1], images=61)


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
    with pytest.raises(KitError, match="tested on 61 images of micro_digits .*, here are 60 images.*1×8×8"):
        landscape.compare([two[0], altered])


def test_gather_reads_paths_or_searches_methods(two, finished):
    assert [run.path for run in landscape.gather(f"{two[0]}, {two[1]}", "dha", 0, {})] == two
    values = finished.config.model_dump(exclude={"method", "seed", "out"}) | {"out": str(finished.path.parent)}
    (run,) = landscape.gather("", "dha", 0, values)
    assert run.path == finished.path
    for given, said in (((" ", 0), "name run directories or methods"), (("dha", "x"), "seeds='x'")):
        with pytest.raises(KitError, match=said):
            landscape.gather("", *given, {})


def test_findings_pair_the_directions_of_models_and_the_seeds_of_methods(measured):
    assert all("not distinguishable" in text for text in report.findings(measured))
    others = [steeper(item, by) for item, by in zip(measured, (0.1, 0.12))]
    texts = [*report.findings([measured[0], others[0]]), *report.findings([others[0], measured[0]])]
    assert "= +0.1 [+0.1, +0.1], n = 3 directions: DHA · seed 0 is flatter" in texts[0]
    assert all("DHA · seed 0 is flatter" in text for text in texts)
    text, *_ = report.method_findings([*measured, *others])
    assert "rise of ista − rise of dha = +0.11 [" in text and "n = 2 seeds" in text
    assert not list(report.method_findings([*measured, others[0]]))
    assert [item.run.config.method for item in landscape.one_each([*measured, *others])] == ["dha", "ista"]


def test_the_report_says_the_numbers_and_is_made_again_from_its_summary(measured, tmp_path):
    path = report.write(measured, tmp_path / "reports", note="Alone on the machine.")
    text, csv = path.read_text(), path.with_suffix(".csv").read_bytes()
    kinds = report.PICTURES if not figures.why_no_png() else ()
    ends = (".md", ".csv", ".json", *(f"-{kind}.png" for kind in kinds))
    assert {file.name for file in path.parent.iterdir()} == {f"landscape-micro_digits{end}" for end in ends}
    mean, low, high = measured[0].lines.rise(0.5)
    command = "-p methods dha -p seed 0,1 -p steps 3 -p radius 0.5 -p directions 3 -p direction_seed 0 "
    numbers = f"{mean:.3g} [{low:.3g}, {high:.3g}]"
    for said in (numbers, command, "-p channels 4", "Alone on the machine.", "bit for bit.", "60 test images"):
        assert said in text
    assert "## By method" in text and "## One model" not in text  # there is one method
    path.unlink(), path.with_suffix(".csv").unlink()
    assert report.rewrite(path.with_suffix(".json")) == path
    assert path.read_text() == text and path.with_suffix(".csv").read_bytes() == csv
    assert str(tmp_path) not in path.with_suffix(".json").read_text()
    with pytest.raises(KitError, match="no landscapes"):
        report.write([], tmp_path)
