"""Batches by one gather from the set's own device."""

from __future__ import annotations

import torch
from torch import Tensor

from kit.data.sets import ImageSet
from kit.errors import KitError


class Batches:
    """An endless iterator over shuffled batches: (images uint8 [B, C, H, W], labels int64 [B]) on the set's device.

    Each epoch is one permutation; the incomplete last batch is dropped. The order comes from a private CPU generator
    seeded by one draw from `generator`, so it is the same on every device, and resuming does not rewind a generator
    that others share. `state_dict` and `load_state_dict` resume bit-identically in the middle of an epoch.
    Raises KitError where `batch_size` exceeds the set or `generator` is not on the CPU.
    """

    def __init__(self, data: ImageSet, batch_size: int, generator: torch.Generator):
        if not 1 <= batch_size <= len(data):
            raise KitError(f"batch_size is {batch_size} but the set has {len(data)} images: "
                           f"choose batch_size from 1 to {len(data)}")
        if generator.device.type != "cpu":
            raise KitError(f"Batches needs a CPU generator, got one on {generator.device}: use torch.Generator()")
        self.data, self.batch_size = data, batch_size
        self.steps_per_epoch = len(data) // batch_size
        seed = torch.randint(2**63 - 1, (), generator=generator).item()
        self._generator = torch.Generator().manual_seed(seed)
        self._draw_epoch()

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        if self._position == self.steps_per_epoch:
            self._draw_epoch()
        start = self._position * self.batch_size
        rows = self._order[start:start + self.batch_size]
        self._position += 1
        return self.data.images.index_select(0, rows), self.data.labels.index_select(0, rows)

    def state_dict(self) -> dict[str, Tensor | int]:
        """generator: uint8, its state before the epoch's permutation; position: batches taken from this epoch;
        images and batch_size: what the state is for."""
        return {"generator": self._epoch_start.clone(), "position": self._position,
                "images": len(self.data), "batch_size": self.batch_size}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Go on where `state` was taken. Raises KitError if it is of another set size or batch size."""
        for name, own in (("images", len(self.data)), ("batch_size", self.batch_size)):
            if int(state[name]) != own:
                raise KitError(f"the saved data order is for {name}={int(state[name])}, this one has {name}={own}: "
                               "resume with the configuration of the saved run, or start a new run")
        self._generator.set_state(state["generator"].cpu())
        self._draw_epoch()
        self._position = int(state["position"])

    def _draw_epoch(self) -> None:
        self._epoch_start = self._generator.get_state()
        # Drawn on the CPU and moved once an epoch: the same order on every device, no copy in the step.
        self._order = torch.randperm(len(self.data), generator=self._generator).to(self.data.device)
        self._position = 0
