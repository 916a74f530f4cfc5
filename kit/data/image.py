"""Image files to uint8 arrays: what a file holds decides, not its name; what cannot be used has one clear reason.

Nothing in a file is ever executed: only the seven formats below are tried (PIL alone would hand PostScript to an
interpreter), and the
header is judged before memory is taken.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from kit.data.source import fit

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 120_000_000  # of one image, as it lies in the file or resized: more is a mistake or an attack
BACKGROUND = 255  # white, under what is transparent
_GREY = ("1", "L", "LA", "La")
_TOO_DEEP = ("I", "F")
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


class BadImage(Exception):
    """Why one file is of no use."""


def decode(file: str | os.PathLike, image_size: int | None = None) -> np.ndarray:
    """One image, uint8 [1 or 3, H, W]: grey images keep one channel, all others become RGB.

    Of an animation the first frame counts; transparency is laid on white; the image is turned as its EXIF says.
    image_size: the shorter
    side is resized to it and the centre cropped, as `kit.data.fit` does. Raises BadImage with the reason for what is
    not a regular
    file, cannot be opened, is none of `FORMATS`, is cut short, has more than 8 bits a channel or more than `MAX_PIXELS`
    pixels.
    """
    file = Path(file)
    try:
        with _file(file) as stream, Image.open(stream, formats=FORMATS) as image:
            _check(image, image_size)
            pixels = np.array(_plain(image))
        tensor = torch.from_numpy(pixels)
        tensor = tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)
        return np.ascontiguousarray((tensor if image_size is None else fit(tensor[None], image_size)[0]).numpy())
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(f"not an image that can be read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise BadImage(f"its header says more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error and more on broken files
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or "no message"
        raise BadImage(f"{type(error).__name__}: {reason.replace(str(file), file.name)}") from None


@contextlib.contextmanager
def _file(file: Path) -> Iterator:
    # Without waiting: a named pipe without a writer would hold everything up.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as stream:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise BadImage("not a regular file")
        if about.st_size == 0:
            raise BadImage("the file is empty (0 bytes)")
        yield stream


def _check(image: Image.Image, image_size: int | None) -> None:
    """Judge the header; the pixels are still undecoded."""
    width, height = image.size
    if image.mode.startswith(_TOO_DEEP):
        raise BadImage(f"mode {image.mode}: more than 8 bits a channel; save it with 8 bits")
    if width * height > MAX_PIXELS:
        raise BadImage(f"its header says {width}x{height} pixels, allowed are {MAX_PIXELS:,} in all")
    if image_size is not None and image_size**2 * max(width, height) > MAX_PIXELS * min(width, height):
        raise BadImage(f"{width}x{height} is too narrow to resize its shorter side to {image_size} pixels; crop it")


def _plain(image: Image.Image) -> Image.Image:
    """Grey (L) or RGB, upright."""
    grey, turn = image.mode in _GREY, _TURNS.get(_orientation(image))
    if image.mode in _ALPHA or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (BACKGROUND,) * 4), image)
    image = image.convert("L" if grey else "RGB")
    return image if turn is None else image.transpose(Image.Transpose[turn])


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(0x0112)
    except Exception:  # broken EXIF beside sound pixels: the image stays as it lies
        return None


_FILTERS = threading.RLock()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """PIL's remarks on odd files are not printed; how large is too large is decided above.

    Around the threads that decode, not in them: Python's warning filters are the process's.
    """
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
