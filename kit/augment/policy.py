"""Augmentation policies: functions of (batch, draw) on the device. Crop and flip come first; then the drawn operations;
cutout, where a recipe has it, last."""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kit import registry
from kit.augment.ops import OPERATIONS, OPS, apply_mixed, operations, register_operation, square
from kit.errors import KitError
from kit.search import ranks
from kit.search.learner import Learner

AUGMENT = registry.Registry("augmentation policy")


def register(name: str, **settings: Any) -> Callable[[Any], Any]:
    """A decorator that registers a policy (a subclass of `Policy`) or an operation (a function, see
    `register_operation`) by name. settings of a policy: title, colour and brings, as of a `registry.Part`; cutout=True
    for a hole of half the image's side, basic=False for neither crop nor flip; others are passed on to the class."""
    return lambda made: (AUGMENT.register if isinstance(made, type) else register_operation)(name, **settings)(made)


@dataclass(frozen=True)
class Draw:
    """What one batch of n images drew."""

    ops: Tensor  # int64 [n, K]: indices into `operations()`, K operations in order
    magnitude: Tensor  # float [n, K]
    sign: Tensor  # float [n, K], ±1
    center: Tensor  # float [n, K, 2] in [0, 1)
    shift: Tensor | None = None  # int64 [n, 2], of the crop
    flip: Tensor | None = None  # bool [n]
    hole: Tensor | None = None  # float [n, 2] in [0, 1): the cutout's centre
    index: Tensor | None = None  # int64 [n]: the pair's place among all ordered pairs that a policy learns
    choices: Tensor | None = None  # what else a policy has to know of its draw, a row per image
    whole: "Draw | None" = None  # where several ranks search: of all ranks' images, of which this is one's own share


@dataclass(frozen=True)
class Basics:
    """The part that no method learns."""

    pad: int = 0  # pixels of the random crop
    flip: bool = False  # horizontally with probability 1/2
    cutout: int = 0  # side of the hole in pixels
    fill: Tensor | None = None  # uint8 [C], the hole's colour (DARTS cuts after normalising: the mean)

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        device, drawn = generator.device, {}
        if self.pad or self.flip:
            drawn["shift"] = torch.randint(0, 2 * self.pad + 1, (n, 2), generator=generator, device=device)
            drawn["flip"] = (torch.rand(n, generator=generator, device=device) < 0.5) & self.flip
        if self.cutout:
            drawn["hole"] = torch.rand(n, 2, generator=generator, device=device)
        return drawn

    def crop(self, images: Tensor, draw: Draw) -> Tensor:
        """Pad with zeros, cut out at `shift`, mirror where `flip`: one gather for the batch."""
        if draw.shift is None:
            return images
        n, c, h, w = images.shape
        padded = torch.nn.functional.pad(images, (self.pad,) * 4)
        rows = torch.arange(h, device=images.device) + draw.shift[:, :1]
        columns = torch.arange(w, device=images.device).expand(n, w)
        columns = torch.where(draw.flip[:, None], w - 1 - columns, columns) + draw.shift[:, 1:]
        index = rows[:, :, None] * (w + 2 * self.pad) + columns[:, None, :]
        return padded.flatten(2).gather(2, index.view(n, 1, h * w).expand(n, c, h * w)).view(n, c, h, w)

    def cut(self, images: Tensor, draw: Draw) -> Tensor:
        """A square hole around `hole`, clipped at the border (DeVries & Taylor 2017)."""
        if draw.hole is None:
            return images
        colour = 0 if self.fill is None else self.fill.view(1, -1, 1, 1)
        return torch.where(square(images, draw.hole, self.cutout), colour, images)


class Policy(Learner):
    """Base of all policies: `sample(n)` → Draw, `apply(images, draw)` → uint8 images of the same shape.

    image: (H, W). steps: of the search stage. options: of `Options`. A subclass says in `draw` what is drawn for n
    images. Of several ranks all draw for the whole batch, from a generator that they share, and `sample` gives this
    rank's share; `estimate` gathers what they measured. So `draw` and `gradient` see the whole batch."""

    learns: bool = False
    Options: type[registry.Options] = registry.Options

    def __init__(self, basics: Basics, generator: torch.Generator, image=(0, 0), steps: int = 100, **options: Any):
        self.basics, self.generator, self.image, self.steps = basics, generator, image, steps
        self.options = self.Options(**options)

    @abstractmethod
    def draw(self, n: int) -> Draw:
        """A draw for n images; most easily `self.complete(ops, magnitude)`."""

    def complete(self, ops: Tensor, magnitude: Tensor, **more: Tensor) -> Draw:
        """A draw of these ops int64 [n, K] and magnitudes float [n, K] with random signs, cutout centres and basics."""
        n, k, device = *ops.shape, ops.device
        sign = torch.randint(0, 2, (n, k), generator=self.generator, device=device).float() * 2 - 1
        center = torch.rand(n, k, 2, generator=self.generator, device=device)
        return Draw(ops, magnitude, sign, center, **more, **self.basics.draw(n, self.generator))

    def sample(self, n: int) -> Draw:
        return share(self.draw(n * ranks.count()))

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """images: uint8 [n, C, H, W] on the device of the policy's generator. A function of its arguments alone."""
        images = self.basics.crop(images, draw)
        for k in range(draw.ops.shape[1]):
            images = apply_mixed(images, draw.ops[:, k], draw.magnitude[:, k], draw.sign[:, k], draw.center[:, k])
        return self.basics.cut(images, draw)

    def snapshot(self) -> dict[str, Tensor]:
        return {}  # for the history, once per epoch


def build(name: str, generator: torch.Generator, image: tuple[int, int], *, flip=True, fill=None, **options) -> Policy:
    """A policy by name.

    image: (H, W), which sets the crop's padding (1/8 of the side) and the cutout (half the side). flip: whether
    mirrored images keep their label. fill: uint8 [C], the cutout's colour. options: the policy's, by name
    (`tau_lr=0.1`), and steps, of the search stage."""
    part, side, given = AUGMENT[name], min(image), {**AUGMENT[name].settings, **options}
    cutout = side // 2 if given.pop("cutout", False) else 0
    colour = None if fill is None else fill.to(generator.device)  # once: a copy in every step would wait for the device
    basics = Basics(max(1, side // 8), flip, cutout, colour) if given.pop("basic", True) else Basics()
    return part.make(basics, generator, image=image, **given)


def share(whole: Draw) -> Draw:
    return whole if ranks.count() == 1 else dataclasses.replace(ranks.own(whole), whole=whole)


@register("none", title="No augmentation", basic=False)
@register("flip-crop", title="Flip and crop")
@register("flip-crop-cutout", title="Flip, crop and cutout", cutout=True)
class Plain(Policy):
    """The basics alone: what the presets train with where τ is not searched."""

    def draw(self, n: int) -> Draw:
        device = self.generator.device
        return self.complete(torch.empty(n, 0, dtype=torch.int64, device=device), torch.empty(n, 0, device=device))


class LearnedPolicy(Policy):
    """Base of policies that learn which ordered pairs of K operations to apply. ops: their names, where the option
    `operations` gives none; idle: those to leave out of them. A subclass gives `adam` (or `variables` and `move`),
    `probabilities`, and `gradient`, which calls `count`."""

    learns = True
    kept = ("counts",)
    usual_ops: tuple[str, ...] = OPS  #: the paper's

    class Options(registry.Options):
        tau_lr: float | None = Field(None, ge=0, description="of SGD, or of policy-gradient's Adam; None: by tau_reach")
        operations: str | None = Field(None, description="for τ, with commas, in place of the paper's; +Name adds one")
        cutout: bool = Field(False, description="whether a learned policy cuts a hole of half the side at last")

    def __init__(self, *at: Any, ops: tuple[str, ...] | None = None, idle: Sequence[str] = (), **options: Any):
        super().__init__(*at, **options)
        self.ops = tuple(name for name in self.searched(self.options.operations, ops) if name not in idle)
        if len(self.ops) < 2:
            left = f"of τ's operations only {list(self.ops)} change these images"
            raise KitError(f"{left}: name two or more that do, operations='+Name' or 'Name,Name'")
        self.places = torch.tensor([operations().index(name) for name in self.ops], device=self.generator.device)
        self.counts = torch.zeros(len(self.ops) ** 2, device=self.generator.device)

    @classmethod
    def check(cls, config: Any) -> None:
        cls.searched(config.operations)

    @classmethod
    def searched(cls, wanted: str | None, usual: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """The operations that the option `operations` stands for; usual: those of None, else the class's. Raises
        KitError for one that does not exist."""
        usual = usual or cls.usual_ops
        if wanted is None:
            return usual
        try:
            given = [OPERATIONS[word.strip(" +")].name for word in wanted.split(",")]
        except KitError as error:
            raise KitError(f"operations={wanted!r}: {error}") from None
        return tuple(dict.fromkeys((*usual, *given) if wanted.strip().startswith("+") else given))

    @abstractmethod
    def probabilities(self) -> Tensor:
        """float [K, K]: of each ordered pair, row the first operation, column the second; sums to 1."""

    @abstractmethod
    def gradient(self, draw: Draw, *, losses: Tensor, rewards: Callable[[], Tensor]) -> list[Tensor]:
        """Of the variables, from losses float [n] and rewards() → float [n] of the images that drew `draw`."""

    def estimate(self, draw: Draw, *, losses=None, rewards=None, **_: object) -> list[Tensor]:
        """losses: of this rank's images, float [n], detached. rewards() → float [n]: their ⟨∇L_val(θ'), ∇ℓ_k(θ)⟩."""
        whole, gather = draw if draw.whole is None else draw.whole, ranks.gather
        losses = None if losses is None else gather(losses)
        return self.gradient(whole, losses=losses, rewards=lambda: gather(rewards()))

    def count(self, draw: Draw) -> None:
        self.counts.scatter_add_(0, draw.index, torch.ones_like(draw.index, dtype=self.counts.dtype))

    @torch.no_grad()
    def snapshot(self) -> dict[str, Tensor]:
        """probabilities float [K, K]; counts [K, K]: how often each pair was drawn since the last snapshot."""
        counts, self.counts = self.counts, torch.zeros_like(self.counts)
        p = self.probabilities()
        return {"probabilities": p.cpu(), "counts": counts.view_as(p).cpu()}

    @torch.no_grad()
    def summary(self) -> dict[str, float]:
        p = self.probabilities().double().flatten()
        entropy = float(-(p * p.clamp(min=1e-300).log()).sum())
        away = math.log(len(p)) - entropy
        return {"tau/entropy": entropy, "tau/kl_from_uniform": away, "tau/largest": float(p.max())}
