"""Candidate operations of the cell space (DARTS; the seven of DHA and ISTA-NAS).

Every operation ends in a BatchNorm (pools and skips too: METHOD section 2a), whose affine part can take over a node's
weight when the node freezes. Convolutions read relu(x) (`reads_relu`), pools and skips x itself; the cell rectifies a
tensor once for all that read it.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit.space.layers import AveragePool, DepthwiseConv, MaxPool, batch_norm


class Operation(nn.Sequential):
    def __init__(self, *layers: nn.Module, reads_relu: bool):
        super().__init__(*layers)
        self.reads_relu = reads_relu


class HalvingConv(nn.Conv2d):
    """1×1 convolution of stride 2, weight [c_out, c_in, 1, 1], of which the first half of the outputs reads the even
    pixels and the other the odd ones: one 2×2 convolution with zeros at the other taps, quicker than slices."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__(c_in, c_out, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        half = self.out_channels // 2
        kernel = torch.cat([F.pad(self.weight[:half], (0, 1, 0, 1)), F.pad(self.weight[half:], (1, 0, 1, 0))])
        # an odd side gives the even pixels one row more than the odd ones: the row that they lack is zero
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)) if x.shape[2] % 2 or x.shape[3] % 2 else x
        return F.conv2d(x, kernel, stride=2)


def factorized_reduce(c_in: int, c_out: int, trained: bool = True) -> Operation:
    """Halve the resolution without a pool (DARTS): two 1×1 convolutions of stride 2 on grids one pixel apart."""
    return Operation(HalvingConv(c_in, c_out), batch_norm(c_out, trained), reads_relu=True)


def _depthwise(c: int, kernel: int, stride: int, dilation: int, trained: bool) -> list[nn.Module]:
    return [DepthwiseConv(c, kernel, stride, dilation), nn.Conv2d(c, c, 1, bias=False), batch_norm(c, trained)]


def _separable(kernel: int, c: int, stride: int, trained: bool) -> Operation:
    """A depthwise-separable convolution applied twice (DARTS); the stride is the first one's."""
    first, second = _depthwise(c, kernel, stride, 1, trained), _depthwise(c, kernel, 1, 1, trained)
    return Operation(*first, nn.ReLU(), *second, reads_relu=True)


def _dilated(kernel: int, c: int, stride: int, trained: bool) -> Operation:
    return Operation(*_depthwise(c, kernel, stride, 2, trained), reads_relu=True)


def _pool(kind: type[nn.Module], c: int, stride: int, trained: bool) -> Operation:
    return Operation(kind(stride), batch_norm(c, trained), reads_relu=False)


def _skip(c: int, stride: int, trained: bool) -> Operation:
    if stride == 1:
        return Operation(nn.Identity(), batch_norm(c, trained), reads_relu=False)
    return factorized_reduce(c, c, trained)


#: name → (channels, stride, trained) → module: [N, channels, H, W] → [N, channels, ceil(H/stride), ceil(W/stride)]
OPERATIONS = {
    "sep_conv_3x3": partial(_separable, 3),
    "sep_conv_5x5": partial(_separable, 5),
    "dil_conv_3x3": partial(_dilated, 3),
    "dil_conv_5x5": partial(_dilated, 5),
    "max_pool_3x3": partial(_pool, MaxPool),
    "avg_pool_3x3": partial(_pool, AveragePool),
    "skip_connect": _skip,
}
CELL_OPS = tuple(OPERATIONS)
