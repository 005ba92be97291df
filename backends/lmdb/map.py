"""LMDB as an ordered map: whole transactions in one call, foreign errors translated here.

Readers are given with `buffers=True`: a scan copies nothing, its rows are read before the
transaction ends.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NoReturn, TypeVar

import lmdb
import trio

from perdure.backends.environment import Environment
from perdure.backends.errors import Corrupt, InDoubt, Unavailable
from perdure.backends.lmdb import shared as sharing
from perdure.backends.lmdb.files import DATA
from perdure.backends.lmdb.shared import SharedEnv
from perdure.backends.ordered import MapFull, MapStatus
from perdure.backends.tables import Buffer, Reader, Row, Writer

T = TypeVar("T")

_CHUNK = 16
_DISK_LOOK_S = 0.5
_DISK_RESERVE_BYTES = 64 << 20


class _Reader:
    """The tables as one transaction sees them."""

    __slots__ = ("_tables", "_txn")

    def __init__(self, txn: lmdb.Transaction, tables: dict[str, Any]) -> None:
        self._txn = txn
        self._tables = tables

    def get(self, table: str, key: bytes) -> Buffer | None:
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


class _Writer(_Reader):
    """The same, writing."""

    __slots__ = ()

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._txn.put(key, value, db=self._tables[table])

    def put_all(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        with self._txn.cursor(self._tables[table]) as cursor:
            cursor.putmulti(rows)

    def delete(self, table: str, key: bytes) -> bool:
        return self._txn.delete(key, db=self._tables[table])


class LmdbMap:
    """See `OrderedMap`. One of possibly several users of a `SharedEnv` in this process."""

    poll_s = 0.05

    def __init__(self, shared: SharedEnv, *, environment: Environment, gate_s: float) -> None:
        self._shared = shared
        self._environment = environment
        self._gate_s = gate_s
        self._seen = -1
        self._writes = False
        self._looked_at = 0.0
        self._closed = False

    @property
    def id(self) -> str:
        return self._shared.id

    # -- reading -----------------------------------------------------------------------------

    def read(self, fn: Callable[[Reader], T]) -> T:
        shared = self._shared
        if shared.pid != os.getpid():
            sharing.refuse_fork(shared)
        try:
            with self._begin() as txn:
                return fn(_Reader(txn, shared.tables))
        except lmdb.Error as error:
            self._translate(error)

    def _begin(self) -> lmdb.Transaction:
        env = self._shared.env
        try:
            return env.begin(buffers=True)
        except lmdb.ReadersFullError:
            env.reader_check()
            return env.begin(buffers=True)
        except lmdb.MapResizedError:
            env.set_mapsize(0)
            return env.begin(buffers=True)

    @contextmanager
    def hold(self) -> Iterator[Reader]:
        sharing.refuse_fork(self._shared)
        txn = self._begin()
        self._shared.held += 1
        try:
            yield _Reader(txn, self._shared.tables)
        except lmdb.Error as error:
            self._translate(error)
        finally:
            self._shared.held -= 1
            txn.abort()

    # -- writing -----------------------------------------------------------------------------

    async def prepare(self) -> bool:
        shared = self._shared
        sharing.refuse_fork(shared)
        if not self._writes:
            await self._become_writer()
        return self._seen != shared.commits

    async def _become_writer(self) -> None:
        """Take the writer's lock, by trying; this process then keeps it until it closes the store."""
        lock = self._shared.writer_lock
        deadline = trio.current_time() + self._gate_s
        while not lock.take():
            if trio.current_time() >= deadline:
                raise Unavailable(f"process {lock.read_pid()} writes to {self._shared.folder}; stop it, or write through it")
            await trio.sleep(0.02)
        lock.write_pid()
        self._writes = True

    def write(self, fn: Callable[[Writer], T], *, small: bool = False) -> T:
        shared = self._shared
        with shared.lock:
            if shared.failed is not None:
                raise Unavailable(f"{shared.failed}; close the store and open it again")
            if not small:
                self._look_at_disk()
                shared.restrict()
            try:
                return self._write_once(fn)
            except MapFull:
                if not ((small and shared.extend()) or shared.grow()):
                    raise
                return self._write_once(fn)

    def _write_once(self, fn: Callable[[Writer], T]) -> T:
        shared = self._shared
        try:
            txn = shared.env.begin(write=True, buffers=True)
            try:
                result = fn(_Writer(txn, shared.tables))
            except BaseException:
                txn.abort()
                raise
        except lmdb.MapFullError as error:
            raise MapFull from error
        except lmdb.Error as error:
            self._translate(error)
        self._flush(txn)
        return result

    def _flush(self, txn: lmdb.Transaction) -> None:
        """Commit durably and note how long that took. What fails here leaves the handle dead: nobody knows what is stored."""
        shared = self._shared
        began = time.perf_counter()
        try:
            txn.commit()
        except lmdb.MapFullError as error:
            raise MapFull from error
        except lmdb.Error as error:
            shared.failed = f"a flush of {shared.folder} failed: {error}"
            raise InDoubt(b"", None) from error
        took = time.perf_counter() - began
        shared.flushes += 1
        shared.flush_s += took
        shared.flush_max_s = max(shared.flush_max_s, took)
        shared.commits += 1
        self._seen = shared.commits

    def _look_at_disk(self) -> None:
        """A full disk shows as an IO error in the middle of a flush: so look first, from time to time."""
        now = time.monotonic()
        if now - self._looked_at < _DISK_LOOK_S:
            return
        try:
            disk = os.statvfs(self._shared.folder)
        except OSError as error:
            raise Unavailable(f"{self._shared.folder} cannot be looked at: {error.strerror or error}") from error
        if disk.f_bavail * disk.f_frsize < min(_DISK_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // 100 + (8 << 20)):
            raise MapFull
        self._looked_at = now

    # -- the rest ----------------------------------------------------------------------------

    def status(self) -> MapStatus:
        shared = self._shared
        info, page = shared.env.info(), shared.env.stat()["psize"]
        with self._begin() as txn:
            pages = sum(
                stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in (txn.stat(db) for db in shared.tables.values())
            )
        return MapStatus(
            bytes_used=pages * page,
            bytes_limit=shared.size,
            verified=shared.verified,
            details={
                "path": str(shared.folder),
                "file_bytes": (info["last_pgno"] + 1) * page,
                "flushes": shared.flushes,
                "flush_mean_s": shared.flush_s / shared.flushes if shared.flushes else 0.0,
                "flush_max_s": shared.flush_max_s,
                "readers": shared.env.readers().strip(),
            },
        )

    async def check_files(self) -> list[str]:
        shared = self._shared
        if shared.held or shared.flushes:
            shared.env.reader_check()
        try:
            await self._environment.threads.run_sync(sharing.check_pages, shared.folder / DATA)
        except Corrupt as problem:
            return [str(problem)]
        shared.found_sound()
        return []

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            with trio.CancelScope(shield=True):
                await self._environment.threads.run_sync(sharing.release, self._shared)

    def _translate(self, error: lmdb.Error) -> NoReturn:
        where = str(self._shared.folder)
        if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.InvalidError | lmdb.VersionMismatchError):
            raise Corrupt(where, f"LMDB says: {error}") from error
        if isinstance(error, lmdb.PanicError):
            self._shared.failed = f"LMDB gave up on {where}: {error}"
        raise Unavailable(f"LMDB says: {error}") from error
