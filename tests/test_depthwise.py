"""Convolutions that are put in terms of cheaper ones, against those they stand for, with their gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from kit.space.cell import HalvingConv
from kit.space.layers import DepthwiseConv, dense_gradient

KINDS = [(kernel, stride, dilation) for kernel, stride, dilation in itertools.product((3, 5), (1, 2), (1, 2))]
SIDES = [(8, 8), (7, 9), (1, 3)]


def plain(x: torch.Tensor, conv: DepthwiseConv) -> torch.Tensor:
    return F.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)


def case(
    kernel: int, stride: int, dilation: int, sides: tuple[int, int], dtype: torch.dtype, channels_last: bool = True
):
    torch.manual_seed(kernel * 100 + stride * 10 + dilation)
    conv = DepthwiseConv(6, kernel, stride, dilation).to(dtype)
    x = torch.randn(3, 6, *sides, dtype=dtype)
    return conv, x.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    ).requires_grad_()


@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_output_and_gradients_are_autograds(kind, sides):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        for channels_last in (True, False):
            conv, x = case(*kind, sides, dtype, channels_last)
            expected = plain(x, conv)
            y = conv(x)
            g = torch.randn_like(expected)
            assert y.grad_fn is not None and torch.allclose(y, expected, rtol=0, atol=tolerance)
            for ours, theirs in zip(
                torch.autograd.grad(y, (x, conv.weight), g), torch.autograd.grad(expected, (x, conv.weight), g)
            ):
                assert ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=0, atol=tolerance)


def test_the_gradient_of_a_concatenations_part_becomes_dense():
    def gradient(of) -> torch.Tensor:
        torch.manual_seed(0)
        x = torch.randn(2, 6, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
        before = x.sigmoid()
        taken = []
        before.grad_fn.register_prehook(lambda g: taken.append(g[0]))
        torch.cat([of(before), x * 2.0], 1).square().sum().backward()
        return taken[0]

    sliced, dense = gradient(lambda x: x), gradient(dense_gradient)
    assert torch.equal(sliced, dense) and not sliced.is_contiguous(memory_format=torch.channels_last)
    assert dense.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_forward_mode_and_vmap_take_the_plain_way():
    conv, x = case(3, 1, 2, (8, 8), torch.float64)
    direction = torch.randn_like(conv.weight)
    with torch.no_grad():
        value, slope = torch.func.jvp(
            lambda w: torch.func.functional_call(conv, {"weight": w}, (x,)), (conv.weight.detach(),), (direction,)
        )
        assert torch.allclose(slope, F.conv2d(x, direction, None, 1, 2, 2, 6))
        both = torch.func.vmap(lambda w: torch.func.functional_call(conv, {"weight": w}, (x,)))(
            torch.stack([conv.weight, direction])
        )
        assert torch.allclose(both[0], value) and torch.allclose(both[1], slope)


@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_halving_is_two_convolutions_one_pixel_apart(sides):
    conv = HalvingConv(4, 7).double()
    x = torch.randn(2, 4, *sides, dtype=torch.float64, requires_grad=True)
    even = F.conv2d(x, conv.weight[:3], stride=2)
    odd = F.conv2d(F.pad(x, (0, 2, 0, 2))[:, :, 1:, 1:], conv.weight[3:], stride=2)[
        :, :, : even.shape[2], : even.shape[3]
    ]
    expected, y = torch.cat([even, odd], 1), conv(x)
    assert torch.allclose(y, expected, atol=1e-12)
    g = torch.randn_like(y)
    for ours, theirs in zip(
        torch.autograd.grad(y, (x, conv.weight), g), torch.autograd.grad(expected, (x, conv.weight), g)
    ):
        assert torch.allclose(ours, theirs, atol=1e-12)
