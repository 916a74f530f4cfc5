"""Archives that a data set's publisher might offer, and archives that someone else might offer instead."""

import io
import stat
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from tests_rar import NORMAL, write_rar

from kit.data import archive, download
from kit.data.archive import BrokenArchive, extract
from kit.errors import KitError

FILES = {
    "set/two words/a b.jpg": b"one",
    "set/фото/изображение.jpg": b"two",
    "set/写真/café.jpg": b"three",
    "set/empty.txt": b"",
    "top.txt": b"x" * 70_000,
}


def tar(file: Path, entries, mode="w") -> Path:
    """entries: name -> bytes, or a TarInfo's changes (type, linkname)."""
    with tarfile.open(file, mode) as packed:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, dict):
                for key, value in content.items():
                    setattr(info, key, value)
                packed.addfile(info)
            else:
                info.size = len(content)
                packed.addfile(info, io.BytesIO(content))
    return file


def zipped(file: Path, entries, modes=None) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
            packed.writestr(info, content)
    return file


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def rarfile(monkeypatch):
    """The package, without any program that unpacks."""
    module = pytest.importorskip("rarfile")
    for tool in ("UNRAR_TOOL", "UNAR_TOOL", "BSDTAR_TOOL", "SEVENZIP_TOOL", "SEVENZIP2_TOOL"):
        monkeypatch.setattr(module, tool, f"/no/such/{tool}")
    monkeypatch.setattr(module, "CURRENT_SETUP", None)
    monkeypatch.setattr(archive.shutil, "which", lambda name: None)
    return module


def program(folder: Path, text: str) -> str:
    """A program that stands for unrar."""
    file = folder / "unrar"
    file.write_text(f"#!{sys.executable}\nimport sys\n{text}")
    file.chmod(0o755)
    return str(file)


# ---------------------------------------------------------------- what is to be unpacked


@pytest.mark.parametrize(
    "make",
    [
        lambda f: tar(f, FILES),
        lambda f: tar(f, FILES, "w:gz"),
        lambda f: tar(f, FILES, "w:bz2"),
        lambda f: tar(f, FILES, "w:xz"),
        lambda f: zipped(f, FILES),
    ],
)
def test_every_kind_of_archive_with_names_in_any_script(tmp_path, make):
    file = make(tmp_path / "any name will do")
    assert extract(file, tmp_path / "out") == 5
    assert tree(tmp_path / "out") == FILES


def test_rar_stored_needs_no_program(tmp_path, rarfile):
    file = write_rar(tmp_path / "events.rar", {"set": None, **FILES})
    assert extract(file, tmp_path / "out") == 5 and tree(tmp_path / "out") == FILES


def test_folders_modes_and_dots(tmp_path):
    file = tar(
        tmp_path / "a.tar", {"./set": {"type": tarfile.DIRTYPE, "mode": 0}, "./set/a.jpg": b"1", "./set/./b.jpg": b"2"}
    )
    assert extract(file, tmp_path / "out") == 2
    assert tree(tmp_path / "out") == {"set/a.jpg": b"1", "set/b.jpg": b"2"}, (
        "a folder without permissions is made readable"
    )


def test_links_inside_become_copies(tmp_path):
    file = tar(
        tmp_path / "a.tar",
        {
            "set/sym.jpg": {"type": tarfile.SYMTYPE, "linkname": "../other/a.jpg"},
            "other/a.jpg": b"1",
            "hard.jpg": {"type": tarfile.LNKTYPE, "linkname": "other/a.jpg"},
        },
    )
    assert extract(file, tmp_path / "out") == 3
    assert tree(tmp_path / "out") == {"set/sym.jpg": b"1", "other/a.jpg": b"1", "hard.jpg": b"1"}
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    file = zipped(
        tmp_path / "a.zip", {"set/a.jpg": b"1", "set/sym.jpg": b"a.jpg"}, {"set/sym.jpg": stat.S_IFLNK | 0o777}
    )
    extract(file, tmp_path / "zip")
    assert tree(tmp_path / "zip") == {"set/a.jpg": b"1", "set/sym.jpg": b"1"}


# ---------------------------------------------------------------- what is not

OUT = [
    "../evil.jpg",
    "set/../../evil.jpg",
    "/tmp/kit-evil.jpg",
    "..\\evil.jpg",
    "C:\\evil.jpg",
    "C:evil.jpg",
    "\\\\host\\share\\evil.jpg",
]


@pytest.mark.parametrize("name", OUT)
@pytest.mark.parametrize("make", [lambda f, e: tar(f, e), lambda f, e: zipped(f, e), lambda f, e: write_rar(f, e)])
def test_a_path_that_leads_out_is_refused(tmp_path, name, make, rarfile):
    file = make(tmp_path / "packed", {"good.jpg": b"1", name: b"evil"})
    with pytest.raises(
        KitError, match="packed: '.*' leads out of the folder it is unpacked into: not unpacked; do not use"
    ):
        extract(file, tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("*evil*")) and not Path("/tmp/kit-evil.jpg").exists()


@pytest.mark.parametrize(
    "kind, target",
    [
        (tarfile.SYMTYPE, "/etc"),
        (tarfile.SYMTYPE, "../.."),
        (tarfile.SYMTYPE, "../../secret.txt"),
        (tarfile.LNKTYPE, "../secret.txt"),
        (tarfile.LNKTYPE, "/etc/passwd"),
    ],
)
def test_a_link_that_leads_out_is_refused(tmp_path, kind, target):
    (tmp_path / "secret.txt").write_text("secret")
    file = tar(tmp_path / "a.tar", {"set/link": {"type": kind, "linkname": target}, "set/link/evil.jpg": b"evil"})
    with pytest.raises(KitError, match="'set/link' links to .* leads out"):
        extract(file, tmp_path / "deep" / "out")
    assert tree(tmp_path / "deep") == {}
    if kind == tarfile.SYMTYPE:
        file = zipped(tmp_path / "a.zip", {"set/link": target.encode()}, {"set/link": stat.S_IFLNK | 0o777})
        with pytest.raises(KitError, match="links to .* leads out"):
            extract(file, tmp_path / "zip")


def test_a_path_through_a_link_writes_nowhere_else(tmp_path):
    file = tar(
        tmp_path / "a.tar",
        {"set/other.jpg": b"1", "way": {"type": tarfile.SYMTYPE, "linkname": "set"}, "way/a.jpg": b"2"},
    )
    with pytest.raises(KitError, match="'way' links to something that is not a file"):
        extract(file, tmp_path / "out")
    assert tree(tmp_path / "out") == {"set/other.jpg": b"1", "way/a.jpg": b"2"}
    with pytest.raises(KitError, match="links to something that is not a file"):
        extract(tar(tmp_path / "b.tar", {"lost": {"type": tarfile.SYMTYPE, "linkname": "nowhere"}}), tmp_path / "out")


def test_a_folder_that_has_links_already_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "set").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KitError, match="leads out of .*empty folder"):
        extract(tar(tmp_path / "a.tar", {"set/a.jpg": b"1"}), tmp_path / "out")
    (tmp_path / "out" / "a.jpg").symlink_to(tmp_path / "victim")
    with pytest.raises(KitError, match="is a link: .*empty folder"):
        extract(tar(tmp_path / "a.tar", {"a.jpg": b"1"}), tmp_path / "out")
    assert not (tmp_path / "victim").exists() and not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_devices_and_pipes_are_refused(tmp_path, kind):
    with pytest.raises(KitError, match="'set/device' is neither a file nor a folder"):
        extract(tar(tmp_path / "a.tar", {"set/device": {"type": kind}}), tmp_path / "out")
    with pytest.raises(KitError, match="'pipe' is neither a file nor a folder"):
        extract(zipped(tmp_path / "a.zip", {"pipe": b""}, {"pipe": stat.S_IFIFO}), tmp_path / "out")


def test_links_in_a_rar_are_refused(tmp_path, rarfile):
    with pytest.raises(KitError, match="'link' is neither a file nor a folder"):
        extract(
            write_rar(tmp_path / "a.rar", {"link": b"/etc/passwd"}, modes={"link": stat.S_IFLNK | 0o777}),
            tmp_path / "out",
        )


def test_a_file_that_is_also_a_folder(tmp_path):
    for entries in ({"set": b"1", "set/a.jpg": b"2"}, {"set/a.jpg": b"2", "set": b"1"}):
        with pytest.raises(KitError, match="cannot be unpacked .(FileExists|IsADirectory|NotADirectory)Error"):
            extract(tar(tmp_path / "a.tar", entries), tmp_path / "out")


# ---------------------------------------------------------------- what is damaged


@pytest.mark.parametrize(
    "make",
    [
        lambda f: tar(f, FILES),
        lambda f: tar(f, FILES, "w:gz"),
        lambda f: tar(f, FILES, "w:xz"),
        lambda f: zipped(f, FILES),
        lambda f: write_rar(f, FILES),
    ],
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_an_archive_that_is_cut_short_says_so(tmp_path, make, share, rarfile):
    content = make(tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(content[: int(share * len(content))])
    with pytest.raises(BrokenArchive, match="cut .*(incomplete|damaged).*remove it and fetch it again"):
        extract(tmp_path / "cut", tmp_path / "out")


def test_damaged_bytes_are_noticed(tmp_path, rarfile):
    for make in (
        lambda f: tar(f, FILES, "w:gz"),
        lambda f: zipped(f, FILES),
        lambda f: write_rar(f, {"a.jpg": b"12345678" * 100}),
    ):
        file = make(tmp_path / "packed")
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
        with pytest.raises(BrokenArchive, match="packed"):
            extract(file, tmp_path / "out")


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", ""),
        (b"<html>please log in</html>", "it is a web page"),
        (b"\x89PNG\r\n\x1a\n" * 99, ""),
        (b"PK\3\4" * 9, ""),
    ],
)
def test_what_is_no_archive(tmp_path, content, words):
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(BrokenArchive, match=f"set.zip is neither zip nor tar nor rar.*{words}"):
        extract(tmp_path / "set.zip", tmp_path / "out")


def test_encrypted_archives(tmp_path, rarfile):
    content = bytearray(zipped(tmp_path / "a.zip", {"a.jpg": b"1"}).read_bytes())
    for sign, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        struct.pack_into("<H", content, content.index(sign) + offset, 1)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(KitError, match="encrypted"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    with pytest.raises(KitError, match="encrypted: unpack it yourself"):
        extract(write_rar(tmp_path / "a.rar", {"a.jpg": b"1"}, encrypted=True), tmp_path / "out")


def test_a_disk_that_fills_up(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive.shutil, "copyfileobj", full)
    with pytest.raises(KitError, match="no room in .*out: .*free: free some, or set root= or KIT_DATA"):
        extract(tar(tmp_path / "a.tar", FILES), tmp_path / "out")


# ---------------------------------------------------------------- RAR by a program


def test_rar_says_what_to_install(tmp_path, rarfile, monkeypatch):
    file = write_rar(tmp_path / "events.rar", {"a.jpg": b"packed"}, method=NORMAL)
    help_text = "pip install rarfile, and a program that unpacks RAR: apt install unar .*; or unpack it yourself"
    with pytest.raises(KitError, match=f"no program that unpacks RAR was found: {help_text}"):
        extract(file, tmp_path / "out")
    with pytest.raises(KitError, match=f"no program that unpacks RAR was found: {help_text}"):
        extract(write_rar(file, {"a.jpg": b"packed"}, method=NORMAL, solid=True), tmp_path / "out")
    monkeypatch.setitem(sys.modules, "rarfile", None)
    with pytest.raises(KitError, match=f"the package rarfile is not installed: {help_text}"):
        extract(file, tmp_path / "out")


def test_rar_packed_files_go_through_the_program(tmp_path, rarfile, monkeypatch):
    # The stand-in is called as unrar is: `unrar p -inul ... ARCHIVE [NAME]` prints the content, here the packed bytes
    # in reverse.
    text = "if '-?' in sys.argv: sys.exit(0)\nsys.stdout.buffer.write(b'unpacked')"
    monkeypatch.setattr(rarfile, "UNRAR_TOOL", program(tmp_path, text))
    file = write_rar(tmp_path / "events.rar", {"two words/фото.jpg": b"unpacked"}, method=NORMAL)
    assert extract(file, tmp_path / "out") == 1 and tree(tmp_path / "out") == {"two words/фото.jpg": b"unpacked"}
    monkeypatch.setattr(rarfile, "UNRAR_TOOL", program(tmp_path, "if '-?' in sys.argv: sys.exit(0)\nsys.exit(3)"))
    monkeypatch.setattr(rarfile, "CURRENT_SETUP", None)
    with pytest.raises(BrokenArchive, match="events.rar cannot be unpacked"):
        extract(file, tmp_path / "out")


def test_solid_rar_is_unpacked_at_once_after_its_names_were_judged(tmp_path, rarfile, monkeypatch):
    text = (
        "import pathlib\nassert sys.argv[1:5] == ['x', '-y', '-inul', '-p-']\nfolder = pathlib.Path(sys.argv[6])\n"
        "(folder / 'set').mkdir()\n(folder / 'set' / 'a.jpg').write_bytes(b'one')\n(folder / 'set' / 'b.jpg').write_bytes(b'two')\n"
    )
    tool = program(tmp_path, text)
    monkeypatch.setattr(archive.shutil, "which", lambda name: tool if name == "unrar" else None)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    packed = {"set/a.jpg": b"1", "set/b.jpg": b"2"}
    file = write_rar(tmp_path / "events.rar", packed, method=NORMAL, solid=True, sizes={"set/a.jpg": 3, "set/b.jpg": 3})
    assert extract(file, tmp_path / "out") == 2 and tree(tmp_path / "out") == {"set/a.jpg": b"one", "set/b.jpg": b"two"}
    short = write_rar(tmp_path / "short.rar", packed, method=NORMAL, solid=True, sizes={"set/a.jpg": 3, "set/b.jpg": 4})
    with pytest.raises(BrokenArchive, match="'set/b.jpg' has 3 bytes where 4 were announced"):
        extract(short, tmp_path / "short")
    ran = []
    monkeypatch.setattr(archive.subprocess, "run", lambda *args, **kwargs: ran.append(args))
    with pytest.raises(KitError, match="leads out"):
        extract(
            write_rar(tmp_path / "bad.rar", {"a.jpg": b"1", "../evil.jpg": b"2"}, method=NORMAL, solid=True),
            tmp_path / "out",
        )
    assert not ran and not [path for path in tmp_path.iterdir() if path.name.startswith(".unrar")]


def test_a_program_that_fails_is_quoted(tmp_path, rarfile, monkeypatch):
    monkeypatch.setattr(
        archive.shutil,
        "which",
        lambda name: program(tmp_path, "sys.exit('CRC failed in a.jpg')") if name == "unrar" else None,
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(BrokenArchive, match="unrar ended with 1: CRC failed in a.jpg"):
        extract(write_rar(tmp_path / "events.rar", {"a.jpg": b"1"}, method=NORMAL, solid=True), tmp_path / "out")


def test_full_disk_errors_are_told_apart():
    assert (
        download.is_full_disk(OSError(28, "x"))
        and not download.is_full_disk(OSError(13, "x"))
        and not download.is_full_disk(ValueError())
    )
