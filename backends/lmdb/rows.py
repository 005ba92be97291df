"""LMDB's transactions as readers and writers of tables.

Readers are given with `buffers=True`: a scan copies nothing, its rows are read before the
transaction ends.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NoReturn

import lmdb

from perdure.backends.ordered_map import MapAway
from perdure.backends.tables import Buffer, Row

_CHUNK = 16


class TxnReader:
    """The tables as one transaction sees them."""

    __slots__ = ("_tables", "_txn")

    def __init__(self, txn: lmdb.Transaction, tables: dict[str, Any]) -> None:
        self._txn = txn
        self._tables = tables

    def get(self, table: str, key: bytes) -> Buffer | None:
        if not key:  # LMDB has no empty keys, and calls it an error to ask for one
            return None
        value: Buffer | None = self._txn.get(key, db=self._tables[table])
        return value

    def scan(self, table: str, start: bytes, stop: bytes | None, limit: int) -> Sequence[Row]:
        with self._txn.cursor(self._tables[table]) as cursor:
            if not cursor.set_range(start):
                return []
            return _until(cursor.iternext(), stop, limit)

    def scan_back(self, table: str, start: bytes, stop: bytes | None, limit: int) -> Sequence[Row]:
        with self._txn.cursor(self._tables[table]) as cursor:
            found = cursor.last() if stop is None or not cursor.set_range(stop) else cursor.prev()
            if not found:
                return []
            if limit == 1:
                key, value = cursor.item()
                return [(key, value)] if bytes(key) >= start else []
            rows: list[Row] = []
            for key, value in islice(cursor.iterprev(), limit):
                if bytes(key) < start:
                    break
                rows.append((key, value))
            return rows


def _until(rows: Iterator[Row], stop: bytes | None, limit: int) -> list[Row]:
    """At most *limit* rows with keys before *stop*, taken in chunks so that a short answer reads little beyond."""
    if stop is None:
        return list(islice(rows, limit))
    found: list[Row] = []
    chunk = _CHUNK
    while len(found) < limit:
        part = list(islice(rows, min(chunk, limit - len(found))))
        if not part:
            break
        if bytes(part[-1][0]) >= stop:
            found += part[: bisect_left(part, stop, key=_key)]
            break
        found += part
        chunk *= 4
    return found


def _key(row: Row) -> bytes:
    return bytes(row[0])


class TxnWriter(TxnReader):
    """The same, writing."""

    __slots__ = ("stale",)

    def __init__(self, txn: lmdb.Transaction, tables: dict[str, Any], stale: bool) -> None:
        super().__init__(txn, tables)
        self.stale = stale

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._txn.put(key, value, db=self._tables[table])

    def put_all(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        with self._txn.cursor(self._tables[table]) as cursor:
            cursor.putmulti(rows)

    def delete(self, table: str, key: bytes) -> bool:
        return self._txn.delete(key, db=self._tables[table])


class _Gone:
    """In the place of a transaction that was ended under its reader."""

    def __getattr__(self, name: str) -> NoReturn:
        raise MapAway


class Held(TxnReader):
    """A reader that is held; *busy*: a thread reads with it, so it cannot be ended from outside."""

    __slots__ = ("busy", "thread")

    def __init__(self, txn: lmdb.Transaction, tables: dict[str, Any], busy: bool) -> None:
        super().__init__(txn, tables)
        self.busy = busy
        self.thread = threading.get_ident()

    def end(self) -> None:
        """Idempotent."""
        txn: Any = self._txn
        self._txn = _Gone()  # type: ignore[assignment]  # it only says that it is gone
        if not isinstance(txn, _Gone):
            txn.abort()
