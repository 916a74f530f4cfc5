"""From image files to a `Source`: decoded once, by several threads, into a cache; what cannot be read is listed with
its reason.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from kit.data.cache import VERSION, Memory, Place, Pool, Unusable
from kit.data.image import BadImage, decode, quietly
from kit.data.source import Files, Source
from kit.data.stream import Streamed
from kit.errors import KitError, unknown
from kit.run import store
from kit.search.progress import interactive

ON_BAD_IMAGE = ("error", "skip")
WORTH_A_CACHE = 2**22  # bytes of image files: fewer are decoded in a moment and leave nothing behind
NAMED = 10  # bad images in an error
_BLOCK = 32  # images that a thread takes at a time
_EVERY = 10.0  # seconds between two lines of progress


class _Colour(Exception):
    """A set that looked grey has an RGB image."""


def to_source(
    files: Files, *, name: str, root: str | os.PathLike, image_size: int | None = None, on_bad_image: str = "error"
) -> Source:
    """Decode image files, or map the cache of an earlier call; its place is `root`/cache.

    Images become RGB, or one grey channel if all are grey; see `kit.data.image.decode`. Without image_size they must
    agree in size.
    on_bad_image: "error" raises one KitError that lists images which cannot be read, with reasons; "skip" leaves them
    out, says how many
    and writes the list beside the cache. Raises KitError also for a file that is listed twice, a class with too few
    images to split, and
    images that fit neither the disk nor the memory.
    """
    if on_bad_image not in ON_BAD_IMAGE:
        raise unknown("on_bad_image", on_bad_image, ON_BAD_IMAGE)
    listed = [file for part in files.parts().values() for file, _ in part]
    twice = next((file for file, n in Counter(listed).items() if n > 1), None)
    if twice is not None:
        raise KitError(
            f"{name}: {twice} is listed twice: an image belongs to one part and one class; remove one of the lines"
        )
    _check_counts(files, files.train)
    place = Place(Path(root) / "cache", _stem(listed, name, Path(root), image_size))
    pool = _pool(listed, name, place, image_size)
    if pool.bad:
        _report(pool.bad, listed, name, place, on_bad_image)
    parts, start = {}, 0
    for part, labelled in files.parts().items():
        good = [i for i in range(len(labelled)) if start + i not in pool.bad]
        if not good:
            raise KitError(f"{name}: no image of {part} can be read: replace the files listed in {place.bad_list}")
        labels = torch.tensor([labelled[i][1] for i in good])
        parts[part] = Streamed(pool.images, torch.tensor(good) + start, sums=pool.sums, announce=pool.announce), labels
        start += len(labelled)
        if part == "train" and pool.bad:
            _check_counts(files, [labelled[i] for i in good], "readable image(s)")
    return Source(files.classes, **parts, val_fraction=files.val_fraction, test_fraction=files.test_fraction)


def _check_counts(files: Files, train: Sequence[tuple[Path, int]], kind: str = "image(s)") -> None:
    """Every class must reach every part that is to be cut from train."""
    needed = {1: 3, 2: 2, 3: 1}[len(files.parts())]
    counts, first = Counter(label for _, label in train), {label: file for file, label in reversed(files.train)}
    for label, name in enumerate(files.classes):
        if counts[label] < needed:
            where = f", the first {first[label]}" if label in first else ""
            raise KitError(
                f"class {name!r} has {counts[label]} {kind}{where}: at least {needed} are needed to split it; "
                "add images, or remove the class, or give train, val and test"
            )


# ---- decoded once --------------------------------------------------------------------------------


def _stem(files: list[Path], name: str, root: Path, image_size: int | None) -> str:
    """The cache's file name: the same while the folder is; what is in the files is compared apart."""
    common = os.path.commonpath([os.path.abspath(file) for file in files])
    inside = os.path.relpath(common, os.path.abspath(root))  # a root may be mounted elsewhere
    key = hashlib.sha256(
        f"{common if inside.startswith('..') else inside}\0{name}".encode(errors="surrogateescape")
    ).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)[:80]}-{image_size or 'own'}-{key}"


def _identity(files: list[Path], image_size: int | None) -> tuple[dict, int]:
    """What a cache of these files must say of itself, and the files' bytes: by path, size and time of change, nothing
    is read.
    """
    digest, size = hashlib.sha256(), 0
    for file in files:
        try:
            state = os.stat(file)
            digest.update(f"{file}\0{state.st_size}\0{state.st_mtime_ns}\n".encode(errors="surrogateescape"))
            size += state.st_size
        except OSError as error:
            digest.update(f"{file}\0{error.errno}\n".encode(errors="surrogateescape"))
    return {"version": VERSION, "digest": digest.hexdigest(), "image_size": image_size}, size


def _pool(files: list[Path], name: str, place: Place, image_size: int | None) -> Pool:
    about, size = _identity(files, image_size)
    if size < WORTH_A_CACHE:
        return _filled(files, name, image_size, lambda shape: Memory(name, shape))
    found = _found(files, name, place, about, image_size, say=False)
    if found is not None:
        return found
    try:
        with place.building(name):
            found = _found(
                files, name, place, about, image_size, say=True
            )  # another process may have made it meanwhile
            return found or _filled(files, name, image_size, lambda shape: place.writer(shape, about))
    except OSError as error:
        print(
            f"{name}: no cache can be written in {place.folder} ({error.strerror or error}): the images are decoded into memory, this time "
            "and the next; set root= or KIT_DATA to a folder with room",
            flush=True,
        )
    return _filled(files, name, image_size, lambda shape: Memory(name, shape))


def _found(files: list[Path], name: str, place: Place, about: dict, image_size: int | None, say: bool) -> Pool | None:
    try:
        pool = place.read(about)
        with quietly():
            mended = next((row for row in pool.bad if not isinstance(_attempt(files[row], image_size), str)), None)
        if mended is not None:  # a right to read it was given, say: that changes neither size nor time
            raise Unusable(f"{files[mended]} can be read now")
        return pool
    except Unusable as reason:
        if say and place.about.exists():
            print(f"{name}: the cache {place.images} is made anew: {reason}", flush=True)
        return None


def _attempt(file: Path, image_size: int | None) -> np.ndarray | str:
    try:
        return decode(file, image_size)
    except BadImage as reason:
        return str(reason)


def _filled(files: list[Path], name: str, image_size: int | None, make: Callable[[tuple[int, ...]], Memory]) -> Pool:
    """make(shape): what the images are put in. The first image that can be read says how many channels, and without
    image_size how
    large, the others are to be."""
    bad: dict[int, str] = {}
    with quietly():
        for row, file in enumerate(files):
            first = _attempt(file, image_size)
            if not isinstance(first, str):
                break
            bad[row] = first
        else:
            raise KitError(f"{name}: none of the {len(files)} images can be read: {_listed(bad, files)}")
        try:
            return _with_channels(len(first), files, row, first, image_size, name, make)
        except _Colour:  # rare: a set that is partly grey and begins so
            return _with_channels(3, files, row, first, image_size, name, make)


def _with_channels(
    channels: int,
    files: list[Path],
    lead: int,
    first: np.ndarray,
    image_size: int | None,
    name: str,
    make: Callable[[tuple[int, ...]], Memory],
) -> Pool:
    shape, bad = (channels, *first.shape[1:]), {}
    writer = make((len(files), *shape))

    def work(block: range) -> dict[int, str]:
        failed = {}
        for row in block:
            image = _attempt(files[row], image_size)
            if isinstance(image, str):
                failed[row] = image
                continue
            if image.shape[1:] != shape[1:]:
                (h, w), (h0, w0) = image.shape[1:], shape[1:]
                raise KitError(
                    f"images differ in size: {files[lead]} is {w0}x{h0}, {files[row]} is {w}x{h}: "
                    "pass image_size=... to resize and crop them, such as image_size=32"
                )
            if len(image) > channels:
                raise _Colour
            writer.put(row, np.ascontiguousarray(np.broadcast_to(image, shape)))
        return failed

    blocks = [range(i, min(i + _BLOCK, len(files))) for i in range(0, len(files), _BLOCK)]
    threads = ThreadPoolExecutor(min(16, len(os.sched_getaffinity(0))))  # PIL decodes and torch resizes outside the GIL
    try:
        for failed in _progress(threads.map(work, blocks), len(files), name):
            bad |= failed
        return writer.finish(bad)
    except BaseException:  # also an interrupt: what waits is not begun
        threads.shutdown(cancel_futures=True)
        writer.abandon()
        raise
    finally:
        threads.shutdown()


def _progress(blocks: Iterator[dict[int, str]], total: int, name: str) -> Iterator[dict[int, str]]:
    """A bar for people, a line now and then for logs, and nothing for what takes a moment."""
    if interactive():
        from tqdm.auto import tqdm

        with tqdm(total=total, desc=f"decoding {name}", unit="image", delay=2) as bar:
            for block in blocks:
                bar.update(min(_BLOCK, total - bar.n))
                yield block
        return
    began = said = time.monotonic()
    for i, block in enumerate(blocks, 1):
        now, done = time.monotonic(), min(i * _BLOCK, total)
        if now - said > _EVERY:
            said = now
            left = (total - done) * (now - began) / done
            print(f"{name}: {done:,} of {total:,} images decoded, about {left:.0f} s left", flush=True)
        yield block


# ---- images that cannot be read ------------------------------------------------------------------


def _report(bad: dict[int, str], files: list[Path], name: str, place: Place, on_bad_image: str) -> None:
    if on_bad_image == "error":
        raise KitError(
            f"{name}: {len(bad)} of {len(files)} images are unreadable: {_listed(bad, files)}: replace or remove them, or pass "
            "on_bad_image='skip' to leave them out"
        )
    text = "".join(f"{files[row]}\t{reason}\n" for row, reason in sorted(bad.items()))
    try:
        store.atomically(place.bad_list, lambda path: path.write_text(text, errors="surrogateescape"))
        where = f"the list with the reasons is {place.bad_list}"
    except OSError:
        where = _listed(bad, files)
    print(f"{name}: {len(bad)} of {len(files)} images are unreadable and left out; {where}", flush=True)


def _listed(bad: dict[int, str], files: list[Path]) -> str:
    common, rows = os.path.commonpath([os.path.abspath(file.parent) for file in files]), sorted(bad)
    more = f"; and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return (
        f"in {common}: "
        + "; ".join(f"{os.path.relpath(files[row], common)} ({bad[row]})" for row in rows[:NAMED])
        + more
    )
