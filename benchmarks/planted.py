"""A task in which one operation, one augmentation and one learning rate are clearly best: what a search should find, in
seconds.

    python benchmarks/planted.py --seeds 20       # the table of reports/planted.md: how often each method finds it

Images are noise plus one of two patterns. Only the operation `signal` passes the pattern on; the others pass noise.
Validation images are the training images' negatives, so that a policy whose training gradients should point along the
validation gradient has to invert.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from kit import arch, augment, data, hyper
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
RIGHT = (0.12, 0.33)  # the rates at which that step ends between dark and bright images
OPS = ("Invert", "Identity", "ShearX", "Posterize")


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


class Again:
    """An iterator as validation batches, one to an epoch."""

    steps_per_epoch = 1

    def __init__(self, batches: Iterator[tuple[Tensor, Tensor]]):
        self.batches = batches

    def __next__(self) -> tuple[Tensor, Tensor]:
        return next(self.batches)


def finite(batches: Iterator[tuple[Tensor, Tensor]], n: int, seed: int) -> data.Batches:
    """Shuffled batches of the first n batches' images."""
    images, labels = map(torch.cat, zip(*(next(batches) for _ in range(n))))
    return data.Batches(data.ImageSet(images, labels), 64, generator(seed, "order"))


# ---- learners on the task ------------------------------------------------------------------------


class Planted:
    """The planted task with learners by name. negatives: validation images are negatives of the training images. steps:
    that the search takes in all, where a learner has to know. learned: steps in which the network has learned the
    images as they are; then it hardly learns any more. options: of the learners of τ and η, by name."""

    def __init__(
        self,
        arch_name: str = "given",
        augment_name: str = "none",
        *,
        seed: int = 0,
        step: str = "one-level",
        negatives: bool = False,
        arch_lr: float = 0.1,
        steps: int = 100,
        learned: int = 0,
        **options: Any,
    ):
        net = PlantedNetwork()
        net.mixer = generator(seed, "mixup")
        policy = _policy(augment_name, generator(seed, "τ"), steps, options)
        if learned:
            before = Planted(seed=seed)
            before.take(learned)
            net.load_state_dict(before.parts.net.state_dict())
        learner = hyper.Fixed(0.001 if learned else 0.1, 0.0)
        if step == "population":
            still = {"hyper_space": "mixup=0:0", "steps": steps}
            learner = _made(hyper.HYPER["pbt"], 0.3, 0.0, generator(seed, "η"), **options | still)
        self.parts = Parts(net, _chooser(arch_name, net, seed, arch_lr), policy, learner, Momentum(net, 0.0, 0.0))
        self.step = step
        self.batches = {name: patterns(generator(seed, name)) for name in ("train", "fresh")}
        self.batches["val"] = patterns(generator(seed, "val"), negatives)
        if step in ("population", "folds"):  # which read whole sets
            self.batches = {name: finite(self.batches[name], n, seed) for name, n in (("train", 8), ("val", 2))}

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
        """The share of images that are inverted, by one operation and not by two; of a schedule, over its second half.
        The policy's own random numbers stay as they were."""
        policy, place = self.parts.augment, augment.operations().index("Invert")
        past, before = len(getattr(policy, "past", ())), policy.generator.get_state()
        drawn = [policy.draw(4096, at) for at in range(past // 2 - past, 0)] or [policy.draw(4096)]
        policy.generator.set_state(before)
        return float((torch.cat([draw.ops for draw in drawn]) == place).sum(1).remainder(2).float().mean())


def _made(part: Any, *start: Any, **options: Any) -> Any:
    """A part's learner; of the options those that it has."""
    own = {"steps", *(part.options.model_fields if part.options else ())}
    return part.make(*start, **part.settings, **{name: value for name, value in options.items() if name in own})


def _policy(name: str, chance: torch.Generator, steps: int, options: dict[str, Any]) -> augment.Policy:
    """Over the operations `OPS`, if it learns which."""
    part, learns = augment.AUGMENT[name], {"tau_lr": 0.1} | options
    if name == "pair-softmax":  # eq. 2 as printed, which feeds on itself: the unbiased gradient of the loss lets go of
        learns |= {"tau_form": "paper", "tau_reach": 2.0, "tau_entropy": 0.0}  # what the network has learned
    if issubclass(part.make, augment.LearnedPolicy):
        own = {name: value for name, value in learns.items() if name in part.make.Options.model_fields}
        return part.make(augment.Basics(), chance, ops=OPS, steps=steps, **own)
    if hasattr(part.make, "ops"):
        own = {name: value for name, value in options.items() if name in part.make.Options.model_fields}
        return type(name, (part.make,), {"ops": OPS})(augment.Basics(), chance, steps=steps, **own)
    return augment.build(name, chance, (SIDE, SIDE))


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


def afresh(net: Threshold, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Training batches before each of which the network forgets."""
    for batch in batches:
        with torch.no_grad():
            net.threshold.zero_()
        yield batch


class PlantedRate:
    """A learner of η by name on the threshold, every step from the same weights. length: steps of a trial, at most."""

    def __init__(self, name: str, *, seed=0, steps=100, length=1, space="lr=0.01:1", **options: Any):
        net = Threshold().train()
        net.mixer = generator(seed, "mixup")
        policy = augment.build("none", generator(seed, "τ"), (SIDE, SIDE))
        given = {"hyper_space": space, "steps": steps, "trials": steps, **options}
        self.learner = _made(hyper.HYPER[name], 0.05, 0.0, generator(seed, "η"), **given)
        self.parts = Parts(net, arch.Given((), ()), policy, self.learner, Momentum(net, 0.0, 0.0))
        self.batches = {name: brightness(generator(seed, name)) for name in ("train", "fresh", "val")}
        self.batches |= {"train": afresh(net, self.batches["train"]), "val": Again(self.batches["val"])}
        self.steps, self.length, self.step = steps, length, "population" if name == "pbt" else "one-level"

    def take(self) -> float:
        """All steps or, where a learner tries settings, so many trials; the learning rate that is found."""
        for _ in range(self.steps):
            for last in [False] * (self.length - 1) + [True]:
                STEPS[self.step].make(self.parts, self.batches, 1.0)
                if self.learner.trials and self.learner.record_score(self.score(), last):
                    break
        return float(self.learner.result()["lr"])

    def score(self) -> float:
        """The accuracy on a validation batch."""
        return signals.accuracy(self.parts.net, next(self.batches["val"]), Child(()))


def learn_rate(steps: int, seed: int = 0) -> float:
    """AutoHAS's controller over `RATES`: the probability of the planted learning rate at the end."""
    task = PlantedRate("reinforce", seed=seed, steps=steps, space="lr=" + ":".join(map(str, RATES)), hyper_lr=0.1)
    task.take()
    return float(task.learner.probabilities()["lr"][RATES.index(PLANTED["lr"])])


# ---- every method, and how often it finds what is planted ----------------------------------------

# α: by name the step, and how many
OPERATION = {
    "dsnas": ("one-level", 100),
    "snas": ("one-level", 100),
    "darts": ("bi-level", 60),
    "gdas": ("bi-level", 60),
    "daas": ("bi-level", 60),
    "reinforce": ("reward", 100),
    "random-shared": ("one-level", 20),
    "spos": ("one-level", 20),
    "nsga-net": ("one-level", 20),
    "enas": ("one-level", 60),
    "manas": ("one-level", 150),
    "pc-darts": ("bi-level", 60),
    "p-darts": ("bi-level", 60),
    "sparse-coding": ("one-level", 300),
}
# τ: by name the task, its steps, and what share of the images has to be inverted
AUGMENTATION: dict[str, tuple[dict[str, Any], int, tuple[float, float]]] = {
    "policy-gradient": ({"step": "bi-level"}, 110, (0.8, 1.0)),
    "pair-softmax": ({"tau_lr": 0.5}, 50, (0.8, 1.0)),
    "dada": ({"step": "bi-level"}, 60, (0.8, 1.0)),
    "pba": ({"step": "population", "members": 8, "exploits": 30}, 1200, (0.5, 1.0)),
    "adversarial-autoaugment": ({"step": "copies", "learned": 40, "tau_lr": 0.02}, 60, (0.8, 1.0)),
    "fast-autoaugment": ({"step": "folds", "folds": 2, "policy_trials": 40, "negatives": False}, 40, (0.0, 0.05)),
}
# η: by name the steps and options
RATE: dict[str, tuple[int, dict[str, Any]]] = {
    "reinforce": (100, {"space": "lr=0.01:0.2:1", "hyper_lr": 0.1}),
    "reinforce-in-turn": (100, {"space": "lr=0.01:0.2:1", "hyper_lr": 0.1}),
    "mixture": (200, {"space": "lr=0.01:0.2:1", "hyper_lr": 0.05}),
    "fresh": (200, {"hyper_lr": 0.05}),
    "validation": (200, {"hyper_lr": 0.05}),
    "random-search": (10, {}),
    "bayesian": (10, {}),
    "asha": (10, {"length": 9}),
    "hyperband": (10, {"length": 9}),
    "pbt": (160, {"members": 8, "exploits": 20}),
}


def finds_augmentation(name: str, seed: int) -> tuple[bool, float]:
    """Whether this learner of τ does, and the share of images that it inverts in the end."""
    task, steps, (low, high) = AUGMENTATION[name]
    planted = Planted("given", name, seed=seed, steps=steps, **{"negatives": True} | task)
    planted.take(steps)
    return low <= (share := planted.inverted()) <= high, share


def finds_rate(name: str, seed: int) -> tuple[bool, float]:
    """Whether this learner of η does, and the learning rate that it ends with."""
    steps, options = RATE[name]
    found = PlantedRate(name, seed=seed, steps=steps, **options).take()
    return RIGHT[0] <= found <= RIGHT[1], found


def finds_operation(name: str, seed: int) -> tuple[bool, float]:
    """Whether this learner of α ends with the planted operation, and its share of α."""
    step, steps = OPERATION[name]
    task = Planted(name, step=step, seed=seed, arch_lr={"sparse-coding": 0.3, "enas": 0.05}.get(name, 0.1))
    return task.found(steps), task.operation()


def report(seeds: int) -> str:
    """A line for each method: in how many of the seeds it finds what is planted, and what it ends with."""
    lines = ["| | method | steps | finds it | ends with: median, least, most | seconds |", "|---|---|---|---|---|---|"]
    every = {"α": (OPERATION, finds_operation), "τ": (AUGMENTATION, finds_augmentation), "η": (RATE, finds_rate)}
    for letter, (names, finds) in every.items():
        for name, given in names.items():
            began = time.thread_time()
            found, ends = zip(*(finds(name, seed) for seed in range(seeds)))
            steps, seconds = next(x for x in given if isinstance(x, int)), (time.thread_time() - began) / seeds
            shown = f"{statistics.median(ends):.2f}, {min(ends):.2f}, {max(ends):.2f}"
            lines.append(f"| {letter} | `{name}` | {steps:,} | {sum(found)} of {seeds} | {shown} | {seconds:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", type=int, default=5)
    torch.set_num_threads(1)
    print(report(asked.parse_args().seeds))
