"""The cell space: a child of the supernet is the network that its genotype describes, and nothing else runs, learns or
is stored.
"""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from reference_cell import Reference
from torch import nn

from kit import space
from kit.arch import random_picks
from kit.errors import KitError
from kit.search import build, grads
from kit.space import CELL_OPS, DARTS_V2, Child, picks_of
from kit.space.limits import Limits
from kit.space.operations import build_operation


@functools.cache
def _built(image: tuple[int, int, int], settings: tuple[tuple[str, object], ...]) -> space.Network:
    torch.manual_seed(0)
    return space.build("cell", 3, image, torch.full((image[0],), 0.3), torch.full((image[0],), 0.4), **dict(settings))


def supernet(image: tuple[int, int, int] = (3, 8, 8), **settings) -> space.Network:
    return copy.deepcopy(_built(image, tuple(sorted(({"channels": 4, "cells": 3} | settings).items()))))


def child_of(net: space.Network, seed: int) -> Child:
    return Child(random_picks(net.slots, torch.Generator().manual_seed(seed), Limits(net)))


def images_for(net: space.Network, n: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, *net.image), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def unlike_their_start(net: space.Network) -> space.Network:
    """Affine parts and statistics away from 1 and 0, so that a mixed-up BatchNorm shows; those that rest until a freeze
    stay at rest.
    """
    g = torch.Generator().manual_seed(7)
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        affine = ((norm.weight, 0.5), (norm.bias, -0.5)) if norm.weight.requires_grad else ()
        for tensor, low in (*affine, (norm.running_var, 0.5), (norm.running_mean, -0.5)):
            if tensor.requires_grad or not isinstance(tensor, nn.Parameter):
                tensor.data.copy_(low + torch.rand(tensor.shape, generator=g))
    return net


# ---- the same function ---------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("image", [(3, 8, 8), (1, 9, 7), (2, 15, 15)])
@pytest.mark.parametrize(("gated", "affine"), [(False, True), (True, False), (True, True)])
def test_child_equals_a_plain_reference_network(image, training: bool, gated: bool, affine: bool):
    net = supernet(image)
    for p in net.parameters() if affine else ():
        p.requires_grad_(True)
    net = unlike_their_start(net).double().train(training)
    seen = set()
    for seed in range(4):
        child, x = child_of(net, seed), images_for(net, seed=seed)
        gates = (
            [torch.randn(2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + i)) for i in range(8)]
            if gated
            else None
        )
        child = Child(child.picks, tuple(gates or ()))
        genotype = net.genotype(child.picks)
        state = {name: value.clone() for name, value in net.state_dict().items()}
        expected = Reference(state, training).scores(x, genotype, 3, 2, gates)
        torch.testing.assert_close(net(x, child), expected, rtol=1e-9, atol=1e-10)
        seen |= {(kind, op) for kind, nodes in genotype.items() for node in nodes for op, _ in node}
    assert len(seen) == 2 * len(CELL_OPS)  # every operation was compared, in both kinds of cells


@pytest.mark.parametrize("affine", [False, True])
def test_gradients_of_gates_and_weights_equal_the_references(affine: bool):
    net, x, y = supernet().double().train(), images_for(supernet(), 5), torch.tensor([0, 1, 2, 0, 1])
    for p in net.parameters() if affine else ():
        p.requires_grad_(True)
    unlike_their_start(net)
    picks = child_of(net, 1).picks
    gates = [
        torch.randn(2, dtype=torch.float64, generator=torch.Generator().manual_seed(i), requires_grad=True)
        for i in range(8)
    ]
    gradient = grads.backward(net.losses(x, y, Child(picks, tuple(gates)))[0].mean(), net, Child(picks, tuple(gates)))
    names = {id(p): name for name, p in net.named_parameters()}
    state = {name: value.detach().clone() for name, value in net.state_dict().items()}
    leaves = [state[names[id(p)]].requires_grad_() for p in gradient.parameters]
    scores = Reference(state, True).scores(x, net.genotype(picks), 3, 2, gates)
    expected = torch.autograd.grad(nn.functional.cross_entropy(scores, y), [*leaves, *gates])
    for a, b in zip([*gradient.theta, *gradient.gates], expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_imagenet_stem_at_128_pixels():
    net = unlike_their_start(supernet((3, 128, 128), channels=2)).double().eval()
    assert net.stem_kind == "imagenet" and supernet((3, 64, 64)).stem_kind == "small"
    child, x = child_of(net, 0), images_for(net, 2)
    sides = []
    handles = [cell.register_forward_hook(lambda m, i, o: sides.append(o.shape[-1])) for cell in net.cells]
    expected = Reference(net.state_dict(), False).scores(x, net.genotype(child.picks), 3, 2, imagenet=True)
    torch.testing.assert_close(net(x, child), expected, rtol=1e-9, atol=1e-10)
    assert sides == [16, 8, 4]  # stride 8 before the first cell
    [h.remove() for h in handles]


@pytest.mark.parametrize("image", [(1, 28, 28), (3, 8, 8)])
def test_the_child_built_alone_from_its_spec_is_the_same_network(image):
    net = unlike_their_start(supernet(image, auxiliary=0.4)).eval()
    child, x = child_of(net, 3), images_for(net)
    spec = net.spec(child.picks)
    alone = space.build(**spec).eval()
    alone.load_state_dict(build.extract(net, child.picks))
    torch.testing.assert_close(alone(x), net(x, child), rtol=1e-6, atol=1e-6)
    assert alone.genotype(alone.only_child().picks) == net.genotype(child.picks)
    assert picks_of(spec["genotype"]) == child.picks
    assert all(p.requires_grad for p in alone.parameters())
    with pytest.raises(KitError, match="supernet"):
        net(x)


# ---- nothing else --------------------------------------------------------------------------------


def test_unsampled_operations_do_not_run_learn_or_count():
    net = supernet(auxiliary=0.4).train()
    child, x, y = child_of(net, 1), images_for(net), torch.tensor([0, 1, 2, 0])
    ran = set()
    for module in net.modules():
        module.register_forward_hook(lambda m, i, o: ran.add(id(m)))
    losses, _ = net.losses(x, y, child)
    expected = {id(m) for top in net.modules_of(child.picks) for m in top.modules()}
    containers = {
        id(m) for m in net.modules() if isinstance(m, (nn.ModuleList, nn.ModuleDict)) or m is net or m in net.cells
    }
    assert ran - containers == expected
    mine = net.child_parameters(child.picks)
    used = torch.autograd.grad(losses.sum(), [p for p in net.parameters() if p.requires_grad], allow_unused=True)
    touched = {id(p) for p, g in zip((p for p in net.parameters() if p.requires_grad), used) if g is not None}
    assert touched == {id(p) for p in mine} and len(mine) == len(touched)
    everything = sum(p.requires_grad for p in net.parameters())
    assert len(mine) < everything / 3
    gradient = grads.backward(net.losses(x, y, child)[0].mean(), net, child)
    assert [id(p) for p in gradient.parameters] == [id(p) for p in mine]


def saved_bytes(net: space.Network, x: torch.Tensor, child: Child) -> tuple[int, int]:
    """Bytes and number of the distinct tensors that autograd keeps for the backward pass, parameters not counted."""
    own = {p.data_ptr() for p in net.parameters()}
    kept: dict[tuple, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        if t.data_ptr() not in own:
            kept[(t.data_ptr(), tuple(t.shape), t._version)] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        losses, _ = net.losses(x, torch.zeros(len(x), dtype=torch.int64), child)
    del losses
    return sum(kept.values()), len(kept)


def test_unsampled_operations_cost_no_activation_memory():
    net = supernet().train()
    child, x = child_of(net, 2), images_for(net, 8)
    alone = space.build(**net.spec(child.picks), mean=net.mean.flatten(), std=net.std.flatten()).train()
    for slot, chosen in enumerate(child.picks):
        net.freeze_slot(slot, chosen, None)  # affine parts train in both
    assert saved_bytes(net, x, child) == saved_bytes(alone, x, alone.only_child())
    gated = Child(child.picks, tuple(torch.ones(2, requires_grad=True) for _ in net.slots))
    assert (
        saved_bytes(net, x, gated)[0] < 1.02 * saved_bytes(net, x, child)[0]
    )  # gates keep no feature map of their own
    other = Child(picks_of(DARTS_V2))
    assert saved_bytes(net, x, child) != saved_bytes(net, x, other)  # the measure tells children apart


# ---- cost ----------------------------------------------------------------------------------------


def counted(net: space.Network) -> tuple[int, int]:
    """Parameters of a network that is one child, and the multiply-adds that a forward pass of one image makes."""
    macs = 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal macs
        if isinstance(layer, nn.Conv2d):
            n, c, h, w = output.shape
            macs += c * h * w * (inputs[0].shape[1] // layer.groups) * layer.kernel_size[0] * layer.kernel_size[1]
        else:
            macs += layer.in_features * layer.out_features

    handles = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        net.eval()(images_for(net, 1))
    [h.remove() for h in handles]
    return sum(p.numel() for p in net.parameters()), macs


@pytest.mark.parametrize(
    ("image", "settings"),
    [((3, 8, 8), {}), ((1, 9, 7), {"auxiliary": 0.4}), ((3, 15, 15), {"cells": 5}), ((3, 128, 128), {"channels": 2})],
)
def test_cost_equals_what_the_child_alone_has_and_does(image, settings):
    net = supernet(image, **settings)
    for seed in range(3):
        picks = child_of(net, seed).picks
        assert tuple(net.cost(picks)) == counted(space.build(**net.spec(picks)))


def test_wide_resnets_have_the_published_size():
    with torch.device("meta"):
        large, small = (space.build(name, 10, (3, 32, 32)) for name in ("wrn-28-10", "wrn-40-2"))
    params, macs = large.cost(())
    assert params == sum(p.numel() for p in large.parameters()) and round(params / 1e6, 1) == 36.5
    assert 5.2e9 < macs < 5.3e9
    assert round(small.cost(()).params / 1e6, 1) == 2.2
    tiny = space.build("wrn-16-2", 10, (1, 9, 7 + 2))
    assert tuple(tiny.cost(())) == counted(tiny) and round(tiny.cost(()).params / 1e6, 1) == 0.7
    assert space.build(**tiny.spec(())).state_dict().keys() == tiny.state_dict().keys()


# ---- genotypes and depth -------------------------------------------------------------------------


def test_candidates_picks_and_genotypes_translate_into_each_other():
    net = supernet()
    for seed in range(5):
        picks = child_of(net, seed).picks
        assert picks_of(net.genotype(picks)) == picks
    assert net.slots[3].candidates[7 * 4 + 6] == ("skip_connect", 4)
    assert [len(s.candidates) for s in net.slots] == [14, 21, 28, 35] * 2


@pytest.mark.parametrize(
    "broken",
    [
        {"normal": DARTS_V2["normal"]},
        {**DARTS_V2, "reduce": DARTS_V2["reduce"][:3]},
        {**DARTS_V2, "normal": [[("conv_9x9", 0), ("skip_connect", 1)], *DARTS_V2["normal"][1:]]},
        {**DARTS_V2, "normal": [[("skip_connect", 0), ("skip_connect", 2)], *DARTS_V2["normal"][1:]]},
        {**DARTS_V2, "normal": [[], *DARTS_V2["normal"][1:]]},
        {**DARTS_V2, "normal": [[("skip_connect", 0), ("skip_connect", 0)], *DARTS_V2["normal"][1:]]},
        {**DARTS_V2, "normal": [[3, 4], *DARTS_V2["normal"][1:]]},
        {**DARTS_V2, "normal": [3, *DARTS_V2["normal"][1:]]},
        ["normal", "reduce"],
    ],
)
def test_a_broken_genotype_is_refused(broken):
    with pytest.raises(KitError, match="genotype"):
        space.build("cell", 3, (3, 8, 8), channels=4, cells=3, genotype=broken)


@pytest.mark.parametrize(
    ("image", "settings", "fit"),
    [
        ((1, 8, 8), {"cells": 5, "reductions": 3}, 2),
        ((3, 9, 7), {"cells": 5, "reductions": 3}, 2),
        ((3, 40, 40), {"cells": 9, "reductions": 6}, 5),
    ],
)
def test_too_deep_is_refused_and_says_how_many_fit(image, settings, fit: int):
    with pytest.raises(
        KitError, match=f"too deep for images of {image[1]}×{image[2]} .* at most {fit} fit. Set reductions={fit} "
    ):
        supernet(image, **settings)
    supernet(image, **{**settings, "reductions": fit})  # what the message suggests is accepted
    with pytest.raises(KitError, match="set cells to 4 or more"):
        supernet((3, 64, 64), cells=3, reductions=3)


@pytest.mark.parametrize("name", CELL_OPS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (9, 7), (2, 3), (1, 1)])
def test_every_operation_halves_rounding_up(name: str, stride: int, size: tuple[int, int]):
    y = build_operation(name, 4, stride, True)(torch.randn(2, 4, *size))
    assert y.shape == (2, 4, -(-size[0] // stride), -(-size[1] // stride))
