"""The trained model, and the images that it takes: files, folders, PIL images and arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from kit import space
from kit.data.image import ENDINGS, MAX_PIXELS, BadImage, decode, from_pil, image_files, quietly, say_left_out
from kit.errors import KitError
from kit.run.store import summary

ALLOWED = (
    "allowed are a path, a folder, a PIL image, a uint8 array (0…255: the model normalises by itself) of shape [H, W], "
    "[H, W, C] or [C, H, W], a list of these, or an array of N images: [N, C, H, W] or [N, H, W, C]"
)
LISTED = 5  # bad images that an error names


@dataclass(frozen=True)
class Prediction:
    """labels: int64 [N]; probabilities: float32 [N, classes]; names: the labels' class names; files: those of a
    folder."""

    labels: Tensor
    probabilities: Tensor
    names: list[str]
    files: list[Path] | None = None


class TrainedModel(nn.Module):
    """The found network alone: uint8 images [N, C, H, W] → class scores float [N, classes]. It normalises by itself."""

    def __init__(self, network: space.Network, classes: list[str]):
        super().__init__()
        self.network, self.classes = network, list(classes)
        self.child, self.preprocessing = network.only_child(), preprocessing(network.image)

    @classmethod
    def built(cls, found: dict[str, Any], tensors: dict[str, Tensor], source: Path) -> TrainedModel:
        """From model.json and the weights; `source` is their file, which a KitError names where they do not fit."""
        try:
            spec, classes = dict(found["network"]), list(found["classes"])
            if [type(name) for name in classes] != [str] * spec["classes"]:
                raise ValueError(f"{spec['classes']} classes are called {classes!r:.60}")
            with torch.random.fork_rng(devices=[]):  # the first weights are replaced: the caller's draws stay the same
                network = space.build(spec.pop("space"), spec.pop("classes"), tuple(spec.pop("image")), **spec)
            network.load_state_dict(tensors)
        except Exception as error:  # whatever altered values lead to
            raise KitError(
                f"{source} does not hold the weights of the network described beside it ({summary(error)})"
            ) from None
        # in the memory layout of the evaluation, so that its scores are the recorded ones to the last bit
        return cls(network.to(memory_format=torch.channels_last), classes).eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images, self.child)

    @torch.no_grad()
    def predict(self, images: Any, batch_size: int = 256) -> Prediction:
        """Classes of images of any form, on the model's device, in evaluation mode.

        images: a path, a folder (with its subfolders, sorted by path), a PIL image, a uint8 array [H, W], [H, W, C] or
        [C, H, W], a list of these, or a batch as an array [N, C, H, W] or [N, H, W, C]. They are adapted as the
        training images were: grey ↔ RGB, the shorter side scaled to fit, the centre cropped. batch_size bounds the
        memory. Raises KitError at the first batch with images that cannot be used, naming them and why.
        """
        items, device = listed(images), self.eval().network.mean.device
        scores = [self(batch.to(device)).float().cpu() for batch in batches(items, self.network.image, batch_size)]
        probabilities = torch.cat([torch.zeros(0, len(self.classes)), *scores]).softmax(dim=1)
        labels = probabilities.argmax(dim=1)
        names = [self.classes[i] for i in labels.tolist()]
        return Prediction(labels, probabilities, names, items if isinstance(images, (str, os.PathLike)) else None)


def preprocessing(image: tuple[int, int, int]) -> dict[str, Any]:
    """What is done to an image before a model of images [C, H, W] sees it, in words; stored with the model."""
    c, h, w = image
    return {
        "image": [c, h, w],
        "dtype": "uint8",
        "range": [0, 255],
        "layout": "NCHW",
        "channels": "one grey channel (colours become ITU-R 601 luma)" if c == 1 else "RGB (grey images three times)",
        "resize": f"scaled to cover {h}×{w} pixels (bilinear, antialiased), then the centre cropped",
        "normalisation": "inside the model",
    }


def batches(images: Any, image: tuple[int, int, int], size: int = 256) -> Iterator[Tensor]:
    """Images of whatever form (see `ALLOWED`) as a model of [C, H, W] = `image` sees them: uint8 [up to size, C, H, W].

    Raises KitError for what holds no images, and at the first batch with images that cannot be used, naming them.
    """
    if type(size) is not int or size < 1:
        raise KitError(f"batch_size={size!r}: give a whole number from 1")
    items = listed(images)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for start in range(0, len(items), size):
            chunk = items[start : start + size]
            if isinstance(chunk, Tensor) and chunk.dtype == torch.uint8 and chunk.shape[1:] == image:
                yield chunk
                continue
            with quietly():
                found = list(pool.map(lambda item: _fitted(item, image), chunk))
            if bad := [i for i, one in enumerate(found) if isinstance(one, str)]:
                path = lambda item: f" ({item})" if isinstance(item, (str, os.PathLike)) else ""
                named = "; ".join(f"image {start + i}{path(chunk[i])}: {found[i]}" for i in bad[:LISTED])
                more = f"; and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
                raise KitError(f"{len(bad)} images cannot be used: {named}{more}; {ALLOWED}")
            yield torch.stack(found)


def listed(images: Any) -> Any:
    """A sequence of images, or an array [N, …], whatever was given; of a folder the image files in it and below it,
    hidden ones left out. Raises KitError for what holds no images.
    """
    if isinstance(images, (str, os.PathLike)) and not (folder := Path(images).expanduser()).is_dir():
        return [folder]
    if isinstance(images, (str, os.PathLike)):
        try:
            files, others = image_files(folder)
        except OSError as error:
            raise KitError(f"{folder} cannot be listed: {error}") from None
        if not files:
            raise KitError(f"{folder} holds no image files ({ENDINGS})")
        say_left_out(folder, others)
        return files
    if isinstance(images, Image.Image) or getattr(images, "ndim", 0) in (2, 3):
        return [images]
    if isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4:
        return images
    raise KitError(f"these are no images: {getattr(images, 'shape', type(images).__name__)}; {ALLOWED}")


def _fitted(item: Any, image: tuple[int, int, int]) -> Tensor | str:
    """uint8 [C, H, W], or why the item is of no use. First the channels, then the size, as `kit.data` does."""
    c, height, width = image
    try:
        pixels = torch.from_numpy(_pixels(item))
        if len(pixels) != c:  # by PIL, so that an array predicts as its file does
            pixels = pixels.expand(3, -1, -1) if c == 3 else F.pil_to_tensor(F.to_pil_image(pixels).convert("L"))
        h, w = pixels.shape[1:]
        larger = [height, height * w // h] if height * w >= width * h else [width * h // w, width]
        if larger[0] * larger[1] > MAX_PIXELS:
            raise BadImage(f"{w}x{h} is too narrow to resize it to {width}x{height} pixels; crop it")
        return F.center_crop(F.resize(pixels, larger, antialias=True), [height, width])
    except Exception as error:  # a picture that PIL opened elsewhere it decodes only now, and may find it broken
        return str(error) if isinstance(error, BadImage) else summary(error)


def _pixels(item: Any) -> np.ndarray:
    """uint8 [1 or 3, h, w]"""
    if isinstance(item, (str, os.PathLike)):
        return decode(Path(item).expanduser())
    if isinstance(item, (Tensor, np.ndarray)):
        array = item.cpu().numpy() if isinstance(item, Tensor) else item
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or not array.size:
            raise BadImage(f"{array.dtype} of shape {list(array.shape)}")
        channels_first = array.ndim == 3 and array.shape[0] in (1, 3)
        item = F.to_pil_image(np.ascontiguousarray(array.transpose(1, 2, 0) if channels_first else array))
    if not isinstance(item, Image.Image):
        raise BadImage(f"{type(item).__name__} is no image")
    return from_pil(item)
