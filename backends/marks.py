"""Marks beside a commit log that say how far it was flushed.

44 bytes, little end first: `PdMk`, format 1 in 4, number of the last batch in 8, epoch in 8, 16 of zero, CRC-32 of these.

- `mark` is left by a clean close: written under another name, flushed, renamed. It stays when the store is opened
  again: batches up to it were flushed, whatever came later.
- `flushed` is written over after each batch, once its flush was confirmed, and is never flushed itself: what it says is true, but it may
  say too little, or nothing. So a damaged end is told from one that was being written, unless that very page is lost too.
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

import attrs

from perdure.backends.disk import Disk
from perdure.backends.errors import Corrupt

NAME: Final = "mark"
FLUSHED: Final = "flushed"
_MARK = struct.Struct("<4sIQQ16x")
MARK_BYTES: Final = _MARK.size + 4


@attrs.frozen
class Mark:
    """Batches up to *number* were flushed."""

    number: int = 0
    epoch: int = 0

    def encode(self) -> bytes:
        """As it is written."""
        body = _MARK.pack(b"PdMk", 1, self.number, self.epoch)
        return body + crc32(body).to_bytes(4, "little")


async def read_mark(disk: Disk, folder: str) -> Mark:
    """The mark in *folder*; one that says nothing if there is none.

    Raises:
      Corrupt: it does not fit its checksum.
    """
    path = f"{folder}/{NAME}"
    data = await _read(disk, path)
    mark = _decode(data)
    if mark is None and data:
        raise Corrupt(path, "it does not fit its checksum: if every other file is whole, remove it, and the log is read as after a crash")
    return mark or Mark()


async def read_flushed(disk: Disk, folder: str) -> Mark:
    """What `flushed` says; nothing if it is not whole."""
    return _decode(await _read(disk, f"{folder}/{FLUSHED}")) or Mark()


async def _read(disk: Disk, path: str) -> bytes:
    try:
        file = await disk.open(path, write=False)
    except FileNotFoundError:
        return b""
    try:
        return await file.read(0, MARK_BYTES + 1)
    finally:
        file.close()


def _decode(data: bytes) -> Mark | None:
    if len(data) != MARK_BYTES or int.from_bytes(data[-4:], "little") != crc32(data[:-4]) or data[:4] != b"PdMk":
        return None
    _, _, number, epoch = _MARK.unpack_from(data)
    return Mark(number, epoch)


async def write_mark(disk: Disk, folder: str, mark: Mark) -> None:
    """Leave it, durably."""
    await write_whole(disk, folder, NAME, mark.encode())


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
