"""A backup: an image of a store at one moment, and a manifest that says what it is; there whole or not at all.

    DIR/image            all rows, as one reader saw them (the image of ARCHITECTURE.md)
    DIR/manifest.json    written last: of what store, up to where, sizes and SHA-256 digests

Writers go on meanwhile, in this process and in others. What `restore` makes of it, see there.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Final

import attrs
import msgspec
import trio

from perdure.backends.denied import check_denied
from perdure.backends.disk import Disk, make_folder_durably
from perdure.backends.errors import Corrupt, Misuse, TooNew, Unavailable
from perdure.backends.event import to_datetime
from perdure.backends.image_file import ImageReader, read_image, write_image
from perdure.backends.progress import Progress, Told, nobody
from perdure.backends.protocol import Backend, Moment

FORMAT: Final = 1
IMAGE: Final = "image"
MANIFEST: Final = "manifest.json"
_LEFTOVERS: Final = frozenset({IMAGE, f"{IMAGE}.new", f"{MANIFEST}.new"})
"""Of a backup that was cut off."""
_READ_BYTES = 1 << 20

Rows = list[tuple[bytes, bytes]]


@attrs.frozen
class BackedUp:
    """A file of a backup."""

    name: str
    size_bytes: int
    sha256: str


@attrs.frozen
class Manifest:
    """What a backup is of. *at* is the store's last time, *made* when the backup was."""

    format: int
    store: str
    head: int
    revision: int
    at: datetime
    made: datetime
    rows: int
    files: tuple[BackedUp, ...]


# -- making ----------------------------------------------------------------------------------


async def back_up(backend: Backend, folder: str, *, disk: Disk, made_us: int, progress: Told = nobody) -> Manifest:
    """Write a backup of *backend*, as it is now, into *folder*, which is made or empty.

    On return it is durable. If cancelled, the folder has no manifest, so it is no backup; if it failed, nothing of it is left.

    Raises:
      Misuse: there is something in the folder, or its parent is missing.
      Unsupported: the backend does not give images.
      Unavailable: the disk refuses it, or the store has to be reopened: begin again.
    """
    try:
        async with backend.moment() as moment, _folder(disk, folder):
            files, rows = await _write_image(disk, folder, moment, progress)
            at, made = to_datetime(moment.at_us), to_datetime(made_us)
            manifest = Manifest(FORMAT, moment.id, moment.head, moment.revision, at, made, rows, files)
            await _write_manifest(disk, folder, manifest)
    except OSError as error:
        check_denied(error, folder)
        raise Unavailable(f"{folder} cannot be written: {error.strerror or error}") from error
    return manifest


@asynccontextmanager
async def _folder(disk: Disk, folder: str) -> AsyncIterator[None]:
    """The folder of a backup, empty; if the body fails it is as before."""
    made = await _prepare(disk, folder)
    try:
        yield
    except Exception:
        with trio.CancelScope(shield=True), suppress(OSError):
            await _remove_leftovers(disk, folder)
            if made:
                await disk.remove_folder(folder)
        raise


async def _remove_leftovers(disk: Disk, folder: str) -> None:
    for name in sorted(_LEFTOVERS):
        await disk.remove(f"{folder}/{name}")


async def _prepare(disk: Disk, folder: str) -> bool:
    """Make the folder, or empty it of a backup that was cut off; whether it was made."""
    try:
        found = await disk.entries(folder)
    except FileNotFoundError:
        await _make(disk, folder)
        return True
    except NotADirectoryError:
        raise Misuse(f"{folder} is a file: a backup is a folder, name a new one") from None
    if not set(found) <= _LEFTOVERS:
        raise Misuse(f"there is something in {folder}: a backup overwrites nothing, name a new folder")
    await _remove_leftovers(disk, folder)
    return False


async def _make(disk: Disk, folder: str) -> None:
    parent = _parent(folder)
    if not await disk.exists(parent):
        raise Misuse(f"the folder {parent} does not exist: make it first")
    await make_folder_durably(disk, folder)


def _parent(path: str) -> str:
    return path.rstrip("/").rpartition("/")[0] or ("/" if path.startswith("/") else ".")


async def _write_image(disk: Disk, folder: str, moment: Moment, progress: Told) -> tuple[tuple[BackedUp, ...], int]:
    digest = hashlib.sha256()
    slices = _Told(moment, progress)
    written = await write_image(disk, f"{folder}/{IMAGE}", bytes.fromhex(moment.id), 0, slices, seen=digest.update)
    return (BackedUp(IMAGE, written.size_bytes, digest.hexdigest()),), written.rows


class _Told:
    """A moment's slices, with how far they are."""

    def __init__(self, moment: Moment, progress: Told) -> None:
        self._moment = moment
        self._progress = progress
        self._done = 0

    def __aiter__(self) -> _Told:
        return self

    async def __anext__(self) -> tuple[str, Rows]:
        table, rows = await self._moment.__anext__()
        self._done += sum([len(key) + len(value) for key, value in rows])
        self._progress(Progress(f"{table} (bytes)", self._done))
        return table, rows


async def _write_manifest(disk: Disk, folder: str, manifest: Manifest) -> None:
    fresh = f"{folder}/{MANIFEST}.new"
    await disk.remove(fresh)
    file = await disk.open(fresh, create=True)
    try:
        await file.write(0, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        await file.flush()
    finally:
        file.close()
    await disk.rename(fresh, f"{folder}/{MANIFEST}")
    await disk.sync_folder(folder)


# -- reading ---------------------------------------------------------------------------------


async def read_manifest(disk: Disk, folder: str) -> Manifest:
    """What the backup in *folder* says that it is.

    Raises:
      Misuse: there is no backup, or one that was cut off before its end.
      Corrupt, TooNew: its manifest cannot be read.
    """
    if not await disk.exists(f"{folder}/{MANIFEST}"):
        cut = await disk.exists(f"{folder}/{IMAGE}") or await disk.exists(f"{folder}/{IMAGE}.new")
        raise Misuse(f"there is no backup in {folder}" + (": it was cut off before its end, make it again" if cut else ": check the path"))
    try:
        file = await disk.open(f"{folder}/{MANIFEST}", write=False)
    except OSError as error:
        check_denied(error, folder, "name another backup")
        raise Unavailable(f"{folder} cannot be read: {error.strerror or error}") from error
    try:
        raw = await file.read(0, await file.size())
    finally:
        file.close()
    try:
        format = msgspec.json.decode(raw, type=dict[str, object]).get("format")
        if isinstance(format, int) and format > FORMAT:
            raise TooNew(f"the backup in {folder}", format, FORMAT)
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"{folder}/{MANIFEST}", str(error)) from error
    if [one.name for one in manifest.files] != [IMAGE]:
        raise Corrupt(f"{folder}/{MANIFEST}", f"it names other files than {IMAGE}")
    return manifest


async def check_backup(disk: Disk, folder: str, *, progress: Told = nobody) -> Manifest:
    """Read a backup as a whole: sizes, digests, and the checksums of its image.

    Raises:
      Unavailable: the disk refuses it.
      Misuse: there is no backup, or one that was cut off before its end.
      Corrupt: it is not as it was written.
    """
    try:
        manifest = await read_manifest(disk, folder)
        for file in manifest.files:
            await _check_digest(disk, folder, file, progress)
        rows = 0
        async with open_rows(disk, folder, manifest) as reader:
            async for _, found in reader:
                rows += len(found)
                progress(Progress("rows", rows, manifest.rows))
    except OSError as error:
        check_denied(error, folder, "name another backup")
        raise Unavailable(f"the backup in {folder} cannot be read: {error.strerror or error}") from error
    return manifest


async def _check_digest(disk: Disk, folder: str, wanted: BackedUp, progress: Told) -> None:
    path, digest, done = f"{folder}/{wanted.name}", hashlib.sha256(), 0
    try:
        file = await disk.open(path, write=False)
    except FileNotFoundError:
        raise Corrupt(path, "it is missing") from None
    try:
        if (size := await file.size()) != wanted.size_bytes:
            raise Corrupt(path, f"it has {size:,} bytes, the manifest says {wanted.size_bytes:,}")
        while data := await file.read(done, _READ_BYTES):
            digest.update(data)
            done += len(data)
            progress(Progress("bytes", done, wanted.size_bytes))
    finally:
        file.close()
    if digest.hexdigest() != wanted.sha256:
        raise Corrupt(path, "its SHA-256 digest is not that of the manifest")


@asynccontextmanager
async def open_rows(disk: Disk, folder: str, manifest: Manifest) -> AsyncIterator[ImageReader]:
    """The (table, rows) of a backup's image, block by block.

    Raises:
      Corrupt: it is not as it was written; what was given before is.
    """
    async with read_image(disk, f"{folder}/{IMAGE}") as reader:
        if reader.header.id.hex() != manifest.store:
            raise Corrupt(f"{folder}/{IMAGE}", f"it is of store {reader.header.id.hex()}, the manifest says {manifest.store}")
        yield reader
