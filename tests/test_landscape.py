"""The landscape: right on a quadratic whose surface and curvature are known, exact at the centre, the model left alone."""

import numpy as np
import pytest
import torch
from loss_landscapes.metrics import Loss
from torch import nn
from torch.nn import functional as F

from kit import landscape
from kit.data import ImageSet
from kit.errors import KitError


@pytest.fixture
def data() -> ImageSet:
    g = torch.Generator().manual_seed(0)
    return ImageSet(torch.randint(0, 256, (60, 1, 8, 8), generator=g, dtype=torch.uint8), torch.arange(60) % 3)


def network() -> nn.Module:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

        def forward(self, x):
            return self.layers(x.float() / 255)

    net = Net()
    net(torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8))  # BatchNorm statistics away from their start
    return net


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
    assert not torch.equal(d["layers.0.weight"], other["layers.0.weight"]) and not torch.equal(d["layers.0.weight"], second["layers.0.weight"])


def test_the_centre_is_the_trained_model_and_the_model_stays(data):
    net = network().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    plane = landscape.plane(net, data, steps=5, seed=3)
    assert net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.eval()
    with torch.no_grad():
        expected = float(F.cross_entropy(net(data.images), data.labels, reduction="none").sum()) / len(data)
    assert plane.centre == expected
    assert plane.coordinates.tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0] and np.isfinite(plane.values).all()


def quadratic():
    """Mean squared error of a linear map, float64: a quadratic of its weight, with Hessian 2/(outputs) · I ⊗ mean(x xᵀ)."""
    g = torch.Generator().manual_seed(1)
    net = nn.Linear(6, 4, bias=False).double()
    x, y = torch.randn(50, 6, generator=g, dtype=torch.float64), torch.randn(50, 4, generator=g, dtype=torch.float64)
    return net, x, y


def test_a_quadratic_gives_its_own_surface_with_a_metric_of_the_library(data):
    net, x, y = quadratic()
    plane = landscape.plane(net, data, steps=7, radius=0.5, seed=4, metric=Loss(F.mse_loss, x, y))
    one, two = (landscape.direction(net, 4, which)["weight"] for which in ("δ", "η"))
    w = net.weight.detach()
    for i, a in enumerate(plane.coordinates):
        for j, b in enumerate(plane.coordinates):
            expected = float((x @ (w + a * one + b * two).T - y).square().mean())
            assert plane.values[i, j] == pytest.approx(expected, rel=1e-12)


def test_the_largest_eigenvalue_of_a_quadratic():
    net, x, y = quadratic()
    expected = float(torch.linalg.eigvalsh(2 / 4 * x.T @ x / len(x)).max())
    found = landscape.largest_eigenvalue(net, x, y, loss=F.mse_loss, batch_size=16, iterations=500, tol=1e-12)
    assert found == pytest.approx(expected, rel=1e-6)


def test_sharpness_is_the_mean_rise_on_the_circle(data):
    net = network()
    result = landscape.sharpness(net, data, radii=(0.5,), angles=4, seed=2, eigenvalue_images=30)
    plane = landscape.plane(net, data, steps=5, seed=2)
    around = [plane.values[3, 2], plane.values[1, 2], plane.values[2, 3], plane.values[2, 1]]  # φ = 0, π, π/2, 3π/2 at radius 0.5
    assert result["rise@0.5"] == pytest.approx(np.mean(around) - plane.centre, rel=1e-5)
    assert result["eigenvalue"] != 0


def test_an_interrupted_plane_goes_on_and_a_foreign_file_is_refused(data, tmp_path, monkeypatch):
    net, path = network(), tmp_path / "plane.npz"
    whole = landscape.plane(net, data, steps=5)

    class Stop(Exception):
        pass

    def stop(done: int, _: int) -> None:
        if done == 12:
            raise Stop

    monkeypatch.setattr(landscape, "SAVE_EVERY", 0.0)
    with pytest.raises(Stop):
        landscape.plane(net, data, steps=5, path=path, progress=stop)
    evaluated = []
    monkeypatch.setattr(landscape._Walker, "value", lambda self, a, b, value=landscape._Walker.value: evaluated.append((a, b)) or value(self, a, b))
    assert np.array_equal(landscape.plane(net, data, steps=5, path=path).values, whole.values)
    assert len(evaluated) == 25 - 12
    with pytest.raises(KitError, match="another model, data set or grid"):
        landscape.plane(net, data, steps=5, seed=9, path=path)


def test_even_steps_are_refused(data):
    with pytest.raises(KitError, match="odd number"):
        landscape.plane(network(), data, steps=20)
