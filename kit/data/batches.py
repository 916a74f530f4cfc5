"""Batches by one gather from the set's own device, or, for a set that streams, from a thread that works ahead."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kit.data.cache import Streamed, prefetch
from kit.data.sets import ImageSet
from kit.errors import KitError
from kit.search import ranks as distributed

Mark = tuple[Tensor, int]  # the generator's state before the epoch's permutation, batches taken from this epoch


class Batches:
    """An endless iterator over shuffled batches: (images uint8 [B, C, H, W], labels int64 [B]) on the set's device.

    Each epoch is one permutation; the incomplete last batch is dropped. The order comes from a private CPU generator
    seeded by one draw from `generator`, so it is the same on every device, and resuming does not rewind a generator
    that others share. A set that streams gives the same batches in the same order, prefetched by a thread that starts
    with the
    first batch. `state_dict` and `load_state_dict` resume bit-identically in the middle of an epoch: the state is what
    was handed
    out, not what was fetched. On several ranks each takes its share of every batch. Raises KitError where `batch_size`
    exceeds the set, the
    ranks do not divide it, or `generator` is not on the CPU.
    """

    def __init__(self, data: ImageSet, batch_size: int, generator: torch.Generator):
        if not 1 <= batch_size <= len(data):
            raise KitError(
                f"batch_size is {batch_size} but the set has {len(data)} images: "
                f"choose batch_size from 1 to {len(data)}"
            )
        distributed.check(batch_size)
        if generator.device.type != "cpu":
            raise KitError(f"Batches needs a CPU generator, got one on {generator.device}: use torch.Generator()")
        self.data, self.batch_size = data, batch_size
        self.steps_per_epoch = len(data) // batch_size
        seed = torch.randint(2**63 - 1, (), generator=generator).item()
        self._go_on(torch.Generator().manual_seed(seed).get_state(), 0)

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        if isinstance(self.data.images, Streamed):
            if self._ahead is None:
                self._ahead = prefetch(self.data.images, self.data.labels, self._order)
            self._mark, images, labels = next(self._ahead)
            return images, labels
        self._mark, rows = next(self._order)
        return self.data.images.index_select(0, rows), self.data.labels.index_select(0, rows)

    def state_dict(self) -> dict[str, Tensor | int]:
        """generator: uint8, its state before the epoch's permutation; position: batches taken from this epoch;
        images and batch_size: what the state is for."""
        generator, position = self._mark
        return {
            "generator": generator.clone(),
            "position": position,
            "images": len(self.data),
            "batch_size": self.batch_size,
        }

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Go on where `state` was taken. Raises KitError if it is of another set size or batch size."""
        for name, own in (("images", len(self.data)), ("batch_size", self.batch_size)):
            if int(state[name]) != own:
                raise KitError(
                    f"the saved data order is for {name}={int(state[name])}, this one has {name}={own}: "
                    "resume with the configuration of the saved run, or start a new run"
                )
        self._go_on(state["generator"].cpu(), int(state["position"]))

    def _go_on(self, generator: Tensor, position: int) -> None:
        self._mark, self._ahead = (generator.clone(), position), None
        streams = isinstance(self.data.images, Streamed)
        self._order = _order(self._mark, len(self.data), self.batch_size, "cpu" if streams else self.data.device)


def _order(start: Mark, n: int, batch_size: int, device: torch.device | str) -> Iterator[tuple[Mark, Tensor]]:
    """After each batch: where that leaves the order, and the batch's rows (int64 [B] on the device), for ever."""
    generator, (before, position) = torch.Generator(), start
    generator.set_state(before)
    while True:
        before = generator.get_state()
        # Drawn on the CPU and moved once an epoch: the same order on every device, no copy in the step.
        order = torch.randperm(n, generator=generator).to(device)
        for i in range(position, n // batch_size):
            yield (before, i + 1), distributed.own(order[i * batch_size : (i + 1) * batch_size])
        position = 0
