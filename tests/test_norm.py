"""BatchNorm with a gate against torch's own, multiplied by it."""

from __future__ import annotations

import pytest
import torch

from kit.space.layers import batch_norm, gated

SHAPES = [(4, 36, 6, 6), (2, 12, 2, 6), (4, 7, 4, 4)]


def data(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels of different means and scales, and an upstream gradient; channels last."""
    g = torch.Generator().manual_seed(0)
    x, upstream = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
    x = x * torch.linspace(0.1, 3.0, shape[1]).view(1, -1, 1, 1) + torch.linspace(-5, 5, shape[1]).view(1, -1, 1, 1)
    return tuple(t.to(dtype).contiguous(memory_format=torch.channels_last) for t in (x, upstream))


def trained(channels: int, dtype: torch.dtype = torch.float32) -> torch.nn.BatchNorm2d:
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
    y = made(x) if gate is None else gate * made(x) if product else gated(made, x, gate)
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
@pytest.mark.parametrize("with_gate", [False, True])
def test_outputs_gradients_and_statistics_are_torchs_in_float64(shape, momentum, with_gate):
    x, upstream = data(shape, torch.float64)
    ours, theirs = trained(shape[1], torch.float64), torch.nn.BatchNorm2d(shape[1], momentum=momentum).double()
    ours.momentum = momentum
    theirs.load_state_dict(ours.state_dict())
    gates = [torch.tensor(-0.7, dtype=torch.float64, requires_grad=True) if with_gate else None for _ in range(2)]
    for _ in range(3):  # the running statistics, too
        upstream = upstream.contiguous()  # a gradient in the other order
        found = results(ours, x, upstream, gates[0])
        expected = results(theirs, x, upstream, gates[1], product=with_gate)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)
        x = x * 1.5


def test_frozen_statistics_stay():
    x = data((4, 36, 6, 6), torch.float32)[0].requires_grad_()
    made = trained(36)
    before = {name: value.clone() for name, value in made.named_buffers()}
    made.track_running_stats = False  # as `Network.frozen_statistics` has it
    made(x)
    assert all(torch.equal(value, before[name]) for name, value in made.named_buffers())
    made.track_running_stats = True
    made(x)
    assert not any(torch.equal(value, before[name]) for name, value in made.named_buffers())


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("train", [True, False])
def test_forward_mode_and_vmap_take_torchs_way(train):
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
