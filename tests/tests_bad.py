"""The bad inputs of test_bad_inputs.py, made here: bytes of image files, pickles that run code, and what is done to a
run's files.
"""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "WEBP": ".webp", "GIF": ".gif", "TIFF": ".tif", "PPM": ".ppm"}
MARK = "code_was_run"


def pixels(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.RandomState(0).randint(0, np.iinfo(dtype).max, shape).astype(dtype)


def encoded(kind: str, image: Image.Image | None = None, **options) -> bytes:
    """A sound file of 12 x 10 pixels."""
    stream = io.BytesIO()
    (image or Image.fromarray(pixels(10, 12, 3))).save(stream, kind, **options)
    return stream.getvalue()


class Bomb:
    """Unpickled, it leaves a file called MARK in the working directory."""

    def __reduce__(self):
        return open, (MARK, "w")


def pickled() -> bytes:
    return pickle.dumps(Bomb())


# ---------------------------------------------------------------- bytes of image files


def cuts() -> Iterator[tuple[str, bytes]]:
    """Every format, cut at many places."""
    for kind, suffix in SUFFIX.items():
        whole = encoded(kind)
        for share in (0.004, 0.01, 0.03, 0.08, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 0.97):
            yield f"cut-{share}{suffix}", whole[: max(1, int(share * len(whole)))]
        yield f"cut-last{suffix}", whole[:-1]


def flips() -> Iterator[tuple[str, bytes]]:
    """Every format with eight bytes overwritten, in its header and later, and with a tail of noise."""
    for kind, suffix in SUFFIX.items():
        whole = encoded(kind)
        for at in (0, 4, 12, 20, 40, len(whole) // 2, len(whole) - 10):
            yield f"flip-{at}{suffix}", whole[:at] + b"\xff\x00\xa5\x5a\x7f\x80\x01\xfe" + whole[at + 8 :]
        yield f"tail{suffix}", whole + bytes(pixels(500))


def strangers() -> Iterator[tuple[str, bytes]]:
    """Not an image, whatever the name says; or an image of a format that kit does not read."""
    script = f"import pathlib; pathlib.Path('{MARK}').touch()"
    contents = {
        "empty": b"",
        "newline": b"\n",
        "zeros": bytes(5000),
        "ones": b"\xff" * 5000,
        "noise": bytes(pixels(5000)),
        "text": b"a cat\n" * 99,
        "pickle": pickled(),
        "html": b"<html><body>404</body></html>",
        "json": b'{"image": 1}',
        "script": f"#!/bin/sh\ntouch {MARK}\n".encode(),
        "python": script.encode(),
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
        "elf": b"\x7fELF" + bytes(200),
        "zip": b"PK\x03\x04" + bytes(200),
        "gzip": b"\x1f\x8b\x08" + bytes(200),
        "pdf": b"%PDF-1.7\n",
        "npy": b"\x93NUMPY" + bytes(200),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
        + f"({MARK}) (w) file closefile\nshowpage\n".encode(),
    }
    for name, content in contents.items():
        for suffix in (".jpg", ".png"):
            yield f"{name}{suffix}", content
    for kind in ("ICO", "TGA", "PCX", "SGI", "JPEG2000", "EPS", "PDF", "ICNS", "DDS"):
        try:
            yield f"{kind.lower()}.jpg", encoded(kind, Image.new("RGB", (16, 16)))
        except (OSError, KeyError):  # a codec that this PIL was built without
            continue


def _png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 0)
        + b"IDAT"
    )


def deep_png(channels: int, colour: int, *extra: bytes) -> bytes:
    """12 x 10 pixels of 16 bits a channel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 12, 10, 16, colour, 0, 0, 0))
    rows = zlib.compress((b"\0" + b"\x0f\xff" * 12 * channels) * 10)
    more = chunk(*extra) if extra else b""
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def deep_tiff(order: str, photometric: int, channels: int, bits: int = 16, kind: int = 1) -> bytes:
    """12 x 10 pixels, without compression; kind: 2 is signed."""
    size, start, end = 120 * channels * bits // 8, 8, 8 + 120 * channels * bits // 8
    many = lambda value, at: (channels, at if channels > 2 else value)
    tags = {256: (1, 12), 257: (1, 10), 258: many(bits, end), 259: (1, 1), 262: (1, photometric), 273: (1, start)}
    tags |= {277: (1, channels), 278: (1, 10), 279: (1, size), 339: many(kind, end + 8)}
    lists = struct.pack(f"{order}8H", *[bits] * 4, *[kind] * 4)
    head = b"II*\0" if order == "<" else b"MM\0*"
    at = {1: lambda n: struct.pack(f"{order}H2x", n), 2: lambda n: struct.pack(f"{order}I", n)}
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, 3, n) + at[1 if n == 1 else 2](value)
        for tag, (n, value) in sorted(tags.items())
    )
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return head + struct.pack(f"{order}I", end + 16) + b"\x0f" * size + lists + directory


def huge() -> Iterator[tuple[str, bytes]]:
    """A small file whose header promises gigabytes of pixels."""
    for width, height in ((60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (12_000, 10_001)):
        yield f"huge-{width}x{height}.png", _png(width, height)
        yield f"huge-{width}x{height}.ppm", b"P6 %d %d 255\n" % (width, height) + bytes(100)
    yield "huge.bmp", encoded("BMP")[:18] + struct.pack("<ii", 60_000, 60_000) + encoded("BMP")[26:]
    yield "huge.gif", b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + encoded("GIF")[10:]
    jpeg = encoded("JPEG")
    at = jpeg.index(b"\xff\xc0")
    yield "huge.jpg", jpeg[: at + 5] + struct.pack(">HH", 65_500, 65_500) + jpeg[at + 9 :]
    tiff = io.BytesIO()
    Image.new("1", (11_000, 11_000)).save(tiff, "TIFF", compression="group4")
    yield "huge.tif", tiff.getvalue()


def odd() -> Iterator[tuple[str, bytes, tuple | None]]:
    """Sound images that are not plain RGB: with what a pixel of them must be, or None where they are to be refused."""

    def flat(mode: str, colour, size=(12, 10)) -> Image.Image:
        return Image.new(mode, size, colour)

    red = (250, 0, 0)
    palette = flat("RGB", red).quantize(4)
    glass = flat("RGBA", (0, 0, 0, 0))
    half = flat("RGBA", (250, 0, 0, 0x80))
    yield "cmyk.jpg", encoded("JPEG", flat("CMYK", (0, 255, 255, 0))), (254, 0, 0)
    yield "cmyk.tif", encoded("TIFF", flat("CMYK", (0, 255, 255, 0))), (255, 0, 0)
    yield "palette.png", encoded("PNG", palette), red
    yield "palette.gif", encoded("GIF", palette), red
    yield "palette-transparent.png", encoded("PNG", palette, transparency=0), (255, 255, 255)
    yield "palette-alphas.png", encoded("PNG", palette, transparency=bytes([0x80, 0, 0, 0])), (252, 127, 127)
    yield "palette-transparent.gif", encoded("GIF", palette, transparency=0), (255, 255, 255)
    yield "glass.png", encoded("PNG", glass), (255, 255, 255)
    yield "half.png", encoded("PNG", half), (252, 127, 127)
    yield "half.webp", encoded("WEBP", half, lossless=True), (252, 127, 127)
    yield "half.tif", encoded("TIFF", half), (252, 127, 127)
    yield "grey-alpha.png", encoded("PNG", flat("LA", (0, 0))), (255, 255, 255)
    yield "grey-transparent.png", encoded("PNG", flat("L", 7), transparency=7), (255, 255, 255)
    yield "rgb-transparent.png", encoded("PNG", flat("RGB", red), transparency=red), (255, 255, 255)
    yield "bits.png", encoded("PNG", flat("1", 1)), (255, 255, 255)
    yield "bits.tif", encoded("TIFF", flat("1", 1)), (255, 255, 255)
    yield "ycbcr.tif", encoded("TIFF", flat("RGB", (200, 200, 200)).convert("YCbCr")), (200, 200, 200)
    yield "progressive.jpg", encoded("JPEG", flat("RGB", (128, 128, 128)), progressive=True), (128, 128, 128)
    frames = [flat("RGB", red), flat("RGB", (0, 0, 250))]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        yield (
            f"animated{SUFFIX[kind]}",
            encoded(kind, frames[0], save_all=True, append_images=frames[1:], **options),
            red,
        )
    for size in ((1, 1), (1, 90), (90, 1)):
        yield f"small-{size[0]}x{size[1]}.png", encoded("PNG", flat("RGB", red, size)), red
    for turn in (*range(10), 99):
        exif = Image.Exif()
        exif[0x0112] = turn
        yield f"exif-{turn}.png", encoded("PNG", flat("RGB", red), exif=exif), red
    yield (
        "exif-broken.jpg",
        encoded("JPEG", flat("RGB", (128, 128, 128)), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(20)),
        (128, 128, 128),
    )
    for dtype, mode in ((np.uint16, "16"), (np.int32, "32")):
        yield f"deep-{mode}.tif", encoded("TIFF", Image.fromarray(pixels(10, 12, dtype=dtype))), None
    yield "deep.png", encoded("PNG", Image.fromarray(pixels(10, 12, dtype=np.uint16))), None
    yield "float.tif", encoded("TIFF", Image.fromarray(np.full((10, 12), np.nan, np.float32))), None
    for channels, colour in ((2, 4), (3, 2), (4, 6)):  # grey with alpha, RGB, RGBA: PIL cuts them to 8 bits
        yield f"deep-{channels}.png", deep_png(channels, colour), None
    yield "deep-key.png", deep_png(3, 2, b"tRNS", bytes(6)), None
    for order, photometric, more in (("<", 2, 0), (">", 2, 0), ("<", 2, 1), (">", 5, 1)):
        yield f"deep-{photometric}-{3 + more}-{ord(order)}.tif", deep_tiff(order, photometric, 3 + more), None
    yield "signed.tif", deep_tiff("<", 1, 1, bits=8, kind=2), None
    yield "deep-colour.ppm", b"P6 12 10 4095\n" + bytes(720), None
    yield "deep-plain.ppm", b"P3 12 10 4095\n" + b"9 " * 360, None
    yield "coarse.ppm", b"P6 12 10 15\n" + bytes((15, 0, 0)) * 120, (255, 0, 0)
    yield "deep.ppm", b"P5 12 10 65535\n" + bytes(240), None
    yield "sliver.png", encoded("PNG", flat("RGB", red, (1, 3_000_000))), None


# ---------------------------------------------------------------- what is done to a file of a run


def _cut(share: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = b"\xff\x00\xa5\x5a\x7f\x80\x01\xfe"
    path.write_bytes(bytes(content))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARMS: dict[str, Callable[[Path], None]] = {
    "removed": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "folder": _folder,
    "flip": _flip,
    "cut-start": _cut(0.05),
    "cut-half": _cut(0.5),
    "cut-end": _cut(0.98),
    "pickle": lambda path: path.write_bytes(pickled()),
    "noise": lambda path: path.write_bytes(bytes(pixels(999))),
    "list": lambda path: path.write_text("[1, 2]"),
    "null": lambda path: path.write_text("null"),
    "other": lambda path: path.write_text('{"a": {"b": 1}}'),
    "objects": lambda path: path.write_bytes(_objects()),
}


def _objects() -> bytes:
    """A .npz of pickled objects, which numpy would unpickle if it were allowed to."""
    stream = io.BytesIO()
    np.savez(stream, alpha=np.array([Bomb()], dtype=object), epoch=np.array([Bomb()], dtype=object))
    return stream.getvalue()


def edits(value: dict, inside: str = "network") -> Iterator[dict]:
    """A JSON object with one entry taken out or replaced by another type; the same for the entries of its entry
    `inside`.
    """
    for key in value:
        yield {k: v for k, v in value.items() if k != key}
        for other in (None, -1, "x", [[None]]):
            yield value | {key: other}
    if isinstance(value.get(inside), dict):
        yield from (value | {inside: inner} for inner in edits(value[inside]))


# ---------------------------------------------------------------- what is given to functions

NO_PATHS = {
    "zero byte": "a\0b",
    "nobody": "~nobody-of-that-name/x",
    "long": "x" * 5000,
    "number": 5,
    "bytes": b"x",
    "surrogate": "\ud800x",
    "list": ["x"],
}
BIG = 10**5000  # which has no decimal text


def deep() -> list:
    """Lists in lists, whose text takes more stack than there is."""
    found: list = []
    for _ in range(100_000):
        found = [found]
    return found
