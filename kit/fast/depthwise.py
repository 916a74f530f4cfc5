"""Depthwise convolutions whose backward pass on the CPU costs about what the forward pass does.

oneDNN has kernels for depthwise gradients, but only for the weight of 3×3 kernels without dilation and for the input
without dilation (in
bfloat16 also without stride); for the rest it falls back on grouped convolutions that waste 16 lanes of 16. Here every
gradient is put in terms
of those kernels, on the same numbers: autograd's own way stays beside it as the reference and serves whatever is not
float training on the CPU.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_backward = torch.ops.aten.convolution_backward


class DepthwiseConv(nn.Conv2d):
    """Depthwise k×k, k odd, "same" padding, stride 1 or 2, without bias: [N, C, H, W] → [N, C, ceil(H/stride),
    ceil(W/stride)].
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, dilation: int = 1):
        super().__init__(
            channels, channels, kernel, stride, dilation * (kernel - 1) // 2, dilation, groups=channels, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        stride, dilation = self.stride[0], self.dilation[0]
        if stride == dilation == 2 and self.padding[0] % 2 == 0:
            # every tap falls on an even row and column: a plain convolution on a quarter of the pixels
            return depthwise(dense_gradient(x.view_as(x))[:, :, ::2, ::2], self.weight, 1, 1)
        return depthwise(x, self.weight, stride, dilation)


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """x [N, C, H, W] by weight [C, 1, k, k] with "same" padding."""
    trains = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if trains and x.device.type == "cpu" and not torch.compiler.is_compiling():
        if torch.is_autocast_enabled("cpu"):
            x, weight = (t.to(torch.get_autocast_dtype("cpu")) for t in (x, weight))
        return _Depthwise.apply(x, weight, stride, dilation)
    return _convolve(x, weight, stride, dilation)


def _convolve(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    return F.conv2d(x, weight, None, stride, dilation * (weight.shape[-1] - 1) // 2, dilation, weight.shape[0])


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.dilation = stride, dilation
        return _convolve(x, weight, stride, dilation)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # a second derivative is asked for: by autograd's own formulas
            return (*_slow(g, x, weight, ctx.stride, ctx.dilation, for_x, for_weight), None, None)
        g, stride = g.contiguous(memory_format=torch.channels_last), ctx.stride
        if stride == 2 and g.dtype == torch.bfloat16:
            g, stride = _between_zeros(g, x), 1
        grad_x = input_gradient(g, x, weight, stride, ctx.dilation) if for_x else None
        return grad_x, weight_gradient(g, x, weight, stride, ctx.dilation) if for_weight else None, None, None


def _slow(
    g: Tensor, x: Tensor, weight: Tensor, stride: int, dilation: int, for_x: bool, for_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    padding = dilation * (weight.shape[-1] - 1) // 2
    return _backward(
        g,
        x,
        weight,
        None,
        [stride] * 2,
        [padding] * 2,
        [dilation] * 2,
        False,
        [0, 0],
        weight.shape[0],
        [for_x, for_weight, False],
    )[:2]


def input_gradient(g: Tensor, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """∂L/∂x for g = ∂L/∂y: at stride 1 a forward convolution of g with the kernel turned by 180°."""
    if stride == 1:
        return _convolve(g, weight.flip(2, 3), 1, dilation)
    return _slow(g, x, weight, stride, dilation, True, False)[0]


def weight_gradient(g: Tensor, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """∂L/∂weight [C, 1, k, k]: dilation 2 on the four grids of every second pixel; 5×5 and more as the 3×3 parts that
    cover it.
    """
    kernel = weight.shape[-1]
    if stride == 1 and kernel > 3 and dilation <= 2:
        return _by_parts(g, x, weight, dilation)
    if stride == 1 and kernel == 3 and dilation == 2:
        return _small(_grids(g, 2), _grids(x, 2), weight)
    return _slow(g, x, weight, stride, dilation, False, True)[1]


def _small(g: Tensor, x: Tensor, like: Tensor) -> Tensor:
    """∂L/∂weight of a 3×3 kernel at stride 1 without dilation."""
    return _slow(g, x, like.new_empty(like.shape[0], 1, 3, 3), 1, 1, False, True)[1]


def _between_zeros(g: Tensor, x: Tensor) -> Tensor:
    """g of a convolution of stride 2 as that of the same one of stride 1 over x, of whose outputs every second pixel
    alone is used.
    """
    out = torch.zeros_like(x)
    out[:, :, ::2, ::2] = g
    return out


def _split(t: Tensor, d: int) -> Tensor:
    """[N, C, H, W] seen as [d, d, N, H/d, W/d, C]: the d² grids of every d-th pixel; odd sides gain a row or column of
    zeros.
    """
    n, c, h, w = t.shape
    if h % d or w % d:
        t = F.pad(t, (0, -w % d, 0, -h % d))
        h, w = t.shape[2:]
    return t.permute(0, 2, 3, 1).reshape(n, h // d, d, w // d, d, c).permute(2, 4, 0, 1, 3, 5)


def _grids(t: Tensor, d: int) -> Tensor:
    """The d² grids as images of a larger batch: channels_last [d² N, C, H/d, W/d]."""
    split = _split(t, d)
    return split.reshape(-1, *split.shape[3:]).permute(0, 3, 1, 2)


def _framed(t: Tensor, d: int, frame: int, shift: int) -> tuple[Tensor, tuple[int, ...], int]:
    """The d² grids, each image in a frame of zeros, end to end, with room before and after for `shift` rows and pixels.

    Returns the flat buffer, the framed batch's shape [d² N, h + 2 frame, w + 2 frame, C] and the length of the room.
    """
    split = _split(t, d)
    n, h, w, c = split.shape[2:]
    shape = (d * d * n, h + 2 * frame, w + 2 * frame, c)
    room = shift * (shape[2] + 1) * c
    flat = t.new_zeros(prod(shape) + 2 * room)
    flat[room:-room].view(d, d, n, *shape[1:])[:, :, :, frame:-frame, frame:-frame].copy_(split)
    return flat, shape, room


def _by_parts(g: Tensor, x: Tensor, weight: Tensor, d: int) -> Tensor:
    # In its frame an image may be shifted by rows and pixels by starting to read earlier or later: what then comes from
    # a neighbouring
    # row or image is zero, or meets the zeros of g's frame. So the shifted inputs, one per 3×3 part, cost no copy.
    reach = (weight.shape[-1] - 1) // 2
    frame, shift = (reach + 1) // 2, reach - 1
    flat, shape, room = _framed(x, d, frame, shift)
    framed = _framed(g, d, frame, shift)[0][room:-room].view(shape).permute(0, 3, 1, 2)
    row, pixel, length = shape[2] * shape[3], shape[3], flat.numel() - 2 * room
    out = weight.new_empty(weight.shape)
    for i in range(0, 2 * reach, 2):
        for j in range(0, 2 * reach, 2):
            start = room + (i - shift) * row + (j - shift) * pixel
            shifted = flat[start : start + length].view(shape).permute(0, 3, 1, 2)
            out[:, :, i : i + 3, j : j + 3] = _small(framed, shifted, weight)
    return out


def dense_gradient(x: Tensor) -> Tensor:
    """x, whose gradient [N, C, H, W] will lie in memory channels last, without gaps. The CPU's BatchNorm takes ten
    times as long over a slice of
    a wider tensor's channels, as the gradient of a concatenation's part is, and its ReLU over the other order, which
    slices' gradients have."""
    if x.requires_grad and x.device.type == "cpu" and not torch.compiler.is_compiling():
        # None: a second derivative that does not depend on x
        x.register_hook(lambda g: None if g is None else g.contiguous(memory_format=torch.channels_last))
    return x
