"""The trained model, and the images that it takes: files, folders, PIL images and arrays."""

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from PIL import Image
from pydantic import TypeAdapter
from torch import Tensor, nn

from kit import space
from kit.config import Config
from kit.data.image import ENDINGS, BadImage, attempted, decode, fit, from_pil, image_files, listed, say_left_out
from kit.errors import KitError, summary, whole
from kit.files import place

ALLOWED = (
    "allowed are a path, a folder, a pattern (photos/*.jpg), a PIL image, an array of whole numbers from 0 to 255 (the "
    "model normalises by itself) of shape [H, W], [H, W, C] or [C, H, W], a list of these, or an array of N images: "
    "[N, C, H, W], [N, H, W, C] or, grey ones, [N, H, W]"
)


@dataclass(frozen=True)
class Prediction:
    """labels: int64 [N]; probabilities: float32 [N, classes]; names: the labels'; files: where all are files."""

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
    def built(cls, found: dict[str, Any], tensors: dict[str, Tensor], source: Path) -> Self:
        """From model.json and the weights; `source` is their file, which a KitError names where they do not fit."""
        try:
            spec, classes = dict(found["network"]), list(found["classes"])
            if len(classes) != spec["classes"] or {type(name) for name in classes} != {str}:
                raise ValueError(f"{spec['classes']} classes are called {classes!r:.60}")
            for name in set(spec) & set(Config.model_fields) - {"genotype"}:
                field = Config.model_fields[name]
                TypeAdapter(Annotated[field.annotation, field]).validate_python(spec[name])
            with torch.device("meta"):  # takes no memory: what is described may be larger than what is there
                network = space.build(spec.pop("space"), spec.pop("classes"), tuple(spec.pop("image")), **spec)
            network.load_state_dict(tensors, assign=True)
        except Exception as error:  # whatever altered values lead to
            problem = f"does not hold the weights of the network described beside it ({summary(error)})"
            raise KitError(f"{source} {problem}") from None
        # in the memory layout of the evaluation: its scores are the recorded ones to the last bit
        return cls(network.to(memory_format=torch.channels_last), classes).eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images, self.child)

    @torch.no_grad()
    def predict(self, images: Any, batch_size: int = 256) -> Prediction:
        """Classes of images of any form, on the model's device, in evaluation mode.

        images: see `ALLOWED`; folders are read with their subfolders, sorted by path, and a list may be an iterator.
        Arrays are numpy's or torch's, of any numeric dtype; of three axes a first one of 1 or 3, or a last one of 1, 3
        or 4, is the channels of one image. All are adapted as the training images were, see `preprocessing`. Raises
        KitError for what holds no images, and at the first batch with images that cannot be used, naming them."""
        items, device = gathered(images), self.eval().network.mean.device
        scores = [self(batch.to(device)).float().cpu() for batch in batches(items, self.network.image, batch_size)]
        probabilities = torch.cat([torch.zeros(0, len(self.classes)), *scores]).softmax(dim=1)
        labels = probabilities.argmax(dim=1)
        names = [self.classes[i] for i in labels.tolist()]
        files = list(items) if all(isinstance(item, Path) for item in items) else None
        return Prediction(labels, probabilities, names, files)


def preprocessing(image: tuple[int, int, int]) -> dict[str, Any]:
    """What is done to an image before a model of images [C, H, W] sees it, in words; stored with the model."""
    c, h, w = image
    return {
        "image": [c, h, w],
        "pixels": "uint8 [N, C, H, W], from 0 to 255",
        "channels": "one grey channel (colours become ITU-R 601 luma)" if c == 1 else "RGB (grey images three times)",
        "resize": f"scaled to cover {h}×{w} pixels (bilinear, antialiased), then the centre cropped",
        "normalisation": "inside the model",
    }


def batches(images: Any, image: tuple[int, int, int], size: int = 256) -> Iterator[Tensor]:
    """Images of whatever form (see `ALLOWED`) as a model of [C, H, W] = `image` sees them: uint8 [up to size, C, H, W].
    Raises KitError as `TrainedModel.predict` does."""
    size = whole("batch_size", size, 1)
    items = gathered(images)
    for start in range(0, len(items), size):
        chunk = items[start : start + size]
        if isinstance(chunk, Tensor) and chunk.dtype == torch.uint8 and chunk.shape[1:] == image:
            yield chunk
            continue
        found = attempted(lambda item: _fitted(item, image), chunk)
        names = [f"image {start + i}" + (f" {item}" if isinstance(item, Path) else "") for i, item in enumerate(chunk)]
        if bad := {name: one for name, one in zip(names, found) if isinstance(one, str)}:
            raise KitError(f"{len(bad)} images cannot be used: {listed(bad)}; {ALLOWED}")
        yield torch.stack(found)


def gathered(images: Any) -> Any:
    """A sequence of images, or an array [N, …]; files are `Path`s. Raises KitError for what holds no images."""
    axes = getattr(images, "ndim", None)
    if isinstance(images, (str, os.PathLike)):
        return _files(images)
    if isinstance(images, Image.Image) or axes == 2:
        return [images]
    if axes == 3:
        return [images] if images.shape[0] in (1, 3) or images.shape[2] in (1, 3, 4) else images[:, None]
    if axes == 4:
        return images
    if axes in (None, 1) and isinstance(images, Iterable) and not isinstance(images, (Mapping, Set, bytes)):
        parts = (_files(item) if isinstance(item, (str, os.PathLike)) else [item] for item in images)
        if (items := [item for part in parts for item in part]) or isinstance(images, (list, tuple)):
            return items
    raise KitError(f"these are no images: {getattr(images, 'shape', type(images).__name__)}; {ALLOWED}")


def _files(given: str | os.PathLike) -> list[Path]:
    path = place(given)
    if not os.fspath(given):
        raise KitError(f"the path is empty; {ALLOWED}")  # to Python it is the working directory
    if not path.is_dir():
        matches = [] if path.exists() else sorted(glob.glob(str(path), recursive=True))
        return [file for match in matches for file in _files(match)] or [path]
    try:
        files, others = image_files(path)
    except OSError as error:
        raise KitError(f"{path} cannot be listed: {error}") from None
    if not files:
        raise KitError(f"{path} holds no image files ({ENDINGS})")
    say_left_out(path, others)
    return files


def _fitted(item: Any, image: tuple[int, int, int]) -> Tensor:
    """uint8 [C, H, W]. First the channels, then the size, as `kit.data` does."""
    channels, height, width = image
    pixels = _pixels(item)
    if len(pixels) > channels:  # by PIL, so that an array predicts as its file does
        pixels = from_pil(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).convert("L"))
    return fit(torch.from_numpy(pixels).expand(channels, -1, -1)[None], height, width)[0]


def _pixels(item: Any) -> np.ndarray:
    """uint8 [1 or 3, h, w]"""
    if isinstance(item, (str, os.PathLike)):
        return decode(place(item))
    if isinstance(item, (Tensor, np.ndarray)):
        about = f"{str(item.dtype).removeprefix('torch.')} of shape {list(item.shape)}"
        if isinstance(item, Tensor):  # numpy has no bfloat16
            item = (item.double() if item.dtype.is_floating_point else item).numpy(force=True)
        grey, colour = item.ndim == 2, item.ndim == 3 and min(item.shape[::2]) <= 4  # the channels are first or last
        if item.dtype.kind not in "uif" or not (grey or colour) or not item.size:
            raise BadImage(about)
        array = item.astype(np.uint8, copy=False)
        if not (array == item).all():
            raise BadImage(f"{about}: {item.min():g} to {item.max():g} are not all whole numbers from 0 to 255")
        array = array.transpose(1, 2, 0) if array.ndim == 3 and array.shape[0] in (1, 3) else array  # channels last
        item = Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2:] == (1,) else array))
    if not isinstance(item, Image.Image):
        raise BadImage(f"{type(item).__name__} is no image")
    return from_pil(item)
