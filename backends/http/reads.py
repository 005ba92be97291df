"""Reads over HTTP: questions and answers. A daemon may give less than was asked for; it is asked again then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from perdure.backends.commit import Committed
from perdure.backends.errors import PerdureError
from perdure.backends.event import Position, Record
from perdure.backends.http import wire
from perdure.backends.protocol import ChangedEntry, Changes, CutBound, Entry, Page, Snapshot, StreamInfo
from perdure.backends.selector import EVERYTHING, Selector
from perdure.backends.tables import bytes_of

Asks = Callable[[Any, Any], Awaitable[Any]]
"""Asks a question, for an answer of a kind."""


class HttpReads:
    """See `Reads`."""

    def __init__(self, ask: Asks) -> None:
        self._ask = ask

    async def read_stream(self, stream: str, *, after: int, limit: int, bytes_max: int, backward: bool = False) -> list[Record]:
        """See `Reads.read_stream`."""
        found: list[Record] = []
        while True:
            page: wire.Records = await self._ask(wire.ReadStream(stream, after, _small(limit), _small(bytes_max), backward), wire.Records)
            records = wire.records_of(page.rows)
            found += records
            limit -= len(records)
            bytes_max -= bytes_of(records)
            if not page.more or limit <= 0 or bytes_max <= 0:
                return found
            after = records[-1].seq

    async def read_log(self, *, after: Position, limit: int, bytes_max: int, where: Selector[Any] = EVERYTHING, over_cuts: bool = False) -> Page:
        """See `Reads.read_log`."""
        page: wire.LogPage = await self._ask(wire.ReadLog(after, _small(limit), _small(bytes_max), wire.items_of(where), over_cuts), wire.LogPage)
        return Page(wire.records_of(page.rows), Position(page.examined), Position(page.head))

    async def head(self) -> Position:
        """See `Reads.head`."""
        return Position((await self._where())[0])

    async def revision(self) -> int:
        """See `Reads.revision`."""
        return (await self._where())[1]

    async def _where(self) -> tuple[int, int]:
        where: tuple[int, int] = await self._ask(wire.Where(), tuple[int, int])
        return where

    async def answer(self, id: bytes) -> Committed | None:
        """See `Reads.answer`."""
        said: wire.Done | None = await self._ask(wire.AnswerTo(id), wire.Done | None)
        return None if said is None else committed(said)

    async def get(self, bucket: str, key: bytes) -> Entry | None:
        """See `Reads.get`."""
        found: tuple[bytes, bytes, int] | None = await self._ask(wire.Get(bucket, key), tuple[bytes, bytes, int] | None)
        return None if found is None else Entry(*found)

    async def scan(self, bucket: str, *, prefix: bytes = b"", after: bytes | None = None, limit: int) -> list[Entry]:
        """See `Reads.scan`."""
        found: list[Entry] = []
        while limit > 0:
            page: wire.Entries = await self._ask(wire.Scan(bucket, prefix, after, _small(limit)), wire.Entries)
            found += [Entry(*one) for one in page.entries]
            limit -= len(page.entries)
            if not page.more:
                break
            after = found[-1].key
        return found

    async def read_changes(self, bucket: str, *, after: int, limit: int) -> Changes:
        """See `Reads.read_changes`."""
        page: wire.ChangedEntries = await self._ask(wire.ReadChanges(bucket, after, _small(limit)), wire.ChangedEntries)
        return Changes([ChangedEntry(*one) for one in page.changes], page.examined)

    async def read_snapshot(self, name: str, *, at_most: Position | None = None) -> Snapshot | None:
        """See `Reads.read_snapshot`."""
        kept: wire.KeptSnapshot | None = await self._ask(wire.ReadSnapshot(name, at_most), wire.KeptSnapshot | None)
        return None if kept is None else Snapshot(kept.name, Position(kept.position), kept.fingerprint, kept.state, kept.at_us)

    async def snapshots(self, name: str) -> list[Position]:
        """See `Reads.snapshots`."""
        found: list[int] = await self._ask(wire.ListSnapshots(name), list[int])
        return [Position(one) for one in found]

    async def stream(self, name: str) -> StreamInfo | None:
        """See `Reads.stream`."""
        found: wire.StreamRow | None = await self._ask(wire.OneStream(name), wire.StreamRow | None)
        return None if found is None else _info(*found)

    async def cuts(self) -> list[CutBound]:
        """See `Reads.cuts`."""
        found: list[wire.CutRow] = await self._ask(wire.ListCuts(), list[wire.CutRow])
        return [CutBound(category, type, Position(position), stream, times) for category, type, position, stream, times in found]

    async def streams(self, *, prefix: str = "", after: str | None = None, limit: int) -> list[StreamInfo]:
        """See `Reads.streams`."""
        found: list[StreamInfo] = []
        while limit > 0:
            page: wire.Streams = await self._ask(wire.ListStreams(prefix, after, _small(limit)), wire.Streams)
            found += [_info(*one) for one in page.streams]
            limit -= len(page.streams)
            if not page.more:
                break
            after = page.streams[-1][0]
        return found


def committed(said: wire.Done) -> Committed:
    """The answer that was given."""
    answer = wire.answer_of(said)
    assert not isinstance(answer, PerdureError)
    return answer


def _info(name: str, first: int, last: int, position: int, cut: int, archive: str | None) -> StreamInfo:
    return StreamInfo(name, first, last, Position(position), Position(cut), archive)


def _small(number: int) -> int:
    return min(number, wire.MOST)
