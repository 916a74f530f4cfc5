"""Files that others may have made, or will read: only regular files are opened, no link is followed (where the user
names a file, the caller resolves the path), and what is written is there as a whole or not at all."""

import contextlib
import fcntl
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from kit.errors import KitError, shown, summary

TEMPORARY = ".tmp"
PATIENCE = 0.2  # seconds, for the moment in which `in_use` holds the lock in another process
MAKE_ROOM = "what was saved before is unharmed; make room, or check the folder's rights, and run the same again"


class Damaged(KitError):
    """A file was altered or cut short, or belongs to something else. One that the system cannot read may be sound."""

    def __init__(self, path: Path, problem: str):
        super().__init__(f"{path} {problem}")
        self.path = path


class InUse(KitError):
    """Another process holds the folder's lock."""


def gigabytes(variable: str) -> float:
    """In bytes, of an environment variable: KIT_MAX_GB, what a stored file may have and expand to, or KIT_RESIDENT_GB,
    what decoded images may take on the device; 4 where it is not set. Raises KitError for no number."""
    given = os.environ.get(variable) or "4"
    with contextlib.suppress(ValueError):
        if float(given) >= 0:  # NaN is not
            return 1e9 * float(given)
    raise KitError(f"{variable} must be a number of gigabytes from 0, got {given!r}")


def check_size(size: int, share: float = 1) -> None:
    """Raises ValueError for more bytes than a share of KIT_MAX_GB: what a file may have, or expand to."""
    if size > share * gigabytes("KIT_MAX_GB"):
        raise ValueError(f"it has {size:,} bytes, or expands to them: KIT_MAX_GB=… allows more")


def place(given: str | os.PathLike) -> Path:
    """The path, ~ expanded. Raises KitError for what is none: no text, a zero byte, nobody's home, too long a name."""
    try:
        path = Path(given).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.lstat()
        return path
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise KitError(f"{shown(given)} is no path ({summary(error)}): give that of a file or a folder") from None


def read(path: Path, problem: str = "cannot be read", share: float = 1) -> bytes:
    """Raises KitError for a link, what is no file, one beyond a share of KIT_MAX_GB, and what keeps from reading."""
    try:
        with _opened(path, os.O_RDONLY) as file:
            check_size(os.fstat(file.fileno()).st_size, share)
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: its size, or a zero byte in the path
        raise KitError(f"{path} {problem} ({summary(error)}): check the path, its rights and the disk") from error


@contextlib.contextmanager
def reading(path: Path, problem: str) -> Iterator[None]:
    """Turn whatever understanding a file's content raises, which may be of any kind, into a `Damaged` that names it."""
    try:
        yield
    except KitError:
        raise
    except Exception as error:
        raise Damaged(path, f"{problem} ({summary(error)}): it was altered or cut short") from None


def write(path: Path, content: bytes | str | Callable[[Path], Any], mend: str = MAKE_ROOM) -> None:
    """Fill a temporary file (content: what with, text as UTF-8, or what does it), flush it to the disk and rename it to
    `path`: a reader sees the old file or the whole new one, with the rights of the user's umask. Raises KitError, which
    ends in `mend`, where that fails, and where a link, a device or another thing that is no file is in its place."""
    temporary = path.parent / f".{path.name}.{os.getpid()}{TEMPORARY}"
    content = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_regular(path)
        temporary.unlink(missing_ok=True)
        content(temporary) if callable(content) else temporary.write_bytes(content)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, ValueError) as error:  # ValueError: a path without a name
        raise KitError(f"{path} cannot be written ({summary(error)}): {mend}") from error
    finally:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)


def _opened(path: Path, flags: int) -> IO[bytes]:
    _check_regular(path)
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)  # a pipe that nobody writes to would block
    return os.fdopen(file, "rb+" if flags & os.O_RDWR else "rb")


def _check_regular(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OSError("a link, or not a regular file")


def without_links(folder: Path) -> Path:
    """The folder, a run's directory. Raises KitError where it is a link, or one lies in it or in a folder of it."""
    for path in itertools.chain((folder,), folder.glob("*"), folder.glob("*/*")):
        if path.is_symlink():
            raise KitError(f"{path} is a symbolic link, and in a run directory none is followed: remove it")
    return folder


def aside(path: Path, word: str) -> Path:
    """Rename what lies there to the first of <name>.<word>1, <name>.<word>2, … that is free; where it lies now."""
    names = (path.with_name(f"{path.name}.{word}{n}") for n in itertools.count(1))
    return path.rename(next(name for name in names if not name.exists()))


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with the process, also when that is killed, and remove the temporary files of
    killed ones. Raises KitError where another process holds it, a link lies in the folder, or neither can be made."""
    with contextlib.ExitStack() as held:
        try:
            without_links(folder).mkdir(parents=True, exist_ok=True)
            file = held.enter_context(_opened(folder / ".lock", os.O_RDWR | os.O_CREAT))
            if os.fstat(file.fileno()).st_nlink > 1:
                raise OSError("its .lock is a hard link to another file: remove it")
            end = time.monotonic() + PATIENCE
            while not _locked(file, fcntl.LOCK_EX):
                if time.monotonic() > end:
                    holder = file.read().decode(errors="replace") or "?"
                    raise InUse(f"{folder} is in use by process {holder}: wait for it, or stop it first")
                time.sleep(0.02)
        except OSError as error:
            mend = "choose another folder for out, or mount this one's with locks (Lustre: -o flock; NFS: not nolock)"
            raise KitError(f"{folder} cannot be made and locked ({summary(error)}): {mend}") from None
        file.truncate(0)
        os.pwrite(file.fileno(), str(os.getpid()).encode(), 0)
        for path in folder.rglob(f".*{TEMPORARY}"):
            path.unlink(missing_ok=True)
        yield


def in_use(folder: Path) -> bool:
    with contextlib.suppress(OSError), _opened(folder / ".lock", os.O_RDONLY) as file:
        return not _locked(file, fcntl.LOCK_SH)
    return False


def _locked(file: IO, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def put_aside(folder: Path) -> None:
    """Rename a run directory that is there to <name>.old1, <name>.old2, …. Raises KitError while one works in it."""
    if folder.exists():
        with exclusive(folder):
            aside(folder, "old")
