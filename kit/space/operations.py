"""Candidate operations of the cell space (DARTS; the seven of DHA and ISTA-NAS).

Every operation ends in a BatchNorm (pools and skips too: METHOD section 2a, one-stage consistency), so that the outputs
of
different operations have the same scale and the affine part of the last one can take over a node's weight when the node
freezes.
Convolutions read relu(x) (`reads_relu`), pools and skips x itself; whoever runs them rectifies a tensor once for all
its readers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit.space.layers import AveragePool, DepthwiseConv, GatedNorm, MaxPool, batch_norm

CELL_OPS = (
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
)


class ConvNorm(nn.Sequential):
    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, trained: bool = True):
        super().__init__(nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False), batch_norm(c_out, trained))


def _depthwise(c: int, kernel: int, stride: int, dilation: int, trained: bool) -> list[nn.Module]:
    return [DepthwiseConv(c, kernel, stride, dilation), nn.Conv2d(c, c, 1, bias=False), batch_norm(c, trained)]


class SeparableConv(nn.Sequential):
    """Depthwise-separable convolution applied twice (DARTS); the stride is the first one's."""

    reads_relu = True

    def __init__(self, c: int, kernel: int, stride: int, trained: bool):
        super().__init__(*_depthwise(c, kernel, stride, 1, trained), nn.ReLU(), *_depthwise(c, kernel, 1, 1, trained))


class DilatedConv(nn.Sequential):
    reads_relu = True

    def __init__(self, c: int, kernel: int, stride: int, trained: bool):
        super().__init__(*_depthwise(c, kernel, stride, 2, trained))


class Pool(nn.Sequential):
    reads_relu = False

    def __init__(self, c: int, kind: str, stride: int, trained: bool):
        super().__init__(MaxPool(stride) if kind == "max" else AveragePool(stride), batch_norm(c, trained))


class HalvingConv(nn.Conv2d):
    """1×1 convolution of stride 2 of which the first half of the outputs reads the even pixels and the other the odd
    ones.

    Run as one 2×2 convolution with zeros at the taps that are not read: slices of every second pixel would be copied
    forward, and filled up
    with zeros and added up backward. weight [c_out, c_in, 1, 1].
    """

    def __init__(self, c_in: int, c_out: int):
        super().__init__(c_in, c_out, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        half = self.out_channels // 2
        kernel = torch.cat([F.pad(self.weight[:half], (0, 1, 0, 1)), F.pad(self.weight[half:], (1, 0, 1, 0))])
        # an odd side gives the even pixels one row more than the odd ones: the row that they lack is zero
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)) if x.shape[2] % 2 or x.shape[3] % 2 else x
        return F.conv2d(x, kernel, stride=2)


class FactorizedReduce(nn.Sequential):
    """Halve the resolution without a pool (DARTS): two 1×1 convolutions of stride 2 on grids one pixel apart,
    concatenated.
    """

    reads_relu = True

    def __init__(self, c_in: int, c_out: int, trained: bool = True):
        super().__init__(HalvingConv(c_in, c_out), batch_norm(c_out, trained))


class Skip(nn.Sequential):
    reads_relu = False

    def __init__(self, c: int, trained: bool):
        super().__init__(nn.Identity(), batch_norm(c, trained))


_BUILD = {
    "sep_conv_3x3": lambda c, stride, trained: SeparableConv(c, 3, stride, trained),
    "sep_conv_5x5": lambda c, stride, trained: SeparableConv(c, 5, stride, trained),
    "dil_conv_3x3": lambda c, stride, trained: DilatedConv(c, 3, stride, trained),
    "dil_conv_5x5": lambda c, stride, trained: DilatedConv(c, 5, stride, trained),
    "max_pool_3x3": lambda c, stride, trained: Pool(c, "max", stride, trained),
    "avg_pool_3x3": lambda c, stride, trained: Pool(c, "avg", stride, trained),
    "skip_connect": lambda c, stride, trained: Skip(c, trained) if stride == 1 else FactorizedReduce(c, c, trained),
}


def build_operation(name: str, channels: int, stride: int, trained: bool) -> nn.Module:
    """One candidate: [N, channels, H, W] → [N, channels, ceil(H/stride), ceil(W/stride)], float."""
    return _BUILD[name](channels, stride, trained)


def last_norm(operation: nn.Module) -> GatedNorm:
    """The BatchNorm that ends the operation: the one that applies the node's weight, and absorbs it at the freeze."""
    return [m for m in operation.modules() if isinstance(m, GatedNorm)][-1]


def gated(operation: nn.Module, x: Tensor, gate: Tensor) -> Tensor:
    """gate · operation(x), by the BatchNorm that ends it."""
    norm = last_norm(operation)
    norm.gate = gate
    try:
        return operation(x)
    finally:
        norm.gate = None
