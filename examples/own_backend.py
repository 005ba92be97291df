"""A backend of your own, held against every law that perdure's are: `python examples/own_backend.py`.

The backend here keeps its rows in an ordered map that lives in a plain dict. What makes a store of it
(frames, engine, pages, waits) is `OrderedBackend`. The part that holds it against the laws is at the
end, and the same for a backend that shares nothing with perdure's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import trio

from perdure.backends.conformance import run_checks
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.keys import TABLES
from perdure.backends.ordered import OrderedBackend
from perdure.backends.ordered_map import Alone, MapStatus
from perdure.backends.protocol import Backend, Capabilities
from perdure.backends.tables import Reader, Row, Writer

T = TypeVar("T")
INLINE = Environment(threads=InlineThreads())
"""The rows are in memory: there is nothing to wait for in a thread."""
Rows = dict[str, dict[bytes, bytes]]


class DictTables:
    """One transaction: it reads and writes a copy of the tables, made table by table when first written."""

    stale = False

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def get(self, table: str, key: bytes) -> bytes | None:
        return self.rows[table].get(key)

    def scan(self, table: str, start: bytes, stop: bytes | None, limit: int) -> Sequence[Row]:
        rows = self.rows[table]
        return [(key, rows[key]) for key in sorted(key for key in rows if key >= start and (stop is None or key < stop))[:limit]]

    def scan_back(self, table: str, start: bytes, stop: bytes | None, limit: int) -> Sequence[Row]:
        return self.scan(table, start, stop, len(self.rows[table]))[::-1][:limit]

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self.rows[table] = {**self.rows[table], key: value}

    def put_all(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        self.rows[table] = {**self.rows[table], **dict(rows)}

    def delete(self, table: str, key: bytes) -> bool:
        found = key in self.rows[table]
        self.rows[table] = {name: value for name, value in self.rows[table].items() if name != key}
        return found


class DictMap(Alone):
    """See `perdure.backends.ordered_map.OrderedMap`; no other process writes to it."""

    def __init__(self) -> None:
        super().__init__()
        self.id = os.urandom(16).hex()
        self._rows: Rows = {table: {} for table in TABLES}

    def read(self, fn: Callable[[Reader], T]) -> T:
        return fn(DictTables(self._rows))

    @contextmanager
    def hold(self, *, busy: bool = False) -> Iterator[Reader]:
        yield DictTables(self._rows)

    async def write(self, fn: Callable[[Writer], T], *, small: bool = False, size_bytes: int = 0) -> T:
        batch = DictTables(dict(self._rows))
        result = fn(batch)
        self._rows = batch.rows
        return result

    def status(self) -> MapStatus:
        return MapStatus(bytes_used=sum(len(key) + len(value) for rows in self._rows.values() for key, value in rows.items()))

    async def check_files(self) -> list[str]:
        return []

    async def aclose(self) -> None:
        pass


# -- six lines -------------------------------------------------------------------------------


class DictStores:
    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[Backend]:
        backend = OrderedBackend(DictMap(), url="dict:", capabilities=Capabilities(), environment=INLINE)
        yield backend
        await backend.aclose()


async def main(only: Sequence[str] = ()) -> int:
    """Print the scoreboard; 1 if a law is broken."""
    board = await run_checks(DictStores(), only=only)
    print(board.render())
    return 1 if board.failed else 0


if __name__ == "__main__":
    sys.exit(trio.run(main, sys.argv[1:]))
