"""A folder where a store is to be made: what must not be in it, and what goes again when the making was refused.

Only what was made where nothing was before goes again; of a folder only what a store puts there, and nothing while
anybody has it open. What is cancelled leaves all as it is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import trio

from perdure.backends.disk import Taken, TrioDisk
from perdure.backends.environment import Threads, TrioThreads
from perdure.backends.errors import Misuse, PerdureError
from perdure.backends.protocol import State
from perdure.backends.urls import open_backend, split_url

_MARKS: Final = ("data.mdb", "store")
"""The file without which there is no store in a folder: `lmdb:`, `file:`."""
_OF_A_STORE: Final = ("data.mdb*", "*.lock", "lock", "turn", "news", "clean", "clean.new", "unverified", "log", "store", "store.new", "image-*")
_OF_BLOBS: Final = ("format", "format.*", "blobs", "trees", "incoming")
_LOCKS: Final = ("opening.lock", "users.lock", "lock")
"""Who has a store open, or makes one, holds one of them."""


async def refuse_filled(url: str, threads: Threads | None = None) -> None:
    """Whether a new store may be made at *url*: in no folder that holds other things, and no store.

    Raises:
      Misuse: it does.
    """
    folder = _folder_of(url)
    try:
        names = [] if folder is None else await (threads or TrioThreads()).run_sync(os.listdir, folder)
    except OSError:
        return  # opening it tells
    others = [name for name in names if not _is_of(name, _OF_A_STORE)]
    if others and not any(mark in names for mark in _MARKS):
        raise Misuse(f"there is something in {folder} ({others[0]}) and no store: name a new folder, or an empty one")


async def is_there(url: str) -> bool:
    """Whether a folder holds a store; of one that is in no folder nobody looks."""
    folder = _folder_of(url)
    return folder is not None and any([await TrioDisk().exists(f"{folder}/{mark}") for mark in _MARKS])


@asynccontextmanager
async def undone(url: str) -> AsyncIterator[None]:
    """Remove the store that the body has made at *url*, and not ended loading, if the body fails."""
    folder = _folder_of(url)
    made = None if folder is None else await _before(folder)
    try:
        yield
    except Exception:
        if made is not None:
            with trio.CancelScope(shield=True), suppress(PerdureError, OSError, Taken):
                await _remove_store(*made, loading=await _is_loading(url))
        raise


@asynccontextmanager
async def undone_blobs(url: str) -> AsyncIterator[None]:
    """Remove the blob store that the body has made in a folder, if the body fails and there is no blob in it."""
    scheme, _, rest = url.partition(":")
    made = await _before(Path(rest.removeprefix("//"))) if scheme == "directory" else None
    try:
        yield
    except Exception:
        if made is not None:
            with trio.CancelScope(shield=True), suppress(OSError):
                await trio.to_thread.run_sync(_remove_blobs, *made)
        raise


def _folder_of(url: str) -> Path | None:
    scheme, rest, _ = split_url(url)
    return Path(rest) if scheme in ("lmdb", "file") and rest else None


async def _before(folder: Path) -> tuple[Path, bool] | None:
    """The folder, and whether it is there already; None: something is in it, or it cannot be looked at."""
    try:
        return (folder, True) if not await TrioDisk().entries(str(folder)) else None
    except FileNotFoundError:
        return folder, False
    except OSError:
        return None


async def _is_loading(url: str) -> bool:
    try:
        async with open_backend(url, create=False, loading=True) as backend:
            return backend.state is State.LOADING
    except Misuse:
        return False  # its making was not ended: there is none


def _is_of(name: str, known: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, one) for one in known)


async def _remove_store(folder: Path, kept: bool, *, loading: bool) -> None:
    disk = TrioDisk()
    with ExitStack() as locks:
        for name in _LOCKS:
            if await disk.exists(f"{folder}/{name}"):
                locks.callback((await disk.lock(f"{folder}/{name}")).release)
        names = await disk.entries(str(folder))
        if all(_is_of(name, _OF_A_STORE) for name in names) and (loading or not any(mark in names for mark in _MARKS)):
            await trio.to_thread.run_sync(_remove, folder, kept)


def _remove(folder: Path, kept: bool) -> None:
    for path in list(folder.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not kept:
        folder.rmdir()


def _remove_blobs(folder: Path, kept: bool) -> None:
    if not all(_is_of(path.name, _OF_BLOBS) for path in folder.iterdir()):
        return
    for name in ("incoming", "trees", "blobs"):  # of a put by another process one is not empty: that is an OSError, and all stays
        for below in [*(folder / name).iterdir(), folder / name] if (folder / name).exists() else ():
            below.rmdir()
    _remove(folder, kept)
