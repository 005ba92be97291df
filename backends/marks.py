"""The mark that a clean close leaves beside a commit log: how far it was flushed.

44 bytes, little end first: `PdMk`, format 1 in 4, number of the last batch in 8, epoch in 8, 16 of zero, CRC-32 of these. Written under another
name, flushed, renamed. It stays when the store is opened again: batches up to it were flushed, whatever came later.
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

import attrs

from perdure.backends.disk import Disk
from perdure.backends.errors import Corrupt

NAME: Final = "mark"
_MARK = struct.Struct("<4sIQQ16x")


@attrs.frozen
class Mark:
    """Batches up to *number* were flushed."""

    number: int = 0
    epoch: int = 0


async def read_mark(disk: Disk, folder: str) -> Mark:
    """The mark in *folder*; one that says nothing if there is none.

    Raises:
      Corrupt: it does not fit its checksum.
    """
    path = f"{folder}/{NAME}"
    try:
        file = await disk.open(path, write=False)
    except FileNotFoundError:
        return Mark()
    try:
        data = await file.read(0, _MARK.size + 5)
    finally:
        file.close()
    if len(data) != _MARK.size + 4 or int.from_bytes(data[-4:], "little") != crc32(data[:-4]) or data[:4] != b"PdMk":
        raise Corrupt(path, "it does not fit its checksum: if every other file is whole, remove it, and the log is read as after a crash")
    _, _, number, epoch = _MARK.unpack_from(data)
    return Mark(number, epoch)


async def write_mark(disk: Disk, folder: str, mark: Mark) -> None:
    """Leave it, durably."""
    body = _MARK.pack(b"PdMk", 1, mark.number, mark.epoch)
    await write_whole(disk, folder, NAME, body + crc32(body).to_bytes(4, "little"))


async def write_whole(disk: Disk, folder: str, name: str, data: bytes) -> None:
    """A small file, whole or not at all: written under another name, flushed, renamed, and its folder synced."""
    fresh = f"{folder}/{name}.new"
    await disk.remove(fresh)
    file = await disk.open(fresh, create=True)
    try:
        await file.write(0, data)
        await file.flush()
    finally:
        file.close()
    await disk.rename(fresh, f"{folder}/{name}")
    await disk.sync_folder(folder)
