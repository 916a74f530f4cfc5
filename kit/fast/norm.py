"""BatchNorm in training on the CPU, at the cost of its passes over memory; the reference is torch's own.

torch's channels-last kernels go through a pixel's channels by the width of a vector register, and their threads' sums
lie side by side: with 36 channels (DHA's CIFAR size) that means remainder loops, and a cache line that all write to.
Here k neighbouring pixels are seen as one of k·C channels, a multiple of 16, and k groups' statistics put together."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

LANES = 16  # of float32, in the widest vector register
# Where the calls that this adds cost less than it saves, by measurement: elements, and, for a single thread, channels.
WORTH, NARROW = 2**17, 40

_norm, _norm_backward = torch.ops.aten.native_batch_norm, torch.ops.aten.native_batch_norm_backward


def pixels_at_once(x: Tensor) -> int:
    """How many neighbouring pixels of x [N, C, H, W] to see as one; 1: leave it to torch."""
    if not x.is_contiguous(memory_format=torch.channels_last):
        return 1
    channels, alone = x.shape[1], torch.get_num_threads() == 1
    if channels % LANES == 0 or x.numel() < (4 * WORTH if alone else WORTH) or (alone and channels >= NARROW):
        return 1
    return next((k for k in (2, 4, 8, 16) if k * channels % LANES == 0 and x.numel() // channels % k == 0), 1)


def wide_batch_norm(x: Tensor, weight: Tensor, bias: Tensor, k: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """BatchNorm of x [N, C, H, W], channels last, k pixels at once: y, and the batch's mean and biased variance [C],
    which are not differentiable."""
    return _Wide.apply(x, weight, bias, k, eps)


class _Wide(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, k: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        wide = _widen(x, k)
        blank = weight.new_zeros(2, wide.shape[1])  # in the weight's precision, which sums of bfloat16 are thereby in
        means, variances = (t.view(k, -1) for t in torch.batch_norm_update_stats(wide, *blank, 0.0))
        mean = means.mean(0)
        var = (variances + (means - mean).square_()).mean(0)  # every group has as many pixels
        per_channel = torch.stack((weight, bias, mean, var)).repeat(1, k)
        y = _normalize(wide, per_channel, eps, x)
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
        # One pass gives Σ g and Σ g · x̂, the bias's and the weight's gradients. In bfloat16 it also gives the term
        # scale · g of x's gradient (see below), so that this product is rounded once.
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
        line = torch.stack((slope, shift, torch.zeros_like(mean), torch.ones_like(var), scale)).repeat(1, k)
        grad = _normalize(wide, line[:4], 0.0, x)
        if mixed:
            _widen(grad, k).add_(part)
        else:
            _widen(grad, k).addcmul_(g, line[4].view(1, -1, 1, 1))
        return grad, for_weight, for_bias, None, None


def _widen(x: Tensor, k: int) -> Tensor:
    """Channels-last [N, C, H, W] seen as [N H W / k, k C, 1, 1]."""
    return x.permute(0, 2, 3, 1).view(-1, k * x.shape[1], 1, 1)


def _normalize(wide: Tensor, per_channel: Iterable[Tensor], eps: float, like: Tensor) -> Tensor:
    """weight · (x − mean) / √(var + eps) + bias by these of per_channel: a new tensor, laid out as `like`."""
    out = torch.empty_like(like)
    weight, bias, mean, var = per_channel
    unused = {name: weight.new_empty(0) for name in ("save_mean", "save_invstd")}
    _norm.out(wide, weight, bias, mean, var, False, 0.0, eps, out=_widen(out, wide.shape[1] // like.shape[1]), **unused)
    return out
