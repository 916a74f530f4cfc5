"""BatchNorm on several pixels at once against torch's own, in float64, float32 and bfloat16; who takes that way, and
who does not.
"""

from __future__ import annotations

import pytest
import torch

from kit.space.layers import GatedNorm, batch_norm

norm = pytest.importorskip("kit.fast.norm")
pixels_at_once = norm.pixels_at_once

SHAPES = [(4, 36, 6, 6), (2, 12, 2, 6), (4, 7, 4, 4)]


@pytest.fixture
def wide(monkeypatch):
    """Small tensors, too, on any number of threads."""
    monkeypatch.setattr(norm, "WORTH", 0)
    monkeypatch.setattr(norm, "NARROW", 10**6)


def data(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels of different means and scales, and an upstream gradient; channels last."""
    g = torch.Generator().manual_seed(0)
    x, upstream = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
    x = x * torch.linspace(0.1, 3.0, shape[1]).view(1, -1, 1, 1) + torch.linspace(-5, 5, shape[1]).view(1, -1, 1, 1)
    return tuple(t.to(dtype).contiguous(memory_format=torch.channels_last) for t in (x, upstream))


def trained(channels: int, dtype: torch.dtype = torch.float32) -> GatedNorm:
    made = batch_norm(channels)
    torch.manual_seed(1)
    torch.nn.init.uniform_(made.weight, -2.0, 2.0)
    torch.nn.init.uniform_(made.bias, -1.0, 1.0)
    return made.to(dtype)


def results(
    made: torch.nn.BatchNorm2d,
    x: torch.Tensor,
    upstream: torch.Tensor,
    gate: torch.Tensor | None,
    product: bool = False,
) -> list[torch.Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    if not product:
        made.gate = gate
    y = gate * made(x) if product else made(x)
    wanted = [x, *(p for p in made.parameters() if p.requires_grad), *([] if gate is None else [gate])]
    torch.autograd.grad(y, wanted, upstream.to(y.dtype), retain_graph=True)  # the graph may be gone through again
    return [
        y,
        *torch.autograd.grad(y, wanted, upstream.to(y.dtype)),
        made.running_mean,
        made.running_var,
        made.num_batches_tracked,
    ]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("gated", [False, True])
def test_outputs_gradients_and_statistics_are_torchs_in_float64(wide, shape, momentum, gated):
    x, upstream = data(shape, torch.float64)
    ours, theirs = trained(shape[1], torch.float64), torch.nn.BatchNorm2d(shape[1], momentum=momentum).double()
    ours.momentum = momentum
    theirs.load_state_dict(ours.state_dict())
    assert pixels_at_once(x) > 1
    gates = [torch.tensor(-0.7, dtype=torch.float64, requires_grad=True) if gated else None for _ in range(2)]
    for _ in range(3):  # the running statistics, too
        upstream = upstream.contiguous()  # a gradient in the other order
        found = results(ours, x, upstream, gates[0])
        expected = results(theirs, x, upstream, gates[1], product=gated)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)
        assert found[1].is_contiguous(memory_format=torch.channels_last) and found[0].is_contiguous(
            memory_format=torch.channels_last
        )
        x = x * 1.5


@pytest.mark.parametrize("shape", [(2, 8, 2, 4), (2, 3, 4, 2)], ids=str)
def test_gradients_are_finite_differences_also_the_second_ones(wide, shape):
    x = data(shape, torch.float64)[0].requires_grad_()
    made = trained(shape[1], torch.float64)

    def of(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        assert pixels_at_once(x) > 1
        return torch.func.functional_call(made, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(of, (x, made.weight, made.bias))
    assert torch.autograd.gradgradcheck(of, (x, made.weight, made.bias))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype, closer", [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)])
def test_lower_precisions_stay_near_float64(wide, shape, dtype, closer):
    """float32 near rounding; bfloat16 within two roundings of what float64 makes of the same rounded numbers, its
    statistics in float32.
    """
    x, upstream = data(shape, dtype)
    found = results(trained(shape[1]), x, upstream, None)
    exact = results(trained(shape[1], torch.float64), x.double(), upstream.double(), None)
    assert found[0].dtype == found[1].dtype == dtype and found[2].dtype == torch.float32
    for i, (one, other) in enumerate(zip(found[:-1], exact[:-1], strict=True)):
        within = closer if i < 2 else 1e-5  # y and ∂L/∂x are stored in the lower precision; sums and statistics are not
        assert (one.double() - other).norm() <= within * other.norm(), i


def test_what_needs_no_gradient_gets_none(wide):
    x, upstream = data((4, 36, 6, 6), torch.float64)
    made = trained(36, torch.float64)
    y = made(x)  # the weight's alone
    for_weight, for_bias = torch.autograd.grad(y, (made.weight, made.bias), upstream)
    reference = torch.nn.BatchNorm2d(36).double()
    reference.load_state_dict(trained(36, torch.float64).state_dict())
    expected = torch.autograd.grad(reference(x), (reference.weight, reference.bias), upstream)
    torch.testing.assert_close((for_weight, for_bias), expected)
    made.requires_grad_(False)
    z = made(x.clone(memory_format=torch.preserve_format).requires_grad_())
    assert z.grad_fn is not None and torch.allclose(z, y)


def test_the_output_may_be_changed_in_place(wide):
    x, upstream = data((4, 36, 6, 6), torch.float32)
    x.requires_grad_()
    made = trained(36)
    ours, theirs = (
        torch.autograd.grad(made(x).relu_(), x, upstream)[0],
        torch.autograd.grad(made(x).relu(), x, upstream)[0],
    )
    assert torch.equal(ours, theirs)


def test_frozen_statistics_stay(wide):
    x = data((4, 36, 6, 6), torch.float32)[0].requires_grad_()
    made = trained(36)
    before = {name: value.clone() for name, value in made.named_buffers()}
    made.track_running_stats = False  # as `Network.frozen_statistics` has it
    made(x)
    assert all(torch.equal(value, before[name]) for name, value in made.named_buffers())
    made.track_running_stats = True
    made(x)
    assert not any(torch.equal(value, before[name]) for name, value in made.named_buffers())


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("number", [1, 2])
def test_the_same_bits_every_time(threads, number):
    threads(number)
    x, upstream = data((64, 36, 16, 16), torch.float32)
    assert pixels_at_once(x) == 4
    first = results(trained(36), x, upstream, None)
    for _ in range(5):
        assert all(torch.equal(one, other) for one, other in zip(results(trained(36), x, upstream, None), first))


def test_large_maps_go_wide_and_the_rest_to_torch(threads):
    def pixels(n: int, c: int, side: int, layout: torch.memory_format = torch.channels_last) -> int:
        return pixels_at_once(torch.empty(n, c, side, side).contiguous(memory_format=layout))

    threads(1)
    assert (pixels(96, 36, 32), pixels(96, 8, 32), pixels(16, 7, 96)) == (4, 2, 16)
    assert pixels(96, 72, 32) == 1  # enough channels for one thread
    threads(2)
    assert pixels(96, 72, 16) == 2
    assert pixels(96, 64, 32) == 1  # whole registers
    assert pixels(64, 8, 8) == 1  # small
    assert pixels(31, 7, 67) == 1  # an odd number of pixels, odd channels
    assert pixels(96, 36, 32, torch.contiguous_format) == 1


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("train", [True, False])
def test_forward_mode_and_vmap_take_torchs_way(wide, train):
    x, direction = data((4, 36, 2, 2), torch.float64)
    made = trained(36, torch.float64).train(train)
    made.track_running_stats, made.running_mean, made.running_var = False, None, None  # vmap refuses to change them

    def reference(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.batch_norm(x, None, None, made.weight, made.bias, True)

    with torch.no_grad():
        torch.testing.assert_close(
            torch.func.jvp(made, (x,), (direction,)), torch.func.jvp(reference, (x,), (direction,))
        )
        both = torch.func.vmap(made)(torch.stack([x, direction]))
        torch.testing.assert_close(both, torch.stack([reference(x), reference(direction)]))
