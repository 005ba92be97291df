"""A store's folder on a `Disk`: made, locked, and saying who it is.

`store` is 44 bytes, little end first: `PdSt`, format in 4, oldest format that may read it in 4, id in 16, 12 of zero, CRC-32 of
these in 4. It is written last when a store is made: without it there is none.
"""

from __future__ import annotations

import os
import struct
from typing import Final
from zlib import crc32

import trio

from perdure.backends.disk import Disk, Lock, Taken, make_folder_durably, parent_of
from perdure.backends.errors import Corrupt, Misuse, TooNew, Unavailable
from perdure.backends.marks import write_whole

NAME: Final = "store"
FORMAT: Final = 1
READABLE_FROM: Final = 1
_IDENTITY = struct.Struct("<4sII16s12x")


async def prepare(disk: Disk, folder: str, *, create: bool) -> None:
    """Make *folder* if it may be made; its own entry is durable from here on.

    Raises:
      Misuse: it is a file, its parent is missing, or there is no store and none may be made.
    """
    parent = parent_of(folder)
    if not await disk.exists(folder):
        if not create:
            raise Misuse(f"there is no store in {folder}: check the path, or make one by appending to it")
        if not await disk.exists(parent):
            raise Misuse(f"the folder {parent} does not exist: make it first")
        await make_folder_durably(disk, folder)
    try:
        names = await disk.entries(folder)
    except NotADirectoryError:
        raise Misuse(f"{folder} is a file: a store is a folder, name one") from None
    if "data.mdb" in names:
        raise Misuse(f"{folder} holds an LMDB store: open it as lmdb:{folder}")
    if NAME not in names and not create:
        raise Misuse(f"there is no store in {folder}: check the path, or make one by appending to it")
    await disk.sync_folder(parent)  # at every opening: who made it may have died before


async def take_lock(disk: Disk, folder: str) -> Lock:
    """Be the one process that has the store open.

    Raises:
      Unavailable: another one is, or this one has it open already.
    """
    try:
        return await disk.lock(f"{folder}/lock")
    except Taken as taken:
        if taken.pid == os.getpid():
            raise Unavailable(f"this process ({taken.pid}) has {folder} open already, and it is opened once: share that runtime") from None
        raise Unavailable(f"process {taken.pid or 'unknown'} has {folder} open, and only one may: end it, or ask it") from None


async def read_identity(disk: Disk, folder: str) -> bytes | None:
    """The id of the store in *folder*; None if there is none yet.

    Raises:
      Corrupt: something is there, and it does not say what.
      TooNew: a newer perdure made it.
    """
    path = f"{folder}/{NAME}"
    await disk.sync_folder(folder)
    if not await disk.exists(path):
        if any(name.startswith("image-") for name in await disk.entries(folder)):
            raise Corrupt(path, "it is missing, though the store's data are there: restore it from a backup")
        return None
    file = await disk.open(path, write=False)
    try:
        data = await file.read(0, _IDENTITY.size + 5)
    finally:
        file.close()
    if len(data) != _IDENTITY.size + 4 or int.from_bytes(data[-4:], "little") != crc32(data[:-4]) or data[:4] != b"PdSt":
        raise Corrupt(path, "it does not fit its checksum: restore it from a backup")
    _, _, readable, id = _IDENTITY.unpack_from(data)
    if readable > FORMAT:
        raise TooNew(folder, readable, FORMAT)
    return bytes(id)


async def make_identity(disk: Disk, folder: str, id: bytes) -> None:
    """Say who the store is, durably."""
    body = _IDENTITY.pack(b"PdSt", FORMAT, READABLE_FROM, id)
    try:
        await write_whole(disk, folder, NAME, body + crc32(body).to_bytes(4, "little"))
    except OSError:  # a name whose sync failed is seen until the next power cut
        with trio.CancelScope(shield=True):
            await disk.remove(f"{folder}/{NAME}")
        raise
