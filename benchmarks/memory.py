"""What a search step keeps in memory beside training the sampled child: AutoHAS and single-path estimators against the
differentiable mixture.

Counted, not sampled: the bytes that autograd keeps for the backward pass (each storage once), and the bytes of weights,
gradients and momentum that a step touches.

    python benchmarks/memory.py [--image 32] [--channels 32] [--cells 17] [--batch 32]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import common
import torch
from torch.autograd.graph import saved_tensors_hooks

from kit import arch, space
from kit.search import grads
from kit.search.learner import generator
from kit.space import Child, Network
from kit.space.limits import Limits


@dataclass
class Kept:
    activations: int
    weights: int

    @property
    def total(self) -> int:
        return self.activations + self.weights


def measure(net: Network, child: Child, x: torch.Tensor, y: torch.Tensor) -> Kept:
    """One forward and backward pass of a child."""
    storages: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        losses, _ = net.losses(x, y, child)
    gradient = grads.backward(losses.mean(), net, child)
    touched = sum(p.numel() * p.element_size() for p in gradient.parameters)
    return Kept(sum(storages.values()), 3 * touched)  # weight, gradient, momentum


def section(image: int = 32, channels: int = 32, cells: int = 17, batch: int = 32) -> str:
    torch.manual_seed(0)
    x = torch.randint(0, 256, (batch, 3, image, image), dtype=torch.uint8)
    y = torch.randint(0, 10, (batch,))
    net = space.build("mobile", 10, (3, image, image), channels=channels, cells=cells).train()
    children: dict[str, Child] = {}
    for name in ("reinforce", "dsnas", "daas", "darts"):
        part = arch.ARCH[name]
        learner = part.make(net.slots, generator(0, name), Limits(net), arch_lr=0.01, **part.settings)
        children[name] = learner.sample()
    base_child = net.picks_of(space.MobileNetwork.genotypes["mobilenet-v2"])
    alone = space.build(
        "mobile", 10, (3, image, image), channels=channels, cells=cells, genotype=net.spec(base_child)["genotype"]
    ).train()
    base = measure(alone, alone.only_child(), x, y)
    rows = []
    for name, child in children.items():
        kept = measure(net, child, x, y)
        rows.append(
            (
                name,
                *(f"{n / 2**20:.0f}" for n in (kept.activations, kept.weights, kept.total)),
                f"{kept.total / base.total:.2f}",
            )
        )
    everything = 3 * sum(p.numel() * p.element_size() for p in net.parameters())
    return (
        f"## memory: MobileNetV2 blocks, C={channels}, {cells} blocks, 3×{image}×{image}, batch {batch}, float32\n\n"
        "Counted, so exact (n = 1). Baseline: the kernel 3, expansion 6 child trained alone, "
        f"{base.total / 2**20:.0f} MB ({base.activations / 2**20:.0f} MB "
        "of activations). AutoHAS's Table 3 gives 1.8 (REINFORCE) and 6.1 (differentiable) times the baseline.\n\n"
        + common.table(
            ("α learner", "activations, MB", "weights, gradients, momentum, MB", "together, MB", "÷ baseline"), rows
        )
        + f"\n\nThe supernet's weights, momentum and gradients, were all of them kept: {everything / 2**20:.0f} MB. "
        "A single-path step adds the resting "
        f"weights and momentum of the others, {everything * 2 / 3 / 2**20:.0f} MB at most.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("image", 32), ("channels", 32), ("cells", 17), ("batch", 32)):
        parser.add_argument(f"--{name}", type=int, default=value)
    print(section(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
