"""The fixed networks of kit/zoo: their sizes beside torchvision's and the papers', small images, ShakeDrop."""

from __future__ import annotations

import copy

import pytest
import torch
from scipy import stats
from torch import nn
from torchvision import models

from kit import KitError, space
from kit.zoo.pyramidnet import shaken

SAME = {
    "resnet-18": "resnet18",
    "resnet-50": "resnet50",
    "efficientnet-b0": "efficientnet_b0",
    "shufflenet-v2": "shufflenet_v2_x1_0",
    "shufflenet-v2-1.5": "shufflenet_v2_x1_5",
}


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def built(name: str, side: int, channels: int = 1, **settings) -> space.Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return space.build(name, 10, (channels, side, side), **settings)


@pytest.mark.parametrize("name", SAME)
def test_at_full_size_a_network_has_torchvisions_parameters(name: str):
    with torch.device("meta"):
        ours, theirs = space.build(name, 1000, (3, 224, 224)), getattr(models, SAME[name])()
    assert parameters(ours) == parameters(theirs)
    strides = [[m.stride for m in net.modules() if isinstance(m, nn.Conv2d)] for net in (ours, theirs)]
    assert strides[0] == strides[1]


def test_resnet_200_has_the_papers_depth_and_size():
    with torch.device("meta"):
        net = space.build("resnet-200", 1000, (3, 224, 224))
    convolutions = [m for name, m in net.named_modules() if isinstance(m, nn.Conv2d) and "downsample" not in name]
    assert len(convolutions) + 1 == 200 and round(parameters(net) / 1e6, 1) == 64.7


def test_with_torchvisions_weights_it_is_torchvisions_function():
    theirs, ours = models.resnet18(num_classes=10).eval(), built("resnet-18", 128, 3).eval()
    state = theirs.state_dict()
    ours.classifier.load_state_dict({name: state.pop(f"fc.{name}") for name in ("weight", "bias")})
    ours.net.load_state_dict(state)
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    torch.testing.assert_close(ours(images), theirs(ours.prepare(images)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet-18", "efficientnet-b0", "shufflenet-v2"])
def test_on_small_images_four_by_four_pixels_reach_the_pooling(name: str):
    for side, left in ((8, 4), (28, 7), (32, 4)):
        net = built(name, side)
        last = [m for m in net.modules() if isinstance(m, nn.Conv2d)][-1]
        assert net.measured(lambda module, given, output: output.shape)[last][2:] == (left, left), side
    assert net.cost(()).params == parameters(net) and net.genotype(()) == {"network": name}


def test_stochastic_depth_draws_from_the_networks_own_generator_for_each_block():
    net = built("efficientnet-b0", 8).train()
    assert net.own_drop_paths == 16
    net.drop_path, net.dropout, net.generator = (0.0,) * 15 + (0.9,), 0.5, torch.Generator()
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    with net.frozen_statistics(()):
        outputs = [net(images) for seed in (1, 1, 2) if net.generator.manual_seed(seed)]
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    other = copy.deepcopy(net)
    drops = [m for m in other.modules() if type(m).__name__ == "StochasticDepth"]
    assert all(drop.forward.func.__self__ is other for drop in drops)


def test_pyramidnets_have_the_papers_sizes():
    """The papers count convolutions and the classifier: 26.0 and 1.76 million."""
    for name, millions in (("pyramidnet-272", 26.0), ("pyramidnet-110", 1.76)):
        with torch.device("meta"):
            net = space.build(name, 10, (3, 32, 32))
        assert (
            round(sum(parameters(m) for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))) / 1e6, 2)
            == millions
        )
    assert net.blocks[-1][-1].num_features == 16 + 48 and net.settings == {}


def test_an_image_too_small_for_the_pyramid_is_refused_with_the_least_that_works():
    with pytest.raises(KitError, match="needs 8×8 pixels, got 7×7: set image_size=8"):
        built("pyramidnet-110", 7)


def test_shakedrop_has_its_forward_and_its_backward_law():
    """Of each sample: b + α − bα and b + β − bβ, so 1 with the chance of b, else α in [−1, 1] and β in [0, 1]."""
    keep, n = 0.7, 40_000
    y = torch.ones(n, 2, requires_grad=True)
    out = shaken(y, keep, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(out.sum(), y)
    assert torch.equal(out[:, 0], out[:, 1]) and torch.equal(gradient[:, 0], gradient[:, 1])
    forward, backward = out[:, 0].detach(), gradient[:, 0]
    whole = backward == 1
    assert stats.binomtest(int(whole.sum()), n, keep).pvalue > 1e-3
    torch.testing.assert_close(forward[whole], torch.ones(int(whole.sum())))
    alpha, beta = forward[~whole].numpy(), backward[~whole].numpy()
    assert stats.kstest(alpha, stats.uniform(-1, 2).cdf).pvalue > 1e-3 < stats.kstest(beta, "uniform").pvalue
    assert abs(stats.pearsonr(alpha, beta).statistic) < 0.05
    assert abs(float(forward.mean()) - keep) < 0.02  # what evaluation multiplies by


def test_shakedrop_rests_in_evaluation_and_in_plain_passes():
    net = built("pyramidnet-110", 8, shake_drop=0.4)
    net.generator = torch.Generator().manual_seed(0)
    assert net.keep[-1] == pytest.approx(0.6) and net.keep[0] == pytest.approx(1 - 0.4 / len(net.keep))
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad(), net.train().frozen_statistics(()):
        assert not torch.equal(net(images), net(images))
        with net.plain():
            assert torch.equal(net(images), net(images))
    assert space.build(**net.spec(())).keep == net.keep
