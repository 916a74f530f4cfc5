"""The pools of the cell space against torch's, in float64, float32 and bfloat16, for sides that steps of two do and do
not divide.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kit.space.layers import AveragePool, MaxPool

SIDES = [(8, 8), (7, 9), (5, 4), (2, 3), (1, 3), (1, 1)]


def torchs(x: torch.Tensor, kind: str, stride: int) -> torch.Tensor:
    return F.max_pool2d(x, 3, stride, 1) if kind == "max" else F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)


def pool(kind: str, stride: int) -> torch.nn.Module:
    return (MaxPool if kind == "max" else AveragePool)(stride)


@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_outputs_and_gradients_are_torchs(kind, stride, sides):
    torch.manual_seed(0)
    for dtype, tolerance in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
        x = torch.randn(3, 5, *sides, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        y, expected = pool(kind, stride)(x), torchs(x, kind, stride)
        g = torch.randn_like(expected)
        torch.testing.assert_close(y, expected, rtol=0, atol=tolerance)
        torch.testing.assert_close(
            torch.autograd.grad(y, x, g), torch.autograd.grad(expected, x, g), rtol=0, atol=10 * tolerance
        )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_bfloat16_is_torchs_within_its_rounding(kind, stride):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 9, 12).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    exact = x.detach().double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = pool(kind, stride)(x)
    expected = torchs(exact, kind, stride)
    g = torch.randn(expected.shape).bfloat16()
    assert y.dtype == torch.bfloat16
    within = 0.0 if kind == "max" else 2**-7
    assert (y.double() - expected).norm() <= within * expected.norm()
    ours, theirs = torch.autograd.grad(y, x, g)[0].double(), torch.autograd.grad(expected, exact, g.double())[0]
    assert (ours - theirs).norm() <= 2**-7 * theirs.norm()  # a maximum's gradients are added up where windows meet


@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_average_gradients_are_finite_differences_also_the_second_ones(stride, sides):
    torch.manual_seed(0)
    x = torch.randn(2, 2, *sides, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(pool("avg", stride), (x,))
    assert torch.autograd.gradgradcheck(lambda x: pool("avg", stride)(x).sin(), (x,))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_forward_mode_and_vmap_take_torchs_way():
    with torch.no_grad():
        x = torch.randn(2, 3, 4, 4)
        torch.testing.assert_close(torch.func.jvp(pool("avg", 2), (x,), (x,)), (torchs(x, "avg", 2),) * 2)
        torch.testing.assert_close(torch.func.vmap(pool("avg", 2))(x[None]), torchs(x, "avg", 2)[None])
