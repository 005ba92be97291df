"""An image in a file of a `Disk`: written so that it is there whole or not at all, and read block by block."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs

from perdure.backends import image
from perdure.backends.disk import Disk, File
from perdure.backends.image import Image, Rows

BLOCK_BYTES = 1 << 20
"""Slices of about this size read and write well, and hold the loop for a moment."""
_READ_BYTES = 1 << 20


@attrs.frozen
class Written:
    """An image as it lies on disk."""

    size_bytes: int
    blocks: int
    rows: int
    number: int


async def write_image(
    disk: Disk,
    path: str,
    id: bytes,
    number: int,
    slices: AsyncIterable[tuple[str, Rows]],
    *,
    ended: Callable[[], int] | None = None,
    seen: Callable[[bytes], object] | None = None,
) -> Written:
    """Write the image of the store *id* to *path*, under another name until it is whole and durable.

    *slices* gives (table, rows), about `BLOCK_BYTES` each. *ended* says, after the last of them, the
    number of the last batch written by then (without it nothing was meanwhile); *seen* is told all bytes, for a digest.
    On return the file is there after any crash. If cancelled or failed, *path* is as it was; a file `path.new` may be left over.

    Raises:
      OSError: what the disk refuses.
    """
    fresh = f"{path}.new"
    await disk.remove(fresh)
    file = await disk.open(fresh, create=True)
    try:
        written = await _write(file, id, number, slices, ended, seen)
        await file.flush()
    finally:
        file.close()
    await disk.rename(fresh, path)
    await disk.sync_folder(path.rpartition("/")[0] or ("/" if path.startswith("/") else "."))
    return written


async def _write(
    file: File,
    id: bytes,
    number: int,
    slices: AsyncIterable[tuple[str, Rows]],
    ended: Callable[[], int] | None,
    seen: Callable[[bytes], object] | None,
) -> Written:
    part = image.begin(id, number)
    offset = blocks = count = 0

    async def write(part: bytes) -> None:
        nonlocal offset
        await file.write(offset, part)
        offset += len(part)
        if seen is not None:
            seen(part)

    await write(part)
    async for table, rows in slices:
        if rows:
            part = image.block(table, rows, image.seed_of(part))
            blocks, count = blocks + 1, count + len(rows)
            await write(part)
    last = number if ended is None else ended()
    await write(image.end(blocks, count, last, image.seed_of(part)))
    return Written(offset, blocks, count, last)


class ImageReader:
    """Gives the (table, rows) of each block of an image, in their order; *image* has header and, at the end, trailer."""

    def __init__(self, file: File, path: str) -> None:
        self.image = Image(path)
        self._file = file
        self._offset = 0
        self._blocks: list[tuple[str, Rows]] = []

    @property
    def header(self) -> image.Header:
        """Whose image it is."""
        assert self.image.header is not None
        return self.image.header

    def __aiter__(self) -> ImageReader:
        return self

    async def __anext__(self) -> tuple[str, Rows]:
        """The next block.

        Raises:
          Corrupt: the image is not as it was written, or ends too early: what was given before is right and not all.
        """
        while not self._blocks:
            if not await self.read_some():
                self.image.finish()
                raise StopAsyncIteration
        return self._blocks.pop()

    async def read_some(self) -> bool:
        """Read on; whether there was anything."""
        data = await self._file.read(self._offset, _READ_BYTES)
        self._offset += len(data)
        self._blocks = list(self.image.feed(data))[::-1]
        return bool(data)


@asynccontextmanager
async def read_image(disk: Disk, path: str) -> AsyncIterator[ImageReader]:
    """Open the image at *path*; its header has been read.

    Raises:
      Corrupt, TooNew: it does not begin like an image of ours.
      OSError: what the disk refuses.
    """
    file = await disk.open(path, write=False)
    try:
        reader = ImageReader(file, path)
        await reader.read_some()
        if reader.image.header is None:
            reader.image.finish()
        yield reader
    finally:
        file.close()
