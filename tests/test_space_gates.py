"""Gates, and what a network does in training only: dropout and drop-path. Of all spaces."""

from __future__ import annotations

import pytest
import torch
from test_space import images_for, unlike_their_start
from test_space_blocks import SPACES, chain, child_of, kept_bytes
from torch import nn
from torch.nn import functional as F

from kit import space
from kit.search import grads
from kit.space import Child
from kit.space.network import drop, gate_output

# ---- gates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_a_mixture_is_the_gated_sum_of_all_it_picks(name: str):
    net = unlike_their_start(chain(name, cells=4)).double().eval()
    x = images_for(net)
    picks = ((0, 1, 2, 3), (2,), (3, 1), (0, 1, 2, 3))[: len(net.slots)]
    gates = tuple(
        torch.randn(len(p), dtype=torch.float64, generator=torch.Generator().manual_seed(i), requires_grad=True)
        for i, p in enumerate(picks)
    )
    got, plain = net(x, Child(picks, gates)), net(x, Child(picks))
    torch.testing.assert_close(
        plain, mixture(net, x, picks, [torch.ones(len(p)) for p in picks]), rtol=1e-12, atol=1e-12
    )
    expected = mixture(net, x, picks, gates)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(scores.square().sum(), gates) for scores in (got, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def mixture(net: space.Network, x: torch.Tensor, picks, gates) -> torch.Tensor:
    features = net.stem(net.prepare(x))
    for slot, chosen in enumerate(picks):
        features = sum(gates[slot][k] * net.blocks[slot][net.labels[c]](features) for k, c in enumerate(chosen))
    return net.classifier(net.head(features).mean((2, 3)))


def test_a_unit_gate_has_the_gradients_of_a_multiplication():
    g = torch.Generator().manual_seed(0)
    y = torch.randn(5, 4, 3, 3, dtype=torch.float64, generator=g, requires_grad=True)
    gate = torch.ones((), dtype=torch.float64, requires_grad=True)

    def gradients(unit: bool, create_graph: bool = False):
        z = gate_output(y.tanh(), gate, unit)
        return torch.autograd.grad(
            (z.sin() * torch.arange(z.numel()).view(z.shape)).sum(), [y, gate], create_graph=create_graph
        )

    for a, b in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    second = [
        torch.autograd.grad(sum(part.square().sum() for part in gradients(unit, True)), [y])[0]
        for unit in (True, False)
    ]
    torch.testing.assert_close(*second, rtol=1e-12, atol=1e-12)
    z = gate_output(y, gate, True)
    assert z.data_ptr() == y.data_ptr()  # no new memory
    assert gate_output(y, gate.detach(), True) is y
    assert torch.autograd.grad(gate_output(y.detach(), gate, True).sum(), [gate])[0] == pytest.approx(
        float(y.detach().sum())
    )


def test_a_unit_gates_gradient_is_summed_in_float32():
    y = torch.full((64, 64, 8, 8), 1.0, dtype=torch.bfloat16, requires_grad=True)
    gate = torch.ones((), requires_grad=True)
    g = torch.ones_like(y)
    g[0, 0, 0, 0] = 4.0  # a sum rounded to bfloat16 would not show it
    (found,) = torch.autograd.grad(gate_output(y, gate, True), [gate], g)
    assert found.dtype == torch.float32 and float(found) == 64 * 64 * 64 + 3


@pytest.mark.parametrize("name", ["cell", *SPACES])
def test_unit_gates_change_nothing_but_receive_gradients(name: str):
    net = unlike_their_start(chain(name, cells=5, reductions=2)).double().train()
    x, y = images_for(net), torch.tensor([0, 1, 2, 0])
    picks = tuple(
        (i % 4, 7 + i % 4)[: slot.takes] for i, slot in enumerate(net.slots)
    )  # of cells: one from either input
    gradients = []
    for unit in (True, False):
        gates = tuple(torch.ones(slot.takes, dtype=torch.float64, requires_grad=True) for slot in net.slots)
        child = Child(picks, gates, unit)
        with net.still_statistics(picks):
            losses = net.losses(x, y, child)[0]
        gradients.append(grads.backward(losses.mean(), net, child))
    for a, b in zip(*([*g.theta, *g.gates] for g in gradients), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert all(float(g.abs().sum()) > 0 for g in gradients[0].gates)
    assert Child(picks, gates, True) == Child(picks)
    with net.still_statistics(picks):
        assert torch.equal(net.losses(x, y, Child(picks, gates, True))[0], net.losses(x, y, Child(picks))[0])
        assert kept_bytes(net, x, Child(picks, gates, True)) <= 1.01 * kept_bytes(net, x, Child(picks))


def test_the_last_block_of_a_stage_has_a_gate_gradient_through_eps_alone():
    """Only normalised layers read it, which undo any scale: the reason for DSNAS's eps."""
    net, y = chain("choice", (3, 16, 16), 20).double().train(), torch.tensor([0, 1, 2, 0])
    x, picks, found = images_for(net), child_of(net, 0).picks, {}
    last = torch.tensor([3, 7, 15, 19])
    assert {m.eps for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-2}
    for eps in (1e-2, 1e-12):
        for norm in net.norms_of(picks):
            norm.eps = eps
        child = Child(
            picks, tuple(torch.ones(1, dtype=torch.float64, requires_grad=True) for _ in net.slots), unit=True
        )
        with net.still_statistics(picks):
            size = torch.cat(grads.backward(net.losses(x, y, child)[0].mean(), net, child).gates).abs()
        found[eps] = float(size[last].max() / size.max())
    assert found[1e-12] < 1e-9 and found[1e-2] > 1e-4


@pytest.mark.parametrize("name", SPACES)
def test_unit_gates_under_autocast(name: str):
    net, y, found = chain(name, (3, 16, 16), 10).train(), torch.tensor([0, 1, 2, 0] * 8), []
    net.amp_dtype = torch.bfloat16
    x, picks = images_for(net, 32), child_of(net, 0).picks
    for unit in (True, False):
        child = Child(picks, tuple(torch.ones(1, requires_grad=True) for _ in net.slots), unit)
        with net.still_statistics(picks):
            found.append(torch.cat(grads.backward(net.losses(x, y, child)[0].mean(), net, child).gates))
    assert found[0].dtype == torch.float32 and float(found[0].norm()) > 0
    assert float(F.cosine_similarity(*found, dim=0)) > 0.99


# ---- what happens in training only ---------------------------------------------------------------


def feature_masks(net: space.Network, x: torch.Tensor, child: Child, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The classifier's input and what came of it in one pass."""
    linear = net.layers[-1] if hasattr(net, "layers") else net.classifier
    seen = []
    handle = linear.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    net.generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), net.still_statistics(child.picks):
        scores = net(x, child)
    handle.remove()
    return seen[0], scores


@pytest.mark.parametrize("name", ["cell", "wrn-16-2", *SPACES])
def test_dropout_before_the_classifier(name: str):
    net = chain(name, cells=5, reductions=2).train()
    x = images_for(net, 64)
    child = Child(tuple(tuple(range(slot.takes)) for slot in net.slots))
    plain, scores = feature_masks(net, x, child, 1)
    net.dropout = 0.25
    dropped, other = feature_masks(net, x, child, 1)
    kept = (dropped != 0) | (plain == 0)
    torch.testing.assert_close(dropped, torch.where(kept, plain / 0.75, 0.0))
    share = 1 - float(kept[plain != 0].float().mean())
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / int((plain != 0).sum())) ** 0.5 and not torch.equal(scores, other)
    assert torch.equal(feature_masks(net, x, child, 1)[1], other) and not torch.equal(
        feature_masks(net, x, child, 2)[1], other
    )
    net.dropout = torch.tensor(0.25)
    assert torch.equal(feature_masks(net, x, child, 1)[1], other)
    net.recalibrate(child, [x])
    assert net.dropout == 0.25 and net.drop_path == 0.0
    net.eval()
    assert torch.equal(feature_masks(net, x, child, 1)[0], feature_masks(net, x, child, 2)[0])


def test_a_tensor_probability_is_never_read_on_the_host():
    x = torch.empty((4, 3), device="meta")  # a meta tensor has no value that could be read
    assert drop(x, torch.empty((), device="meta"), x.shape, None).shape == (4, 3)
    assert drop(x, 0.0, x.shape, None) is x
    always = torch.rand(4, 3)
    assert torch.equal(drop(always, torch.tensor(0.0), always.shape, torch.Generator()), always)


def test_drop_path_acts_on_residual_blocks_alone():
    net = chain("mobile", cells=10).train()
    child, x = child_of(net, 0), images_for(net, 32)
    residual = [stride == 1 and c_in == c_out for c_in, c_out, stride in net.strides]
    assert 0 < sum(residual) < len(residual)

    def blocks_that_drop(p) -> tuple[list[bool], list[torch.Tensor]]:
        net.drop_path, net.generator = p, torch.Generator().manual_seed(3)
        inputs, outputs = [], []
        picked = [net.block(slot, c) for slot, (c,) in enumerate(child.picks)]
        handles = [
            block.register_forward_hook(lambda m, i, o: inputs.append(i[0]) or outputs.append(o)) for block in picked
        ]
        with torch.no_grad(), net.still_statistics(child.picks):
            net(x, child)
        [h.remove() for h in handles]
        same = [a.shape == b.shape and bool((a == b).flatten(1).all(1).any()) for a, b in zip(inputs, outputs)]
        return same, outputs

    assert blocks_that_drop(0.0)[0] == [False] * 9
    same, outputs = blocks_that_drop(0.5)
    assert same == residual
    assert all(torch.equal(a, b) for a, b in zip(outputs, blocks_that_drop(torch.tensor(0.5))[1], strict=True))
    one = residual.index(True)
    assert blocks_that_drop(0.5 * F.one_hot(torch.tensor(one), 9))[0] == [
        i == one for i in range(9)
    ]  # one probability per block
    net.eval()
    assert torch.equal(net(x, child), net(x, child))
