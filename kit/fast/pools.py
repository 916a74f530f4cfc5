"""3×3 pools for training on the CPU, as fast as depthwise convolutions; the reference is torch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kit.fast.depthwise import depthwise


def max_pool(x: Tensor, stride: int) -> Tensor:
    """Maximum over a 3×3 window: [N, C, H, W] → [N, C, ceil(H/stride), ceil(W/stride)].

    bfloat16 goes by way of float32, in which torch's kernels take half the time; a maximum is exact in both.
    """
    wide = x.float() if x.dtype == torch.bfloat16 else x
    return F.max_pool2d(wide, 3, stride, 1).to(x.dtype)


def average_pool(x: Tensor, stride: int) -> Tensor:
    """Mean of those pixels of a 3×3 window that lie in the image: [N, C, H, W] → [N, C, ceil(H/stride),
    ceil(W/stride)], H and W at least 2.

    A depthwise convolution by 1/9 sums the pixels; border outputs, whose windows hold fewer than nine pixels, are then
    scaled up. In bfloat16 this takes a tenth of the time of torch's average pooling with its gradient. There 1/9 is
    rounded, too (by 0.2%), which the BatchNorm that follows takes out again.
    """
    channels, *sides = x.shape[1:]
    ninth = x.new_full((channels, 1, 3, 3), 1 / 9)
    # with stride 2 and an even side, the last window ends at the last pixel and does not hang over the border
    last_row, last_column = (stride == 1 or side % 2 == 1 for side in sides)
    return _ScaledBorder.apply(depthwise(x, ninth, stride, 1), last_row, last_column)


class _ScaledBorder(torch.autograd.Function):
    """Multiplies the rows and columns at the border by 3/2, in place.

    A window at an edge holds 6 of its 9 pixels, so its mean is 9/6 = 3/2 of its sum over 9; in a corner it holds 4, and
    row and column together give 3/2 · 3/2 = 9/4. The first row and column are always at the border, the last ones where
    `last_row` and `last_column` say so.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, last_row: bool, last_column: bool) -> Tensor:
        ctx.last = last_row, last_column
        ctx.mark_dirty(y)
        return _scale_border(y, last_row, last_column)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():  # a second derivative is asked for
            return _ScaledBorder.apply(g.clone(), *ctx.last), None, None
        return _scale_border(g.clone(memory_format=torch.channels_last), *ctx.last), None, None


def _scale_border(y: Tensor, last_row: bool, last_column: bool) -> Tensor:
    y[:, :, 0] *= 1.5
    y[:, :, :, 0] *= 1.5
    if last_row:
        y[:, :, -1] *= 1.5
    if last_column:
        y[:, :, :, -1] *= 1.5
    return y
