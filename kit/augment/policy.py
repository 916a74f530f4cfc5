"""Augmentation policies: what a draw is, how it is applied, and DHA's learned distribution over pairs (eq. 2; METHOD
section 1).

A policy is a function of (batch, draw) on the device. Crop and flip, which every recipe of these papers has, come
first; then the
drawn operations; cutout, where a recipe has it, last.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import warnings
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from kit.augment.ops import ALL_OPS, OPS, apply_mixed
from kit.search.learner import Learner


@dataclass(frozen=True)
class Draw:
    """What one batch of n images drew; everything that `apply` needs and everything that is recorded.

    ops: int64 [n, K] indices into ALL_OPS, K operations in order; magnitude float [n, K]; sign float [n, K] of ±1;
    center float
    [n, K, 2] in [0, 1); shift int64 [n, 2] and flip bool [n] of the crop (None: no crop); hole float [n, 2], the
    cutout's centre in
    [0, 1) (None: no cutout); index int64 [n], the pair's place among all ordered pairs (None: nothing is learned);
    choices int64
    [n, K, 3], DAAS's (place of the operation, whether it is applied, magnitude bin).
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


@dataclass(frozen=True)
class Basics:
    """The part that no method learns. pad: pixels of the random crop (0: none); flip: horizontally with probability
    1/2; cutout:
    side of the hole in pixels (0: none); fill: uint8 [C], the hole's colour (DARTS cuts after normalising: the
    mean)."""

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
        h, w = images.shape[2:]
        # numbers, not a tensor of them: its copy would wait for the device
        top, left = ((draw.hole[:, i, None] * side).long() - self.cutout // 2 for i, side in enumerate((h, w)))
        rows, columns = torch.arange(h, device=images.device), torch.arange(w, device=images.device)
        inside_h = (rows >= top) & (rows < top + self.cutout)
        inside_w = (columns >= left) & (columns < left + self.cutout)
        hole = (inside_h[:, :, None] & inside_w[:, None, :]).unsqueeze(1)
        fill = torch.zeros(images.shape[1], dtype=torch.uint8, device=images.device) if self.fill is None else self.fill
        return torch.where(hole, fill.to(images.device).view(1, -1, 1, 1), images)


@functools.cache
def fast_path() -> ModuleType | None:
    """`kit.fast.augment`, where the extra `fast` is installed; imported on the first batch, for numba takes a
    second.
    """
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        return importlib.import_module("kit.fast.augment")
    except ImportError as error:  # a numba that does not fit numpy says so here
        warnings.warn(
            f"numba is installed but cannot be used ({error}); augmentation goes on in torch, with the same pixels",
            stacklevel=2,
        )
        return None


class Policy(Learner):
    """Base of all policies: `sample(n)` → Draw, `apply(images, draw)` → uint8 images of the same shape."""

    def __init__(self, basics: Basics, generator: torch.Generator):
        self.basics, self.generator = basics, generator

    def variables(self) -> list[Tensor]:
        return []

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """images: uint8 [n, C, H, W] on the device of the policy's generator. A function of its arguments alone."""
        if images.device.type == "cpu" and (fast := fast_path()) is not None:
            done = fast.apply(images, draw, self.basics)
            if done is not None:
                return done
        return self.apply_by_torch(images, draw)

    def apply_by_torch(self, images: Tensor, draw: Draw) -> Tensor:
        """The same pixels in torch alone: on a GPU, without numba, and the reference of `compiled`."""
        images = self.basics.crop(images, draw)
        for k in range(draw.ops.shape[1]):
            images = apply_mixed(images, draw.ops[:, k], draw.magnitude[:, k], draw.sign[:, k], draw.center[:, k])
        return self.basics.cut(images, draw)

    def _fill(self, ops: Tensor, magnitude: Tensor, index: Tensor | None = None) -> Draw:
        """Complete a draw: random signs, cutout centres and basics."""
        n, k, device = *ops.shape, ops.device
        sign = torch.randint(0, 2, (n, k), generator=self.generator, device=device).float() * 2 - 1
        center = torch.rand(n, k, 2, generator=self.generator, device=device)
        return Draw(ops, magnitude, sign, center, index=index, **self.basics.draw(n, self.generator))

    def state_dict(self) -> dict:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        self.generator.set_state(state["generator"].cpu())

    def snapshot(self) -> dict[str, Tensor]:
        """For the history, once per epoch; policies that learn nothing have nothing to show."""
        return {}


class PairSoftmax(Policy):
    """DHA and DiffAutoML: τ is a K×K matrix of logits over ordered pairs of operations, magnitudes are uniform in [0,
    10].

    Every sample draws its own pair by Gumbel-max and its own two magnitudes. `update` takes a gradient step on
    L_DA(τ) = −Σ_k p_k(τ) L_k (eq. 2): SGD with momentum and weight decay. ops: names from `OPS`; K = len(ops).
    """

    def __init__(
        self,
        basics: Basics,
        generator: torch.Generator,
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        ops: tuple[str, ...] = OPS,
    ):
        super().__init__(basics, generator)
        self.ops = ops
        self.places = torch.tensor([ALL_OPS.index(name) for name in ops], device=generator.device)
        self.tau = torch.zeros(len(ops), len(ops), device=generator.device)
        self.velocity = torch.zeros_like(self.tau)
        self.counts = torch.zeros(len(ops) ** 2, device=generator.device)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay

    def variables(self) -> list[Tensor]:
        return [self.tau]

    def probabilities(self) -> Tensor:
        """float [K, K]: row the first operation, column the second; sums to 1."""
        return self.tau.flatten().softmax(0).view_as(self.tau)

    def sample(self, n: int) -> Draw:
        k, g, device = len(self.ops), self.generator, self.generator.device
        uniform = torch.rand(n, k * k, generator=g, device=device).clamp_(min=1e-20)
        index = torch.sub(self.tau.flatten(), uniform.log_().neg_().log_(), out=uniform).argmax(dim=1)  # Gumbel-max
        ops = self.places[torch.stack([index // k, index % k], dim=1)]
        magnitude = torch.rand(n, 2, generator=g, device=device) * 10
        return self._fill(ops, magnitude, index)

    def estimate(self, draw: Draw, *, losses: Tensor, **_: object) -> list[Tensor]:
        """losses: the training losses [n] of the images that drew `draw`, detached."""
        self.counts.scatter_add_(0, draw.index, torch.ones_like(draw.index, dtype=self.counts.dtype))
        return [self.gradient(draw.index, losses)]

    def move(self, gradient: list[Tensor]) -> None:
        if not gradient:
            return
        self.velocity.mul_(self.momentum).add_(gradient[0] + self.weight_decay * self.tau)
        self.tau.sub_(self.lr * self.velocity)

    def gradient(self, index: Tensor, losses: Tensor) -> Tensor:
        """∂L_DA/∂τ [K, K], closed form: with c_T = Σ of the losses that drew T, it is −p ∘ (c − ⟨c, p⟩)."""
        p = self.probabilities().flatten()
        c = torch.zeros_like(p).scatter_add_(0, index, losses.to(p.dtype))
        return (-p * (c - torch.dot(c, p))).view_as(self.tau)

    def state_dict(self) -> dict:
        return {**super().state_dict(), "tau": self.tau, "velocity": self.velocity, "counts": self.counts}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        for name in ("tau", "velocity", "counts"):
            getattr(self, name).copy_(state[name])

    def adopt(self, found: dict) -> None:
        """Take over a policy as `Run.policy` gives it."""
        self.tau.copy_(torch.tensor(found["probabilities"]).clamp(min=1e-30).log())

    def snapshot(self) -> dict[str, Tensor]:
        """probabilities float [K, K]; counts: how often each pair was trained on since the last snapshot, which this
        call ends.
        """
        counts = self.counts.clone().view_as(self.tau)
        self.counts.zero_()
        return {"probabilities": self.probabilities().cpu(), "counts": counts.cpu()}

    def summary(self) -> dict[str, float]:
        p = self.probabilities().double().flatten()
        entropy = float(-(p * p.clamp(min=1e-300).log()).sum())
        return {
            "tau/entropy": entropy,
            "tau/kl_from_uniform": math.log(len(p)) - entropy,
            "tau/largest": float(p.max()),
        }
