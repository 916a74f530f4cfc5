"""A copy of a model that stands wherever it is told to: one point after another, or several in one pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from kit.data import ImageSet
from kit.errors import KitError
from kit.studies.landscape.directions import direction

Metric = Callable[[Any], Any]
ALIGNED = 128  # elements; a parameter begins where an allocation could, so that kernels take the same path as in the caller's model
MOST = 64  # points in one pass
SHARE = 0.6  # of the free memory that a pass may take


class Walker:
    """θ* + c₁ d₁ + c₂ d₂ + … in a copy of the model, in evaluation mode; the caller's model is never moved.

    All weights of the copy lie in one buffer, so a move is one addition per direction, whatever the number of layers.
    points_per_pass: None takes 1 on the CPU and for a metric, and what the memory holds on a GPU. Raises KitError where
    several points
    in one pass cannot work.
    """

    def __init__(
        self,
        model: nn.Module,
        data: ImageSet,
        batch_size: int = 256,
        metric: Metric | None = None,
        points_per_pass: int | None = None,
    ):
        if points_per_pass is not None and points_per_pass < 1:
            raise KitError(f"points_per_pass={points_per_pass}: give 1 or more, or leave it out")
        if metric is not None and (points_per_pass or 1) > 1:
            raise KitError(
                f"points_per_pass={points_per_pass} with a metric: it sees one model at a time; leave points_per_pass out"
            )
        self.twin = copy.deepcopy(model).eval().requires_grad_(False)
        self.metric, self.count, self.chosen = metric, len(data), points_per_pass
        self.data, self.batch_size = data, batch_size
        self._lay_out()

    def _lay_out(self) -> None:
        """Move the copy's parameters into one buffer, in their order and memory format."""
        named = dict(self.twin.named_parameters())
        kinds = {(p.dtype, p.device) for p in named.values()}
        if len(kinds) != 1:
            found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds)) or "none"
            raise KitError(
                f"the model's parameters must share one dtype and device, got: {found}; use model.float() or .to(device)"
            )
        self.offsets, end = {}, 0
        for name, p in named.items():
            self.offsets[name], end = end, end + -(-p.numel() // ALIGNED) * ALIGNED
        self.here = next(iter(named.values())).new_zeros(end)
        for name, p in named.items():
            home = self._view(self.here, name, p)
            home.copy_(p)
            p.data = home
        self.start = self.here.clone()

    def _view(self, flat: Tensor, name: str, like: Tensor) -> Tensor:
        """A parameter's place in a buffer [n] or, for each of several points, [points, n]."""
        return flat.as_strided(
            (*flat.shape[:-1], *like.shape), (*flat.stride()[:-1], *like.stride()), self.offsets[name]
        )

    def axis(self, seed: int, which: str) -> Tensor:
        """The filter-normalised direction as a buffer like that of the weights."""
        flat = torch.zeros_like(self.start)
        shapes = dict(self.twin.named_parameters())
        self.stand((), ())  # norms are those of the trained weights
        for name, values in direction(self.twin, seed, which).items():
            self._view(flat, name, shapes[name]).copy_(values)
        return flat

    # ---- one point -------------------------------------------------------------------------------

    def stand(self, axes: Sequence[Tensor], at: Sequence[float]) -> None:
        if not axes:
            self.here.copy_(self.start)
            return
        torch.add(self.start, axes[0], alpha=float(at[0]), out=self.here)
        for axis, c in zip(axes[1:], at[1:]):
            self.here.add_(axis, alpha=float(c))

    @torch.no_grad()
    def loss(self, axes: Sequence[Tensor], at: Sequence[float]) -> Tensor:
        """Sum of the cross-entropies, 0-dim; batch by batch as `kit.search` sums the test loss, so that it is the same
        number.
        """
        self.stand(axes, at)
        return sum(
            F.cross_entropy(self.twin(x), y, reduction="none").sum() for x, y in self.data.chunks(self.batch_size)
        )

    def value(self, axes: Sequence[Tensor] = (), at: Sequence[float] = ()) -> np.ndarray:
        """The mean loss, or what the metric gives: a number or an array of them, float64."""
        if self.metric is None:
            return np.asarray(float(self.loss(axes, at)) / self.count)
        from loss_landscapes.model_interface.model_wrapper import SimpleModelWrapper

        self.stand(axes, at)
        return np.asarray(self.metric(SimpleModelWrapper(self.twin)), dtype=float)

    # ---- several points in a pass ----------------------------------------------------------------

    def values(self, axes: Sequence[Tensor], points: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """(rows, values of these rows) for points float64 [n, axes], a pass at a time."""
        done = 0
        while done < len(points):
            size = min(self._size(axes), len(points) - done)
            rows = slice(done, done + size)
            if size == 1:
                yield rows, self.value(axes, points[done])[None]
            else:
                try:
                    found = self.stacked(axes, points[rows])
                except torch.OutOfMemoryError:
                    self.chosen = size // 2
                    torch.cuda.empty_cache()
                    continue
                yield rows, found
            done += size

    @torch.no_grad()
    def stacked(self, axes: Sequence[Tensor], points: np.ndarray) -> np.ndarray:
        """The mean loss at each of the points [n, axes], evaluated together: float64 [n]. Equal to `value` up to
        rounding.
        """
        coefficients = torch.as_tensor(points, dtype=self.start.dtype, device=self.start.device)
        flat = self.start.repeat(len(points), 1)
        for k, axis in enumerate(axes):
            flat.addr_(coefficients[:, k], axis)
        # what no direction moves stays unstacked: BatchNorm and biases run as they do for one point
        moved = {name: self._view(flat, name, p) for name, p in self.twin.named_parameters() if p.ndim >= 2}

        def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(self.twin, parameters, (x,)), y, reduction="none").sum()

        self.stand((), ())
        together = vmap(loss, in_dims=(0, None, None))
        total = sum(together(moved, x, y) for x, y in self.data.chunks(self.batch_size))
        return total.double().cpu().numpy() / self.count

    def _size(self, axes: Sequence[Tensor]) -> int:
        """How many points a pass takes: as given, or what fits into the memory."""
        if self.chosen is None:
            self.chosen = 1 if self.metric is not None or self.start.device.type != "cuda" else self._affordable(axes)
        return self.chosen

    def _affordable(self, axes: Sequence[Tensor]) -> int:
        """Measured on one point, weights and activations; 1 where the model does something that vmap cannot."""
        device = self.start.device
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        try:
            self.stacked(axes, np.zeros((1, len(axes))))
        except RuntimeError as error:
            print(
                f"one point per pass: torch.func.vmap cannot run this model ({str(error).splitlines()[0]:.120})",
                flush=True,
            )
            return 1
        needed = max(torch.cuda.max_memory_allocated(device) - before, 1)
        free = (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
        return max(1, min(MOST, int(SHARE * free / needed)))
