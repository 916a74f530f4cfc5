"""What every searchable or fixed network has in common: slots and children, losses, statistics, genotypes, costs."""

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit.errors import KitError
from kit.registry import Registry
from kit.search import ranks as distributed
from kit.space.layers import held, norms

SPACES = Registry("space")
register = SPACES.register
Picks = tuple[tuple[int, ...], ...]  # for each slot the chosen candidates' indices
Size = tuple[int, int, int]  # of an image: C, H, W


class Slot(NamedTuple):
    """One architectural decision: a child takes `takes` of the candidates, which are (operation, input edge) pairs: two
    for a node of the cell space, one for a block of a chain. Learners see nothing but slots."""

    name: str
    candidates: tuple[tuple[str, int], ...]
    takes: int = 1


def everything(slots: Iterable[Slot]) -> Picks:
    """All candidates of every slot: a mixture that runs each operation once."""
    return tuple(tuple(range(len(slot.candidates))) for slot in slots)


def alone(slots: Sequence[Slot], slot: int, candidate: int) -> Picks:
    return tuple((candidate,) if i == slot else () for i in range(len(slots)))


@dataclass(frozen=True)
class Child:
    """An architecture, and how the learner weighs its operations.

    picks: a mixture (DARTS, SNAS) may pick any number of a slot's candidates. gates: for each slot a float tensor
    [picks] that multiplies the candidates' outputs, or None for a plain sum; those that require grad receive ∂L/∂gate.
    unit: every gate is exactly 1, for its gradient alone (DSNAS, hard Gumbel). memory: what the learner keeps of it."""

    picks: Picks
    gates: tuple[Tensor | None, ...] = field(default=(), compare=False)
    unit: bool = field(default=False, compare=False)
    memory: Any = field(default=None, compare=False, repr=False)

    def gate(self, slot: int) -> Tensor | None:
        return self.gates[slot] if self.gates else None

    def detached(self) -> Self:
        """The same function with constant gates."""
        constant = () if self.unit else tuple(None if gate is None else gate.detach() for gate in self.gates)
        return Child(self.picks, constant)


class Cost(NamedTuple):
    """Parameters and multiply-adds per image of the network that is deployed (no auxiliary head)."""

    params: int
    macs: int


def picked(slot: Slot, entries: Any) -> tuple[int, ...]:
    """Candidates' indices of [operation, input] pairs, or of names where a slot has one input; KitError for others."""
    listed = entries if isinstance(entries, (list, tuple)) else [entries]
    pairs = [tuple(entry) if isinstance(entry, (list, tuple)) else (entry, 0) for entry in listed]
    if len(pairs) != slot.takes or any(pair not in slot.candidates or pairs.count(pair) > 1 for pair in pairs):
        names, inputs = (list(dict.fromkeys(part)) for part in zip(*slot.candidates))
        takes = f"{slot.takes} different [operation, input], inputs {inputs}, operations" if inputs[1:] else "one of"
        raise KitError(f"genotype {slot.name}: it takes {takes} {', '.join(names)}; got {entries!r}")
    return tuple(map(slot.candidates.index, pairs))


class _UnitGate(torch.autograd.Function):
    """y for a gate of exactly 1: ∂L/∂y = g, ∂L/∂gate = ⟨g, y⟩. Keeps y, as the next layer does, and no new tensor."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(y, gate)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        y, gate = ctx.saved_tensors
        wide = torch.promote_types(g.dtype, torch.float32)  # a sum over a feature map in bfloat16 would round away
        return g, (g.to(wide) * y).sum().to(gate.dtype)


def gate_output(y: Tensor, gate: Tensor, unit: bool = False) -> Tensor:
    """gate · y for a candidate's output y and its 0-dim gate; unit: y itself, and ∂L/∂gate as if multiplied."""
    if not unit:
        return y * gate
    return _UnitGate.apply(y, gate) if gate.requires_grad else y


def mixture(outputs: list[Tensor], child: Child, slot: int) -> Tensor:
    """The sum of what a slot's picked candidates give, each times its gate."""
    gate = child.gate(slot)
    if gate is not None:
        outputs = [gate_output(y, g, child.unit) for y, g in zip(outputs, gate.unbind())]
    return functools.reduce(torch.add, outputs)


def drop(x: Tensor, p: float, generator: torch.Generator | None, whole: bool = False) -> Tensor:
    """Dropout of x [N, …] with probability p < 1, rescaled; whole: of all of a sample at once (drop-path, DARTS)."""
    if p == 0.0:
        return x
    rest = (1,) * (x.ndim - 1) if whole else x.shape[1:]
    drawn = torch.rand(x.shape[0] * distributed.count(), *rest, generator=generator, device=x.device)
    return x * ((distributed.own(drawn) >= p).to(x.dtype) / (1.0 - p))


class Network(nn.Module, ABC):
    """Images to class scores. Input is uint8 [N, C, H, W]; normalisation is part of the model.

    A space is a subclass, registered with `kit.space.register`. Its `__init__` takes classes, image [C, H, W], and by
    name what it needs of the configuration and its own `Options`; it calls `offer` with its slots before it builds its
    layers. Without a genotype it is the supernet, with one that child alone, whose parameters have the same names."""

    space: str = ""  # the name that it was built under
    searchable: bool = True
    absorbs_gates: bool = False  #: `freeze_slot` takes over gates that are not 1, so that nothing jumps at the freeze
    own_drop_paths: int = 0  #: how many blocks have a drop-path each, where a search sets them
    repeats: bool = False  #: the same slots at any depth (cells): a shallower network may search for a deeper one
    genotypes: Mapping[str, Any] = {}  # architectures by name
    usual: str | None = None  # the one for arch='given' where none is named
    offered: tuple[Slot, ...] = ()  # the supernet's slots; `slots`: with the candidates that this network has
    slots: tuple[Slot, ...] = ()
    auxiliary: float = 0.0

    def __init__(self, classes: int, image: Size):
        super().__init__()
        self.classes, self.image = classes, tuple(image)
        self.large = min(image[1:]) >= 128  # the stem makes these smaller
        self.settings: dict[str, Any] = {}  # by which `kit.space.build` makes it again
        self.register_buffer("mean", torch.full((1, image[0], 1, 1), 0.5))
        self.register_buffer("std", torch.full((1, image[0], 1, 1), 0.25))
        self.amp_dtype: torch.dtype | None = None
        self.drop_path = 0.0
        self.dropout = 0.0  # of the features before the classifier
        self.mixup = 0.0  # the parameter of Beta(a, a); see kit.search.signals.mixed
        self.generator: torch.Generator | None = None  # of drop-path and dropout
        self.mixer: torch.Generator | None = None  # of mixup, on the CPU
        self._last: tuple[Picks | None, list[nn.Parameter]] = None, []  # a child, and its parameters
        self._cost_of: dict[nn.Module, Cost] = {}

    @classmethod
    def check(cls, config: Any) -> None:
        """Raises KitError for a configuration that the space cannot take, whatever the images are."""

    @abstractmethod
    def scores(self, x: Tensor, child: Child) -> tuple[Tensor, Tensor | None]:
        """[N, classes], of normalised float images, and the auxiliary head's while training (else None)."""

    @abstractmethod
    def modules_of(self, picks: Picks) -> list[nn.Module]:
        """The modules that run for a child (the auxiliary head too); a slot may have any number of picks, also none."""

    def freeze_slot(self, slot: int, picks: tuple[int, ...], gate: Tensor | None) -> None:
        """Fix a slot: affine parts of its operations that rested start to train and take over the gate's value."""

    def offer(self, slots: tuple[Slot, ...], genotype: Any = None) -> None:
        """Set the slots, with all their candidates, or with those alone that the genotype picks."""
        self.offered = self.slots = slots
        if genotype is not None:
            only = lambda slot, picks: slot._replace(candidates=tuple(slot.candidates[c] for c in picks))
            self.slots = tuple(map(only, slots, self.picks_of(genotype)))

    def genotype(self, picks: Picks) -> dict:
        """A child in words, JSON-able: {slot: [[operation, input], …]}; a fixed network by its name."""
        if not self.slots:
            return {"network": self.space}
        return {slot.name: [list(slot.candidates[c]) for c in chosen] for slot, chosen in zip(self.slots, picks)}

    def picks_of(self, genotype: Any) -> Picks:
        """A genotype as the supernet's candidate indices. Raises KitError that names the valid entries."""
        names = [slot.name for slot in self.offered]
        if names and (not isinstance(genotype, Mapping) or set(genotype) != set(names)):
            raise KitError(f"a genotype of space {self.space!r} has the keys {', '.join(names)}; got {genotype!r}")
        return tuple(picked(slot, genotype[slot.name]) for slot in self.offered)

    @classmethod
    def graph(cls, genotype: Any) -> dict[str, list[tuple[str, str, str]]]:
        """What a drawing of the genotype shows: {title: [(from node, to node, operation), …]}. Here: slots in a row."""
        nodes = ["image", *genotype]
        return {"slots": [(a, b, op) for a, b in zip(nodes, nodes[1:]) for op, _ in genotype[b]]}

    def only_child(self) -> Child:
        """The child of a network that holds no alternatives (fixed networks, and a child built alone)."""
        if any(len(slot.candidates) != slot.takes for slot in self.slots):
            raise KitError("this network is a supernet: pass the child to run, e.g. net(images, arch.sample())")
        return Child(everything(self.slots))

    def spec(self, picks: Picks) -> dict:
        """JSON-able arguments from which `kit.space.build` makes this child alone, without the supernet."""
        named = {"space": self.space, "classes": self.classes, "image": list(self.image), **self.settings}
        return {**named, "genotype": self.genotype(picks)} if self.slots else named

    @torch.no_grad()
    def measured(self, measure: Callable[[nn.Module, tuple[Any, ...], Any], Any], batch: int = 1) -> dict:
        """measure(module, inputs, output) of every module, as a batch goes through all candidates in evaluation."""
        found, training = {}, self.training
        note = lambda module, *passed: found.update({module: measure(module, *passed)})
        images = torch.zeros((batch, *self.image), dtype=torch.uint8, device=self.mean.device)
        with contextlib.ExitStack() as hooks:
            for module in self.modules():
                hooks.enter_context(module.register_forward_hook(note))
            self.eval()(images, Child(everything(self.slots)))
        self.train(training)
        return found

    def cost(self, picks: Picks) -> Cost:
        """Parameters, also those that rest, and multiply-adds (of convolutions and linear layers) of a child: a sum
        over `modules_of`, which are counted once for all children."""
        if not self._cost_of:
            ran = self.measured(_layer_cost)
            self._cost_of = {m: _total(ran[layer] for layer in m.modules() if layer in ran) for m in self.modules()}
        return _total(self._cost_of[module] for module in self.modules_of(picks))

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (or float in 0…255) [N, C, H, W] → normalised float in the memory layout that convolutions like."""
        x = images.to(self.mean.dtype).div(255.0).sub(self.mean).div(self.std)
        return x.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor, child: Child | None = None) -> Tensor:
        return self._run(images, child or self.only_child())[0]

    def _run(self, images: Tensor, child: Child) -> tuple[Tensor, Tensor | None]:
        x = self.prepare(images)
        if self.amp_dtype is None:
            return self.scores(x, child)
        with torch.autocast(x.device.type, dtype=self.amp_dtype):
            scores, auxiliary = self.scores(x, child)
        return scores.float(), None if auxiliary is None else auxiliary.float()

    def drop_features(self, features: Tensor) -> Tensor:
        """Dropout of the pooled features [N, C] while training, by the network's own generator, so that runs resume."""
        return drop(features, self.dropout, self.generator) if self.training else features

    def drop_samples(self, x: Tensor, block: int = 0) -> Tensor:
        """Drop-path of an operation's output [N, …] while training; block: which of `own_drop_paths`."""
        p = self.drop_path[block] if isinstance(self.drop_path, tuple) else self.drop_path
        return drop(x, p, self.generator, whole=True) if self.training else x

    def losses(self, images: Tensor, labels: Tensor, child: Child) -> tuple[Tensor, Tensor]:
        """Per-sample cross-entropy [N], the auxiliary head's share included, and the predicted labels [N]."""
        scores, auxiliary = self._run(images, child)
        losses = F.cross_entropy(scores, labels, reduction="none")
        if auxiliary is not None:
            losses = losses + self.auxiliary * F.cross_entropy(auxiliary, labels, reduction="none")
        return losses, scores.detach().argmax(dim=1)

    def child_parameters(self, picks: Picks) -> list[nn.Parameter]:
        """The trainable parameters that a child uses, in a fixed order; those of other children are not among them."""
        if picks != self._last[0]:
            self._last = picks, list(dict.fromkeys(p for m in self.modules_of(picks) for p in m.parameters()))
        return [p for p in self._last[1] if p.requires_grad]

    def norms_of(self, picks: Picks) -> list[nn.BatchNorm2d]:
        return [norm for module in self.modules_of(picks) for norm in norms(module)]

    def frozen_statistics(self, picks: Picks) -> contextlib.AbstractContextManager[None]:
        """Training-mode passes by the batch's statistics that leave the running ones alone (outer losses, rewards)."""
        return held(self.norms_of(picks), track_running_stats=False)

    def plain(self) -> contextlib.AbstractContextManager[None]:
        """Passes without drop-path, dropout and the auxiliary head (validation losses, rewards)."""
        return held([self], drop_path=0.0, dropout=0.0, auxiliary=0.0)

    @torch.no_grad()
    def recalibrate(self, child: Child, batches: list[Tensor]) -> None:
        """Take the child's BatchNorm statistics anew from `batches` (uint8)."""
        training, moved = self.training, self.norms_of(child.picks)
        for norm in moved:
            norm.reset_running_stats()
        # momentum None: a plain average over the batches
        with held([self.train()], drop_path=0.0, dropout=0.0), held(moved, momentum=None):
            for images in batches:
                self._run(images, child)
        self.train(training)


def _layer_cost(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Cost:
    multiplies = isinstance(layer, (nn.Conv2d, nn.Linear))
    macs = prod(output.shape[1:]) * prod(layer.weight.shape[1:]) if multiplies else 0
    return Cost(sum(p.numel() for p in layer.parameters(recurse=False)), macs)


def _total(costs: Iterable[Cost]) -> Cost:
    return Cost(*map(sum, zip((0, 0), *costs)))


def checked_reductions(image: Size, stem: int, reductions: int | None, most: int) -> int:
    """How often a network halves the resolution after its stem, at most `most`; None: up to three times, four at 128
    pixels, as long as 2×2 is left. stem: how often the stem halves. Raises KitError for what does not fit."""
    fit = min(most, (min(image[1:]) - 1).bit_length() - 1 - stem)  # halvings, rounding up, that leave 2 or more
    if reductions is None:
        reductions = max(0, min(4 if stem else 3, fit))
    if not 0 <= reductions <= fit:
        mend = f"set reductions to 0…{max(0, fit)}, more cells or a larger image_size"
        deep = f"the space is too deep for its cells and for images of {image[1]}×{image[2]} pixels"
        raise KitError(f"reductions={reductions}: {deep}: {mend}")
    return reductions
