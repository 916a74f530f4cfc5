"""What `predict` takes: files, folders, PIL images and arrays become uint8 [N, C, H, W], prepared as the training
images were.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from kit.data import image as decoder
from kit.data.cache import Streamed
from kit.data.image import EXTENSIONS, MAX_PIXELS, BadImage, fit
from kit.errors import KitError

ALLOWED = (
    "allowed are a file's path, a folder, a PIL image, an array (uint8, or whole numbers 0…255) of shape [H, W], [H, W, C] or [C, H, W] "
    "with 1 or 3 channels, a list of these, or an array of N images: [N, C, H, W], [N, H, W, C], or [N, H, W] for grey ones"
)
LISTED = 5
CHANNELS, LAST = (1, 3), (1, 3, 4)  # a fourth channel at the end is transparency


def preprocessing(image: tuple[int, int, int]) -> dict[str, Any]:
    """In words and numbers, what is done to an image before the model of images [C, H, W] sees it; stored with the
    model.
    """
    c, h, w = image
    return {
        "image": [c, h, w],
        "dtype": "uint8",
        "range": [0, 255],
        "layout": "NCHW",
        "channels": "one grey channel (colours become ITU-R 601 luma)" if c == 1 else "RGB (grey images three times)",
        "resize": f"scaled to cover {h}×{w} pixels (bilinear, antialiased), for a square: the shorter side to {h}; then the centre cropped",
        "normalisation": "inside the model",
    }


class Inputs:
    """N images of whatever form, read in batches. files: their paths where they are files, in the order of the
    predictions.

    images: see `ALLOWED`; a folder is searched with its subfolders, its files are sorted by path. image: [C, H, W] of
    the model. Raises
    KitError on construction for what holds no images at all.
    """

    def __init__(self, images: Any, image: tuple[int, int, int]):
        self.image, self.files = tuple(image), None
        if isinstance(images, (str, os.PathLike)):
            images = _files(Path(images).expanduser())
        elif isinstance(images, Image.Image):
            images = [images]
        if isinstance(images, (list, tuple)):
            self.items = list(images)
            if self.items and all(isinstance(item, (str, os.PathLike)) for item in self.items):
                self.files = [Path(item) for item in self.items]
        elif isinstance(images, (Tensor, np.ndarray, Streamed)):
            self.items = self._stack(images)
        else:
            raise KitError(f"these are no images: {type(images).__name__}; {ALLOWED}")

    def __len__(self) -> int:
        return len(self.items)

    def batches(self, size: int) -> Iterator[Tensor]:
        """uint8 [up to size, C, H, W] on the images' device. One KitError at the end lists every image that cannot be
        used, and why.
        """
        if type(size) is not int or size < 1:
            raise KitError(f"batch_size={size!r}: give a whole number from 1")
        bad: list[tuple[int, str]] = []
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            for start in range(0, len(self), size):
                batch = self._batch(start, min(start + size, len(self)), bad, pool)
                if not bad:
                    yield batch
        if bad:
            raise KitError(self._complaint(bad))

    def all(self) -> Tensor:
        """uint8 [N, C, H, W]: what the model is given."""
        return torch.cat(
            [torch.zeros((0, *self.image), dtype=torch.uint8), *(batch.cpu() for batch in self.batches(256))]
        )

    def _complaint(self, bad: list[tuple[int, str]]) -> str:
        listed = "; ".join(
            f"image {i}{f' ({self.files[i]})' if self.files else ''}: {reason}" for i, reason in bad[:LISTED]
        )
        more = f"; and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        return f"{len(bad)} of {len(self)} images cannot be used: {listed}{more}. Remove or mend them; {ALLOWED}"

    # ---- arrays of many images -------------------------------------------------------------------

    def _stack(self, images: Any) -> Any:
        """The array as [N, …], the first axis counting images."""
        shape, (c, h, w) = tuple(images.shape), self.image
        if len(shape) == 3:
            if c == 1 and (shape[1:] == (h, w) or (shape[0] not in CHANNELS and shape[2] not in LAST)):
                return images  # grey ones
            if c == 1 and shape[0] == 3:
                raise KitError(
                    f"an array of shape {list(shape)} may be three grey images or one in colour: give [3, 1, H, W] or [1, 3, H, W]"
                )
            if c == 3 and shape[0] not in CHANNELS and shape[2] not in LAST:
                return images
        if len(shape) in (2, 3):
            return [images]
        if len(shape) != 4:
            raise KitError(f"an array of shape {list(shape)} is neither an image nor a batch of them; {ALLOWED}")
        return images

    def _batch(self, start: int, stop: int, bad: list[tuple[int, str]], pool: ThreadPoolExecutor) -> Tensor:
        part = self.items[start:stop]
        if not isinstance(part, list):
            known = _known(part, self.image)
            if known is not None:
                return fitted(known, self.image)
        tensors = []
        with decoder.quietly():
            for i, found in enumerate(pool.map(self._one, part), start):
                if isinstance(found, str):
                    bad.append((i, found))
                else:
                    tensors.append(found)
        return torch.stack(tensors) if tensors else torch.zeros((0, *self.image), dtype=torch.uint8)

    def _one(self, item: Any) -> Tensor | str:
        """uint8 [C, H, W], or why the item is of no use."""
        try:
            if isinstance(item, (str, os.PathLike)):
                pixels = torch.from_numpy(decoder.decode(Path(item).expanduser()))
            elif isinstance(item, Image.Image):
                pixels = _from_pil(item)
            elif isinstance(item, (Tensor, np.ndarray)):
                pixels = _from_array(item, self.image)
            else:
                raise BadImage(f"{type(item).__name__} is no image")
            return fitted(pixels[None], self.image)[0]
        except BadImage as reason:
            return str(reason)


# ---- one image -----------------------------------------------------------------------------------


def fitted(pixels: Tensor, image: tuple[int, int, int]) -> Tensor:
    """uint8 [n, 1 or 3, h, w] → uint8 [n, C, H, W]: first the channels, then the size, as `kit.data` does. Raises
    BadImage for slivers.
    """
    c, height, width = image
    if pixels.shape[1] != c:
        pixels = pixels.expand(-1, 3, -1, -1) if c == 3 else luma(pixels)
    h, w = pixels.shape[2:]
    if (h, w) == (height, width):
        return pixels
    larger = [height, height * w // h] if height * w >= width * h else [width * h // w, width]
    if larger[0] * larger[1] > MAX_PIXELS:
        raise BadImage(f"{w}x{h} is too narrow to resize it to {width}x{height} pixels; crop it")
    if height == width:
        return fit(pixels, height)
    return F.center_crop(F.resize(pixels, larger, antialias=True), [height, width])


def luma(rgb: Tensor) -> Tensor:
    """uint8 [n, 3, H, W] → [n, 1, H, W] with PIL's weights, to the pixel: an array predicts as its file does."""
    r, g, b = rgb.to(torch.int32).unbind(1)
    return ((19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16).to(torch.uint8).unsqueeze(1)


def _known(part: Tensor | np.ndarray, image: tuple[int, int, int]) -> Tensor | None:
    """A uint8 batch [n, 1 or 3, h, w] if it can be nothing else, which needs no look at every image; on its own
    device.
    """
    if isinstance(part, np.ndarray):
        part = torch.from_numpy(np.ascontiguousarray(part)) if part.dtype == np.uint8 else None
    if part is None or part.dtype != torch.uint8 or part.numel() == 0:
        return None
    part = part.unsqueeze(1) if part.ndim == 3 else part
    clear = part.shape[1] in CHANNELS and part.shape[3] not in LAST
    return part if clear or tuple(part.shape[1:]) == image else None


def _from_pil(image: Image.Image) -> Tensor:
    try:
        decoder._check(image, None)
        pixels = torch.from_numpy(np.array(decoder._plain(image)))
    except (OSError, ValueError, SyntaxError) as error:  # a file that PIL opened and only now decodes
        raise BadImage(f"{type(error).__name__}: {' '.join(str(error).split())}") from None
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _from_array(array: Tensor | np.ndarray, image: tuple[int, int, int]) -> Tensor:
    try:
        x = array.detach().cpu() if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))
    except TypeError:  # text, objects, dates
        raise BadImage(f"an array of {array.dtype}") from None
    if x.numel() == 0:
        raise BadImage(f"an empty array, shape {list(x.shape)}")
    x = _pixels(x.permute(1, 2, 0) if tuple(x.shape) == image else _channels_last(x))
    return _from_pil(Image.fromarray(x.numpy())) if x.shape[2] == 4 else x.permute(2, 0, 1)


def _channels_last(x: Tensor) -> Tensor:
    """[H, W], [H, W, C] or [C, H, W] as [H, W, C]."""
    if x.ndim == 2:
        return x[:, :, None]
    first, last = x.ndim == 3 and x.shape[0] in CHANNELS, x.ndim == 3 and x.shape[2] in LAST
    if first and last and x.shape[0] != x.shape[2]:
        raise BadImage(f"shape {list(x.shape)} may be [C, H, W] or [H, W, C]")
    if not first and not last:
        raise BadImage(f"shape {list(x.shape)}")
    return x.permute(1, 2, 0) if first else x


def _pixels(x: Tensor) -> Tensor:
    """The values as uint8, if they are whole numbers from 0 to 255."""
    if x.dtype == torch.uint8:
        return x.contiguous()
    if x.dtype == torch.bool or x.is_complex():
        raise BadImage(f"{str(x.dtype).removeprefix('torch.')} values")
    if not torch.isfinite(x).all():
        raise BadImage("values that are not finite (NaN or infinite)")
    low, high = x.min().item(), x.max().item()
    if x.is_floating_point() and 0 <= low and high <= 1:
        raise BadImage("floats from 0 to 1: multiply by 255 and round to uint8")
    if low < 0 or high > 255 or (x.is_floating_point() and (x != x.round()).any()):
        raise BadImage(
            f"values from {low:.4g} to {high:.4g}, not whole numbers from 0 to 255 (the model normalises by itself)"
        )
    return x.to(torch.uint8).contiguous()


def _files(path: Path) -> list[Path]:
    """A folder's image files, or the one file."""
    if not path.is_dir():
        if not path.exists():
            raise KitError(f"{path} was not found (from {Path.cwd()}); {ALLOWED}")
        return [path]
    hidden = (".", "__MACOSX")
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in EXTENSIONS
        and file.is_file()
        and not any(part.startswith(hidden) for part in file.relative_to(path).parts)
    )
    if not found:
        raise KitError(f"{path} holds no image files ({', '.join(EXTENSIONS)})")
    return found
