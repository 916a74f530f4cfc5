"""PyramidNet (Han, Kim & Kim 2017) with ShakeDrop (Yamada et al. 2019). CIFAR-10: 97.3 by the baseline, with DA + HPO
98.6 (DiffAutoML, Table 2); error of the baseline and of DAAS 2.7 and 1.6, on CIFAR-100 14.0 and 11.0 (its Table 5)."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kit import registry
from kit.errors import KitError
from kit.search import ranks
from kit.space import Child, Network, Picks, register
from kit.space.layers import held

BRINGS = {k: {"paper": v} for k, v in (("epochs", 1800), ("lr", 0.05), ("weight_decay", 5e-5), ("batch_size", 64))}


def shaken(y: Tensor, keep: float, generator: torch.Generator | None) -> Tensor:
    """y [N, …] times b + α − bα forward and b + β − bβ backward, with b ~ Bernoulli(keep), α ~ U(−1, 1) and β ~ U(0, 1)
    of each sample's own. They are drawn on the device, so that no host waits for them."""
    drawn = torch.rand(len(y) * ranks.count(), 3, *(1,) * (y.ndim - 1), generator=generator, device=y.device)
    kept, alpha, beta = ranks.own(drawn).to(y.dtype).unbind(1)
    b = (kept < keep).to(y.dtype)
    forward, backward = (b + shift * (1 - b) for shift in (2 * alpha - 1, beta))
    return backward * y + ((forward - backward) * y).detach()


def block(c_in: int, c: int, stride: int, widen: int) -> nn.Sequential:
    """[N, c_in, H, W] to [N, c · widen, H/stride, W/stride]; widen 1: 3×3 twice, 4: 1×1, 3×3 and 1×1."""
    kernels, widths = ((3, 3), (c_in, c, c)) if widen == 1 else ((1, 3, 1), (c_in, c, c, c * widen))
    layers: list[nn.Module] = [nn.BatchNorm2d(c_in)]
    for i, (kernel, a, b) in enumerate(zip(kernels, widths, widths[1:])):
        halves = stride if i == len(kernels) - 2 else 1  # the 3×3 one
        layers += [nn.Conv2d(a, b, kernel, halves, kernel // 2, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@register("pyramidnet-272", title="PyramidNet-272 + ShakeDrop", depth=272, widening=200, widen=4, brings=BRINGS)
@register("pyramidnet-110", title="PyramidNet-110 + ShakeDrop", depth=110, widening=48, widen=1, brings=BRINGS)
class PyramidNet(Network):
    """For 8…64 pixels: three groups of n blocks, each widening / 3n channels wider than the one before, from 16 on.
    Block l of L keeps its output with probability 1 − l/L · shake_drop, and in evaluation has it times that. Shortcuts
    have no weights: they pool where the resolution halves, and new channels are zero."""

    searchable = False

    class Options(registry.Options):
        shake_drop: float = Field(0.5, ge=0, lt=1, description="PyramidNet: share of the last block's outputs shaken")

    def __init__(self, classes: int, image, depth: int, widening: int, widen: int, shake_drop: float = 0.5):
        super().__init__(classes, image)
        if min(image[1:]) < 8:
            raise KitError(f"PyramidNet-{depth} needs 8×8 pixels, got {image[1]}×{image[2]}: set image_size=8 or more")
        n = (depth - 2) // (9 if widen == 4 else 6)
        self.stem = nn.Sequential(nn.Conv2d(image[0], 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16))
        self.strides, self.shakes = [2 if i in (n, 2 * n) else 1 for i in range(3 * n)], True
        self.keep = [1 - (i + 1) / (3 * n) * shake_drop for i in range(3 * n)]
        self.blocks, c_in = nn.ModuleList(), 16
        for i, stride in enumerate(self.strides):
            self.blocks.append(block(c_in, c := round(16 + (i + 1) * widening / (3 * n)), stride, widen))
            c_in = c * widen
        self.last = nn.Sequential(nn.BatchNorm2d(c_in), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(c_in, classes)
        for conv in (m for m in self.modules() if isinstance(m, nn.Conv2d)):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def plain(self) -> Any:
        return held([self], drop_path=0.0, dropout=0.0, auxiliary=0.0, shakes=False)

    def scores(self, x: Tensor, child: Child) -> tuple[Tensor, None]:
        x = self.stem(x)
        for layers, stride, keep in zip(self.blocks, self.strides, self.keep):
            y, x = layers(x), F.avg_pool2d(x, 2, ceil_mode=True) if stride == 2 else x
            x = F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
            x = x + (shaken(y, keep, self.generator) if self.training and self.shakes else keep * y)
        return self.classifier(self.drop_features(self.last(x))), None

    def modules_of(self, picks: Picks) -> list[nn.Module]:
        return [self.stem, *self.blocks, self.last, self.classifier]
