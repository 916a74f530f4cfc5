"""Finding and reading image files. What a file holds decides, not its name; one that cannot be used has one reason."""

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from kit.search.progress import say

EXTENSIONS = tuple(".jpg .jpeg .jpe .jfif .mpo .png .apng .bmp .dib .webp .gif .tif .tiff .ppm .pgm .pbm .pnm".split())
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")  # PIL alone would hand PostScript to an interpreter
ENDINGS = ", ".join(EXTENSIONS)
MAX_PIXELS = 120_000_000  # of one image, as it lies in the file or resized: more is a mistake or an attack


class BadImage(Exception):
    """Why one image cannot be used."""


def image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files in a folder and below it that end as images do, and the others, sorted by path.

    Hidden ones are left out; links are followed, each folder is entered once. Raises OSError where that is not allowed.
    """

    def refuse(error: OSError) -> None:
        raise error

    images, others = [], []
    entered = {str(above) for above in Path(os.path.realpath(folder)).parents}
    for where, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        if (place := os.path.realpath(where)) in entered:
            folders.clear()
            continue
        entered.add(place)
        folders[:] = sorted(filter(visible, folders))
        for file in (Path(where, name) for name in files if visible(name)):
            (images if is_image(file) else others).append(file)
    return sorted(images), sorted(others)


def is_image(file: Path) -> bool:
    return file.suffix.lower() in EXTENSIONS


def visible(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))


def say_left_out(folder: Path, files: Sequence[Path]) -> None:
    """One line, if there are any."""
    if files:
        shown = ", ".join(str(file.relative_to(folder)) for file in files[:5]) + ", …" * (len(files) > 5)
        say(f"{folder}: left out {len(files)} file(s), which lie in no class or are none of {ENDINGS}: {shown}")


def decode(file: str | os.PathLike, image_size: int | None = None) -> np.ndarray:
    """One image file as uint8 [1 or 3, H, W]; see `from_pil`. Raises BadImage with the reason for what is no regular
    file, cannot be opened, is none of `FORMATS`, or is cut short."""
    file = Path(file)
    try:
        if file.exists() and not file.is_file():  # opening a named pipe that nobody writes to would wait for ever
            raise BadImage("not a regular file")
        with Image.open(file, formats=FORMATS) as image:
            return from_pil(image, image_size)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(f"not an image that can be read ({', '.join(FORMATS)})") from None
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error and more on broken files
        raise BadImage(f"{type(error).__name__}: {' '.join(str(error).split())}") from None


def from_pil(image: Image.Image, image_size: int | None = None) -> np.ndarray:
    """A PIL image as uint8 [C, H, W]: grey images keep one channel (C = 1), all others become RGB (C = 3).

    The first frame of an animation counts, transparency is laid on white, and the image is turned as its EXIF data
    says. image_size: as in `fit`. Raises BadImage where the header, before memory is taken, promises more than 8 bits a
    channel or more than `MAX_PIXELS` pixels.
    """
    width, height = image.size
    if image.mode.startswith(("I", "F")) or _is_deep(image):
        raise BadImage(f"mode {image.mode}: more than 8 bits a channel; save it with 8 bits")
    if width * height > MAX_PIXELS:
        raise BadImage(f"its header says {width}x{height} pixels, allowed are {MAX_PIXELS:,} in all")
    if image_size is not None and image_size**2 * max(width, height) > MAX_PIXELS * min(width, height):
        raise BadImage(f"{width}x{height} is too narrow to resize its shorter side to {image_size} pixels; crop it")
    grey = image.mode in ("1", "L", "LA", "La")
    image.load()
    with contextlib.suppress(Exception):  # broken EXIF data beside sound pixels: the image stays as it lies
        image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    pixels = torch.from_numpy(np.atleast_3d(np.array(image.convert("L" if grey else "RGB")))).permute(2, 0, 1)
    return np.ascontiguousarray(pixels if image_size is None else fit(pixels[None], image_size)[0])


def _is_deep(image: Image.Image) -> bool:
    """Whether the file has more than PIL's 8 bits of a colour, which PIL cuts without a word, or other than unsigned
    numbers."""
    if tags := getattr(image, "tag_v2", None):
        bits, kinds = tags.get(258, 1), tags.get(339, 1)  # BitsPerSample; SampleFormat: 1 is unsigned, 4 is anything
        return np.max(bits) > 8 or not np.isin(kinds, (1, 4)).all()
    read = [(tile[0], tile[3]) for tile in getattr(image, "tile", ())]  # PIL's decoder and what it is told
    png = image.format == "PNG" and any(";16" in str(how) for _, how in read)
    return png or any(name.startswith("ppm") and how[1:] > (255,) for name, how in read if isinstance(how, tuple))


def fit(images: Tensor, size: int) -> Tensor:
    """Resize the shorter side to `size` (bilinear, antialiased), then crop the centre.

    images: uint8 [N, C, H, W]. Returns uint8 [N, C, size, size], the same tensor where nothing changes.
    """
    if images.shape[-2:] == (size, size):
        return images
    # In chunks: the resize may work in floats, four times the images' memory.
    chunks = (F.center_crop(F.resize(chunk, [size], antialias=True), [size, size]) for chunk in images.split(1024))
    return torch.cat(list(chunks))


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without PIL's warnings about odd files. For around the threads that decode: filters are the whole process's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
