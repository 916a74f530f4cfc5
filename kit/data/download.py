"""Files from the network: resumed where they broke off, retried, checked, moved into place whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from kit.errors import KitError
from kit.search import progress

TIMEOUT = 20.0  # seconds without an answer or a byte after which a connection has failed
RETRIES = 4  # failures in a row, none of which brought a new byte
BACKOFF = 1.0  # seconds before the first retry; doubles
_CHUNK = 1 << 20
_TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class DownloadError(Exception):
    """Why a file could not be had. The caller knows which data set it is for and says what to do instead."""


class _Transient(Exception):
    """A failure that may be gone a second later; wait: seconds that the server asks for."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


def fetch(url: str, target: Path, md5: str | None = None) -> Path:
    """Download `url` to `target`, which appears whole or not at all. Returns target.

    The bytes gather in `target`.part; a later call goes on where an earlier one broke off if the server can (Range) and
    the
    file there is still the same (If-Range). md5: hexadecimal; None where none is published: what is in the file is then
    for
    the caller to check. Raises DownloadError if the server refuses, stays away, or sends something else; KitError if
    the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    resumed = part.exists()
    _complete(url, part)
    if md5 is not None and (found := md5_of(part)) != md5:
        hint = " (it is a web page: a login or an error page in between?)" if _is_page(part) else ""
        _discard(part)
        if resumed:  # what was there before may be of another file: once more, from the start
            return fetch(url, target, md5)
        raise DownloadError(f"{url} has MD5 {found}, expected {md5}{hint}")
    os.replace(part, target)
    _note(part).unlink(missing_ok=True)
    return target


def md5_of(file: Path) -> str:
    """The hexadecimal MD5 of a file: against accidents, not against attackers."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@contextlib.contextmanager
def alone(lock: Path, waiting_for: str) -> Iterator[None]:
    """Hold the file `lock`, so that of several processes one does the work; the others wait here."""
    while True:
        file = open(lock, "a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process: {waiting_for}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: files still appear whole, only the work is done twice
            break
        # The one before may have removed the file after this one opened it: then the lock is on nothing.
        if lock.exists() and os.path.samestat(lock.stat(), os.fstat(file.fileno())):
            break
        file.close()
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        file.close()


def full_disk(folder: Path, needed: int | None = None) -> KitError:
    """The error for a disk without room. needed: bytes, where known."""
    wants = f"{size_text(needed)} more are needed and " if needed is not None else ""
    free = size_text(shutil.disk_usage(folder).free)
    return KitError(
        f"no room in {folder}: {wants}{free} are free: free some, or set root= or KIT_DATA to a folder on a larger disk"
    )


def is_full_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _FULL


class Meter:
    """Progress in bytes or files: a bar for people, for logs a first and a last line and at most one every ten seconds
    between.
    """

    def __init__(self, what: str, total: int | None = None, done: int = 0, unit: str = "B", every: float = 10.0):
        self.what, self.total, self.done, self.unit, self.every = what, total, done, unit, every
        self.began, self.start, self.told = done, time.monotonic(), time.monotonic()
        self.bar: Any = None
        if progress.interactive():
            from tqdm.auto import tqdm

            self.bar = tqdm(total=total, initial=done, desc=what, unit=unit, unit_scale=True)
        else:
            size = f", {self._amount(total)}" if total is not None else ""
            print(
                f"{what}: " + (f"goes on after {self._amount(done)}{self._of_total()}" if done else f"starts{size}"),
                flush=True,
            )

    def add(self, amount: int) -> None:
        self.done += amount
        if self.bar is not None:
            self.bar.update(amount)
        elif time.monotonic() - self.told >= self.every:
            self._tell(f"{self._amount(self.done)}{self._of_total()}")

    def _tell(self, state: str) -> None:
        self.told = time.monotonic()
        rate = (self.done - self.began) / max(self.told - self.start, 1e-9)
        print(f"{self.what}: {state}, {self._amount(int(rate))}/s", flush=True)

    def _amount(self, value: int) -> str:
        return size_text(value) if self.unit == "B" else f"{value:,} {self.unit}s"

    def _of_total(self) -> str:
        return f" of {self._amount(self.total)}" if self.total is not None else ""

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self.bar is not None:
            self.bar.close()
        else:
            short = kind is not None or (self.total is not None and self.done < self.total)
            self._tell(f"{'broke off after' if short else 'done,'} {self._amount(self.done)}")


def size_text(size: int) -> str:
    """Bytes as people read them.

    >>> size_text(170_498_071)
    '170.5 MB'
    """
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if size >= 10**power:
            return f"{size / 10**power:.1f} {unit}"
    return f"{size} bytes"


def _complete(url: str, part: Path) -> None:
    """Transfer until `part` is whole; give up after RETRIES failures in a row that brought nothing new."""
    failures, best = 0, -1
    while True:
        try:
            return _transfer(url, part)
        except _Transient as error:
            size = part.stat().st_size if part.exists() else 0
            failures = 0 if 0 < size > best else failures + 1
            best = max(best, size)
            if failures > RETRIES:
                raise DownloadError(f"{error}; {failures} attempts at {url}") from error
            time.sleep(max(min(error.wait, 60.0), min(BACKOFF * 2 ** max(failures - 1, 0), 30.0)))


def _transfer(url: str, part: Path) -> None:
    """One connection's worth. Raises _Transient where another may do better, DownloadError where none will."""
    have = part.stat().st_size if part.exists() else 0
    known = _read_note(part, url)
    if have and known.get("total") == have:
        return
    headers = {"User-Agent": "kit", "Accept-Encoding": "identity"}
    if have and "validator" in known:
        headers |= {"Range": f"bytes={have}-", "If-Range": known["validator"]}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
            start, total = _extent(answer, have)
            if total is not None and total - start > shutil.disk_usage(part.parent).free:
                raise full_disk(part.parent, total - start)
            if not start:  # before the note: it must never vouch for bytes of an older file
                part.unlink(missing_ok=True)
            _write_note(part, url, answer, total)
            _copy(answer, part, start, total)
    except urllib.error.HTTPError as error:
        _judge_status(error, part, url)
    except urllib.error.URLError as error:
        _judge_reason(error, url)
    except (
        OSError,
        http.client.HTTPException,
    ) as error:  # of the connection: `_writing` has turned those of the disk into others
        raise _Transient(_reason(error)) from error
    size = part.stat().st_size
    if total is not None and size != total:  # http.client ends a read that was cut short as if it were whole
        raise _Transient(f"the connection broke off after {size:,} of {total:,} bytes")


def _extent(answer: Any, have: int) -> tuple[int, int | None]:
    """Where the answer's first byte lies in the file, and the file's size if it is said."""
    length = answer.headers.get("Content-Length")
    if answer.status != 206:  # the whole file: no ranges there, or it is another file by now
        return 0, int(length) if length and length.isdigit() else None
    first, _, rest = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")
    if first != str(have):
        raise DownloadError(
            f"the server was asked for bytes from {have} and answered with {answer.headers.get('Content-Range')!r}"
        )
    size = rest.rpartition("/")[2]
    return have, int(size) if size.isdigit() else None


def _copy(answer: IO[bytes], part: Path, start: int, total: int | None) -> None:
    with _writing(part):
        out = open(part, "ab", buffering=0)
    with out, Meter(f"downloading {part.name.removesuffix('.part')}", total, start) as meter:
        while chunk := answer.read(_CHUNK):
            view = memoryview(chunk)
            while view:
                with _writing(part):
                    written = out.write(view)
                view = view[written:]
                meter.add(written)
        with _writing(part):
            os.fsync(out.fileno())


@contextlib.contextmanager
def _writing(part: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise (
            full_disk(part.parent) if is_full_disk(error) else DownloadError(f"{_reason(error)} while writing {part}")
        ) from error


def _judge_status(error: urllib.error.HTTPError, part: Path, url: str) -> None:
    reason = f"HTTP {error.code} {error.reason}"
    if error.code == 416:  # the file has fewer bytes than are here: it is another one by now
        _discard(part)
    elif error.code not in _TRANSIENT_STATUS:
        raise DownloadError(f"{reason} for {url}") from error
    wait = error.headers.get("Retry-After", "")
    raise _Transient(reason, float(wait) if wait.isdigit() else 0.0) from error


def _judge_reason(error: urllib.error.URLError, url: str) -> None:
    cause = error.reason
    hopeless = isinstance(cause, ssl.SSLCertVerificationError) or (
        isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN
    )
    if isinstance(cause, OSError) and not hopeless:
        raise _Transient(_reason(cause)) from error
    raise DownloadError(f"{_reason(cause) if isinstance(cause, BaseException) else cause} for {url}") from error


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_note(part: Path, url: str) -> dict[str, Any]:
    """What the server said of the file whose first bytes are in `part`; empty if that was another address."""
    try:
        note = json.loads(_note(part).read_text())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) and note.get("url") == url else {}


def _write_note(part: Path, url: str, answer: Any, total: int | None) -> None:
    tag = answer.headers.get("ETag", "")
    # A weak tag (W/) says "much the same", which is not enough to join bytes.
    validator = tag if tag.startswith('"') else answer.headers.get("Last-Modified")
    note = {"url": url, "total": total} | ({"validator": validator} if validator else {})
    with _writing(part):
        _note(part).write_text(json.dumps(note))


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _is_page(file: Path) -> bool:
    with open(file, "rb") as content:
        return content.read(512).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
