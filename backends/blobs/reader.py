"""Reading, as every blob store does it: from the root down, each block checked against its CID before a byte of it is given."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, Protocol, Self

from perdure.backends.blobs.cid import RAW, Cid
from perdure.backends.blobs.ref import BlobRef, BlobStat, address_of
from perdure.backends.blobs.source import WINDOW_CHUNKS
from perdure.backends.blobs.unixfs import BLOCK_BYTES_MAX, Link, Part, Walk, read_node
from perdure.backends.environment import Threads
from perdure.backends.errors import BlobMissing, Corrupt, Misuse, TooLarge

READ_BYTES_MAX: Final = 16 << 20
MENDED: Final = "put the same bytes again: that mends it"


class Blocks(Protocol):
    """Where the blocks of one blob come from. What it gives is believed in nothing."""

    where: str

    async def whole(self, cid: Cid) -> bytes | None:
        """The bytes of a blob that is a single chunk."""
        ...

    async def node(self, cid: Cid) -> bytes | None:
        """The bytes of a node; None: it is not there."""
        ...

    async def leaves(self, parts: Sequence[Part]) -> list[bytes | None]:
        """The bytes of leaves, each; they follow each other."""
        ...


class BlobReader:
    """The bytes of a blob, in pieces of at most 1 MiB: `async for piece in blobs.get(ref)`.

    It holds nothing open, so it may be dropped at any place; a cancelled read has changed nothing.
    """

    def __init__(self, blocks: Blocks, threads: Threads, what: BlobRef | str, start: int = 0, end: int | None = None) -> None:
        if start < 0 or (end is not None and end < start):
            raise Misuse(f"bytes {start} to {end} are no part of a blob: start is a number from 0, end one from start")
        self.cid = address_of(what)
        self._size_bytes = what.size_bytes if isinstance(what, BlobRef) else None
        self._blocks = blocks
        self._threads = threads
        self._range = start, end
        self._ready: deque[bytes] = deque()
        self._walk: Walk | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._ready:
            if self._walk is None:
                self._walk = await self._begin()
            elif not await self._advance(self._walk):
                raise StopAsyncIteration
        return self._ready.popleft()

    async def read(self, bytes_max: int = READ_BYTES_MAX) -> bytes:
        """All that is left, at once.

        Raises:
          TooLarge: it is more than *bytes_max*: iterate over it.
        """
        parts, size = [], 0
        async for piece in self:
            parts.append(piece)
            size += len(piece)
            if size > bytes_max:
                raise TooLarge("read", f"blob {self.cid}", size, bytes_max, "bytes", "iterate over it, or give a higher bytes_max")
        return b"".join(parts)

    async def stat(self) -> BlobStat | None:
        """The size that the root node says; None: the root is not there."""
        try:
            root = await self._root()
        except BlobMissing:
            return None
        return BlobStat(str(self.cid), root.size_bytes)

    # -- from the root down ------------------------------------------------------------------

    async def _begin(self) -> Walk:
        if self.cid.codec == RAW:
            data = self._there(await self._blocks.whole(self.cid), self.cid)
            await self._check([(self.cid, data, 0)])
            walk = self._from(Link(self.cid, len(data), len(data)))
            self._ready += filter(None, (walk.wanted(part, data) for part in walk.leaves(1)))
            return walk
        return self._from(await self._root())

    def _from(self, root: Link) -> Walk:
        if self._size_bytes not in (None, root.size_bytes):
            raise Corrupt(f"the BlobRef of {self.cid}", f"it says {self._size_bytes:,} bytes, the blob has {root.size_bytes:,}", "append one that is right")
        return Walk(root, *self._range)

    async def _root(self) -> Link:
        links = await self._links(self.cid, 0)
        return Link(self.cid, sum(link.size_bytes for link in links), 0)

    async def _advance(self, walk: Walk) -> bool:
        """Read what comes next; false: nothing does."""
        if (part := walk.node()) is not None:
            links = await self._links(part.link.cid, part.start)
            try:
                walk.opened(links)
            except ValueError as error:
                raise self._corrupt(part.link.cid, part.start, str(error)) from error
            return True
        if not (parts := walk.leaves(WINDOW_CHUNKS)):
            return False
        found = await self._blocks.leaves(parts)
        whole = [self._there(data, part.link.cid) for data, part in zip(found, parts, strict=True)]
        await self._check([(part.link.cid, data, part.start) for data, part in zip(whole, parts, strict=True)])
        for data, part in zip(whole, parts, strict=True):
            if len(data) != part.link.size_bytes:
                raise self._corrupt(part.link.cid, part.start, f"it has {len(data):,} bytes, the node above says {part.link.size_bytes:,}")
            if wanted := walk.wanted(part, data):
                self._ready.append(wanted)
        return True

    async def _links(self, cid: Cid, start: int) -> list[Link]:
        data = self._there(await self._blocks.node(cid), cid)
        await self._check([(cid, data, start)])
        try:
            return read_node(data)
        except ValueError as error:
            raise self._corrupt(cid, start, f"it is none of a blob: {error}") from error

    def _there(self, data: bytes | None, cid: Cid) -> bytes:
        if data is None:
            raise BlobMissing(str(self.cid), self._blocks.where, None if cid == self.cid else str(cid))
        return data

    async def _check(self, blocks: Sequence[tuple[Cid, bytes, int]]) -> None:
        wrong = await self._threads.run_sync(_wrong, blocks)
        if wrong is not None:
            cid, data, start = wrong
            raise self._corrupt(cid, start, f"the {len(data):,} bytes that it gave have another digest")

    def _corrupt(self, cid: Cid, start: int, why: str) -> Corrupt:
        at = f"blob {self.cid}" if cid == self.cid else f"block {cid} of blob {self.cid} (from byte {start:,})"
        return Corrupt(f"{at} in {self._blocks.where}", why, MENDED)


def _wrong(blocks: Sequence[tuple[Cid, bytes, int]]) -> tuple[Cid, bytes, int] | None:
    return next((one for one in blocks if len(one[1]) > BLOCK_BYTES_MAX or sha256(one[1]).digest() != one[0].digest), None)


async def read_through(reader: BlobReader) -> BlobStat:
    """All of it, for the sake of the checks."""
    size_bytes = 0
    async for piece in reader:
        size_bytes += len(piece)
    return BlobStat(str(reader.cid), size_bytes)
