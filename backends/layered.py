"""Rows over rows: what was changed since, read together with what lies below."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from sortedcontainers import SortedDict

from perdure.backends.tables import Buffer, Reader, Row

Rows = dict[str, dict[bytes, bytes | None]]
"""Changed rows by table and key; None: deleted."""


class Layer(Protocol):
    """Changed rows, by table; keys in order on demand."""

    def get(self, table: str) -> Mapping[bytes, bytes | None] | None: ...

    def keys(self, table: str, start: bytes, stop: bytes | None, *, reverse: bool) -> Iterator[bytes]: ...


class Few:
    """A layer of few rows: quick to write, sorted when it is asked for an order."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.get: Callable[[str], dict[bytes, bytes | None] | None] = rows.get

    def keys(self, table: str, start: bytes, stop: bytes | None, *, reverse: bool) -> Iterator[bytes]:
        found = [key for key in self.rows[table] if key >= start and (stop is None or key < stop)]
        found.sort(reverse=reverse)
        return iter(found)


class Many:
    """A layer of many rows, always in order."""

    def __init__(self) -> None:
        self.rows: dict[str, SortedDict[bytes, bytes | None]] = {}
        self.get: Callable[[str], SortedDict[bytes, bytes | None] | None] = self.rows.get

    def keys(self, table: str, start: bytes, stop: bytes | None, *, reverse: bool) -> Iterator[bytes]:
        keys: Iterator[bytes] = self.rows[table].irange(start, stop, inclusive=(True, False), reverse=reverse)
        return keys

    def update(self, rows: Rows) -> None:
        """Lay *rows* over it."""
        for table, changed in rows.items():
            mine = self.rows.get(table)
            if mine is None:
                mine = self.rows[table] = SortedDict()
            mine.update(changed)

    def keep(self, table: str, key: bytes, value: bytes | None) -> None:
        """Remember a row, unless one of this key is remembered."""
        mine = self.rows.get(table)
        if mine is None:
            mine = self.rows[table] = SortedDict()
        mine.setdefault(key, value)

    def copy(self) -> Many:
        """The same rows, apart."""
        other = Many()
        for table, rows in self.rows.items():
            other.rows[table] = rows.copy()
        return other

    def clear(self) -> None:
        """Forget all."""
        self.rows.clear()


class Layered:
    """See `tables.Reader`: *above* over *below*."""

    __slots__ = ("above", "below")

    def __init__(self, below: Reader, above: Layer) -> None:
        self.below = below
        self.above = above

    def get(self, table: str, key: bytes) -> Buffer | None:
        mine = self.above.get(table)
        if mine is not None and key in mine:
            return mine[key]
        return self.below.get(table, key)

    def scan(self, table: str, start: bytes, stop: bytes | None, limit: int) -> Sequence[Row]:
        return self._merge(table, start, stop, limit, reverse=False)

    def scan_back(self, table: str, start: bytes, stop: bytes | None, limit: int) -> Sequence[Row]:
        return self._merge(table, start, stop, limit, reverse=True)

    def _merge(self, table: str, start: bytes, stop: bytes | None, limit: int, *, reverse: bool) -> Sequence[Row]:
        scan = self.below.scan_back if reverse else self.below.scan
        mine = self.above.get(table)
        if not mine:
            return scan(table, start, stop, limit)
        keys = self.above.keys(table, start, stop, reverse=reverse)
        key = next(keys, None)
        if key is None:
            return scan(table, start, stop, limit)
        out: list[Row] = []
        more, below = True, b""
        while more and len(out) < limit:
            wanted = limit - len(out)
            part = scan(table, start, stop, wanted)
            more = len(part) == wanted
            for row in part:
                below = bytes(row[0])
                while key is not None and (key > below if reverse else key < below):
                    _add(out, key, mine[key])
                    key = next(keys, None)
                if key == below:
                    _add(out, below, mine[below])
                    key = next(keys, None)
                else:
                    out.append(row)
            if more:
                start, stop = (start, below) if reverse else (below + b"\0", stop)
        while key is not None and not more and len(out) < limit:
            _add(out, key, mine[key])
            key = next(keys, None)
        return out[:limit]


def _add(out: list[Row], key: bytes, value: bytes | None) -> None:
    if value is not None:
        out.append((key, value))


class Recorder(Layered):
    """See `tables.Writer`: what is written is remembered, and read, but changes nothing below."""

    __slots__ = ("rows", "stale")

    def __init__(self, below: Reader, *, stale: bool = False) -> None:
        self.rows: Rows = {}
        super().__init__(below, Few(self.rows))
        self.stale = stale

    def put(self, table: str, key: bytes, value: bytes) -> None:
        rows = self.rows.get(table)
        if rows is None:
            rows = self.rows[table] = {}
        rows[key] = value

    def put_all(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        self.rows.setdefault(table, {}).update(rows)

    def delete(self, table: str, key: bytes) -> bool:
        found = self.get(table, key) is not None
        if found:
            self.rows.setdefault(table, {})[key] = None
        return found
