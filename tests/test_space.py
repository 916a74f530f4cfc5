"""Every space: a child of the supernet is the network that its genotype describes; nothing else runs, learns, counts
or is stored."""

from __future__ import annotations

import copy
import functools
import json

import pytest
import torch
from reference_cell import Reference
from torch import nn

from kit import space
from kit.arch import random_picks
from kit.errors import KitError
from kit.search import build as compose
from kit.search import grads
from kit.space import CELL_OPS, DARTS_V2, Child
from kit.space.limits import Limits

SMALL = {
    "cell": {"channels": 4, "cells": 3},
    "choice": {"channels": 8, "cells": 6},
    "mobile": {"channels": 8, "cells": 6},
}
SPACES = tuple(SMALL)


@functools.cache
def _built(name: str, image: tuple[int, int, int], settings: tuple[tuple[str, object], ...]) -> space.Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        normal = torch.full((image[0],), 0.3), torch.full((image[0],), 0.4)
        return space.build(name, 3, image, *normal, **dict(settings))


def supernet(name: str = "cell", image: tuple[int, int, int] = (3, 8, 8), **settings) -> space.Network:
    return copy.deepcopy(_built(name, image, tuple(sorted((SMALL.get(name, {}) | settings).items()))))


def child_of(net: space.Network, seed: int = 0) -> Child:
    return Child(random_picks(net.slots, torch.Generator().manual_seed(seed), Limits(net)))


def images_for(net: space.Network, n: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, *net.image), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def random_gates(net: space.Network, picks: space.Picks, seed: int = 0) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(len(p), dtype=torch.float64, generator=g, requires_grad=True) for p in picks)


def unlike_their_start(net: space.Network) -> space.Network:
    """Affine parts and statistics away from 1 and 0, so that a mixed-up BatchNorm shows; those that rest until a freeze
    stay at rest."""
    g = torch.Generator().manual_seed(7)
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        affine = ((norm.weight, 0.5), (norm.bias, -0.5)) if norm.weight.requires_grad else ()
        for tensor, low in (*affine, (norm.running_var, 0.5), (norm.running_mean, -0.5)):
            tensor.data.copy_(low + torch.rand(tensor.shape, generator=g))
    return net


# ---- the cell's function -------------------------------------------------------------------------


@pytest.mark.parametrize(("image", "training", "affine"), [((3, 8, 8), True, True), ((1, 9, 7), False, False)])
def test_cells_equal_a_plain_reference_network(image, training: bool, affine: bool):
    net, seen = supernet(image=image), set()
    for p in net.parameters() if affine else ():
        p.requires_grad_(True)
    net = unlike_their_start(net).double().train(training)
    for seed in range(4):
        child, x = child_of(net, seed), images_for(net, seed=seed)
        gates = random_gates(net, child.picks, seed) if seed % 2 else None
        genotype = net.genotype(child.picks)
        state = {name: value.clone() for name, value in net.state_dict().items()}
        expected = Reference(state, training).scores(x, genotype, 3, 2, gates)
        torch.testing.assert_close(net(x, Child(child.picks, gates or ())), expected, rtol=1e-9, atol=1e-10)
        seen |= {(kind, op) for kind, nodes in genotype.items() for node in nodes for op, _ in node}
    assert len(seen) == 2 * len(CELL_OPS)  # every operation was compared, in both kinds of cells


def test_gradients_of_gates_and_weights_equal_the_references():
    net, y = unlike_their_start(supernet()).double().train(), torch.tensor([0, 1, 2, 0, 1])
    x, picks = images_for(net, 5), child_of(net, 1).picks
    gates = random_gates(net, picks)
    gradient = grads.backward(net.losses(x, y, Child(picks, gates))[0].mean(), net, Child(picks, gates))
    names = {id(p): name for name, p in net.named_parameters()}
    state = {name: value.detach().clone() for name, value in net.state_dict().items()}
    leaves = [state[names[id(p)]].requires_grad_() for p in gradient.parameters]
    scores = Reference(state, True).scores(x, net.genotype(picks), 3, 2, gates)
    expected = torch.autograd.grad(nn.functional.cross_entropy(scores, y), [*leaves, *gates])
    for a, b in zip([*gradient.theta, *gradient.gates], expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_imagenet_stem_at_128_pixels():
    net = unlike_their_start(supernet(image=(3, 128, 128), channels=2)).double().eval()
    assert net.large and not supernet(image=(3, 64, 64)).large
    child, x, sides = child_of(net), images_for(net, 2), []
    for cell in net.cells:
        cell.register_forward_hook(lambda m, i, o: sides.append(o.shape[-1]))
    expected = Reference(net.state_dict(), False).scores(x, net.genotype(child.picks), 3, 2, imagenet=True)
    torch.testing.assert_close(net(x, child), expected, rtol=1e-9, atol=1e-10)
    assert sides == [16, 8, 4]  # stride 8 before the first cell


@pytest.mark.parametrize("name", CELL_OPS)
def test_every_operation_halves_rounding_up(name: str):
    for stride in (1, 2):
        for h, w in ((8, 8), (9, 7), (1, 1)):
            y = space.CellNetwork.operations[name](4, stride, True)(torch.randn(2, 4, h, w))
            assert y.shape == (2, 4, -(-h // stride), -(-w // stride))


# ---- the child, and nothing else -----------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_the_child_built_alone_from_its_spec_is_the_same_network(name: str):
    net = unlike_their_start(supernet(name, (1, 28, 28), auxiliary=0.4)).eval()
    child, x = child_of(net, 3), images_for(net)
    spec = net.spec(child.picks)
    alone = space.build(**json.loads(json.dumps(spec))).eval()
    assert alone.state_dict().keys() < net.state_dict().keys() and all(p.requires_grad for p in alone.parameters())
    alone.load_state_dict(compose.extract(net, child.picks))
    torch.testing.assert_close(alone(x), net(x, child), rtol=1e-6, atol=1e-6)
    only = alone.only_child().picks
    assert alone.genotype(only) == net.genotype(child.picks) and alone.spec(only) == spec
    assert net.picks_of(spec["genotype"]) == alone.picks_of(spec["genotype"]) == child.picks
    with pytest.raises(KitError, match="supernet"):
        net(x)


def kept_bytes(net: space.Network, x: torch.Tensor, child: Child) -> int:
    """Bytes of the storages that autograd keeps for the backward pass; weights and single numbers are not counted."""
    own = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}
    kept, alive = {}, []  # alive: so that no storage is given to two tensors

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own and t.numel() > 1:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        net.losses(x, torch.zeros(len(x), dtype=torch.int64), child)
    return sum(kept.values())


@pytest.mark.parametrize("name", SPACES)
def test_only_the_picked_operations_run_learn_and_are_stored(name: str):
    net = supernet(name).train()
    child, x, y, ran = child_of(net, 1), images_for(net), torch.tensor([0, 1, 2, 0]), set()
    for module in net.modules():
        module.register_forward_hook(lambda m, i, o: ran.add(m))
    losses, _ = net.losses(x, y, child)
    containers = {net, *getattr(net, "cells", ())}
    assert ran - containers == {m for top in net.modules_of(child.picks) for m in top.modules()}
    trainable = [p for p in net.parameters() if p.requires_grad]
    found = torch.autograd.grad(losses.sum(), trainable, allow_unused=True)
    mine = net.child_parameters(child.picks)
    assert {id(p) for p, g in zip(trainable, found) if g is not None} == {id(p) for p in mine}
    assert len(mine) < len(trainable) / 2
    for slot, chosen in enumerate(child.picks):
        net.freeze_slot(slot, chosen, None)  # affine parts train in both
    alone = space.build(**net.spec(child.picks)).train()
    assert kept_bytes(net, x, child) == kept_bytes(alone, x, alone.only_child())


def test_affine_parts_of_cells_rest_in_the_supernet_until_their_slot_is_frozen():
    net = supernet()
    picks = net.picks_of(DARTS_V2)
    resting = {p for cell in net.cells for p in cell.ops.parameters() if p.ndim == 1}
    assert all(p.requires_grad != (p in resting) for p in net.parameters())
    before = len(net.child_parameters(picks))
    net.freeze_slot(0, picks[0], torch.full((2,), 0.5))
    assert len(net.child_parameters(picks)) > before
    assert {float(m.weight.detach()[0]) for m in net.norms_of(picks)} == {0.5, 1.0}


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

    for layer in (m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))):
        layer.register_forward_hook(count)
    with torch.no_grad():
        net.eval()(images_for(net, 1))
    return sum(p.numel() for p in net.parameters()), macs


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize(("image", "settings"), [((1, 9, 7), {"auxiliary": 0.4}), ((3, 130, 130), {"cells": 5})])
def test_cost_equals_what_the_child_alone_has_and_does(name: str, image, settings):
    net = supernet(name, image, **settings).train()
    for seed in range(2):
        picks = child_of(net, seed).picks
        assert tuple(net.cost(picks)) == counted(space.build(**net.spec(picks)))
    assert net.training and not any(m._forward_hooks for m in net.modules())


def test_wide_resnets_have_the_published_size():
    with torch.device("meta"):
        large, small = (space.build(name, 10, (3, 32, 32)) for name in ("wrn-28-10", "wrn-40-2"))
    params, macs = large.cost(())
    assert params == sum(p.numel() for p in large.parameters()) and round(params / 1e6, 1) == 36.5
    assert 5.2e9 < macs < 5.3e9 and round(small.cost(()).params / 1e6, 1) == 2.2
    tiny = space.build("wrn-16-2", 10, (1, 9, 9))
    assert tuple(tiny.cost(())) == counted(tiny) and tiny.genotype(()) == {"network": "wrn-16-2"}
    assert space.build(**tiny.spec(())).state_dict().keys() == tiny.state_dict().keys()


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        {"normal": DARTS_V2["normal"]},
        {**DARTS_V2, "reduce": DARTS_V2["reduce"][:3]},
        {**DARTS_V2, "normal": [[("conv_9x9", 0), ("skip_connect", 1)], *DARTS_V2["normal"][1:]]},
        {**DARTS_V2, "normal": [[("skip_connect", 0), ("skip_connect", 2)], *DARTS_V2["normal"][1:]]},
        {**DARTS_V2, "normal": [[("skip_connect", 0), ("skip_connect", 0)], *DARTS_V2["normal"][1:]]},
        {**DARTS_V2, "normal": [[], *DARTS_V2["normal"][1:]]},
        {**DARTS_V2, "normal": [[3, 4], *DARTS_V2["normal"][1:]]},
        {**DARTS_V2, "normal": [3, *DARTS_V2["normal"][1:]]},
        ["normal", "reduce"],
    ],
)
def test_a_broken_genotype_is_refused(broken):
    with pytest.raises(KitError, match="genotype"):
        space.build("cell", 3, (3, 8, 8), channels=4, cells=3, genotype=broken)


@pytest.mark.parametrize(("image", "cells", "reductions", "fit"), [((1, 8, 9), 5, 3, 2), ((3, 40, 40), 9, 6, 5)])
def test_too_deep_is_refused_and_says_how_many_fit(image, cells: int, reductions: int, fit: int):
    said = f"too deep .* images of {image[1]}×{image[2]} pixels: set reductions to 0…{fit},"
    with pytest.raises(KitError, match=said):
        supernet("cell", image, cells=cells, reductions=reductions)
    supernet("cell", image, cells=cells, reductions=fit)  # what the message suggests is accepted
    with pytest.raises(KitError, match="set reductions to 0…2"):
        supernet("cell", (3, 64, 64), cells=3, reductions=3)


def test_normalisation_is_part_of_the_model():
    net = supernet()
    x = torch.full((1, 3, 8, 8), 102, dtype=torch.uint8)  # 0.4
    torch.testing.assert_close(net.prepare(x), torch.full((1, 3, 8, 8), (0.4 - 0.3) / 0.4))
    torch.testing.assert_close(net.prepare(x.float()), net.prepare(x))


def test_a_genotype_is_drawn_as_edges_between_nodes():
    cells = space.CellNetwork.graph(DARTS_V2)
    assert list(cells) == ["normal cell", "reduce cell"] and len(cells["normal cell"]) == 8 + 4
    assert cells["normal cell"][5:8] == [
        ("cₖ₋₂", "2", "skip_connect"),
        ("cₖ₋₂", "3", "skip_connect"),
        ("0", "3", "dil_conv_3x3"),
    ]
    chain = space.MobileNetwork.graph({"blocks": ["k3_e3", "k5_e6"]})["blocks"]
    assert chain == [("stem", "block 1", "k3_e3"), ("block 1", "block 2", "k5_e6")]
