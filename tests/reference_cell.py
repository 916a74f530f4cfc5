"""The cell network once more, as plainly as it can be written: functional calls on the weights of a kit network, in
DARTS's order.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def conv(x: Tensor, w: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    groups = x.shape[1] // w.shape[1]
    return F.conv2d(x, w, stride=stride, padding=dilation * (w.shape[-1] - 1) // 2, dilation=dilation, groups=groups)


class Reference:
    """Scores of one child. state: the network's own state_dict; training: BatchNorm by the batch, else by the running
    statistics.
    """

    def __init__(self, state: dict[str, Tensor], training: bool):
        self.state, self.training = state, training

    def norm(self, x: Tensor, at: str) -> Tensor:
        s = self.state
        mean, var = s[f"{at}.running_mean"], s[f"{at}.running_var"]
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        scale = s[f"{at}.weight"] / (var + 1e-5).sqrt()
        return (x - mean[None, :, None, None]) * scale[None, :, None, None] + s[f"{at}.bias"][None, :, None, None]

    def relu_conv_norm(self, x: Tensor, at: str, stride: int = 1) -> Tensor:
        return self.norm(conv(F.relu(x), self.state[f"{at}.0.weight"], stride), f"{at}.1")

    def factorized(self, x: Tensor, at: str) -> Tensor:
        x = F.relu(x)
        weight = self.state[f"{at}.0.weight"]
        half = len(weight) // 2
        even = conv(x, weight[:half], 2)
        odd = F.conv2d(F.pad(x, (0, 2, 0, 2))[:, :, 1:, 1:], weight[half:], stride=2)
        return self.norm(torch.cat([even, odd[:, :, : even.shape[2], : even.shape[3]]], 1), f"{at}.1")

    def operation(self, name: str, x: Tensor, at: str, stride: int) -> Tensor:
        s = self.state
        if name.startswith("sep_conv"):
            y = self.norm(conv(conv(F.relu(x), s[f"{at}.0.weight"], stride), s[f"{at}.1.weight"]), f"{at}.2")
            return self.norm(conv(conv(F.relu(y), s[f"{at}.4.weight"]), s[f"{at}.5.weight"]), f"{at}.6")
        if name.startswith("dil_conv"):
            return self.norm(conv(conv(F.relu(x), s[f"{at}.0.weight"], stride, 2), s[f"{at}.1.weight"]), f"{at}.2")
        if name == "max_pool_3x3":
            return self.norm(F.max_pool2d(x, 3, stride, 1), f"{at}.1")
        if name == "avg_pool_3x3":
            return self.norm(F.avg_pool2d(x, 3, stride, 1, count_include_pad=False), f"{at}.1")
        return self.norm(x, f"{at}.1") if stride == 1 else self.factorized(x, at)

    def scores(
        self,
        images: Tensor,
        genotype: dict,
        cells: int,
        reductions: int,
        gates: list | None = None,
        imagenet: bool = False,
    ) -> Tensor:
        s = self.state
        x = (images.to(s["classifier.weight"].dtype) / 255 - s["mean"]) / s["std"]
        if imagenet:
            before = self.norm(conv(x, s["stem.0.0.weight"], 2), "stem.0.1")
            before = self.norm(conv(F.relu(before), s["stem.0.3.weight"], 2), "stem.0.4")
            last = self.relu_conv_norm(before, "stem.1", 2)
        else:
            before = last = self.norm(conv(x, s["stem.0.0.weight"]), "stem.0.1")
        reducing = [(i + 1) * cells // (reductions + 1) for i in range(reductions)]
        for i in range(cells):
            at = f"cells.{i}"
            first = self.factorized if before.shape[2] != last.shape[2] else self.relu_conv_norm
            nodes = [first(before, f"{at}.before"), self.relu_conv_norm(last, f"{at}.last")]
            kind = "reduce" if i in reducing else "normal"
            for node, entries in enumerate(genotype[kind]):
                total = 0
                for k, (name, edge) in enumerate(entries):
                    stride = 2 if kind == "reduce" and edge < 2 else 1
                    y = self.operation(name, nodes[edge], f"{at}.ops.{node}-{edge}-{name}", stride)
                    total = total + (y if gates is None else gates[node + 4 * (kind == "reduce")][k] * y)
                nodes.append(total)
            before, last = last, torch.cat(nodes[2:], 1)
        return last.mean((2, 3)) @ s["classifier.weight"].T + s["classifier.bias"]
