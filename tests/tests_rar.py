"""A writer of small RAR archives (version 3, stored), since no free program makes them. Format: technote.txt that comes
with WinRAR."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path


def write_rar(file: Path, entries: dict[str, bytes | None], modes: dict[str, int] | None = None) -> Path:
    """entries: name → content, None for a folder; modes: Unix modes of some entries."""
    blocks = [b"Rar!\x1a\x07\0", _block(0x73, 0, b"\0" * 6)]
    for name, content in entries.items():
        mode = (modes or {}).get(name, 0o40755 if content is None else 0o100644)
        body, raw = content or b"", name.replace("/", "\\").encode()  # RAR 3 has backslashes on every system
        sizes = (len(body), len(body), 3, zlib.crc32(body), 0x58212000, 29, 0x30, len(raw), mode)
        blocks += [_block(0x74, 0x80E0 if content is None else 0x8000, struct.pack("<IIBIIBBHI", *sizes) + raw), body]
    file.write_bytes(b"".join([*blocks, _block(0x7B, 0x4000, b"")]))
    return file


def _block(kind: int, flags: int, fields: bytes) -> bytes:
    head = struct.pack("<BHH", kind, flags, 7 + len(fields)) + fields
    return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head
