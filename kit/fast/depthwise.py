"""Depthwise convolutions whose backward pass on the CPU costs about what the forward pass does.

oneDNN has kernels for depthwise gradients only without dilation, for the weight of 3×3 kernels and for the input (in
bfloat16 without stride). Its grouped convolutions for the rest leave 15 of a vector register's 16 lanes unused. Here
every gradient is put in terms of those kernels. The reference is autograd's own way."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """x [N, C, H, W] by weight [C, 1, k, k], k odd, with "same" padding: [N, C, ceil(H/stride), ceil(W/stride)]."""
    if torch.is_autocast_enabled("cpu"):
        x, weight = (t.to(torch.get_autocast_dtype("cpu")) for t in (x, weight))
    return _Depthwise.apply(x, weight, stride, dilation)


def dense_gradient(x: Tensor) -> Tensor:
    """x, whose gradient [N, C, H, W] will lie in memory channels last, without gaps. A concatenation's gradients are
    slices of wider channels, over which the CPU's BatchNorm takes ten times as long, and ReLU over their copies."""
    if x.requires_grad and x.device.type == "cpu" and not torch.compiler.is_compiling():
        # None: a second derivative that does not depend on x
        x.register_hook(lambda g: None if g is None else g.contiguous(memory_format=torch.channels_last))
    return x


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, dilation * (weight.shape[-1] - 1) // 2, dilation, len(weight)
        return F.conv2d(x, weight, None, *ctx.geometry)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight = ctx.needs_input_grad[:2]
        stride, padding, dilation, groups = ctx.geometry

        def by_autograd(for_x: bool, for_weight: bool) -> tuple[Tensor | None, Tensor | None]:
            geometry = [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], groups
            return torch.ops.aten.convolution_backward(g, x, weight, None, *geometry, [for_x, for_weight, False])[:2]

        if torch.is_grad_enabled():  # a second derivative is asked for
            return (*by_autograd(for_x, for_weight), None, None)
        g = g.contiguous(memory_format=torch.channels_last)
        if stride == 2 and g.dtype == torch.bfloat16:
            # stride 2 is stride 1 of whose outputs every second row and column is used: the others' gradient is zero
            spread = torch.zeros_like(x)
            spread[:, :, ::2, ::2] = g
            g, stride = spread, 1
        grad_x = grad_weight = None
        if for_x and stride == 1:  # a forward convolution of g with the kernel turned by 180°
            grad_x = F.conv2d(g, weight.flip(2, 3), None, 1, padding, dilation, groups)
        elif for_x:
            grad_x = by_autograd(True, False)[0]
        if for_weight:
            grad_weight = _weight_gradient(g, x, weight, (stride, padding, dilation, groups))
        return grad_x, grad_weight, None, None


def _weight_gradient(g: Tensor, x: Tensor, weight: Tensor, geometry: tuple[int, int, int, int]) -> Tensor:
    """Dilation 2 on the four grids of every second pixel; 5×5 and more as the 3×3 parts that cover it."""
    stride, _, dilation, groups = geometry
    if stride == 1 and weight.shape[-1] > 3 and dilation <= 2:
        return _by_parts(g, x, weight, dilation)
    if stride == 1 and weight.shape[-1] == 3 and dilation == 2:
        g, x, geometry = *(_split(t, 2).permute(0, 3, 1, 2) for t in (g, x)), (1, 1, 1, groups)
    return conv2d_weight(x, weight.shape, g, *geometry)


def _split(t: Tensor, d: int) -> Tensor:
    """[N, C, H, W] as [d² N, H/d, W/d, C]: the d² grids of every d-th pixel as images of a larger batch. A side that d
    does not divide gains zeros."""
    if t.shape[2] % d or t.shape[3] % d:
        t = F.pad(t, (0, -t.shape[3] % d, 0, -t.shape[2] % d))
    grids = [t[:, :, i::d, j::d] for i in range(d) for j in range(d)]
    return (torch.cat(grids) if d > 1 else t).permute(0, 2, 3, 1)


def _by_parts(g: Tensor, x: Tensor, weight: Tensor, d: int) -> Tensor:
    # The inputs, shifted for each 3×3 part of the kernel, need no copy: the images lie end to end, each in a frame of
    # zeros, between two images of zeros, and are read from another place. What then comes from a neighbouring row or
    # image is zero, or meets zeros in g's frame.
    c, reach = len(weight), (weight.shape[-1] - 1) // 2
    frame, shift = ((reach + 1) // 2,) * 4, reach - 1
    x, g = F.pad(_split(x, d), (0, 0, *frame, 1, 1)), F.pad(_split(g, d), (0, 0, *frame))
    image, row, pixel, _ = x.stride()
    out = weight.new_empty(weight.shape)
    for i in range(0, 2 * reach, 2):
        for j in range(0, 2 * reach, 2):
            start = image + (i - shift) * row + (j - shift) * pixel
            shifted = x.view(-1)[start : start + g.numel()].view_as(g)
            part = conv2d_weight(shifted.permute(0, 3, 1, 2), (c, 1, 3, 3), g.permute(0, 3, 1, 2), padding=1, groups=c)
            out[:, :, i : i + 3, j : j + 3] = part
    return out
