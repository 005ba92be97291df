"""`memory:`: the shortest correct backend; it lasts as long as the process, and is the oracle of the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any, TypeVar

import trio
from sortedcontainers import SortedDict

from perdure.backends import keys
from perdure.backends.environment import Environment
from perdure.backends.layered import Layered, Many, Recorder, Rows
from perdure.backends.limits import LIMITS, Limits
from perdure.backends.ordered import OrderedBackend
from perdure.backends.ordered_map import Alone, MapStatus
from perdure.backends.protocol import Capabilities
from perdure.backends.tables import Reader, Row, Writer

T = TypeVar("T")

Tables = dict[str, "SortedDict[bytes, bytes]"]


class TableReader:
    """Rows as they stand in *tables*."""

    __slots__ = ("_tables",)

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


class MemoryTables:
    """Tables in memory. Who holds a reader keeps what it saw: rows that change meanwhile are set aside for it."""

    def __init__(self) -> None:
        self._tables: Tables = {name: SortedDict() for name in keys.TABLES}
        self._held: list[Many] = []
        self.reader = TableReader(self._tables)
        self.bytes_used = 0
        self.applied_bytes = 0
        """All that was ever put."""

    @contextmanager
    def hold(self, *, busy: bool = False) -> Iterator[Reader]:
        """A reader of the tables as they are now; *busy*: a thread may use it, so it gets copies."""
        if busy:
            yield self.copy().reader
            return
        before = Many()
        self._held.append(before)
        try:
            yield Layered(self.reader, before)
        finally:
            self._held = [held for held in self._held if held is not before]

    def copy(self) -> MemoryTables:
        """The same rows, apart."""
        other = MemoryTables()
        for name, rows in self._tables.items():
            other._tables[name].update(rows)
        other.bytes_used = self.bytes_used
        return other

    def apply(self, rows: Rows) -> None:
        """Lay *rows* over the tables."""
        for name, changed in rows.items():
            table = self._tables[name]
            for key, value in changed.items():
                old = table.get(key)
                for held in self._held:
                    held.keep(name, key, old)
                if old is not None:
                    self.bytes_used -= len(key) + len(old)
                if value is not None:
                    size = len(key) + len(value)
                    self.bytes_used += size
                    self.applied_bytes += size
                    table[key] = value
                elif old is not None:
                    del table[key]


class MemoryMap(Alone):
    """See `OrderedMap`."""

    def __init__(self, id: str) -> None:
        super().__init__()
        self.id = id
        self._tables = MemoryTables()

    def read(self, fn: Callable[[Reader], T]) -> T:
        return fn(self._tables.reader)

    def hold(self, *, busy: bool = False) -> AbstractContextManager[Reader]:
        return self._tables.hold(busy=busy)

    async def write(self, fn: Callable[[Writer], T], *, small: bool = False, size_bytes: int = 0) -> T:
        recorder = Recorder(self._tables.reader)
        result = fn(recorder)
        self._tables.apply(recorder.rows)
        return result

    def status(self) -> MapStatus:
        return MapStatus(bytes_used=self._tables.bytes_used)

    async def check_files(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return []

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def open_memory(*, environment: Environment | None = None, limits: Limits = LIMITS, **_: Any) -> OrderedBackend:
    """A new, empty store in memory."""
    environment = environment or Environment()
    capabilities = Capabilities(views=True, loads=True, images=True, moves=True, cuts=True)
    return OrderedBackend(MemoryMap(environment.ids().hex()), url="memory:", capabilities=capabilities, environment=environment, limits=limits)
