"""BatchNorm that can carry a gate, and that costs on the CPU what its passes over memory do.

torch's channels-last kernels for the CPU go through a pixel's channels by the width of a vector register, and let each
thread add into sums of
its own that lie side by side. With 36 channels (DHA's CIFAR size) both go wrong: rest loops, and two threads that write
to one cache line, so
that two threads take longer than one. The same kernels run well on wider pixels. Here k neighbouring pixels are seen as
one of k·C channels, k·C
a multiple of 16, and the statistics of the k groups are put together. torch's own way stays beside it as the reference
and serves the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LANES = 16  # of float32, in the widest vector register
# where the calls that this adds cost less than it saves, by measurement: elements, and, for a thread that is alone,
# channels
WORTH, NARROW = 2**17, 40

_norm, _norm_backward = torch.ops.aten.native_batch_norm, torch.ops.aten.native_batch_norm_backward


class GatedNorm(nn.BatchNorm2d):
    """BatchNorm that multiplies its output by `gate` (float 0-dim) while one is set, in the place of its affine part.

    gate · BN(x) as a product of its own would keep BN(x) in memory for the backward pass and take a pass over it; here
    the gate's
    gradient is the affine weight's, summed. An affine part that does not train is at rest (1, 0) and needs no product
    at all.
    """

    gate: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        k = pixels_at_once(x, self.weight if self.gate is None else self.gate) if self.training else 1
        if k == 1 and self.gate is None:
            return super().forward(x)
        weight, bias = self.gated_affine()
        if k > 1:
            y, mean, var = _Wide.apply(x, weight, bias, k, self.eps)
            self.track(mean, var, x.numel() // x.shape[1])
            return y
        tracked, factor = self.training and self.track_running_stats, 0.0
        if tracked:
            factor = self._factor()
        mean, var = (self.running_mean, self.running_var) if tracked or not self.training else (None, None)
        return F.batch_norm(x, mean, var, weight, bias, self.training, factor, self.eps)

    def gated_affine(self) -> tuple[Tensor, Tensor]:
        """Weight and bias [C] with the gate in them."""
        if self.gate is None:
            return self.weight, self.bias
        if self.weight.requires_grad:
            return self.weight * self.gate, self.bias * self.gate
        # contiguous: torch's CPU kernel reads an expanded weight as if it were C numbers in a row
        return self.gate.expand_as(self.weight).contiguous(), self.bias

    def _factor(self) -> float:
        self.num_batches_tracked.add_(1)
        # None: a plain average over batches, as in torch
        return 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum

    @torch.no_grad()
    def track(self, mean: Tensor, var: Tensor, n: int) -> None:
        """Move the running statistics toward a batch's mean and biased variance, both [C], over n values per
        channel.
        """
        if self.track_running_stats:
            factor = self._factor()
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), factor)
            self.running_var.lerp_(var.detach().to(self.running_var.dtype) * (n / max(1, n - 1)), factor)


def batch_norm(channels: int, trained: bool = True) -> GatedNorm:
    """BatchNorm whose affine part exists but only trains when `trained` (search keeps it at 1, 0 until the node
    freezes).
    """
    norm = GatedNorm(channels)
    norm.weight.requires_grad_(trained)
    norm.bias.requires_grad_(trained)
    return norm


def pixels_at_once(x: Tensor, weight: Tensor) -> int:
    """How many neighbouring pixels of x [N, C, H, W] to see as one; 1: leave it to torch."""
    trains = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if (
        not trains
        or x.device.type != "cpu"
        or torch.compiler.is_compiling()
        or not x.is_contiguous(memory_format=torch.channels_last)
    ):
        return 1
    channels, alone = x.shape[1], torch.get_num_threads() == 1
    if channels % LANES == 0 or x.numel() < (4 * WORTH if alone else WORTH) or (alone and channels >= NARROW):
        return 1
    return next((k for k in (2, 4, 8, 16) if k * channels % LANES == 0 and x.numel() // channels % k == 0), 1)


class _Wide(torch.autograd.Function):
    """x, weight, bias → y, and the batch's mean and biased variance, which are not differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, k: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        wide = _widen(x, k)
        blank = weight.new_zeros(2, wide.shape[1])  # in the weight's precision, which sums of bfloat16 are thereby in
        means, variances = (t.view(k, -1) for t in torch.batch_norm_update_stats(wide, *blank, 0.0))
        mean = means.mean(0)
        var = (variances + (means - mean).square_()).mean(0)  # every group has as many pixels
        per_channel = torch.stack((weight, bias, mean, var)).repeat(1, k)
        y = _line(wide, per_channel, eps, x)
        ctx.save_for_backward(x, weight, mean, var, per_channel)
        ctx.k, ctx.eps = k, eps
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight, mean, var, per_channel = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        inverse = torch.rsqrt(var + ctx.eps)
        if torch.is_grad_enabled():  # a second derivative is asked for: by autograd's own formulas
            return (*_norm_backward(g, x, weight, None, None, mean, inverse, True, ctx.eps, wanted), None, None)
        k, n = ctx.k, x.numel() // x.shape[1]
        wide, g = _widen(x, k), _widen(g.contiguous(memory_format=torch.channels_last), k)
        # sums of g and of g · x̂; in bfloat16 also the gradient as it were if the statistics were constants, since that
        # product is to be rounded once
        mixed = x.dtype != weight.dtype
        wide_weight, _bias, wide_mean, wide_var = per_channel
        part, for_weight, for_bias = _norm_backward(
            g, wide, wide_weight, wide_mean, wide_var, None, None, False, ctx.eps, [wanted[0] and mixed, True, True]
        )
        for_weight, for_bias = for_weight.view(k, -1).sum(0), for_bias.view(k, -1).sum(0)
        if not wanted[0]:
            return None, for_weight, for_bias, None, None
        # ∂L/∂x = scale · (g − mean(g) − x̂ · mean(g x̂)) = scale · g + slope · x + shift
        scale = weight * inverse
        slope = scale * inverse * for_weight / -n
        shift = scale * for_bias / -n - slope * mean
        *line, wide_scale = torch.stack((slope, shift, torch.zeros_like(mean), torch.ones_like(var), scale)).repeat(
            1, k
        )
        grad = _line(wide, line, 0.0, x)
        if mixed:
            _widen(grad, k).add_(part)
        else:
            _widen(grad, k).addcmul_(g, wide_scale.view(1, -1, 1, 1))
        return grad, for_weight, for_bias, None, None


def _widen(x: Tensor, k: int) -> Tensor:
    """Channels-last [N, C, H, W] seen as [N H W / k, k C, 1, 1]."""
    return x.permute(0, 2, 3, 1).view(-1, k * x.shape[1], 1, 1)


def _line(wide: Tensor, per_channel: Iterable[Tensor], eps: float, like: Tensor) -> Tensor:
    """weight · (x − mean) / √(var + eps) + bias, those four in this order, laid out as `like`. No view: it may be
    changed in place.
    """
    out = torch.empty_like(like)
    weight, bias, mean, var = per_channel
    unused = {name: weight.new_empty(0) for name in ("save_mean", "save_invstd")}
    _norm.out(wide, weight, bias, mean, var, False, 0.0, eps, out=_widen(out, wide.shape[1] // like.shape[1]), **unused)
    return out
