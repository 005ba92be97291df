"""`memory:`: the shortest correct backend; it lasts as long as the process, and is the oracle of the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import trio
from sortedcontainers import SortedDict

from perdure.backends import keys
from perdure.backends.environment import Environment
from perdure.backends.limits import LIMITS, Limits
from perdure.backends.ordered import OrderedBackend
from perdure.backends.ordered_map import Alone, MapStatus
from perdure.backends.protocol import Capabilities
from perdure.backends.tables import Reader, Row, Writer

T = TypeVar("T")

Tables = dict[str, "SortedDict[bytes, bytes]"]


class _Reader:
    """Rows as they stand in *tables*."""

    stale = False

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._tables[table].get(key)

    def scan(self, table: str, start: bytes, stop: bytes | None, limit: int) -> Sequence[Row]:
        rows = self._tables[table]
        return [(key, rows[key]) for key in islice(rows.irange(start, stop, inclusive=(True, False)), limit)]

    def scan_back(self, table: str, start: bytes, stop: bytes | None, limit: int) -> Sequence[Row]:
        rows = self._tables[table]
        return [(key, rows[key]) for key in islice(rows.irange(start, stop, inclusive=(True, False), reverse=True), limit)]


class _Writer(_Reader):
    """Writes at once and remembers how to take it back."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self._undo: list[tuple[str, bytes, bytes | None]] = []

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._undo.append((table, key, self._tables[table].get(key)))
        self._tables[table][key] = value

    def put_all(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        for key, value in rows:
            self.put(table, key, value)

    def delete(self, table: str, key: bytes) -> bool:
        before = self._tables[table].pop(key, None)
        self._undo.append((table, key, before))
        return before is not None

    def undo(self) -> None:
        """Put everything back as it was."""
        for table, key, before in reversed(self._undo):
            if before is None:
                self._tables[table].pop(key, None)
            else:
                self._tables[table][key] = before


class MemoryMap(Alone):
    """See `OrderedMap`. Views keep the tables they began with: a write that meets one goes on with a copy."""

    def __init__(self, id: str) -> None:
        super().__init__()
        self.id = id
        self._tables: Tables = {name: SortedDict() for name in keys.TABLES}
        self._held: dict[object, Tables] = {}

    def read(self, fn: Callable[[Reader], T]) -> T:
        return fn(_Reader(self._tables))

    @contextmanager
    def hold(self, *, busy: bool = False) -> Iterator[Reader]:
        token = object()
        tables = self._held[token] = self._tables
        try:
            yield _Reader(tables)
        finally:
            del self._held[token]

    async def write(self, fn: Callable[[Writer], T], *, small: bool = False, size_bytes: int = 0) -> T:
        if any(held is self._tables for held in self._held.values()):
            self._tables = {name: rows.copy() for name, rows in self._tables.items()}
        writer = _Writer(self._tables)
        try:
            return fn(writer)
        except BaseException:
            writer.undo()
            raise

    def status(self) -> MapStatus:
        return MapStatus(bytes_used=sum(len(key) + len(value) for rows in self._tables.values() for key, value in rows.items()))

    async def check_files(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return []

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def open_memory(*, environment: Environment | None = None, limits: Limits = LIMITS, **_: Any) -> OrderedBackend:
    """A new, empty store in memory."""
    environment = environment or Environment()
    capabilities = Capabilities(views=True, loads=True, images=True)
    return OrderedBackend(
        MemoryMap(environment.ids().hex()), url="memory:", capabilities=capabilities, environment=environment, limits=limits
    )
