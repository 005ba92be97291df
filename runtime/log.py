"""Readers of the log and of streams: iterator objects with a cursor and one page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import trio

from perdure.actors.fold import Fold, fold_page
from perdure.actors.model import failed
from perdure.actors.pace import SLICE, Pace
from perdure.actors.subscription import decoded
from perdure.backends.codec import Codec
from perdure.backends.commit import check_stream
from perdure.backends.errors import Misuse, ProjectionFailed, Unreadable
from perdure.backends.event import Event, Position, Record
from perdure.backends.protocol import Reads
from perdure.backends.selector import Selector
from perdure.backends.tables import bytes_of

S = TypeVar("S")
D = TypeVar("D")


class _Pages(Generic[D]):
    """Hands out events one by one, fetching a page when the last is used up."""

    def __init__(self, codec: Codec, limit: int | None) -> None:
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise Misuse(f"limit is a number from 0, or None, not {limit!r}")
        self._codec = codec
        self._left = limit
        self._records: Sequence[Record] = ()
        """Of the page, those that are not decoded yet."""
        self._events: Sequence[Event[Any] | Unreadable] = ()
        self._next = 0

    def __aiter__(self) -> _Pages[D]:
        return self

    async def __anext__(self) -> Event[D]:
        if self._next == len(self._events):
            await self._decode_more()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        event = self._events[self._next]
        self._next += 1
        if isinstance(event, Unreadable):
            raise event  # asking again gives the one after it
        return event

    async def _decode_more(self) -> None:
        """A slice of the page, or of the next one; other tasks have their turn before each."""
        if self._records:
            await trio.lowlevel.checkpoint()
        else:
            self._records = await self._fetch() if self._left != 0 else []
            if not self._records:
                raise StopAsyncIteration
            if self._left is not None:
                self._left -= len(self._records)
        self._events, self._next = decoded(self._codec, self._records[:SLICE]), 0
        self._records = self._records[SLICE:]

    async def _fetch(self) -> list[Record]:
        raise NotImplementedError


class StreamReader(_Pages[object]):
    """See `Runtime.read`."""

    def __init__(self, reads: Reads, codec: Codec, pace: Pace, stream: str, *, after: int, limit: int | None, backward: bool) -> None:
        super().__init__(codec, limit)
        check_stream(stream, pace.limits, own=True)
        if isinstance(after, bool) or not isinstance(after, int) or after < 0:
            raise Misuse(f"read(after=...) takes a seq from 0, not {after!r}")
        self._reads = reads
        self._pace = pace
        self._stream = stream
        self._after = after
        self._backward = backward
        self._ended = False

    async def _fetch(self) -> list[Record]:
        if self._ended:
            return []
        most = self._pace.page_records if self._left is None else min(self._left, self._pace.page_records)
        records = await self._reads.read_stream(self._stream, after=self._after, limit=most, bytes_max=self._pace.page_bytes, backward=self._backward)
        if records:
            self._after = records[-1].seq
            self._ended = self._backward and self._after == 1  # below seq 1 there is nothing, and `after=0` would mean the end
        return records


class LogReader(_Pages[D]):
    """See `Runtime.read_all`. It ends at the head it finds; `position` is how far it has looked."""

    def __init__(self, reads: Reads, codec: Codec, pace: Pace, events: Selector[D], *, after: Position, limit: int | None) -> None:
        super().__init__(codec, limit)
        if isinstance(after, bool) or not isinstance(after, int) or after < 0:
            raise Misuse(f"read_all(after=...) takes a position, not {after!r}")
        self._reads = reads
        self._pace = pace
        self._where = events
        self.position = after

    async def _fetch(self) -> list[Record]:
        while True:
            most = self._pace.page_records if self._left is None else min(self._left, self._pace.page_records)
            page = await self._reads.read_log(after=self.position, limit=most, bytes_max=self._pace.page_bytes, where=self._where)
            self.position = page.examined
            if self._left is not None and len(page.records) > self._left:  # a page ends with a commit
                records = page.records[: self._left]
                self.position = records[-1].position
                return records
            if page.records:
                return page.records
            if page.examined >= page.head:
                return []


async def fold_stream(reads: Reads, codec: Codec, pace: Pace, stream: str, fold: Fold[S, Any]) -> tuple[S, int]:
    """See `Runtime.fold`."""
    if not isinstance(stream, str):
        raise Misuse(f"a stream is named by text, not by {stream!r}")
    state, last = fold.initial, 0
    step, size = fold.step, pace.page_bytes
    while True:
        most = pace.page_records
        records = await reads.read_stream(stream, after=last, limit=most, bytes_max=size)
        if not records:
            return state, last
        state, stopped = fold_page(codec, step, state, records)
        if stopped is not None:
            error: ProjectionFailed = failed(f"fold of {stream}", stopped)
            raise error from stopped.error
        last = records[-1].seq
        if len(records) < most and bytes_of(records) < size:
            return state, last
