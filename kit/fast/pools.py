"""3×3 pools whose kernels on the CPU are as fast as a depthwise convolution's; torch's own are the reference, and serve
the rest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kit.fast.depthwise import depthwise


class AveragePool(nn.AvgPool2d):
    """Mean of the pixels of a 3×3 window that lie in the image: [N, C, H, W] → [N, C, ceil(H/stride), ceil(W/stride)].

    While training on the CPU a depthwise convolution by 1/9, whose border is then scaled up: in bfloat16, a tenth of
    the time of torch's
    average pooling with its gradient. There 1/9 is rounded, too (by 0.2%): the BatchNorm that follows takes it out
    again.
    """

    def __init__(self, stride: int):
        super().__init__(3, stride, 1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        channels, *sides = x.shape[1:]
        if not _trains_on_the_cpu(x) or min(sides) < 2:
            return super().forward(x)
        ninth = x.new_full((channels, 1, 3, 3), 1 / 9)
        # the last window of a side hangs over unless steps of 2 end on the last pixel but one
        return _Border.apply(
            depthwise(x, ninth, self.stride, 1), *(self.stride == 1 or side % 2 == 1 for side in sides)
        )


class MaxPool(nn.MaxPool2d):
    """Maximum over a 3×3 window: [N, C, H, W] → [N, C, ceil(H/stride), ceil(W/stride)].

    bfloat16 goes by way of float32, in which torch's kernels for the CPU take half the time; a maximum is exact in
    both.
    """

    def __init__(self, stride: int):
        super().__init__(3, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.bfloat16 and _trains_on_the_cpu(x):
            return super().forward(x.float()).to(x.dtype)
        return super().forward(x)


def _trains_on_the_cpu(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad and x.device.type == "cpu" and not torch.compiler.is_compiling()


class _Border(torch.autograd.Function):
    """Sums over nine pixels of which three lie outside, six of five in a corner, times 9/6 and 9/4; the first row and
    column always, the last if so said.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, last_row: bool, last_column: bool) -> Tensor:
        ctx.last = last_row, last_column
        ctx.mark_dirty(y)
        return _scale_border(y, last_row, last_column)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():  # a second derivative is asked for
            return _Border.apply(g.clone(), *ctx.last), None, None
        return _scale_border(g.clone(memory_format=torch.channels_last), *ctx.last), None, None


def _scale_border(y: Tensor, last_row: bool, last_column: bool) -> Tensor:
    y[:, :, 0] *= 1.5
    y[:, :, :, 0] *= 1.5
    if last_row:
        y[:, :, -1] *= 1.5
    if last_column:
        y[:, :, :, -1] *= 1.5
    return y
