"""Augmentation alone, for anybody's training loop."""

import os
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from kit.augment.ops import kind_of
from kit.augment.policy import AUGMENT, Policy, build
from kit.errors import KitError, shown


class Augment(nn.Module):
    """Augments uint8 batches, each image by a draw of its own, on their device; in evaluation mode they stay as they
    are. For a training loop, or the collate function of a DataLoader.

    policy: a name of `kit.augment.AUGMENT` (randaugment, trivialaugment, …) or a run, whose τ is used as it was found.
    flip: False where a mirrored image is another class, as of digits. options: the policy's, by name (cutout=True).
    Random numbers follow torch.manual_seed, and differ between a DataLoader's workers. Raises KitError for what is no
    policy, an option that it does not have, and images of another type."""

    def __init__(self, policy: Any = "randaugment", *, flip: bool = True, **options: Any):
        super().__init__()
        self.found = {"name": policy} if isinstance(policy, str) else getattr(policy, "policy", None)
        if not self.found:
            raise KitError(f"policy={shown(policy)}: give a name ({', '.join(AUGMENT)}) or a finished run")
        part = AUGMENT[self.found["name"]]
        given = {} if isinstance(policy, str) else part.arguments(policy.config)
        given |= {"operations": ",".join(self.found["ops"])} if "ops" in self.found else {}
        self.options, self.built = {**given, **options, "flip": flip}, {}
        try:
            self.policy((32, 32), torch.device("cpu"))
        except (ValidationError, TypeError) as error:
            known = ", ".join(part.options.model_fields) or "none"
            raise KitError(f"{part.name} has no such options as {shown(options)}: it has {known} ({error})") from None

    def policy(self, size: tuple[int, int], device: torch.device) -> Policy:
        """What draws in this process for images of this size."""
        if (place := (os.getpid(), *size, device)) not in self.built:
            seed = int(torch.randint(2**62, ()))
            made = build(self.found["name"], torch.Generator(device).manual_seed(seed), size, **self.options)
            if "ops" in self.found:
                made.adopt(self.found)
            self.built[place] = made
        return self.built[place]

    def forward(self, images: Tensor) -> Tensor:
        """images: uint8 [N, C, H, W], C = 1 or 3. Returns new ones of the same shape; on a GPU nothing waits for it."""
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
            raise KitError(f"images must be uint8 [N, C, H, W], got {kind_of(images)}: augment them before normalizing")
        if not self.training:
            return images
        policy = self.policy(tuple(images.shape[2:]), images.device)
        return policy.apply(images, policy.derived(len(images)))

    def extra_repr(self) -> str:
        return self.found["name"]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "built": {}}  # a process that gets a copy seeds its own
