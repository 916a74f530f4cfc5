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
from kit.data.image import EXTENSIONS, MAX_PIXELS, BadImage, decode, from_pil, quietly
from kit.errors import KitError

ALLOWED = (
    "allowed are a path, a folder, a PIL image, an array (uint8, or whole numbers 0…255) of shape [H, W], "
    "[H, W, C] or [C, H, W] with 1 or 3 channels, a list of these, or an array of N images: [N, C, H, W], [N, H, W, C] "
    "or [N, H, W] for grey ones"
)
SCALE = "floats from 0 to 1: multiply by 255 and round; the model normalises by itself"
LISTED = 5  # bad images that an error names
CHANNELS_FIRST, CHANNELS_LAST = (1, 3), (1, 3, 4)  # a fourth channel at the end is transparency


@dataclass(frozen=True)
class Prediction:
    """labels: int64 [N]; probabilities: float32 [N, classes]; names: the labels' class names; files: paths, if any."""

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
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise KitError(f"{source} does not hold the weights of the network described beside it ({why})") from None
        # in the memory layout of the evaluation, so that its scores are the recorded ones to the last bit
        return cls(network.to(memory_format=torch.channels_last), classes).eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images, self.child)

    def predict(self, images: Any, batch_size: int = 256) -> Prediction:
        """Classes of images of any form, on the model's device, in evaluation mode.

        images: a path, a folder (with its subfolders, sorted by path), a PIL image, an array, a list of these, or a
        batch as an array: uint8 (or whole numbers 0…255) [N, C, H, W], [N, H, W, C] or grey [N, H, W]. They are adapted
        as the training images were: grey ↔ RGB, the shorter side scaled to fit, the centre cropped. batch_size bounds
        the memory. Raises one KitError that names every image that cannot be used, and why.
        """
        inputs, was_training = Inputs(images, self.network.image), self.training
        self.eval()
        with torch.no_grad():
            scores = [self(batch.to(self.network.mean.device)).float().cpu() for batch in inputs.batches(batch_size)]
        self.train(was_training)
        probabilities = torch.cat(scores).softmax(dim=1) if scores else torch.zeros(0, len(self.classes))
        labels = probabilities.argmax(dim=1)
        return Prediction(labels, probabilities, [self.classes[i] for i in labels.tolist()], inputs.files)


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


class Inputs:
    """N images of whatever form, read in batches. files: their paths, where they are files.

    images: see `ALLOWED`; a folder is searched with its subfolders, sorted by path. image: [C, H, W] of the model.
    Raises KitError on construction for what holds no images at all.
    """

    def __init__(self, images: Any, image: tuple[int, int, int]):
        self.image, self.files = tuple(image), None
        if isinstance(images, (str, os.PathLike)):
            images = _files(Path(images).expanduser())
        if isinstance(images, Image.Image):
            images = [images]
        if isinstance(images, (list, tuple)):
            if images and all(isinstance(item, (str, os.PathLike)) for item in images):
                self.files = [Path(item) for item in images]
        elif not hasattr(images, "shape"):
            raise KitError(f"these are no images: {type(images).__name__}; {ALLOWED}")
        elif not self._counts_images(tuple(images.shape)):
            images = [images]
        self.items = images

    def __len__(self) -> int:
        return len(self.items)

    def batches(self, size: int) -> Iterator[Tensor]:
        """uint8 [up to size, C, H, W]. After the last, one KitError lists every image that cannot be used, and why."""
        if type(size) is not int or size < 1:
            raise KitError(f"batch_size={size!r}: give a whole number from 1")
        bad: list[str] = []
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            for start in range(0, len(self), size):
                with quietly():
                    found = list(pool.map(self._one, self.items[start : start + size]))
                for i, image in enumerate(found, start):
                    if isinstance(image, str):
                        bad.append(f"image {i}{f' ({self.files[i]})' if self.files else ''}: {image}")
                if not bad:
                    yield torch.stack(found)
        if bad:
            more = f"; and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
            raise KitError(
                f"{len(bad)} of {len(self)} images cannot be used: {'; '.join(bad[:LISTED])}{more}; {ALLOWED}"
            )

    def all(self) -> Tensor:
        """uint8 [N, C, H, W] on the CPU: what the model is given."""
        return torch.cat([torch.zeros((0, *self.image), dtype=torch.uint8), *self.batches(256)])

    def _counts_images(self, shape: tuple[int, ...]) -> bool:
        """Whether the first axis of an array counts images."""
        if len(shape) not in (2, 3, 4):
            raise KitError(f"an array of shape {list(shape)} is neither an image nor a batch of them; {ALLOWED}")
        if len(shape) != 3:
            return len(shape) == 4
        grey = self.image[0] == 1
        if grey and shape[1:] == self.image[1:]:
            return True
        if grey and shape[0] == 3:
            raise KitError(
                f"{list(shape)} may be three grey images or one in colour: give [3, 1, H, W] or [1, 3, H, W]"
            )
        return shape[0] not in CHANNELS_FIRST and shape[2] not in CHANNELS_LAST

    def _one(self, item: Any) -> Tensor | str:
        """uint8 [C, H, W], or why the item is of no use."""
        try:
            if isinstance(item, (str, os.PathLike)):
                pixels = torch.from_numpy(decode(Path(item).expanduser()))
            elif isinstance(item, Image.Image):
                pixels = torch.from_numpy(from_pil(item))
            elif isinstance(item, (Tensor, np.ndarray)):
                pixels = _from_array(item, self.image)
            else:
                raise BadImage(f"{type(item).__name__} is no image")
            return _fitted(pixels, self.image)
        except BadImage as reason:
            return str(reason)
        except (OSError, ValueError, SyntaxError) as error:  # of a file that PIL has opened before and only now decodes
            return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _fitted(pixels: Tensor, image: tuple[int, int, int]) -> Tensor:
    """uint8 [1 or 3, h, w] → uint8 [C, H, W]: first the channels, then the size, as `kit.data` does."""
    c, height, width = image
    if len(pixels) != c:  # by PIL, so that an array predicts as its file does
        pixels = pixels.expand(3, -1, -1) if c == 3 else F.pil_to_tensor(F.to_pil_image(pixels).convert("L"))
    h, w = pixels.shape[1:]
    if (h, w) == (height, width):
        return pixels
    larger = [height, height * w // h] if height * w >= width * h else [width * h // w, width]
    if larger[0] * larger[1] > MAX_PIXELS:
        raise BadImage(f"{w}x{h} is too narrow to resize it to {width}x{height} pixels; crop it")
    return F.center_crop(F.resize(pixels, larger, antialias=True), [height, width])


def _from_array(x: Tensor | np.ndarray, image: tuple[int, int, int]) -> Tensor:
    """One image's array as uint8 [1 or 3, H, W]."""
    if isinstance(x, Tensor):  # numpy has no bfloat16
        x = (x.float() if x.is_floating_point() else x).detach().cpu().numpy()
    if x.dtype.kind not in "uif":
        raise BadImage(f"an array of {x.dtype} values")
    if x.size == 0 or x.ndim not in (2, 3):
        raise BadImage(f"{'an empty array, ' if x.size == 0 else ''}shape {list(x.shape)}")
    if x.dtype != np.uint8:
        low, high = float(x.min()), float(x.max())
        if not (0 <= low <= high <= 255 and (x == np.round(x)).all()) or (x.dtype.kind == "f" and high <= 1):
            raise BadImage(f"values from {low:.4g} to {high:.4g}, not whole numbers from 0 to 255 ({SCALE})")
        x = x.astype(np.uint8)
    if x.ndim == 2:
        x = x[None]
    elif x.shape != image:
        first, last = x.shape[0] in CHANNELS_FIRST, x.shape[2] in CHANNELS_LAST
        if not (first or last) or (first and last and x.shape[0] != x.shape[2]):
            raise BadImage(f"shape {list(x.shape)} {'may be' if first else 'is neither'} [C, H, W] or [H, W, C]")
        x = x if first else x.transpose(2, 0, 1)
    x = torch.from_numpy(np.ascontiguousarray(x))
    return torch.from_numpy(from_pil(F.to_pil_image(x))) if len(x) == 4 else x


def _files(path: Path) -> list[Path]:
    """The image files of a folder and its subfolders, without hidden ones; or the one file."""
    if not path.is_dir():
        if not path.exists():
            raise KitError(f"{path} was not found (from {Path.cwd()}); {ALLOWED}")
        return [path]
    found = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in EXTENSIONS and file.is_file()]
    hidden = (".", "__MACOSX")
    found = [file for file in found if not any(part.startswith(hidden) for part in file.relative_to(path).parts)]
    if not found:
        raise KitError(f"{path} holds no image files ({', '.join(EXTENSIONS)})")
    return found
