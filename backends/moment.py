"""All rows of a store at one moment, slice by slice, each read in a thread while the loop goes on: what a backup is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from perdure.backends import keys, tables
from perdure.backends.environment import Threads
from perdure.backends.errors import Corrupt, Unavailable
from perdure.backends.event import Position
from perdure.backends.ordered_map import MapAway, OrderedMap
from perdure.backends.protocol import State
from perdure.backends.tables import Reader

SLICE_BYTES = 256 << 10
"""A slice is about so large, or has one row."""
SLICE_ROWS = 2_048
_SCAN_ROWS = 256

Rows = list[tuple[bytes, bytes]]


class HeldMoment:
    """See `Moment`."""

    def __init__(self, reader: Reader, store: OrderedMap, threads: Threads, url: str) -> None:
        self.id = store.id
        head, at_us = tables.read_head(reader)
        self.head: Position = head
        self.at_us = max(at_us, tables.read_meta(reader, "at"))
        self.revision = tables.read_meta(reader, "revision")
        self._reader = reader
        self._store = store
        self._threads = threads
        self._url = url
        self._tables = list(keys.TABLES)
        self._start = b""

    def __aiter__(self) -> AsyncIterator[tuple[str, Rows]]:
        return self

    async def __anext__(self) -> tuple[str, Rows]:
        """See `Moment.__anext__`."""
        while self._tables:
            if self._store.state is not State.OPEN:  # its reopening waits for us
                raise Unavailable(f"{self._url} has to be reopened after a failed flush")
            table = self._tables[0]
            rows = await self._threads.run_sync(partial(slice_of, self._reader, table, self._start))
            if rows:
                self._start = rows[-1][0] + b"\0"
                return table, rows
            self._tables.pop(0)
            self._start = b""
        raise StopAsyncIteration


def slice_of(reader: Reader, table: str, start: bytes) -> Rows:
    """Some rows from *start* on: at least one if there is one, about `SLICE_BYTES`."""
    rows: Rows = []
    size = 0
    while len(rows) < SLICE_ROWS:
        found = reader.scan(table, start, None, _SCAN_ROWS)
        for key, value in found:
            rows.append((bytes(key), bytes(value)))
            size += len(key) + len(value)
            if size >= SLICE_BYTES:
                return rows
        if len(found) < _SCAN_ROWS:
            break
        start = rows[-1][0] + b"\0"
    return rows


@asynccontextmanager
async def hold_moment(store: OrderedMap, threads: Threads, url: str) -> AsyncIterator[HeldMoment]:
    """See `Backend.moment`. Its reader counts as busy, for a thread may be reading with it."""
    try:
        with store.hold(busy=True) as reader:
            try:
                moment = HeldMoment(reader, store, threads, url)
            except tables.DAMAGE as error:
                raise Corrupt(f"the store {url}", f"a row cannot be read ({error})") from error
            yield moment
    except MapAway as error:
        raise Unavailable(f"{url} is being reopened after a failed flush") from error
