"""Layers of the spaces in torch, and BatchNorm over several ranks."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit.search import ranks as distributed


@contextlib.contextmanager
def held(modules: Sequence[nn.Module], **values: Any) -> Iterator[None]:
    """Within it the modules have these attributes, before parameters of the name, afterwards their own again."""
    before = [{name: vars(module)[name] for name in values if name in vars(module)} for module in modules]
    for module in modules:
        vars(module).update(values)
    try:
        yield
    finally:
        for module, own in zip(modules, before):
            for name in values:
                vars(module).pop(name, None)
            vars(module).update(own)


def dense_gradient(x: Tensor) -> Tensor:
    """x, whose gradient [N, C, H, W] will lie in memory channels last, without gaps. A concatenation's gradients are
    slices of wider channels, over which the CPU's BatchNorm takes ten times as long, and ReLU over their copies."""
    if x.requires_grad and x.device.type == "cpu" and not torch.compiler.is_compiling():
        # None: a second derivative that does not depend on x
        x.register_hook(lambda g: None if g is None else g.contiguous(memory_format=torch.channels_last))
    return x


class DepthwiseConv(nn.Conv2d):
    """k×k, k odd, "same" padding, stride 1 or 2, no bias: [N, C, H, W] → [N, C, ceil(H/stride), ceil(W/stride)]."""

    def __init__(self, channels: int, kernel: int, stride: int = 1, dilation: int = 1):
        padding = dilation * (kernel - 1) // 2
        super().__init__(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        stride, dilation, padding = self.stride[0], self.dilation[0], self.padding[0]
        if stride == dilation == 2 and padding % 2 == 0:
            # every tap falls on an even row and column: a plain convolution on a quarter of the pixels
            x, stride, dilation, padding = dense_gradient(x.view_as(x))[:, :, ::2, ::2], 1, 1, padding // 2
        return F.conv2d(x, self.weight, None, stride, padding, dilation, self.groups)


def batch_norm(channels: int, trained: bool = True) -> nn.BatchNorm2d:
    """BatchNorm whose affine part trains only when `trained` (search keeps it at 1, 0 until the node freezes)."""
    return nn.BatchNorm2d(channels).requires_grad_(trained)


def last_norm(operation: nn.Module) -> nn.BatchNorm2d:
    """The BatchNorm that ends the operation: the one that applies the node's weight, and absorbs it at the freeze."""
    return norms(operation)[-1]


def gated(operation: nn.Module, x: Tensor, gate: Tensor) -> Tensor:
    """gate · operation(x), of a float 0-dim gate: by the affine part of the BatchNorm that ends it, which takes neither
    a pass nor memory. One that does not train still holds 1 and 0: the gate takes its place."""
    norm = last_norm(operation)
    if norm.weight.requires_grad:
        affine = {"weight": norm.weight * gate, "bias": norm.bias * gate}
    else:  # contiguous: torch's CPU kernel reads an expanded weight as if it were C numbers in a row
        affine = {"weight": gate.expand_as(norm.weight).contiguous()}
    with held([norm], **affine):
        return operation(x)


def norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


class ConvNorm(nn.Sequential):
    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, *activation: nn.Module):
        conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        super().__init__(conv, batch_norm(c_out), *activation)


class SyncedNorm(nn.BatchNorm2d):
    """While training, by the moments of all ranks' samples, in one message per pass. Unlike torch's SyncBatchNorm it
    runs on CPUs, too, and can be differentiated twice and forward."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or distributed.count() == 1:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        var, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
        means, variances = distributed.side_by_side(torch.stack([mean, var])).unbind(1)
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)  # every rank has as many samples
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)  # momentum None: a plain average over batches, as in torch
            factor = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            n = distributed.count() * x.numel() // x.shape[1]
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), factor)
            self.running_var.lerp_(var.detach().to(self.running_var.dtype) * (n / max(1, n - 1)), factor)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return torch.addcmul((self.bias - mean * scale)[:, None, None], wide, scale[:, None, None]).to(x.dtype)


@torch.no_grad()
def average_statistics(of: Iterable[nn.BatchNorm2d]) -> None:
    """Running statistics that each rank took of its own samples become their mean over ranks."""
    buffers = [b for norm in of if not isinstance(norm, SyncedNorm) for b in (norm.running_mean, norm.running_var)]
    if distributed.count() > 1 and buffers:
        torch._foreach_copy_(buffers, distributed.mean(buffers))
