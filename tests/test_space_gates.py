"""Gates, and what networks do in training only: drop-path, dropout, the auxiliary head, statistics."""

from __future__ import annotations

import pytest
import torch
from test_space import child_of, images_for, kept_bytes, random_gates, supernet, unlike_their_start
from torch import nn
from torch.nn import functional as F

from kit import space
from kit.search import grads
from kit.space import DARTS_V2, Child
from kit.space.cell import auxiliary_head
from kit.space.network import drop, gate_output

CHAINS = ("choice", "mobile")

# ---- gates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHAINS)
def test_a_mixture_is_the_gated_sum_of_all_it_picks(name: str):
    net = unlike_their_start(supernet(name, cells=4)).double().eval()
    x, picks = images_for(net), ((0, 1, 2, 3), (2,), (3, 1), (0, 1, 2, 3))[-len(net.slots) :]
    gates = random_gates(net, picks)

    def expected(gates) -> torch.Tensor:
        features = net.stem(net.prepare(x))
        for slot, chosen in enumerate(picks):
            features = sum(gates[slot][k] * net.blocks[slot][net.labels[c]](features) for k, c in enumerate(chosen))
        return net.classifier(net.head(features).mean((2, 3)))

    plain = net(x, Child(picks))
    torch.testing.assert_close(plain, expected([torch.ones(len(p)) for p in picks]), rtol=1e-12, atol=1e-12)
    both = net(x, Child(picks, gates)), expected(gates)
    torch.testing.assert_close(*both, rtol=1e-12, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(scores.square().sum(), gates) for scores in both), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


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


@pytest.mark.parametrize("name", ["cell", *CHAINS])
def test_unit_gates_change_nothing_but_receive_gradients(name: str):
    net = unlike_their_start(supernet(name, cells=5, reductions=2)).double().train()
    x, y, gradients = images_for(net), torch.tensor([0, 1, 2, 0]), []
    picks = tuple((i % 4, 7 + i % 4)[: slot.takes] for i, slot in enumerate(net.slots))  # of cells: from either input
    gates = tuple(torch.ones(slot.takes, dtype=torch.float64, requires_grad=True) for slot in net.slots)
    with net.frozen_statistics(picks):
        for unit in (True, False):
            child = Child(picks, gates, unit)
            gradients.append(grads.backward(net.losses(x, y, child)[0].mean(), net, child))
        for a, b in zip(*([*g.theta, *g.gates] for g in gradients), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        assert all(float(g.abs().sum()) > 0 for g in gradients[0].gates) and Child(picks, gates, True) == Child(picks)
        assert torch.equal(net.losses(x, y, Child(picks, gates, True))[0], net.losses(x, y, Child(picks))[0])
        assert kept_bytes(net, x, Child(picks, gates, True)) <= 1.01 * kept_bytes(net, x, Child(picks))


def test_the_last_block_of_a_stage_has_a_gate_gradient_through_eps_alone():
    """Only normalised layers read it, which undo any scale: the reason for DSNAS's eps."""
    net, y = supernet("choice", (3, 16, 16), cells=20).double().train(), torch.tensor([0, 1, 2, 0])
    x, picks, found = images_for(net), child_of(net).picks, {}
    assert {m.eps for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-2}
    gates = tuple(torch.ones(1, dtype=torch.float64, requires_grad=True) for _ in net.slots)
    for eps in (1e-2, 1e-12):
        for norm in net.norms_of(picks):
            norm.eps = eps
        child = Child(picks, gates, unit=True)
        with net.frozen_statistics(picks):
            size = torch.cat(grads.backward(net.losses(x, y, child)[0].mean(), net, child).gates).abs()
        found[eps] = float(size[[3, 7, 15, 19]].max() / size.max())
    assert found[1e-12] < 1e-9 and found[1e-2] > 1e-4


def test_unit_gates_under_autocast():
    net, y, found = supernet("mobile", (3, 16, 16), cells=10).train(), torch.tensor([0, 1, 2, 0] * 8), []
    net.amp_dtype = torch.bfloat16
    x, picks = images_for(net, 32), child_of(net).picks
    for unit in (True, False):
        child = Child(picks, tuple(torch.ones(1, requires_grad=True) for _ in net.slots), unit)
        with net.frozen_statistics(picks):
            found.append(torch.cat(grads.backward(net.losses(x, y, child)[0].mean(), net, child).gates))
    assert found[0].dtype == torch.float32 and float(found[0].norm()) > 0
    assert float(F.cosine_similarity(*found, dim=0)) > 0.99


# ---- what happens in training only ---------------------------------------------------------------


def classified(net: space.Network, x: torch.Tensor, child: Child, seed: int) -> torch.Tensor:
    """The classifier's input in one pass."""
    linear, seen = [m for m in net.modules() if isinstance(m, nn.Linear)][-1], []
    handle = linear.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    net.generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), net.frozen_statistics(child.picks):
        net(x, child)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("name", ["cell", "wrn-16-2", *CHAINS])
def test_dropout_before_the_classifier(name: str):
    net = supernet(name).train()
    x, child = images_for(net, 64), child_of(net)
    plain = classified(net, x, child, 1)
    net.dropout = 0.25
    dropped = classified(net, x, child, 1)
    kept = (dropped != 0) | (plain == 0)
    torch.testing.assert_close(dropped, torch.where(kept, plain / 0.75, 0.0))
    share = 1 - float(kept[plain != 0].float().mean())
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / int((plain != 0).sum())) ** 0.5
    assert torch.equal(classified(net, x, child, 1), dropped) and not torch.equal(classified(net, x, child, 2), dropped)
    net.dropout = torch.tensor(0.25)
    assert torch.equal(classified(net, x, child, 1), dropped)
    assert torch.equal(classified(net.eval(), x, child, 1), classified(net, x, child, 2))


def test_drop_path_acts_on_residual_blocks_alone():
    net = supernet("mobile", cells=10).train()
    child, x = child_of(net), images_for(net, 32)
    residual = [stride == 1 and c_in == c_out for c_in, c_out, stride in net.strides]
    assert 0 < sum(residual) < len(residual)

    def blocks_that_drop(p: float) -> list[bool]:
        net.drop_path, net.generator, same = p, torch.Generator().manual_seed(3), []

        def note(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            x = inputs[0]
            same.append(x.shape == output.shape and bool((x == output).flatten(1).all(1).any()))

        handles = [net.block(slot, c).register_forward_hook(note) for slot, (c,) in enumerate(child.picks)]
        with torch.no_grad(), net.frozen_statistics(child.picks):
            net(x, child)
        [h.remove() for h in handles]
        return same

    assert blocks_that_drop(0.0) == [False] * 9
    assert blocks_that_drop(0.5) == residual


def test_drop_path_keeps_the_expectation_and_drops_whole_samples():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(4000, 2, 3, 3, generator=g) + 1
    y = drop(x, 0.3, g, whole=True)
    dropped = (y == 0).flatten(1).all(1)
    assert ((y == 0).flatten(1).any(1) == dropped).all()
    torch.testing.assert_close(y[~dropped], x[~dropped] / 0.7)
    assert abs(float(dropped.float().mean()) - 0.3) < 4 * (0.3 * 0.7 / 4000) ** 0.5
    assert drop(x, 0.0, g, whole=True) is x


def test_drop_path_acts_in_training_only_from_its_own_generator_and_never_on_identities():
    net = supernet()
    skips = {kind: [[("skip_connect", 0), ("skip_connect", 1)]] * 4 for kind in DARTS_V2}
    x, child, skipping = images_for(net, 16), Child(net.picks_of(DARTS_V2)), Child(net.picks_of(skips))
    net.eval()
    plain = net(x, child)
    net.drop_path = 0.5
    assert torch.equal(net(x, child), plain)
    net.train()
    with net.frozen_statistics(child.picks), net.frozen_statistics(skipping.picks):
        outputs = []
        for seed in (1, 1, 2):
            net.generator = torch.Generator().manual_seed(seed)
            outputs.append(net(x, child))
        assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
        a, b = net(x, skipping), net(x, skipping)
        assert not torch.equal(a, b)  # a skip of stride 2 is a convolution, and dropped like one (DARTS)
    flat = supernet(reductions=0).train()
    flat.drop_path, x, skipping = 0.5, images_for(flat, 16), Child(flat.picks_of(skips))
    with flat.frozen_statistics(skipping.picks):
        a, b = flat(x, skipping), flat(x, skipping)
    assert torch.equal(a, b) and not torch.equal(a, flat.eval()(x, skipping))  # in training, yet nothing was dropped


def test_auxiliary_head_counts_in_training_only():
    net = supernet(auxiliary=0.4)
    x, y, child = images_for(net), torch.tensor([0, 1, 2, 0]), child_of(net, 0)
    net.train()
    with torch.no_grad(), net.frozen_statistics(child.picks):
        scores, auxiliary = net.scores(net.prepare(x), child)
        expected = F.cross_entropy(scores, y, reduction="none") + 0.4 * F.cross_entropy(auxiliary, y, reduction="none")
        losses, predicted = net.losses(x, y, child)
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(predicted, scores.argmax(1)) and losses.shape == (4,)
    net.eval()
    with torch.no_grad():
        scores, auxiliary = net.scores(net.prepare(x), child)
        assert auxiliary is None
        torch.testing.assert_close(net.losses(x, y, child)[0], F.cross_entropy(scores, y, reduction="none"))
    assert "auxiliary" not in supernet().head and "auxiliary" in net.head


def test_recalibrated_statistics_are_those_of_all_batches_together():
    net = unlike_their_start(supernet(auxiliary=0.4)).double().eval()
    child, batches = child_of(net), [images_for(net, 6, seed) for seed in range(3)]
    inputs: dict[nn.Module, list[torch.Tensor]] = {}
    norms, before = net.norms_of(child.picks), {name: b.clone() for name, b in net.named_buffers()}
    for norm in norms:
        norm.register_forward_pre_hook(lambda m, i: inputs.setdefault(m, []).append(i[0].detach()))
    net.drop_path = net.dropout = 0.5
    net.recalibrate(child, batches)
    assert not net.training and net.drop_path == net.dropout == 0.5 and all(m.momentum == 0.1 for m in norms)
    for norm in norms:
        together = torch.cat(inputs[norm])
        torch.testing.assert_close(norm.running_mean, together.mean((0, 2, 3)), rtol=1e-9, atol=1e-12)
        # within batches alone: the batches' own means differ a little
        within = torch.stack([x.var((0, 2, 3)) for x in inputs[norm]]).mean(0)
        torch.testing.assert_close(norm.running_var, within, rtol=1e-9, atol=1e-12)
    mine = {b for norm in norms for b in norm.buffers()}
    assert all(b in mine or torch.equal(b, before[name]) for name, b in net.named_buffers())


@pytest.mark.parametrize("side", [2, 3, 5, 8])
def test_the_auxiliary_head_pools_as_an_adaptive_pool_does(side: int):
    pool, x = auxiliary_head(4, 3, [side, 9 - side // 2])[1], torch.rand(2, 4, side, 9 - side // 2)
    torch.testing.assert_close(pool(x), F.adaptive_avg_pool2d(x, 2))
