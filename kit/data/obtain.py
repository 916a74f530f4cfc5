"""A data set's files: where they lie, else from archives that lie in root, else downloaded and unpacked."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kit.data import download
from kit.data.archive import BrokenArchive, extract
from kit.data.source import Files, Source
from kit.errors import KitError


class Absent(Exception):
    """A folder does not hold the data set as its publisher lays it out. The text says what is missing."""


@dataclass(frozen=True)
class Remote:
    """A file that its publisher offers.

    url: None if it must be fetched by hand (a registration, a dead address); md5: None where none is published, then
    what is in
    it is counted once it is unpacked; unpack: it is an archive; into: the folder under root where it or its content
    belongs;
    there: paths under root, one of which says that it is there already; needed: without it the set is not whole
    (otherwise a note
    is printed and the reader does without).
    """

    file: str
    url: str | None
    md5: str | None = None
    unpack: bool = True
    into: str = ""
    there: tuple[str, ...] = ()
    needed: bool = True

    def is_there(self, root: Path) -> bool:
        return any((root / path).exists() for path in self.there or (f"{self.into}/{self.file}",))


def obtain(
    name: str, root: Path, read: Callable[[], Source | Files], remotes: list[Remote], looked: list[str], mend: str
) -> Source | Files:
    """What `read` returns, once the files are there.

    read: looks under root and raises Absent if the set is not (wholly) there; looked: where it looks, for the message;
    mend: what
    the user may do where nothing helps. One process fetches, others wait for it. Files appear under root whole, each or
    as a
    folder; a start that was stopped at any moment is repeated by the next, and its downloads go on where they broke
    off.
    Raises KitError with every place that was looked at and the reason of the failure.
    """
    try:
        return read()
    except Absent as absent:
        found = f"dataset {name!r} was not found in {' or '.join(looked)} ({absent})"
    lacking = [remote for remote in remotes if not remote.is_there(root)]
    by_hand = [r.file for r in lacking or remotes if r.needed and r.url is None and not _local(r, root, name)]
    if not remotes or by_hand:
        raise KitError(f"{found}: {mend}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with download.alone(root / f".{name}.lock", f"it fetches {name!r}"):
            return _filled(name, root, read, [lacking, remotes] if lacking else [remotes])
    except download.DownloadError as error:
        raise KitError(f"{found}, and the download failed ({error}): {mend}") from error
    except Absent as absent:
        raise KitError(
            f"dataset {name!r}: {root} was filled from {', '.join(r.file for r in remotes)}, but {absent}: {mend}"
        ) from None
    except OSError as error:
        if download.is_full_disk(error):
            raise download.full_disk(root) from error
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise KitError(
            f"{found}, and the download failed ({text}; is {root} a folder that you may write to?): {mend}"
        ) from error


def _filled(name: str, root: Path, read: Callable[[], Source | Files], attempts: list[list[Remote]]) -> Source | Files:
    """First what is not there at all; if that is not enough, the rest as well."""
    fresh: list[Remote] = []
    for remotes in attempts:
        with contextlib.suppress(Absent):
            return read()  # another process may have fetched it while this one waited
        stale = [remote for remote in remotes if remote not in fresh]
        if stale:
            _fill(name, root, stale)
        fresh += stale
    return read()


def _fill(name: str, root: Path, remotes: list[Remote]) -> None:
    downloads, staging = root / ".downloads" / name, root / f".unpacking-{name}"
    shutil.rmtree(staging, ignore_errors=True)  # of a start that was killed
    staging.mkdir()
    try:
        for remote in remotes:
            try:
                file = _local(remote, root, name) or download.fetch(remote.url, downloads / remote.file, remote.md5)
            except download.DownloadError as error:
                if remote.needed:
                    raise
                print(f"{name}: goes on without {remote.file} ({error})", flush=True)
                continue
            _place(remote, file, staging / remote.into)
        _merge(staging, root)
        # Only what kit itself downloaded: archives that the user put into root stay.
        shutil.rmtree(downloads, ignore_errors=True)
    except BrokenArchive:
        if file.is_relative_to(downloads):  # or every later start would find it again
            file.unlink()
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in (downloads, downloads.parent):
            with contextlib.suppress(OSError):  # a download that broke off stays, to go on from
                folder.rmdir()


def _place(remote: Remote, file: Path, target: Path) -> None:
    if remote.unpack:
        extract(file, target)
        return
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target / remote.file)


def _local(remote: Remote, root: Path, name: str) -> Path | None:
    """The file if the user put it into root, or kit downloaded it before and was stopped."""
    for folder in (root, root / remote.into, root / name, root / ".downloads" / name):
        file = folder / remote.file
        if not file.is_file():
            continue
        if remote.md5 is None or (md5 := download.md5_of(file)) == remote.md5:
            return file
        print(f"{file} is not used: its MD5 is {md5}, expected {remote.md5} (incomplete?)", flush=True)
    return None


def _merge(source: Path, target: Path) -> None:
    """Move what is in one folder into another: whole folders where there is none of that name, else file by file."""
    for item in sorted(source.iterdir()):
        place = target / item.name
        if item.is_dir() and place.is_dir():
            _merge(item, place)
        else:
            os.replace(item, place)
