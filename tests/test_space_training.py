"""What a network does in training only: drop-path, the auxiliary head, and BatchNorm statistics that are made anew."""

from __future__ import annotations

import pytest
import torch
from test_space import child_of, images_for, supernet, unlike_their_start
from torch import nn
from torch.nn import functional as F

from kit.space.layers import batch_norm
from kit.space import DARTS_V2, Child, picks_of
from kit.space.cell import DropPath


def test_drop_path_keeps_the_expectation_and_drops_whole_samples():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(4000, 2, 3, 3, generator=g) + 1
    y = DropPath(0.3, g)(x)
    dropped = (y == 0).flatten(1).all(1)
    assert ((y == 0).flatten(1).any(1) == dropped).all()
    torch.testing.assert_close(y[~dropped], x[~dropped] / 0.7)
    assert abs(float(dropped.float().mean()) - 0.3) < 4 * (0.3 * 0.7 / 4000) ** 0.5
    assert DropPath(0.0, g)(x) is x


def test_drop_path_acts_in_training_only_from_its_own_generator_and_never_on_skips():
    net = supernet()
    skips = {kind: [[("skip_connect", 0), ("skip_connect", 1)]] * 4 for kind in DARTS_V2}
    x, child, skipping = images_for(net, 16), Child(picks_of(DARTS_V2)), Child(picks_of(skips))
    net.eval()
    plain, plain_skips = net(x, child), net(x, skipping)
    net.drop_path = 0.5
    assert torch.equal(net(x, child), plain)
    net.train()
    with net.still_statistics(child.picks), net.still_statistics(skipping.picks):
        outputs = []
        for seed in (1, 1, 2):
            net.generator = torch.Generator().manual_seed(seed)
            outputs.append(net(x, child))
        assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
        a, b = net(x, skipping), net(x, skipping)
        assert torch.equal(a, b) and not torch.equal(a, plain_skips)  # training mode it was, yet nothing was dropped


def test_auxiliary_head_counts_in_training_only():
    net = supernet(auxiliary=0.4)
    x, y, child = images_for(net), torch.tensor([0, 1, 2, 0]), child_of(net, 0)
    net.train()
    with torch.no_grad(), net.still_statistics(child.picks):
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


def test_auxiliary_head_sits_after_the_last_reduction():
    for cells, at in ((3, 2), (6, 4), (8, 5)):
        assert supernet((3, 32, 32), cells=cells, auxiliary=0.4).auxiliary_at == at


def test_recalibrated_statistics_are_those_of_all_batches_together():
    net = unlike_their_start(supernet(auxiliary=0.4)).double().eval()
    child, other = child_of(net, 0), child_of(net, 5)
    batches = [images_for(net, 6, seed) for seed in range(3)]
    inputs: dict[nn.Module, list[torch.Tensor]] = {}
    norms, state = net.norms_of(child.picks), {k: v.clone() for k, v in net.named_buffers()}
    handles = [m.register_forward_pre_hook(lambda m, i: inputs.setdefault(m, []).append(i[0].detach())) for m in norms]
    net.drop_path = 0.5
    net.recalibrate(child, batches)
    [h.remove() for h in handles]
    assert (
        not net.training
        and net.drop_path == 0.5
        and all(m.momentum == 0.1 for m in norms)
        and len(norms) == len(set(norms))
    )
    for norm in norms:
        assert len(inputs[norm]) == 3
        together = torch.cat(inputs[norm])
        torch.testing.assert_close(norm.running_mean, together.mean((0, 2, 3)), rtol=1e-9, atol=1e-12)
        # within batches alone: the batches' own means differ a little
        within = torch.stack([x.var((0, 2, 3)) for x in inputs[norm]]).mean(0)
        torch.testing.assert_close(norm.running_var, within, rtol=1e-9, atol=1e-12)
    means = [norm.running_mean.clone() for norm in norms]
    net.drop_path = 0.0
    net.recalibrate(child, batches)
    assert all(
        torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, means)
    )  # nothing was dropped before, either
    mine = {id(norm) for norm in norms}
    untouched = {
        f"{name}.running_mean" for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d) and id(m) not in mine
    }
    assert untouched and all(torch.equal(state[k], v) for k, v in net.named_buffers() if k in untouched)
    # so evaluation now agrees with training mode on those batches, which a stale statistic would not
    assert {id(m) for m in net.norms_of(other.picks)} - mine


def test_batch_norm_affine_parts_rest_in_the_supernet_and_train_alone():
    net = supernet()
    inside = {
        id(p)
        for cell in net.cells
        for op in cell.ops.values()
        for m in op.modules()
        if isinstance(m, nn.BatchNorm2d)
        for p in m.parameters()
    }
    assert all(p.requires_grad != (id(p) in inside) for p in net.parameters())


@pytest.mark.parametrize("side", [8, 9])
def test_normalisation_is_part_of_the_model(side: int):
    net = supernet((3, side, side))
    x = torch.full((1, 3, side, side), 102, dtype=torch.uint8)  # 0.4
    torch.testing.assert_close(net.prepare(x), torch.full((1, 3, side, side), (0.4 - 0.3) / 0.4))
    torch.testing.assert_close(net.prepare(x.float()), net.prepare(x))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (64, 8, 14, 14), (64, 16, 7, 7), (2, 32, 1, 1), (16, 64, 9, 5)])
@pytest.mark.parametrize("trained", [False, True])
def test_a_gated_norm_is_the_product_with_all_its_gradients(shape, layout, trained):
    """Shapes and layouts reach the different kernels that torch has for BatchNorm: one of them misread an expanded
    weight.
    """
    g = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=g).to(memory_format=layout)
    upstream, gate = torch.randn(shape, generator=g), torch.tensor(-0.7)
    results = []
    for product in (False, True):
        norm, inputs, factor = (
            batch_norm(shape[1], trained),
            x.clone(memory_format=torch.preserve_format).requires_grad_(),
            gate.clone().requires_grad_(),
        )
        if not product:
            norm.gate = factor
        y = factor * norm(inputs) if product else norm(inputs)
        wanted = [inputs, factor, *(p for p in norm.parameters() if p.requires_grad)]
        results.append([y, *torch.autograd.grad(y, wanted, upstream), norm.running_mean, norm.running_var])
    for one, other in zip(*results, strict=True):
        assert torch.isfinite(one).all()
        # a 1x1 map's normalised values are ±1 and its input gradients nearly cancel, hence the absolute part
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-3 if shape[2] == 1 else 2e-4)
