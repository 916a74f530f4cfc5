"""BatchNorm over the whole batch of a search on several ranks (`sync_batchnorm`), and what is done with the statistics
without it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kit.search import ranks as distributed
from kit.space.layers import GatedNorm


class SyncedNorm(GatedNorm):
    """While training, by the moments of all ranks' samples: the same numbers as one process with the whole batch, one
    message per pass.

    In plain differentiable operations, unlike torch's SyncBatchNorm: it runs on CPUs, too, and can be differentiated
    twice and forward.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or distributed.count() == 1:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        var, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
        means, variances = distributed.side_by_side(torch.stack([mean, var])).unbind(1)
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)  # every rank has as many samples
        self.track(mean, var, distributed.whole(x.numel() // x.shape[1]))
        weight, bias = self.gated_affine()
        scale = weight * torch.rsqrt(var + self.eps)
        shape = (1, -1, 1, 1)
        return torch.addcmul((bias - mean * scale).view(shape), wide, scale.view(shape)).to(x.dtype)


def synchronize(net: nn.Module) -> None:
    """Let every BatchNorm of the network be a `SyncedNorm`: the same objects, so that whoever holds one holds it
    still.
    """
    for norm in norms(net):
        norm.__class__ = SyncedNorm


@torch.no_grad()
def average_statistics(of: Iterable[nn.BatchNorm2d]) -> None:
    """Running statistics that each rank took of its own samples become their mean over ranks; those of `SyncedNorm` are
    the same already.
    """
    buffers = [b for norm in of if not isinstance(norm, SyncedNorm) for b in (norm.running_mean, norm.running_var)]
    if distributed.count() > 1 and buffers:
        torch._foreach_copy_(buffers, distributed.mean(buffers))


def norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
