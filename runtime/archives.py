"""Archives in a blob store: written before what they hold is cut, read together with the log, as if nothing had been.

`Archived` is a backend to read through: where the log says `Truncated`, it puts what the archives have of it in its place, by position. What no
archive has stays `Truncated`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final, Self

import attrs

from perdure.backends import archive
from perdure.backends.archive import FOOTER, HEADER, MEDIA_TYPE, ArchiveWriter, Index, Part
from perdure.backends.blobs.protocol import BlobStore
from perdure.backends.errors import Corrupt, Misuse, Truncated, Unavailable
from perdure.backends.event import Position, Record
from perdure.backends.limits import LIMITS, Limits
from perdure.backends.protocol import Backend, Page, StreamInfo
from perdure.backends.selector import EVERYTHING, Selector

STREAMS_A_STEP: Final = 1_000


async def write_archive(backend: Backend, blobs: BlobStore, cuts: Mapping[str, tuple[StreamInfo, int]], *, limits: Limits = LIMITS) -> str | None:
    """Put what is about to be cut into a blob, and give its CID; *cuts* maps streams to what is known of them and their next first seqs.

    On return it is durable. None: there is nothing to archive. If cancelled there is no such blob.

    Raises:
      Unavailable: some of it was cut by somebody else meanwhile; plan anew.
    """
    writer = ArchiveWriter(backend.id, await backend.now_us(), {name: info.archive for name, (info, _) in cuts.items()})
    firsts = {name: first for name, (_, first) in cuts.items()}
    start = min(info.cut for info, _ in cuts.values())  # what is before has gone already
    put = await blobs.put(_Pieces(backend, writer, firsts, start, limits), media_type=MEDIA_TYPE)
    for name, (info, first) in cuts.items():
        if writer.seqs.get(name) != (info.first, first - 1):
            raise Unavailable(f"stream {name!r} was cut by somebody else meanwhile")
    return put.cid if writer.events else None


class _Pieces:
    """The bytes of an archive, a page of the log at a time."""

    def __init__(self, backend: Backend, writer: ArchiveWriter, firsts: Mapping[str, int], start: Position, limits: Limits) -> None:
        self._backend = backend
        self._writer = writer
        self._firsts = firsts
        self._cursor = start
        self._limits = limits
        self._where = EVERYTHING.within(streams=list(firsts))
        self._left = set(firsts)
        self._ready = deque([writer.begin()])
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._ready:
            if self._ended:
                raise StopAsyncIteration
            await self._advance()
        return self._ready.popleft()

    async def _advance(self) -> None:
        limits, firsts = self._limits, self._firsts
        page = await self._backend.read_log(
            after=self._cursor, limit=limits.page_records, bytes_max=limits.page_bytes, where=self._where, over_cuts=True
        )
        self._ready += self._writer.add(record for record in page.records if record.seq < firsts[record.stream])
        self._left -= {record.stream for record in page.records if record.seq + 1 >= firsts[record.stream]}
        self._cursor = page.examined
        if not self._left or page.examined >= page.head:
            self._ready += self._writer.finish()
            self._ended = True


# -- reading ---------------------------------------------------------------------------------


class Archive:
    """One archive, open. It keeps the block it read last."""

    def __init__(self, blobs: BlobStore, cid: str, index: Index) -> None:
        self.cid = cid
        self.index = index
        self._blobs = blobs
        self._last: tuple[int, list[Record]] = (-1, [])

    async def block(self, number: int) -> list[Record]:
        """Its records."""
        if self._last[0] != number:
            place = self.index.blocks[number]
            value = await _read(self._blobs, self.cid, place.offset, place.offset + place.size_bytes)
            self._last = number, archive.read_block(f"archive {self.cid}", value)
        return self._last[1]

    def first_end(self, after: int) -> Position | None:
        """Where its first block with something beyond position *after* ends; None: it has none."""
        return next((Position(place.last) for place in self.index.blocks if place.last > after), None)

    async def between(self, after: int, until: int) -> list[Record]:
        """Records beyond position *after* up to *until*."""
        found: list[Record] = []
        for number, place in enumerate(self.index.blocks):
            if place.last > after and place.first <= until:
                found += [record for record in await self.block(number) if after < record.position <= until]
        return found

    async def of_stream(self, stream: str, after: int) -> list[Record]:
        """Records of a stream beyond seq *after*, of the first block that has any."""
        part = self.index.streams.get(stream)
        for number in part.blocks if part is not None and part.last > after else ():
            found = [record for record in await self.block(number) if record.stream == stream and record.seq > after]
            if found:
                return found
        return []


async def open_archive(blobs: BlobStore, cid: str) -> Archive:
    """Open an archive by its CID.

    Raises:
      Misuse: the blob store does not have it.
      Corrupt, TooNew: it cannot be read.
    """
    where = f"archive {cid}"
    stat = await blobs.stat(cid)
    if stat is None:
        raise Misuse(f"{where} is not in this blob store: name the one that archives are put into")
    if stat.size_bytes < HEADER.size + FOOTER.size:
        raise Corrupt(where, "it is too short")
    archive.read_header(where, await _read(blobs, cid, 0, HEADER.size))
    footer = await _read(blobs, cid, stat.size_bytes - FOOTER.size, stat.size_bytes)
    offset, size = archive.read_footer(where, footer)
    return Archive(blobs, cid, archive.read_index(where, await _read(blobs, cid, offset, offset + size), footer))


async def _read(blobs: BlobStore, cid: str, start: int, end: int) -> bytes:
    return b"".join([piece async for piece in blobs.get(cid, start=start, end=end)])


@attrs.define
class Archives:
    """The archives of a store, opened as they are needed."""

    backend: Backend
    blobs: BlobStore
    _open: dict[str, Archive] = attrs.field(factory=dict)
    _known: dict[str, str | None] = attrs.field(factory=dict)
    """Streams that have been cut, and their newest archives,"""
    _as_of: list[Any] = attrs.field(factory=list)
    """as the store was cut then."""

    async def get(self, cid: str) -> Archive:
        """One of them."""
        if cid not in self._open:
            self._open[cid] = await open_archive(self.blobs, cid)
        return self._open[cid]

    async def chain(self, stream: str, cid: str | None) -> list[tuple[Archive, Part]]:
        """The archives of a stream, oldest first."""
        found: list[tuple[Archive, Part]] = []
        while cid is not None:
            one = await self.get(cid)
            part = one.index.streams.get(stream)
            if part is None:
                raise Corrupt(f"archive {cid}", f"stream {stream!r} names it, and it has nothing of that")
            found.append((one, part))
            cid = part.previous
        return found[::-1]

    async def check_whole(self, info: StreamInfo) -> None:
        """Whether all that was cut of a stream is in archives.

        Raises:
          Truncated: some of it is nowhere.
        """
        missing = 1
        for _, part in await self.chain(info.name, info.archive):
            if part.first > missing:
                break
            missing = max(missing, part.last + 1)
        if missing < info.first:
            raise Truncated(info.name, info.first, None, info.cut)

    async def all(self, where: Selector[Any], after: Position) -> list[Archive]:
        """Those that may have events that *where* selects, beyond *after*.

        Raises:
          Truncated: an event that was cut there is in none.
        """
        cuts = await self.backend.cuts()
        if cuts != self._as_of:
            self._known = {info.name: info.archive for info in await cut_streams(self.backend)}
            self._as_of = cuts
        found: dict[str, Archive] = {}
        for name in self._known:
            if not any(item.wants_stream(name) for item in where.items):
                continue
            info = await self.backend.stream(name)
            if info is None or info.cut <= after:
                continue
            await self.check_whole(info)
            for one, _ in await self.chain(name, info.archive):
                found[one.cid] = one
        return list(found.values())


async def cut_streams(backend: Backend) -> list[StreamInfo]:
    """All streams of which something was cut."""
    found: list[StreamInfo] = []
    after: str | None = None
    while infos := await backend.streams(after=after, limit=STREAMS_A_STEP):
        found += [info for info in infos if info.cut]
        after = infos[-1].name
    return found


def archived(backend: Backend, blobs: BlobStore | None) -> Backend:
    """*backend*, read together with the archives in *blobs*, if there are any."""
    return backend if blobs is None else Archived(backend, blobs)


class Archived:
    """See `Backend`: *backend*, read together with its archives."""

    def __init__(self, backend: Backend, blobs: BlobStore) -> None:
        self._inner = backend
        self.archives = Archives(backend, blobs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def read_stream(self, stream: str, *, after: int, limit: int, bytes_max: int, backward: bool = False) -> list[Record]:
        """See `Reads.read_stream`: what was cut comes from the archives. Backward it does so too, at least one record at a time."""
        try:
            return await self._inner.read_stream(stream, after=after, limit=limit, bytes_max=bytes_max, backward=backward)
        except Truncated as error:
            gone = error
        info = await self._inner.stream(stream)
        assert info is not None, "it has been cut"
        chain = await self.archives.chain(stream, info.archive)
        if backward:
            return await self._backward(stream, chain, after or info.first, limit, gone)
        for one, part in chain:
            if part.first <= after + 1 <= part.last:
                return (await one.of_stream(stream, after))[:limit]
        raise gone

    async def _backward(self, stream: str, chain: list[tuple[Archive, Part]], below: int, limit: int, error: Truncated) -> list[Record]:
        if below <= 1:
            return []
        for one, part in chain:
            if part.first < below <= part.last + 1:
                for number in reversed(part.blocks):
                    found = [record for record in await one.block(number) if record.stream == stream and record.seq < below]
                    if found:
                        return found[::-1][:limit]
        raise error

    async def read_log(
        self, *, after: Position, limit: int, bytes_max: int, where: Selector[Any] = EVERYTHING, over_cuts: bool = False
    ) -> Page:
        """See `Reads.read_log`: what was cut comes from the archives, in its place."""
        try:
            return await self._inner.read_log(after=after, limit=limit, bytes_max=bytes_max, where=where, over_cuts=over_cuts)
        except Truncated:
            pass
        page = await self._inner.read_log(after=after, limit=limit, bytes_max=bytes_max, where=where, over_cuts=True)
        archives = await self.archives.all(where, after)  # asked for last: what has been cut of the page meanwhile is in it, what before is in these
        found, until = await _merged(archives, page, after)
        return Page([one for one in found if where.matches(one.stream, one.type, one.tags)], until, page.head)


async def _merged(archives: list[Archive], page: Page, after: Position) -> tuple[list[Record], Position]:
    """The page's records with those of the archives, as far as the first block of each reaches: whole commits."""
    until = min([page.examined, *(end for one in archives if (end := one.first_end(after)) is not None)])
    found = await _together(archives, page, after, until)
    if until == page.examined:
        return found, until
    whole = [record for record in found if record.commit != found[-1].commit]  # the last one may go on
    if whole:
        return whole, whole[-1].position
    return await _together(archives, page, after, page.examined), page.examined


async def _together(archives: list[Archive], page: Page, after: Position, until: Position) -> list[Record]:
    found = {record.position: record for record in page.records if record.position <= until}
    for one in archives:
        found.update({record.position: record for record in await one.between(after, until)})
    return [found[position] for position in sorted(found)]
