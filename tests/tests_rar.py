"""A writer of small RAR archives (version 3, stored), since no free program makes them. Format: technote.txt that comes
with WinRAR.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

STORED, NORMAL = 0x30, 0x33
_FOLDER, _LONG, _SOLID_FILE, _SOLID_ARCHIVE, _ENCRYPTED = 0xE0, 0x8000, 0x10, 0x08, 0x04


def write_rar(
    file: Path,
    entries: dict[str, bytes | None],
    method: int = STORED,
    solid: bool = False,
    encrypted: bool = False,
    modes: dict[str, int] | None = None,
    sizes: dict[str, int] | None = None,
) -> Path:
    """entries: name -> content, None for a folder. modes: Unix modes of some entries; sizes: unpacked sizes where
    content is packed.
    """
    blocks = [b"Rar!\x1a\x07\0", _block(0x73, _SOLID_ARCHIVE if solid else 0, b"\0" * 6)]
    for i, (name, content) in enumerate(entries.items()):
        flags = (
            _LONG
            | (_FOLDER if content is None else 0)
            | (_SOLID_FILE if solid and i else 0)
            | (_ENCRYPTED if encrypted else 0)
        )
        mode = (modes or {}).get(name, 0o40755 if content is None else 0o100644)
        body, raw = content or b"", name.replace("/", "\\").encode()  # RAR 3 has backslashes on every system
        fields = struct.pack(
            "<IIBIIBBHI",
            len(body),
            (sizes or {}).get(name, len(body)),
            3,
            zlib.crc32(body),
            0x58212000,
            29,
            method,
            len(raw),
            mode,
        )
        blocks += [_block(0x74, flags, fields + raw), body]
    file.write_bytes(b"".join([*blocks, _block(0x7B, 0x4000, b"")]))
    return file


def _block(kind: int, flags: int, fields: bytes) -> bytes:
    head = struct.pack("<BHH", kind, flags, 7 + len(fields)) + fields
    return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head
