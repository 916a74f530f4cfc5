"""kit without the room of the CPU kernels: the same layers, and the same pixels, by torch alone."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
sys.modules["kit.fast"] = None
import torch
from kit import augment, space
from kit.space import layers

assert not layers.FAST and layers.keep_freed() is None
x = torch.randn(2, 4, 6, 6, requires_grad=True)
parts = (layers.DepthwiseConv(4, 5, 1, 2), layers.batch_norm(4), layers.AveragePool(2), layers.MaxPool(1))
parts[1].gate = torch.tensor(0.5, requires_grad=True)
layers.dense_gradient(torch.nn.Sequential(*parts)(x)).sum().backward()
assert x.grad.abs().sum() > 0 and parts[1].gate.grad is not None
policy = augment.build("pair-softmax", torch.Generator().manual_seed(0), (8, 8))
assert policy.apply(torch.zeros(6, 1, 8, 8, dtype=torch.uint8), policy.sample(6)).shape == (6, 1, 8, 8)
net = space.build("cell", 3, (1, 8, 8), channels=2, cells=3, genotype=space.GENOTYPES["darts-v2"])
losses, _ = net.losses(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), net.only_child())
losses.sum().backward()
"""


def test_layers_networks_and_policies_work_without_it():
    subprocess.run([sys.executable, "-c", CODE], check=True)
