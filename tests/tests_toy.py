"""Spaces small enough to enumerate, a network without BatchNorm, and the tiny real ones: what the proofs of the
estimators share.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from kit import space
from kit.arch import random_picks
from kit.space import Child, Cost, Network, Picks, Slot
from kit.space.layers import batch_norm
from kit.space.limits import Limits

FREE = Limits(None)  # binds nothing, so it asks no network
SMALL = {
    "cell": {"channels": 2, "cells": 3},
    "choice": {"channels": 8, "cells": 4},
    "mobile": {"channels": 8, "cells": 4},
}


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)


def block_slots(*sizes: int, picks: int = 1) -> tuple[Slot, ...]:
    """Slots of so many candidates, all on one edge."""
    return tuple(Slot(f"s{i}", tuple((chr(97 + c), 0) for c in range(n)), picks) for i, n in enumerate(sizes))


def edge_slots(*edges: int, operations: int = 2, picks: int = 2) -> tuple[Slot, ...]:
    """Slots of so many edges with `operations` each, as in a cell."""
    return tuple(
        Slot(f"s{i}", tuple((chr(97 + o), e) for e in range(n) for o in range(operations)), picks)
        for i, n in enumerate(edges)
    )


def priced(slots: tuple[Slot, ...], base: int = 1000) -> SimpleNamespace:
    """A network's slots and cost: candidate c of slot s has 100 (s + 1) (c + 1)² multiply-adds."""

    def cost(picks: Picks) -> Cost:
        return Cost(1, base + sum(100 * (s + 1) * (c + 1) ** 2 for s, chosen in enumerate(picks) for c in chosen))

    return SimpleNamespace(slots=slots, cost=cost)


def ordered_draws(slot: Slot) -> list[tuple[int, ...]]:
    return list(itertools.permutations(range(len(slot.candidates)), slot.takes))


def probability(logits: Tensor, order: tuple[int, ...]) -> Tensor:
    """Of an ordered draw without putting back, from the softmax alone."""
    p, left, total = logits.softmax(0), 1.0, 1.0
    for c in order:
        total, left = total * p[c] / left, left - p[c]
    return total


class Plain(Network):
    """A fixed network of two linear layers without BatchNorm, in float64: an image's loss is its own, and the Hessian
    is small.
    """

    def __init__(self, classes: int = 3, image: tuple[int, int, int] = (1, 4, 4), hidden: int = 3, seed: int = 0):
        super().__init__(classes, image)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(image[0] * image[1] * image[2], hidden), nn.Tanh(), nn.Linear(hidden, classes)
        )
        self.double()
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.copy_(0.5 * normal(*p.shape, seed=seed + i))

    def scores(self, x: Tensor, child: Child) -> tuple[Tensor, None]:
        return self.layers(x), None

    def modules_of(self, picks: Picks) -> list[nn.Module]:
        return [self.layers]

    def cost(self, picks: Picks) -> Cost:
        return Cost(1, 1)

    def genotype(self, picks: Picks) -> dict[str, Any]:
        return {}

    def picks_of(self, genotype: Any) -> Picks:
        return ()

    def spec(self, picks: Picks) -> dict[str, Any]:
        return {}


class Normed(Plain):
    """A convolution with BatchNorm before the classifier: images depend on each other."""

    def __init__(self, classes: int = 3, image: tuple[int, int, int] = (1, 4, 4)):
        super().__init__(classes, image)
        conv = nn.Conv2d(image[0], 2, 3, padding=1, bias=False)
        self.layers = nn.Sequential(
            conv, batch_norm(2), nn.Tanh(), nn.Flatten(), nn.Linear(2 * image[1] * image[2], classes)
        )
        self.double()
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.copy_(0.5 * normal(*p.shape, seed=i))


def supernet(name: str, image: tuple[int, int, int] = (1, 8, 8), **settings: Any) -> Network:
    """A real space at its smallest, in float64 and training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return space.build(name, 3, image, **(SMALL[name] | settings)).double().train()


def child_of(net: Network, seed: int = 0) -> Child:
    return Child(random_picks(net.slots, stream(seed), Limits(net)))


def batch(seed: int = 0, n: int = 4, image: tuple[int, int, int] = (1, 8, 8)) -> tuple[Tensor, Tensor]:
    g = stream(seed)
    return torch.randint(0, 256, (n, *image), generator=g, dtype=torch.uint8), torch.randint(0, 3, (n,), generator=g)


def batches(seed: int = 0, **settings: Any) -> Iterator[tuple[Tensor, Tensor]]:
    return (batch(seed + i, **settings) for i in itertools.count())
