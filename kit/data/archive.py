"""Archives (zip, tar in any compression, rar) unpacked so that nothing is written outside the folder they are unpacked
into.
"""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from kit.data.download import Meter, full_disk, is_full_disk
from kit.errors import KitError

RAR_HELP = (
    "pip install rarfile, and a program that unpacks RAR: apt install unar (or unrar, or 7zip with its RAR codec)"
)
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)
_COPY = 1 << 20


class BrokenArchive(KitError):
    """An archive that is cut short, damaged, or no archive: a new copy may mend it."""


@dataclass(frozen=True)
class _Member:
    """One entry. kind: file, folder, link or special; link: what it points to, from the archive's top; open: its
    bytes.
    """

    name: str
    kind: str
    size: int = 0
    link: str = ""
    open: Callable[[], IO[bytes]] | None = None


def extract(archive: Path, folder: Path) -> int:
    """Unpack `archive` into `folder`, which is made if need be and into which nobody else writes. Returns the number of
    files.

    The format is told from the content. Names are kept, modes and owners are not. A link inside the folder becomes a
    copy of
    what it points to. Raises KitError, naming the entry, for an absolute path, a path or link that leads out of the
    folder, a
    device or pipe, an entry that is both file and folder; and for a broken, encrypted or unknown archive, a missing
    program
    for RAR, and a full disk. What was unpacked until then stays: remove the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    links: list[tuple[Path, Path, str]] = []
    places = _Places(archive, folder)
    count = 0
    try:
        with Meter(f"unpacking {archive.name}", unit="file") as meter:
            for member in _members(archive):
                target = places.of(member.name)
                if member.kind == "special":
                    raise KitError(
                        f"{archive}: {member.name!r} is neither a file nor a folder, no data set needs that: not unpacked"
                    )
                if member.kind == "folder":
                    places.make(target)
                    continue
                places.make(target.parent)
                count += 1
                meter.add(1)
                if member.kind == "link":
                    links.append((places.of(member.link, f"{member.name!r} links to "), target, member.name))
                else:
                    _write(member, target, archive)
            # At the end, when what they point to is there; as copies, so that a path through a link is never written
            # to.
            for source, target, name in links:
                if not source.is_file():
                    raise KitError(
                        f"{archive}: {name!r} links to something that is not a file of the archive: not unpacked"
                    )
                shutil.copyfile(source, target)
    except KitError:
        raise
    except (*_BROKEN, *_rar_errors()) as error:
        if is_full_disk(error):
            raise full_disk(folder) from error
        reason = " ".join(str(error).split())
        raise BrokenArchive(
            f"{archive} cannot be unpacked ({type(error).__name__}: {reason}): it is incomplete or damaged; "
            "remove it and fetch it again"
        ) from error
    return count


class _Places:
    """Where entries go: names are judged before anything is written, folders once they are made."""

    def __init__(self, archive: Path, folder: Path):
        self.archive, self.folder, self.top = archive, folder, folder.resolve()
        self.made = {folder}

    def of(self, name: str, prefix: str = "") -> Path:
        slashed = name.replace("\\", "/")
        if slashed.startswith("/") or PureWindowsPath(name).drive or ".." in slashed.split("/") or "\0" in name:
            raise KitError(
                f"{self.archive}: {prefix}{name!r} leads out of the folder it is unpacked into: not unpacked; "
                "do not use this archive, fetch the data set from its own site"
            )
        return self.folder / PurePosixPath(name)

    def make(self, folder: Path) -> None:
        if folder in self.made:
            return
        folder.mkdir(parents=True, exist_ok=True)
        # The names above cannot lead out; this holds even where the folder had links in it before.
        if not folder.resolve().is_relative_to(self.top):
            raise KitError(f"{folder} leads out of {self.folder}: unpack {self.archive} into an empty folder")
        self.made.add(folder)


def _write(member: _Member, target: Path, archive: Path) -> None:
    if target.is_symlink():
        raise KitError(f"{target} is a link: unpack {archive} into an empty folder")
    with member.open() as source, open(target, "wb") as out:
        shutil.copyfileobj(source, out, _COPY)
        size = out.tell()
    if size != member.size:
        raise EOFError(f"{member.name!r} has {size:,} bytes where {member.size:,} were announced")


def _members(archive: Path) -> Iterator[_Member]:
    """Every entry, in the archive's order; each is to be read before the next is asked for."""
    with open(archive, "rb") as file:
        start = file.read(8)
    if start.startswith(b"Rar!\x1a\x07"):
        return _rar_members(archive)
    if start.startswith(b"PK") and zipfile.is_zipfile(archive):
        return _zip_members(archive)
    if tarfile.is_tarfile(archive):
        return _tar_members(archive)
    page = " (it is a web page)" if start.lstrip().lower().startswith((b"<!doct", b"<html")) else ""
    raise BrokenArchive(
        f"{archive} is neither zip nor tar nor rar{page}: it is incomplete or something else; remove it and fetch it again"
    )


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive) as tar:
        for info in tar:
            kind = (
                "file"
                if info.isfile()
                else "folder"
                if info.isdir()
                else "link"
                if info.issym() or info.islnk()
                else "special"
            )
            # A symbolic link starts at its own folder, a hard link at the archive's top.
            link = info.linkname if info.islnk() else _joined(info.name, info.linkname) if info.issym() else ""
            yield _Member(info.name, kind, info.size, link, lambda info=info: tar.extractfile(info))


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as packed:
        for info in packed.infolist():
            mode = info.external_attr >> 16
            kind = (
                "folder"
                if info.is_dir()
                else "link"
                if stat.S_ISLNK(mode)
                else "file"
                if stat.S_IFMT(mode) in (0, stat.S_IFREG)
                else "special"
            )
            link = (
                _joined(info.filename, packed.read(info).decode("utf-8", "surrogateescape")) if kind == "link" else ""
            )
            yield _Member(info.filename, kind, info.file_size, link, lambda info=info: packed.open(info))


def _joined(name: str, link: str) -> str:
    """A symbolic link's target from the archive's top; one that leads out keeps what shows it."""
    if link.startswith(("/", "\\")):
        return link
    return os.path.normpath(str(PurePosixPath(name).parent / link))


def _rar_members(archive: Path) -> Iterator[_Member]:
    rarfile = _rarfile(archive)
    with rarfile.RarFile(archive) as rar:
        infos = rar.infolist()
        kinds = [
            "folder" if info.is_dir() else "file" if info.is_file() and not info.file_redir else "special"
            for info in infos
        ]
        if any(info.needs_password() for info in infos):
            raise KitError(f"{archive} is encrypted: unpack it yourself")
        # In a solid archive each file needs all before it unpacked: one by one that would take hours, so the program
        # unpacks all
        # at once, after every name in the list was judged.
        if rar.is_solid():
            yield from _solid_members(archive, infos, kinds)
            return
        for info, kind in zip(infos, kinds, strict=True):
            yield _Member(
                info.filename, kind, info.file_size, open=lambda info=info: _open_rar(rarfile, rar, info, archive)
            )


def _open_rar(rarfile: Any, rar: Any, info: Any, archive: Path) -> IO[bytes]:
    try:
        return rar.open(info)
    except rarfile.RarCannotExec:  # stored files need no program, so the first compressed one finds out
        raise _no_rar(archive, "no program that unpacks RAR was found") from None


def _solid_members(archive: Path, infos: list[Any], kinds: list[str]) -> Iterator[_Member]:
    places = _Places(archive, Path("."))
    for info, kind in zip(infos, kinds, strict=True):
        places.of(info.filename)
        if kind == "special":
            yield _Member(info.filename, kind)
    with tempfile.TemporaryDirectory(prefix=".unrar-", dir=archive.parent) as folder:
        _run_unpacker(archive, Path(folder))
        for info, kind in zip(infos, kinds, strict=True):
            yield _Member(
                info.filename, kind, info.file_size, open=lambda info=info: open(Path(folder) / info.filename, "rb")
            )


def _run_unpacker(archive: Path, folder: Path) -> None:
    commands = {
        "unrar": ["x", "-y", "-inul", "-p-", str(archive), f"{folder}/"],
        "unar": ["-quiet", "-force-overwrite", "-no-directory", "-output-directory", str(folder), str(archive)],
        "7z": ["x", "-y", "-bd", f"-o{folder}", str(archive)],
        "7zz": ["x", "-y", "-bd", f"-o{folder}", str(archive)],
    }
    program = next((name for name in commands if shutil.which(name)), None)
    if program is None:
        raise _no_rar(archive, "no program that unpacks RAR was found")
    # No terminal to ask for a password on, so it cannot wait for one.
    done = subprocess.run([program, *commands[program]], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{program} ended with {done.returncode}: {(done.stderr or done.stdout)[-300:]}")


def _rarfile(archive: Path) -> Any:
    try:
        import rarfile
    except ImportError:
        raise _no_rar(archive, "the package rarfile is not installed") from None
    return rarfile


def _rar_errors() -> tuple[type[Exception], ...]:
    return (sys.modules["rarfile"].Error,) if "rarfile" in sys.modules else ()


def _no_rar(archive: Path, reason: str) -> KitError:
    return KitError(f"{archive} is a RAR archive and {reason}: {RAR_HELP}; or unpack it yourself")
