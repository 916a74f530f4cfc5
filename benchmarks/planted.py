"""A task in which one operation, one augmentation and one learning rate are clearly best: what a search should find, in
seconds.

Images are noise plus one of two patterns. Only the operation `signal` passes the pattern on; the others pass noise.
Validation images are the training images' negatives, so that a policy whose training gradients should point along the
validation gradient has to invert.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kit import arch, augment, hyper
from kit.search import signals
from kit.search.grads import Momentum
from kit.search.learner import generator
from kit.search.signals import Parts
from kit.search.step import STEPS, TwoLevelOptions
from kit.space import Child, Cost, Network, Picks, Slot
from kit.space.limits import Limits
from kit.space.network import gate_output

SIDE = 8
PATTERN = torch.tensor([1.0, -1.0]).repeat(SIDE * SIDE // 2)  # float [64]: in turn along every row
FILTERS = {  # operation → what it weighs the pixels with
    "blur": (PATTERN + PATTERN.roll(-1)) / SIDE,  # nothing is left of a pattern that alternates
    "signal": PATTERN / SIDE,
    "border": (torch.arange(SIDE * SIDE) < SIDE).float(),
    "mean": torch.ones(SIDE * SIDE) / SIDE,
}
OPERATIONS = tuple(FILTERS)
PLANTED = {"operation": "signal", "augmentation": "Invert", "lr": 0.2}
RATES = (0.01, 0.2, 1.0)  # one step of the threshold is too short, right, or too long


class Filter(nn.Module):
    """A fixed linear feature of the image and its negative; the weight of its own only scales them."""

    def __init__(self, name: str):
        super().__init__()
        self.register_buffer("filter", FILTERS[name])
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        feature = x.flatten(1) @ self.filter
        return self.scale * torch.stack([feature, -feature], dim=1)


class PlantedNetwork(Network):
    """One slot with four operations, then a linear classifier. Multiply-adds: 100, 200, 300, 400 for the four."""

    absorbs_gates = True

    def __init__(self) -> None:
        super().__init__(2, (1, SIDE, SIDE))
        self.slots = (Slot("slot", tuple((name, 0) for name in OPERATIONS), 1),)
        self.ops = nn.ModuleList([Filter(name) for name in OPERATIONS])
        self.classifier = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.classifier.weight)
        with torch.no_grad():
            self.classifier.weight.mul_(0.3)

    def scores(self, x: Tensor, child: Child) -> tuple[Tensor, None]:
        outputs = [self.ops[c](x) for c in child.picks[0]]
        if (gate := child.gate(0)) is not None:
            outputs = [gate_output(y, g, child.unit) for y, g in zip(outputs, gate.unbind())]
        return self.classifier(sum(outputs)), None

    def modules_of(self, picks: Picks) -> list[nn.Module]:
        return [*(self.ops[c] for c in picks[0]), self.classifier]

    def cost(self, picks: Picks) -> Cost:
        return Cost(5, sum(100 * (c + 1) for c in picks[0]))

    def genotype(self, picks: Picks) -> dict:
        return {"operations": [OPERATIONS[c] for c in picks[0]]}

    def picks_of(self, genotype: dict) -> Picks:
        return (tuple(OPERATIONS.index(name) for name in genotype["operations"]),)

    def spec(self, picks: Picks) -> dict:
        raise NotImplementedError("the planted network is an example; it is not deployed")


class Threshold(PlantedNetwork):
    """Brightness against a threshold that is too low at first: one step leaves it there, mends it, or overshoots."""

    def __init__(self) -> None:
        super().__init__()
        self.slots, self.ops, self.classifier = (), nn.ModuleList(), nn.Module()
        self.threshold = nn.Parameter(torch.zeros(()))

    def scores(self, x: Tensor, child: Child) -> tuple[Tensor, None]:
        z = 5.0 * (x.mean(dim=(1, 2, 3)) + self.threshold)
        return torch.stack([-z / 2, z / 2], dim=1), None

    def modules_of(self, picks: Picks) -> list[nn.Module]:
        return [self]

    def cost(self, picks: Picks) -> Cost:
        return Cost(1, 0)


# ---- images --------------------------------------------------------------------------------------


def patterns(chance: torch.Generator, negative: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images uint8 [64, 1, 8, 8] and labels int64 [64]: the pattern, or its negative, in noise that hides it
    from a single pixel. negative: of the images, whose labels stay."""
    while True:
        labels = torch.randint(0, 2, (64,), generator=chance)
        noise = torch.randn(64, SIDE * SIDE, generator=chance)
        pixels = 128 + 20 * (1 - 2 * labels)[:, None] * PATTERN + 30 * noise
        yield _uint8(255 - pixels if negative else pixels), labels


def brightness(chance: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of dark and bright images: 0.2 and 0.6 after normalisation, in noise."""
    while True:
        labels = torch.randint(0, 2, (64,), generator=chance)
        noise = torch.randn(64, SIDE * SIDE, generator=chance)
        yield _uint8(255 * (0.5 + 0.25 * (0.2 + 0.4 * labels[:, None])) + 5 * noise), labels


def _uint8(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, 255).to(torch.uint8).view(-1, 1, SIDE, SIDE)


# ---- learners on the task ------------------------------------------------------------------------


class Planted:
    """The planted task with learners by name. negatives: validation images are negatives of the training images."""

    def __init__(
        self,
        arch_name: str = "given",
        augment_name: str = "none",
        *,
        seed: int = 0,
        step: str = "one-level",
        negatives: bool = False,
        arch_lr: float = 0.1,
        tau_lr: float = 0.1,
    ):
        net = PlantedNetwork()
        net.mixer = generator(seed, "mixup")
        chance = generator(seed, "τ")
        if augment_name in POLICIES:
            policy = POLICIES[augment_name](augment.Basics(), chance, tau_lr=tau_lr, ops=OPS)
        else:
            policy = augment.build(augment_name, chance, (SIDE, SIDE))
        learner = hyper.Fixed(0.1, 0.0)
        self.parts = Parts(net, _chooser(arch_name, net, seed, arch_lr), policy, learner, Momentum(net, 0.0, 0.0))
        self.step = step
        self.batches = {name: patterns(generator(seed, name)) for name in ("train", "fresh")}
        self.batches["val"] = patterns(generator(seed, "val"), negatives)

    def take(self, steps: int) -> list[float]:
        """Take steps; the training loss of each."""
        p = self.parts
        p.draws = TwoLevelOptions(children=2, arch_samples=2)
        p.net.train()
        losses = []
        for _ in range(steps):
            outcome = STEPS[self.step].make(p, self.batches, 1.0)
            losses.append(float(outcome.losses.mean()))
        return losses

    def operation(self) -> float:
        """The share of α on the planted operation."""
        alpha = self.parts.arch.snapshot()["alpha"].abs()[0, : len(OPERATIONS)]
        return float(alpha[OPERATIONS.index("signal")] / alpha.sum())

    def found(self, steps: int) -> bool:
        """Whether a search of so many steps ends with the planted operation. What chooses in the end does so by the
        accuracy on one validation batch."""
        self.take(steps)
        held_out = next(self.batches["val"])
        self.parts.arch.choose(lambda picks: signals.accuracy(self.parts.net, held_out, Child(picks)))
        return self.parts.net.genotype(self.parts.arch.picks) == {"operations": ["signal"]}

    def inverted(self) -> float:
        """The probability that an image is inverted: by one of its two operations, and not by both."""
        tau, place = self.parts.augment.snapshot(), self.parts.augment.ops.index("Invert")
        applied = float(tau["apply"][place]) if "apply" in tau else 1.0
        pairs = tau["probabilities"]
        both = float(pairs[place, place])
        one = float(pairs.sum(1)[place] + pairs.sum(0)[place]) - 2 * both
        return one * applied + both * 2 * applied * (1 - applied)


OPS = ("Invert", "Identity", "ShearX", "Posterize")
POLICIES = {
    "policy-gradient": augment.PolicyGradient,
    # eq. 2 as printed, which feeds on itself: the unbiased gradient of the loss lets go of what the network has learned
    "pair-softmax": functools.partial(augment.PairSoftmax, tau_form="paper", tau_reach=2.0, tau_entropy=0.0),
}


# one LASSO a step, nothing freezes, and the temperature stays
OPTIONS = {"recover": "step", "freeze_tol": 0.0, "b_std": 1.0, "fix_margin": 0.999, "candidates": 20, "population": 5}


def _chooser(name: str, net: PlantedNetwork, seed: int, lr: float) -> arch.ArchLearner:
    part = arch.ARCH[name]
    if not part.make.searches:
        return arch.Given(net.slots, net.picks_of({"operations": ["signal"]}))
    asked = OPTIONS | {"arch_lr": lr}
    options = {key: value for key, value in asked.items() if key in part.options.model_fields}
    return part.make(net.slots, generator(seed, "α"), Limits(net), **part.settings, **options)


def watch(
    kind: str, learners: dict[str, dict], steps: int, seeds: int = 5, points: int = 20
) -> dict[str, list[list[float]]]:
    """For each learner, by name and the arguments of `Planted`: its probability on what is planted, per seed at
    `points` steps from 0. kind: "operation" or "inverted"."""
    found: dict[str, list[list[float]]] = {name: [] for name in learners}
    for name, given in learners.items():
        for seed in range(seeds):
            task = Planted(seed=seed, **given)
            curve = [getattr(task, kind)()]
            for _ in range(points - 1):
                task.take(steps // (points - 1))
                curve.append(getattr(task, kind)())
            found[name].append(curve)
    return found


def learn_rate(steps: int, seed: int = 0) -> float:
    """AutoHAS's controller over `RATES`, every step from the same weights: the probability of the planted learning rate
    at the end."""
    net = Threshold().train()
    net.mixer = generator(seed, "mixup")
    rates = "lr=" + ":".join(map(str, RATES))
    learner = hyper.Controller(0.1, 0.0, generator(seed, "η"), hyper_space=rates, hyper_lr=0.1)
    policy = augment.build("none", generator(seed, "τ"), (SIDE, SIDE))
    parts = Parts(net, arch.Given((), ()), policy, learner, Momentum(net, 0.0, 0.0))
    batches = {name: brightness(generator(seed, name)) for name in ("train", "val")}
    for _ in range(steps):
        with torch.no_grad():
            net.threshold.zero_()
        STEPS["reward"].make(parts, batches, 1.0)
    return float(learner.probabilities()["lr"][RATES.index(PLANTED["lr"])])
