"""A view: reads that all stand at one position."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from perdure.actors.fold import Fold
from perdure.actors.pace import Pace
from perdure.backends.codec import Codec
from perdure.backends.event import START, Event, Position
from perdure.backends.protocol import Backend, Reads
from perdure.backends.selector import EVERYTHING, Selector
from perdure.runtime.encode import to_key
from perdure.runtime.kv import Bucket, KvEntry
from perdure.runtime.log import LogReader, StreamReader, fold_stream

S = TypeVar("S")
D = TypeVar("D")
V = TypeVar("V")


class RuntimeView:
    """The reads of a runtime at one moment. See `Runtime` for each."""

    def __init__(self, reads: Reads, codec: Codec, pace: Pace, register: Callable[[Selector[Any]], None]) -> None:
        self._reads = reads
        self._codec = codec
        self._pace = pace
        self._register = register

    @classmethod
    @asynccontextmanager
    async def open(cls, backend: Backend, codec: Codec, pace: Pace, register: Callable[[Selector[Any]], None]) -> AsyncIterator[RuntimeView]:
        """See `Runtime.view`."""
        async with backend.view() as reads:
            yield cls(reads, codec, pace, register)

    async def head(self) -> Position:
        """The position it stands at."""
        return await self._reads.head()

    async def fold(self, stream: str, fold: Fold[S, Any]) -> tuple[S, int]:
        """The state of *stream* and its last seq."""
        return await fold_stream(self._reads, self._codec, self._pace, stream, fold)

    def read(self, stream: str, *, after: int = 0, limit: int | None = None, backward: bool = False) -> AsyncIterator[Event[object]]:
        """The stream's events."""
        return StreamReader(self._reads, self._codec, self._pace, stream, after=after, limit=limit, backward=backward)

    def read_all(self, events: Selector[D] = EVERYTHING, *, after: Position = START, limit: int | None = None) -> LogReader[D]:
        """The selected events."""
        self._register(events)
        return LogReader(self._reads, self._codec, self._pace, events, after=after, limit=limit)

    async def get(self, bucket: Bucket[V], key: str) -> KvEntry[V] | None:
        """An entry of *bucket*."""
        entry = await self._reads.get(bucket.name, to_key(key))
        return None if entry is None else KvEntry(key, self._codec.decoder(bucket.type)(entry.value), entry.revision)

    async def scan(self, bucket: Bucket[V], prefix: str = "", *, limit: int | None = None) -> list[KvEntry[V]]:
        """Entries of *bucket* whose keys begin with *prefix*."""
        return await bucket._scan(self._reads, prefix.encode(), None, limit)
