"""An image in a file of a `Disk`: written so that it is there whole or not at all, and read block by block."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs

from perdure.backends import image
from perdure.backends.disk import Disk, File, name_durably
from perdure.backends.image import Image, Rows

BLOCK_BYTES = 1 << 20
"""Slices of about this size read and write well, and hold the loop for a moment."""
_READ_BYTES = 1 << 20
_FLUSH_BYTES = 8 << 20


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
    On return the file is there after any crash. If cancelled or failed, *path*, which nothing had, is not there; a file `path.new` may be left over.

    Raises:
      OSError: what the disk refuses.
    """
    writer = await ImageWriter.begin(disk, path, id, number, seen)
    try:
        async for table, rows in slices:
            await writer.add(table, rows)
        return await writer.end(number if ended is None else ended())
    finally:
        writer.close()


class ImageWriter:
    """Writes an image part by part: `begin`, `add` rows, `end`. Until it has ended *path* is not there; `close` it in any case."""

    def __init__(self, disk: Disk, path: str, file: File, seen: Callable[[bytes], object] | None) -> None:
        self._disk = disk
        self._path = path
        self._file = file
        self._seen = seen
        self._offset = self._blocks = self._rows = self._unflushed = 0
        self._seed = 0

    @classmethod
    async def begin(cls, disk: Disk, path: str, id: bytes, number: int, seen: Callable[[bytes], object] | None = None) -> ImageWriter:
        """An image of the store *id* that is sure to hold all batches up to *number*."""
        await disk.remove(f"{path}.new")
        writer = cls(disk, path, await disk.open(f"{path}.new", create=True), seen)
        try:
            await writer._write(image.begin(id, number))
        except BaseException:
            writer.close()
            raise
        return writer

    async def add(self, table: str, rows: Rows) -> None:
        """Some rows of a table, about `BLOCK_BYTES` at most."""
        if rows:
            await self._write(image.block(table, rows, self._seed))
            self._blocks, self._rows = self._blocks + 1, self._rows + len(rows)

    async def end(self, number: int) -> Written:
        """That was all; batches up to *number* were written by now. On return the image is there after any crash."""
        await self._write(image.end(self._blocks, self._rows, number, self._seed))
        await self._file.flush()
        self.close()
        await name_durably(self._disk, f"{self._path}.new", self._path)
        return Written(self._offset, self._blocks, self._rows, number)

    async def _write(self, part: bytes) -> None:
        await self._file.write(self._offset, part)
        self._seed = image.seed_of(part)
        self._offset += len(part)
        self._unflushed += len(part)
        if self._unflushed >= _FLUSH_BYTES:  # a little now and then, not all at the end
            await self._file.flush()
            self._unflushed = 0
        if self._seen is not None:
            self._seen(part)

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._file.close()


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
