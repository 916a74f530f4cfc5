"""Augmentation policies: what a draw is, how it is applied, and the bases of those that are fixed and of those that
learn.

A policy is a function of (batch, draw) on the device. Crop and flip, which every recipe of these papers has, come
first; then the drawn operations; cutout, where a recipe has it, last.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from kit import registry
from kit.augment.kernels import OPERATIONS, square
from kit.augment.ops import ALL_OPS, OPS, apply_mixed, register_operation
from kit.errors import KitError
from kit.search import ranks
from kit.search.learner import Learner

T = TypeVar("T")
AUGMENT = registry.Registry("augmentation policy")


def register(name: str, **settings: Any) -> Callable[[T], T]:
    """A decorator that registers a policy (a subclass of `Policy`) or an operation (a function) by name.

    settings of a policy: title, colour and brings, as `registry.Part` has them; others are passed on to the class's
    `build`. Settings of an operation, and what its function gets and returns: see `kit.augment.ops.register_operation`.
    """

    def add(made: T) -> T:
        if isinstance(made, type) and issubclass(made, Policy):
            return AUGMENT.register(name, **settings)(made)
        if isinstance(made, type) or not callable(made):
            raise KitError(
                f"{name!r} is neither a policy nor an operation: decorate a subclass of kit.augment.Policy, or a "
                "function (images, magnitude, sign) -> images"
            )
        return register_operation(name, **settings)(made)

    return add


@dataclass(frozen=True)
class Draw:
    """What one batch of n images drew; everything that `apply` needs and everything that is recorded.

    ops: int64 [n, K] indices into `operations()`, K operations in order; magnitude float [n, K]; sign float [n, K] of
    ±1; center float [n, K, 2] in [0, 1); shift int64 [n, 2] and flip bool [n] of the crop (None: no crop); hole float
    [n, 2], the cutout's centre in [0, 1) (None: no cutout); index int64 [n], the pair's place among all ordered pairs
    (None: nothing is learned); choices int64 [n, K, 3], DAAS's (place of the operation, whether it is applied,
    magnitude bin); whole: where several ranks search, the draw of all ranks' images, of which this is one's own share.
    """

    ops: Tensor
    magnitude: Tensor
    sign: Tensor
    center: Tensor
    shift: Tensor | None = None
    flip: Tensor | None = None
    hole: Tensor | None = None
    index: Tensor | None = None
    choices: Tensor | None = None
    whole: Draw | None = None

    def take(self, rows: Tensor | slice) -> Draw:
        """The draw of some of the images."""
        return Draw(**{name: None if t is None or name == "whole" else t[rows] for name, t in vars(self).items()})


@dataclass(frozen=True)
class Basics:
    """The part that no method learns.

    pad: pixels of the random crop (0: none); flip: horizontally with probability 1/2; cutout: side of the hole in
    pixels (0: none); fill: uint8 [C], the hole's colour (DARTS cuts after normalising: the mean).
    """

    pad: int = 0
    flip: bool = False
    cutout: int = 0
    fill: Tensor | None = None

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
        width = w + 2 * self.pad
        index = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, h * w).expand(n, c, h * w)
        return padded.flatten(2).gather(2, index).view(n, c, h, w)

    def cut(self, images: Tensor, draw: Draw) -> Tensor:
        """A square hole around `hole`, clipped at the border (DeVries & Taylor 2017)."""
        if draw.hole is None:
            return images
        hole = square(images, draw.hole, self.cutout)
        return torch.where(hole, 0 if self.fill is None else self.fill.to(images.device).view(1, -1, 1, 1), images)


@dataclass(frozen=True)
class Setting:
    """What a policy is built from.

    image: (H, W); channels: of the images; steps: how many the search stage has, at most; config: anything that has the
    policy's options as attributes.
    """

    basics: Basics
    generator: torch.Generator
    image: tuple[int, int]
    channels: int = 3
    steps: int = 0
    config: Any = None

    def options(self, part: type) -> Any:
        """The part's own `Options` as the configuration has them; what it does not have takes its default."""
        names = part.Options.model_fields
        return part.Options(**{name: getattr(self.config, name) for name in names if hasattr(self.config, name)})


@functools.cache
def fast_path() -> ModuleType | None:
    """`kit.fast.augment`, where it and numba are there; imported on the first batch, for numba takes a second."""
    try:
        from kit.fast import augment
    except ModuleNotFoundError:
        return None
    except ImportError as error:  # a numba that does not fit numpy says so here
        warnings.warn(
            f"numba is installed but cannot be used ({error}); augmentation goes on in torch, with the same pixels",
            stacklevel=2,
        )
        return None
    return augment


class Policy(Learner):
    """Base of all policies: `sample(n)` → Draw, `apply(images, draw)` → uint8 images of the same shape.

    A subclass says in `draw` what is drawn for n images. One that learns sets `learns` and gives the gradient of its
    variables in `gradient` (see `LearnedPolicy`). cutout: whether its recipe has a cutout of half the image's side.

    Where several ranks search, a batch is split among them. `sample` and `derived` draw for the whole batch, from a
    generator that all ranks share, and give this rank's share; `estimate` gathers what the ranks measured. So `draw`
    and `gradient` always see the whole batch.
    """

    learns: bool = False
    cutout: bool = False

    def __init__(self, basics: Basics, generator: torch.Generator):
        self.basics, self.generator = basics, generator

    @classmethod
    def build(cls, at: Setting, **settings: Any) -> Policy:
        return cls(at.basics, at.generator, **settings)

    def variables(self) -> list[Tensor]:
        return []

    @abstractmethod
    def draw(self, n: int) -> Draw:
        """A draw for n images; most easily `self.complete(ops, magnitude)`."""

    def draw_derived(self, n: int) -> Draw:
        """A draw for training with what was found."""
        return self.draw(n)

    def gradient(self, draw: Draw, **signals: Any) -> list[Tensor]:
        """Of the variables, from losses float [n] and rewards() → float [n] of the images that drew `draw`."""
        return []

    def complete(self, ops: Tensor, magnitude: Tensor, **more: Tensor) -> Draw:
        """A draw of these ops int64 [n, K] and magnitudes float [n, K] with random signs, cutout centres and basics."""
        n, k, device = *ops.shape, ops.device
        sign = torch.randint(0, 2, (n, k), generator=self.generator, device=device).float() * 2 - 1
        center = torch.rand(n, k, 2, generator=self.generator, device=device)
        return Draw(ops, magnitude, sign, center, **more, **self.basics.draw(n, self.generator))

    # ---- one rank's share --------------------------------------------------------------------

    def sample(self, n: int) -> Draw:
        """For this rank's n images."""
        return _share(self.draw(ranks.whole(n)))

    def derived(self, n: int) -> Draw:
        return _share(self.draw_derived(ranks.whole(n)))

    def estimate(
        self, draw: Draw, *, losses: Tensor | None = None, rewards: Callable[[], Tensor] | None = None, **_: object
    ) -> list[Tensor]:
        """losses: of this rank's images [n], detached. rewards(): ⟨∇L_val(θ'), ∇ℓ_k(θ)⟩ of each of them [n]."""
        if not self.learns:
            return []
        whole = draw if draw.whole is None else draw.whole
        return self.gradient(whole, losses=ranks.gather(losses), rewards=lambda: ranks.gather(rewards()))

    # ---- pixels ------------------------------------------------------------------------------

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """images: uint8 [n, C, H, W] on the device of the policy's generator. A function of its arguments alone."""
        fast = fast_path() if images.device.type == "cpu" else None
        if fast is None:
            return self.apply_by_torch(images, draw)
        if len(OPERATIONS) > fast.KNOWN and len(draw.ops) == len(images):
            known = (draw.ops < fast.KNOWN).all(1)
            if not known.all():  # somebody's own operations: those images alone go by way of torch
                done = torch.empty_like(images)
                done[~known] = self.apply_by_torch(images[~known], draw.take(~known))
                done[known] = self.apply(images[known], draw.take(known))
                return done
        done = fast.apply(images, draw, self.basics)
        return self.apply_by_torch(images, draw) if done is None else done

    def apply_by_torch(self, images: Tensor, draw: Draw) -> Tensor:
        """The same pixels in torch alone: on a GPU, without numba, and the reference of `kit.fast.augment`."""
        images = self.basics.crop(images, draw)
        for k in range(draw.ops.shape[1]):
            images = apply_mixed(images, draw.ops[:, k], draw.magnitude[:, k], draw.sign[:, k], draw.center[:, k])
        return self.basics.cut(images, draw)

    # ---- kept and recorded -------------------------------------------------------------------

    def state_dict(self) -> dict:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        self.generator.set_state(state["generator"].cpu())

    def snapshot(self) -> dict[str, Tensor]:
        """For the history, once per epoch; policies that learn nothing have nothing to show."""
        return {}


def _share(whole: Draw) -> Draw:
    return whole if ranks.count() == 1 else dataclasses.replace(ranks.own(whole), whole=whole)


class LearnedPolicy(Policy):
    """Base of policies that learn which ordered pairs of K operations to apply.

    ops: the K names. A subclass gives `probabilities`, and calls `count` with every draw it learns from.
    """

    learns = True
    usual_ops: tuple[str, ...] = OPS  #: the paper's

    class Options(registry.Options):
        tau_lr: float | None = Field(
            None, ge=0, description="rate of τ (SGD; Adam for policy-gradient); None: so that it covers tau_reach"
        )
        operations: str | None = Field(
            None, description="what τ chooses from: names with commas; +Name adds to the paper's; None: the paper's"
        )

    def __init__(self, basics: Basics, generator: torch.Generator, ops: tuple[str, ...]):
        super().__init__(basics, generator)
        self.ops = ops
        self.places = torch.tensor([ALL_OPS.index(name) for name in ops], device=generator.device)
        self.counts = torch.zeros(len(ops) ** 2, device=generator.device)

    @classmethod
    def build(cls, at: Setting, ops: tuple[str, ...] | None = None, **settings: Any) -> LearnedPolicy:
        options = at.options(cls)
        ops = cls.searched(options.operations, ops)
        return cls(at.basics, at.generator, ops=ops, **cls.chosen(at, options), **settings)

    @classmethod
    def check(cls, config: Any) -> None:
        """Raises KitError for an operation that does not exist, before any compute."""
        try:
            cls.searched(config.operations)
        except KitError as error:
            raise KitError(f"operations={config.operations!r}: {error}") from None

    @classmethod
    def chosen(cls, at: Setting, options: Any) -> dict[str, Any]:
        """The keyword arguments of a concrete policy, from its options."""
        return {}

    @classmethod
    def searched(cls, operations: str | None, ops: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """The operations that the option `operations` stands for. Raises KitError for one that does not exist.

        ops: the usual ones, where they are not the class's.
        """
        usual = cls.usual_ops if ops is None else ops
        if operations is None:
            return usual
        words = [word.strip() for word in operations.split(",") if word.strip(" +")]
        if not words:
            raise KitError(
                f"operations={operations!r} names none: give names with commas, 'Rotate,ShearX', '+Name' to add "
                f"to the paper's, or leave it out. Valid: {', '.join(OPERATIONS)}"
            )
        given = [OPERATIONS[word.lstrip("+ ")].name for word in words]
        return tuple(dict.fromkeys((*usual, *given) if operations.strip().startswith("+") else given))

    @abstractmethod
    def probabilities(self) -> Tensor:
        """float [K, K]: of each ordered pair, row the first operation, column the second; sums to 1."""

    def count(self, draw: Draw) -> None:
        self.counts.scatter_add_(0, draw.index, torch.ones_like(draw.index, dtype=self.counts.dtype))

    def snapshot(self) -> dict[str, Tensor]:
        """probabilities float [K, K]; counts [K, K]: how often each pair was trained on since the last snapshot, which
        this call ends.
        """
        probabilities = self.probabilities().detach().cpu()
        counts = self.counts.clone().view(probabilities.shape).cpu()
        self.counts.zero_()
        return {"probabilities": probabilities, "counts": counts}

    def summary(self) -> dict[str, float]:
        p = self.probabilities().detach().double().flatten()
        entropy = float(-(p * p.clamp(min=1e-300).log()).sum())
        return {
            "tau/entropy": entropy,
            "tau/kl_from_uniform": math.log(len(p)) - entropy,
            "tau/largest": float(p.max()),
        }
