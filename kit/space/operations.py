"""Candidate operations of the cell space (DARTS; the seven of DHA and ISTA-NAS).

Every operation ends in a BatchNorm (pools and skips too: METHOD section 2a, one-stage consistency), so that the outputs of
different operations have the same scale and the affine part of the last one can take over a node's weight when the node freezes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CELL_OPS = ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5", "max_pool_3x3", "avg_pool_3x3", "skip_connect")


class GatedNorm(nn.BatchNorm2d):
    """BatchNorm that multiplies its output by `gate` (float 0-dim) while one is set, in the place of its affine part.

    gate · BN(x) as a product of its own would keep BN(x) in memory for the backward pass and take a pass over it; here the gate's
    gradient is the affine weight's, summed. An affine part that does not train is at rest (1, 0) and needs no product at all.
    """

    gate: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return super().forward(x)
        tracked, factor = self.training and self.track_running_stats, self.momentum
        if tracked:
            self.num_batches_tracked.add_(1)
            if factor is None:  # a plain average over batches, as in torch
                factor = 1.0 / float(self.num_batches_tracked)
        mean, var = (self.running_mean, self.running_var) if tracked or not self.training else (None, None)
        at_rest = not self.weight.requires_grad
        # contiguous: torch's CPU kernel reads an expanded weight as if it were C numbers in a row
        weight = self.gate.expand_as(self.weight).contiguous() if at_rest else self.weight * self.gate
        bias = self.bias if at_rest else self.bias * self.gate
        return F.batch_norm(x, mean, var, weight, bias, self.training, factor or 0.0, self.eps)


def batch_norm(channels: int, trained: bool = True) -> GatedNorm:
    """BatchNorm whose affine part exists but only trains when `trained` (search keeps it at 1, 0 until the node freezes)."""
    norm = GatedNorm(channels)
    norm.weight.requires_grad_(trained)
    norm.bias.requires_grad_(trained)
    return norm


class ReluConvNorm(nn.Sequential):
    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, trained: bool = True):
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False),
            batch_norm(c_out, trained),
        )


def _depthwise(c: int, c_out: int, kernel: int, stride: int, dilation: int, trained: bool) -> list[nn.Module]:
    padding = dilation * (kernel - 1) // 2
    return [
        nn.ReLU(),
        nn.Conv2d(c, c, kernel, stride, padding, dilation, groups=c, bias=False),
        nn.Conv2d(c, c_out, 1, bias=False),
        batch_norm(c_out, trained),
    ]


class SeparableConv(nn.Sequential):
    """Depthwise-separable convolution applied twice (DARTS); the stride is the first one's."""

    def __init__(self, c: int, kernel: int, stride: int, trained: bool):
        super().__init__(*_depthwise(c, c, kernel, stride, 1, trained), *_depthwise(c, c, kernel, 1, 1, trained))


class DilatedConv(nn.Sequential):
    def __init__(self, c: int, kernel: int, stride: int, trained: bool):
        super().__init__(*_depthwise(c, c, kernel, stride, 2, trained))


class Pool(nn.Sequential):
    def __init__(self, c: int, kind: str, stride: int, trained: bool):
        pool = nn.MaxPool2d(3, stride, 1) if kind == "max" else nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        super().__init__(pool, batch_norm(c, trained))


class FactorizedReduce(nn.Module):
    """Halve the resolution without a pool: two 1×1 convolutions of stride 2 on grids one pixel apart, concatenated."""

    def __init__(self, c_in: int, c_out: int, trained: bool = True):
        super().__init__()
        self.even = nn.Conv2d(c_in, c_out // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(c_in, c_out - c_out // 2, 1, 2, bias=False)
        self.norm = batch_norm(c_out, trained)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        # an odd side gives the even grid one row more than the odd grid: pad so that both fit
        shifted = F.pad(x[:, :, 1:, 1:], (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        return self.norm(torch.cat([self.even(x), self.odd(shifted)], dim=1))


class Skip(nn.Sequential):
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
