"""A task in which one operation, one augmentation and one learning rate are clearly best: what a search should find, in
seconds.

Images are noise plus one of two patterns. Only the operation `signal` passes the pattern on; the others pass noise.
Validation images are
the training images' negatives, so that a policy whose training gradients should point along the validation gradient has
to invert.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kit import arch, augment, hyper
from kit.augment import Basics, Policy, PolicyGradient
from kit.search.build import Parts
from kit.search.grads import Momentum
from kit.search.learner import generator
from kit.search.step import STEPS, Samples
from kit.space import Child, Cost, Network, Picks, Slot
from kit.space.limits import Limits
from kit.space.network import gate_output

OPERATIONS = ("blur", "signal", "border", "mean")
PLANTED = {"operation": "signal", "augmentation": "Invert", "lr": 0.2}
RATES = (0.01, 0.2, 1.0)  # one step of the threshold is too short, right, or too long
SIDE = 8


class Passes(nn.Module):
    """A fixed function of the image with the same number of features for every operation; weights of its own only scale
    them.
    """

    def __init__(self, name: str, pattern: Tensor):
        super().__init__()
        self.name = name
        self.register_buffer("pattern", pattern)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        feature = {
            "signal": lambda: flat @ self.pattern / SIDE,
            "blur": lambda: (
                (flat + flat.roll(1, 1)) @ self.pattern / SIDE
            ),  # the pattern alternates: neighbours' mean has nothing of it
            "border": lambda: flat[:, :SIDE].sum(1),
            "mean": lambda: flat.mean(1) * SIDE,
        }[self.name]()
        return self.scale * torch.stack([feature, -feature], dim=1)


class PlantedNetwork(Network):
    """One slot with four operations, then a linear classifier. Multiply-adds: 100, 200, 300, 400 for the four, in their
    order.
    """

    absorbs_gates = True

    def __init__(self) -> None:
        super().__init__(2, (1, SIDE, SIDE))
        pattern = planted_pattern()
        self.slots = (Slot("slot", tuple((name, 0) for name in OPERATIONS), 1),)
        self.ops = nn.ModuleList([Passes(name, pattern) for name in OPERATIONS])
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
    """Brightness against a threshold that is too low at first: one step along the gradient leaves it there, mends it,
    or overshoots.
    """

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


def learn_rate(steps: int, seed: int = 0, hyper_lr: float = 0.1) -> float:
    """AutoHAS's controller over `RATES`, every step from the same weights: the probability of the planted learning rate
    at the end.
    """
    net = Threshold()
    net.mixer = generator(seed, "mixup")
    bases = hyper.read_bases("lr=" + ":".join(map(str, RATES)))
    learner = hyper.build("reinforce", 0.1, 0.0, step=hyper_lr, bases=bases, generator=generator(seed, "η"))
    parts = Parts(
        net,
        arch.Given((), ()),
        augment.build("none", generator(seed, "τ"), (SIDE, SIDE)),
        learner,
        Momentum(net, 0.0, 0.0),
    )
    batches = {name: _brightness(generator(seed, name)) for name in ("train", "val")}
    for _ in range(steps):
        with torch.no_grad():
            net.threshold.zero_()
        STEPS["reward"](net.train(), batches, parts.arch, parts.augment, learner, parts.sgd, 1.0, Samples())
    return float(learner.probabilities("lr")[RATES.index(PLANTED["lr"])])


def _brightness(chance: torch.Generator):
    """Dark and bright images: 0.2 and 0.6 after normalisation, in noise."""
    while True:
        labels = torch.randint(0, 2, (64,), generator=chance)
        pixels = 255 * (0.5 + 0.25 * (0.2 + 0.4 * labels[:, None])) + 5 * torch.randn(64, SIDE * SIDE, generator=chance)
        yield pixels.round().clamp(0, 255).to(torch.uint8).view(64, 1, SIDE, SIDE), labels


def planted_pattern() -> Tensor:
    """float [64]: ±1 in turn along every row."""
    return torch.tensor([1.0, -1.0]).repeat(SIDE * SIDE // 2)


def draw_images(n: int, chance: torch.Generator, negative: bool = False) -> tuple[Tensor, Tensor]:
    """n images uint8 [n, 1, 8, 8] and their labels: the pattern, or its negative, in noise that hides it from a single
    pixel.
    """
    labels = torch.randint(0, 2, (n,), generator=chance)
    pixels = (
        128 + 20 * (1 - 2 * labels)[:, None] * planted_pattern() + 30 * torch.randn(n, SIDE * SIDE, generator=chance)
    )
    pixels = 255 - pixels if negative else pixels
    return pixels.round().clamp(0, 255).to(torch.uint8).view(n, 1, SIDE, SIDE), labels


@dataclass
class Planted:
    """The planted task with learners by name. negatives: validation images are negatives of the training images."""

    parts: Parts
    step: str
    batches: dict

    @classmethod
    def of(
        cls,
        arch_name: str = "given",
        augment_name: str = "none",
        *,
        seed: int = 0,
        step: str = "one-level",
        negatives: bool = False,
        arch_lr: float = 0.1,
        tau_lr: float = 0.1,
    ) -> Planted:
        net = PlantedNetwork()
        net.mixer = generator(seed, "mixup")
        entry = arch.ARCH[arch_name]
        if entry.build is None:
            chooser: arch.ArchLearner = arch.Given(net.slots, net.picks_of({"operations": ["signal"]}))
        else:
            chooser = entry.build(
                arch.Settings(
                    net.slots,
                    generator(seed, "α"),
                    Limits(net),
                    lr=arch_lr,
                    device=torch.device("cpu"),
                    lam=1e-5,
                    recover="step",
                    freeze_tol=0.0,
                    margin=10.0,
                    temperature=(1.0, 0.3),
                    baseline=0.95,
                    target=None,
                )
            )
        policy = _policy(augment_name, generator(seed, "τ"), tau_lr)
        learner = hyper.build("fixed", 0.1, 0.0, step=0.1)
        parts = Parts(net, chooser, policy, learner, Momentum(net, 0.0, 0.0))
        return cls(
            parts,
            step,
            {name: _batches(generator(seed, name), negatives and name == "val") for name in ("train", "fresh", "val")},
        )

    def take(self, steps: int) -> list[float]:
        """Take steps; the training loss of each."""
        p, samples = self.parts, Samples(children=2, arch=2, first_order=self.parts.augment.variables() == [])
        p.net.train()
        losses = []
        for _ in range(steps):
            outcome = STEPS[self.step](p.net, self.batches, p.arch, p.augment, p.hyper, p.sgd, 1.0, samples)
            losses.append(float(outcome.losses.mean()))
        return losses

    # ---- how much of its probability a learner has put on what is planted ------------------------

    def operation(self) -> float:
        alpha = self.parts.arch.snapshot()["alpha"].abs()[0, : len(OPERATIONS)]
        return float(alpha[OPERATIONS.index("signal")] / alpha.sum())

    def inverted(self) -> float:
        """The probability that an image is inverted: by one of its two operations, and not by both."""
        policy = self.parts.augment
        found = policy.snapshot()
        place = policy.ops.index("Invert")
        applied = float(found["apply"][place]) if "apply" in found else 1.0
        pairs = found["probabilities"]
        first, second = pairs.sum(1)[place], pairs.sum(0)[place]
        both = float(pairs[place, place])
        one = float(first + second) - 2 * both
        return one * applied + both * 2 * applied * (1 - applied)


def _policy(name: str, chance: torch.Generator, lr: float) -> Policy:
    if name == "policy-gradient":
        return PolicyGradient(Basics(), chance, lr=lr, ops=("Invert", "Identity", "ShearX", "Posterize"))
    if name == "pair-softmax":
        return augment.PairSoftmax(Basics(), chance, lr=lr, ops=("Invert", "Identity", "ShearX", "Posterize"))
    return augment.build(name, chance, (SIDE, SIDE))


def _batches(chance: torch.Generator, negative: bool):
    while True:
        yield draw_images(64, chance, negative)


def watch(
    kind: str, learners: dict[str, dict], steps: int, seeds: int = 5, points: int = 20
) -> dict[str, list[list[float]]]:
    """For each learner, by name and the arguments of `Planted.of`: its probability on what is planted, per seed at
    `points` steps from 0.

    kind: "operation" or "inverted".
    """
    found: dict[str, list[list[float]]] = {}
    for name, given in learners.items():
        for seed in range(seeds):
            task = Planted.of(seed=seed, **given)
            curve = [getattr(task, kind)()]
            for _ in range(points - 1):
                task.take(steps // (points - 1))
                curve.append(getattr(task, kind)())
            found.setdefault(name, []).append(curve)
    return found
