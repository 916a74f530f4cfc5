"""Image files: found, read, and decoded once into a memory-mapped array. What a file holds decides, not its name.

The cache's folder NAME-SIZE-PLACE-DIGEST (of the files' paths, sizes and times) holds images.npy (uint8 [N, C, H, W]),
marks.npy (their `pixel_marks`), bad.json (what is no image, and why) and, where images differed in size, `fitted`."""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from filelock import FileLock
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm.auto import tqdm

from kit.errors import KitError, summary
from kit.search.progress import say

EXTENSIONS = tuple(".jpg .jpeg .jpe .jfif .mpo .png .apng .bmp .dib .webp .gif .tif .tiff .ppm .pgm .pbm .pnm".split())
ENDINGS = ", ".join(EXTENSIONS)
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")  # PIL alone would hand PostScript to an interpreter
MAX_PIXELS = 120_000_000  # of one image, as it lies in the file or resized: more is a mistake or an attack
AT_ONCE = 512  # images that are held beside the others


class BadImage(KitError):
    """Why one image cannot be used."""


def image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files in a folder and below it that end as images do, and the others, sorted by path, without hidden ones.
    Links are followed, each folder is entered once. Raises OSError where that is not allowed."""
    images, others, left, entered = [], [], [folder], set(map(str, Path(os.path.realpath(folder)).parents))
    for where in left:  # which grows meanwhile
        if (place := os.path.realpath(where)) not in entered:
            entered.add(place)
            for item in visible(where):
                (left if item.is_dir() else images if item.suffix.lower() in EXTENSIONS else others).append(item)
    return sorted(images), sorted(others)


def visible(folder: Path) -> list[Path]:
    return [item for item in sorted(folder.iterdir()) if not item.name.startswith((".", "__MACOSX"))]


def say_left_out(folder: Path, files: Sequence[Path]) -> None:
    if files:
        shown = ", ".join(str(file.relative_to(folder)) for file in files[:5]) + ", …" * (len(files) > 5)
        say(f"{folder}: left out {len(files)} file(s), which lie in no class or are none of {ENDINGS}: {shown}")


def attempted(read: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """read(item) of each, in threads; where it fails, the reason as text."""

    def attempt(item: Any) -> Any:
        try:
            return read(item)
        except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error and more on broken files
            return str(error) if isinstance(error, BadImage) else summary(error)

    with warnings.catch_warnings(), ThreadPoolExecutor() as threads:  # PIL decodes and torch resizes outside the GIL
        warnings.simplefilter("ignore")  # PIL's about odd files; out here, since filters are the whole process's
        return list(threads.map(attempt, items))


def listed(bad: dict[Any, str]) -> str:
    shown = "; ".join(f"{image} ({why})" for image, why in list(bad.items())[:5])
    return shown + f"; and {len(bad) - 5} more" * (len(bad) > 5)


def decode(file: str | os.PathLike, image_size: int | None = None) -> np.ndarray:
    """An image file as uint8 [1 or 3, H, W], see `from_pil`. Raises BadImage, and what PIL raises for a broken one."""
    if os.path.exists(file) and not os.path.isfile(file):  # a named pipe that nobody writes to opens never
        raise BadImage("not a regular file")
    try:
        with Image.open(file, formats=FORMATS) as image:
            return from_pil(image, image_size)
    except UnidentifiedImageError:
        raise BadImage(f"not an image that can be read ({', '.join(FORMATS)})") from None


def from_pil(image: Image.Image, image_size: int | None = None) -> np.ndarray:
    """A PIL image as uint8 [C, H, W], C = 1 if it is grey, else 3: an animation's first frame, transparency laid on
    white, turned as EXIF says. image_size: fit it to a square. Raises BadImage where the header, before memory is
    taken, promises more than 8 bits a channel or more than `MAX_PIXELS` pixels."""
    width, height = image.size
    if image.mode.startswith(("I", "F")) or _is_deep(image):
        raise BadImage(f"mode {image.mode}: more than 8 bits a channel; save it with 8 bits")
    if width * height > MAX_PIXELS:
        raise BadImage(f"its header says {width}x{height} pixels, allowed are {MAX_PIXELS:,} in all")
    grey = image.mode in ("1", "L", "LA", "La")
    image.load()
    with contextlib.suppress(Exception):  # broken EXIF data beside sound pixels: the image stays as it lies
        image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    pixels = torch.from_numpy(np.atleast_3d(np.array(image.convert("L" if grey else "RGB")))).permute(2, 0, 1)
    return np.ascontiguousarray(pixels if image_size is None else fit(pixels[None], image_size, image_size)[0])


def _is_deep(image: Image.Image) -> bool:
    """Whether a colour has more than 8 bits in the file, which PIL cuts without a word, or none that are unsigned."""
    if tags := getattr(image, "tag_v2", None):
        bits, kinds = tags.get(258, 1), tags.get(339, 1)  # BitsPerSample; SampleFormat: 1 is unsigned, 4 is anything
        return np.max(bits) > 8 or not np.isin(kinds, (1, 4)).all()
    read = [(tile[0], tile[3]) for tile in getattr(image, "tile", ())]  # PIL's decoder and what it is told
    png = image.format == "PNG" and any(";16" in str(how) for _, how in read)
    return png or any(name.startswith("ppm") and how[1:] > (255,) for name, how in read if isinstance(how, tuple))


def fit(images: Tensor, height: int, width: int) -> Tensor:
    """Scale images uint8 [N, C, H, W] until they cover height×width pixels (bilinear, antialiased), then crop the
    centre. Raises BadImage where a scaled image would have more than `MAX_PIXELS` pixels."""
    h, w = images.shape[-2:]
    if (h, w) == (height, width):
        return images
    larger = [height, height * w // h] if height * w >= width * h else [width * h // w, width]
    if larger[0] * larger[1] > MAX_PIXELS:
        raise BadImage(f"{w}x{h} is too narrow to resize it to {width}x{height} pixels; crop it")
    top, left = (round((have - most) / 2) for have, most in zip(larger, (height, width)))  # torchvision's, to the pixel
    fitted = lambda part: interpolate(part, larger, mode="bilinear", antialias=True)[..., top:, left:]
    return torch.cat([fitted(part)[..., :height, :width] for part in images.split(1024)])  # a resize takes memory


@dataclass(frozen=True, eq=False)
class Streamed:
    """N images of a pool, uint8 [N, C, H, W], which come to `device` when they are asked for. pool: uint8 [P, C, H, W]
    on the CPU; marks: its `pixel_marks`; rows: int64 [N], which of the pool these are."""

    pool: Tensor
    marks: Tensor
    rows: Tensor
    device: torch.device = torch.device("cpu")
    dtype, ndim = torch.uint8, 4

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), *self.pool.shape[1:]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        return self.pool[self.rows[rows]].to(self.device)

    def to(self, device: torch.device | str) -> Self:
        return replace(self, device=torch.empty(0, device=device).device)  # with the GPU's number, as tensors say it

    def take(self, rows: Tensor) -> Self:
        return replace(self, rows=self.rows[rows.cpu()])


def pixel_marks(images: Tensor | Streamed) -> Tensor:
    """uint8 [N, C, H, W] → uint8 [N, 32]: SHA-256 of each image's pixels. What streams is not read."""
    if isinstance(images, Streamed):
        return images.marks[images.rows]
    parts = (np.ascontiguousarray(part.cpu()) for part in images.split(AT_ONCE))
    found = [hashlib.sha256(image).digest() for part in parts for image in part]
    return torch.from_numpy(np.frombuffer(bytearray(b"".join(found)), np.uint8).reshape(-1, 32))


def decoded(files: Sequence[Path], name: Path, image_size=None, photo_size=32) -> tuple[Streamed, dict[int, str]]:
    """The images of all files, mapped from the cache's folder `name`-DIGEST, which is made if it is not there; and the
    rows that hold no image (they are black), with the reasons. Images become RGB, or grey if all are, and without
    image_size, if they differ, squares of photo_size. Raises KitError where none can be read or kept."""
    digest = hashlib.sha256(b"3")  # of what is read from a file: another number makes all caches anew
    for file in files:
        digest.update(os.fsencode(file))
        with contextlib.suppress(OSError, ValueError):  # ValueError: a zero byte in the path
            state = os.stat(file)  # ctime moves with the content and with the rights to read it
            digest.update(f"\0{state.st_size} {state.st_ctime_ns}\0".encode())
    folder = name.with_name(f"{name.name}-{digest.hexdigest()[:16]}")
    try:
        with alone(name):
            if not folder.is_dir():
                for old in name.parent.glob(f"{glob.escape(name.name)}-*"):
                    shutil.rmtree(old)
                with whole(folder) as new:
                    _decode(files, new, image_size, photo_size)
            stored = lambda name: torch.from_numpy(np.load(folder / f"{name}.npy", "c"))  # c: writes stay in memory
            images = Streamed(stored("images"), stored("marks"), torch.arange(len(files)))
            bad, fitted = json.loads((folder / "bad.json").read_text()), (folder / "fitted").is_file()
    except (OSError, ValueError) as error:
        if isinstance(error, KitError):
            raise
        mend = "remove it, or set root= or KIT_DATA to a folder with room"
        raise KitError(f"the decoded images cannot be kept in {folder} ({error}): {mend}") from error
    if fitted:
        done = f"the shorter side resized to {photo_size} pixels, the centre cropped; image_size= sets another size"
        say(f"{name.name.rsplit('-', 2)[0]}: images differ in size: {done}")
    return images, {row: why for row, _, why in bad}


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock `path`.lock: of several processes one does the work while the others wait."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # in a folder that can only be read there is nothing to wait for
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(f"{path}.lock"))
        yield


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A new folder that becomes `folder`, as a whole or not at all; or a folder of that name in it does."""
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir()
        yield new
        inner = new / folder.name
        os.replace(inner if inner.is_dir() else new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _decode(files: Sequence[Path], folder: Path, image_size: int | None, photo_size: int, channels: int = 0) -> None:
    images, bad, target, read = None, {}, folder / "images.npy", lambda file: decode(file, image_size)
    silent = getattr(sys.stderr, "closed", True)  # or there is none
    starts = tqdm(range(0, len(files), AT_ONCE), "decoding images", delay=2, mininterval=2, disable=silent)
    for row, image in enumerate(image for start in starts for image in attempted(read, files[start : start + AT_ONCE])):
        if isinstance(image, str):
            bad[row] = image
            continue
        if images is None:
            shape = (channels or len(image), *image.shape[1:])
            images = np.lib.format.open_memmap(target, "w+", np.uint8, (len(files), *shape))
            with open(target, "r+b") as file:  # a full disk must show now: later it would end the process
                os.posix_fallocate(file.fileno(), 0, target.stat().st_size)
        if image.shape[1:] != shape[1:]:
            (folder / "fitted").touch()
            return _decode(files, folder, photo_size, photo_size)
        if len(image) > shape[0]:  # the first in colour among grey ones
            return _decode(files, folder, image_size, photo_size, channels=3)
        images[row] = image
    if images is None:
        raise KitError(f"none of the {len(files)} images can be read: {listed({files[row]: bad[row] for row in bad})}")
    np.save(folder / "marks.npy", pixel_marks(torch.from_numpy(images)).numpy())
    (folder / "bad.json").write_text(json.dumps([(row, str(files[row]), why) for row, why in bad.items()], indent=0))
