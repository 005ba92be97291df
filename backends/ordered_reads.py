"""The reads of a store over its tables: of whatever gives a reader, the newest state or one that is held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import trio

from perdure.backends import answers, rest, tables, trace
from perdure.backends.bounds import bounds
from perdure.backends.carried import AgedPage, BucketEntry, EntryPage, Numbers, SnapshotHead, TracePage
from perdure.backends.commit import Committed
from perdure.backends.errors import Closed
from perdure.backends.event import Position, Record
from perdure.backends.frame import TypeName
from perdure.backends.ordered_map import MapAway
from perdure.backends.protocol import Changes, CutBound, Entry, Page, Snapshot, StreamInfo
from perdure.backends.selector import EVERYTHING, Selector
from perdure.backends.tables import Reader

T = TypeVar("T")


class OrderedReads:
    """The reads, over whatever gives a reader: the map's newest state, or one that is held."""

    def __init__(self, read: Callable[[Callable[[Reader], Any]], Any], types: Callable[[Reader], Sequence[TypeName]]) -> None:
        self._read = read
        self._types = types
        self._turns = 0
        self._woken = False
        """Whether who reads next has just been woken: other tasks had their turn."""

    async def _now(self, fn: Callable[[Reader], T], *, large: bool = False) -> T:
        """A read: every sixteenth small one and every *large* one lets other tasks run, all see a cancellation."""
        self._turns = (self._turns + 1) & 15
        if self._woken or (self._turns and not large):
            self._woken = False
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        try:
            result: T = self._read(fn)
        except MapAway:
            return await self._read_later(fn)
        return result

    async def _read_later(self, fn: Callable[[Reader], T]) -> T:
        """The same once the map is back. A held state does not come back."""
        raise Closed("the view (the store is being reopened)")

    async def read_stream(self, stream: str, *, after: int, limit: int, bytes_max: int, backward: bool = False) -> list[Record]:
        """See `Reads.read_stream`."""
        return await self._now(
            lambda reader: tables.read_stream(reader, self._types(reader), stream, after=after, limit=limit, bytes_max=bytes_max, backward=backward)
        )

    async def read_log(
        self, *, after: Position, limit: int, bytes_max: int, where: Selector[Any] = EVERYTHING, over_cuts: bool = False
    ) -> Page:
        """See `Reads.read_log`."""
        return await self._now(
            lambda reader: tables.read_log(
                reader, self._types(reader), after=after, limit=limit, bytes_max=bytes_max, where=where, over_cuts=over_cuts
            ),
            large=True,
        )

    async def head(self) -> Position:
        """See `Reads.head`."""
        return await self._now(lambda reader: tables.read_head(reader)[0])

    async def revision(self) -> int:
        """See `Reads.revision`."""
        return await self._now(lambda reader: tables.read_meta(reader, "revision"))

    async def answer(self, id: bytes) -> Committed | None:
        """See `Reads.answer`."""
        return await self._now(lambda reader: answers.answer(reader, self._types(reader), id))

    async def get(self, bucket: str, key: bytes) -> Entry | None:
        """See `Reads.get`."""
        return await self._now(lambda reader: tables.get(reader, bucket, key))

    async def scan(self, bucket: str, *, prefix: bytes = b"", after: bytes | None = None, limit: int) -> list[Entry]:
        """See `Reads.scan`."""
        return await self._now(lambda reader: tables.scan(reader, bucket, prefix=prefix, after=after, limit=limit), large=True)

    async def read_changes(self, bucket: str, *, after: int, limit: int) -> Changes:
        """See `Reads.read_changes`."""
        return await self._now(lambda reader: tables.read_changes(reader, bucket, after=after, limit=limit), large=True)

    async def read_snapshot(self, name: str, *, at_most: Position | None = None) -> Snapshot | None:
        """See `Reads.read_snapshot`."""
        return await self._now(lambda reader: tables.read_snapshot(reader, name, at_most))

    async def snapshots(self, name: str) -> list[Position]:
        """See `Reads.snapshots`."""
        return await self._now(lambda reader: tables.snapshots(reader, name))

    async def stream(self, name: str) -> StreamInfo | None:
        """See `Reads.stream`."""
        return await self._now(lambda reader: None if (row := reader.get("streams", name.encode())) is None else tables.stream_info(reader, name, row))

    async def cuts(self) -> list[CutBound]:
        """See `Reads.cuts`."""
        return await self._now(lambda reader: list(bounds(reader, self._types(reader))))

    async def streams(self, *, prefix: str = "", after: str | None = None, limit: int) -> list[StreamInfo]:
        """See `Reads.streams`."""
        return await self._now(lambda reader: tables.streams(reader, prefix=prefix, after=after, limit=limit))

    # -- what there is beside the log --------------------------------------------------------

    async def read_entries(self, *, beyond: int = 0, after: bytes = b"", limit: int, bytes_max: int) -> EntryPage:
        """See `Moves.read_entries`."""
        return await self._now(lambda reader: rest.read_entries(reader, beyond=beyond, after=after, limit=limit, bytes_max=bytes_max), large=True)

    async def read_aged(self, *, since_us: int = 0, after: bytes = b"", limit: int) -> AgedPage:
        """See `Moves.read_aged`."""
        return await self._now(lambda reader: rest.read_aged(reader, since_us=since_us, after=after, limit=limit), large=True)

    async def read_these(self, keys: Sequence[tuple[str, bytes]], *, bytes_max: int) -> tuple[list[BucketEntry], int]:
        """See `Moves.read_these`."""
        return await self._now(lambda reader: rest.read_these(reader, keys, bytes_max=bytes_max), large=True)

    async def read_trace(self, *, after: bytes = b"", limit: int) -> TracePage:
        """See `Moves.read_trace`."""
        return await self._now(lambda reader: trace.read_some(reader, after=after, limit=limit), large=True)

    async def snapshot_heads(self) -> list[SnapshotHead]:
        """See `Moves.snapshot_heads`."""
        return await self._now(rest.snapshot_heads, large=True)

    async def read_numbers(self) -> Numbers:
        """See `Moves.read_numbers`."""
        return await self._now(rest.read_numbers)

    async def moved_to(self) -> str:
        """See `Moves.moved_to`."""
        return await self._now(tables.read_moved)
