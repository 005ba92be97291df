"""LMDB as an ordered map: whole transactions in one call, foreign errors translated here.

Readers are given with `buffers=True`: a scan copies nothing, its rows are read before the
transaction ends.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, NoReturn, TypeVar

import attrs
import lmdb
import trio

from perdure.backends.answers import sweep_drawn
from perdure.backends.environment import Environment
from perdure.backends.errors import Corrupt, Full, Unavailable
from perdure.backends.lmdb import shared as sharing
from perdure.backends.lmdb.files import DATA
from perdure.backends.lmdb.shared import SharedEnv
from perdure.backends.lmdb.turnstile import Turnstile
from perdure.backends.ordered_map import MapAway, MapDoubtful, MapFull, MapStatus
from perdure.backends.protocol import State
from perdure.backends.tables import Buffer, Reader, Row, Writer, read_meta, write_meta

T = TypeVar("T")

_CHUNK = 16
_DISK_LOOK_S = 0.5
_DISK_RESERVE_BYTES = 64 << 20
_BULK_BYTES = 256 << 10
_BACK_S = 0.01
"""How often who waits for a reopening looks."""


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


class Held(_Reader):
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


class LmdbMap:
    """See `OrderedMap`. One of possibly several users of a `SharedEnv` in this process."""

    def __init__(self, shared: SharedEnv, *, environment: Environment, gate_s: float, view_s: float) -> None:
        self._shared = shared
        self._environment = environment
        self._gate_s = gate_s
        self._view_s = view_s
        self._turnstile = Turnstile(shared.folder)
        self.news = shared.watcher()
        self._seen = -1
        """The transaction after which what our caller remembers was right."""
        self._held: set[Held] = set()
        self._looked_at = 0.0
        self._bulky = False
        self._closed = False

    @property
    def id(self) -> str:
        return self._shared.id

    @property
    def state(self) -> State:
        return self._shared.state

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
        shared = self._shared
        if shared.away:
            raise MapAway
        try:
            return shared.env.begin(buffers=True)
        except lmdb.ReadersFullError:
            shared.env.reader_check()
            return shared.env.begin(buffers=True)
        except lmdb.MapResizedError:
            if shared.held:
                raise Unavailable(f"another process has made the map of {shared.folder} larger: end your views, then it is taken over") from None
            shared.env.set_mapsize(0)
            return shared.env.begin(buffers=True)

    @contextmanager
    def hold(self, *, busy: bool = False) -> Iterator[Reader]:
        sharing.refuse_fork(self._shared)
        try:
            txn = self._begin()
        except lmdb.Error as error:
            self._translate(error)
        held = Held(txn, self._shared.tables, busy)
        self._shared.held.add(held)
        self._held.add(held)
        try:
            yield held
        except lmdb.Error as error:
            self._translate(error)
        finally:
            self._shared.held.discard(held)
            self._held.discard(held)
            held.end()

    # -- writing -----------------------------------------------------------------------------

    async def take_turn(self) -> None:
        sharing.refuse_fork(self._shared)
        await self._turnstile.take(self._gate_s)
        if self._shared.state is not State.OPEN:
            self._turnstile.let_go()
            raise Unavailable(f"{self._shared.why}; it has to be reopened first")

    def end_turn(self) -> None:
        self._turnstile.let_go()
        if self._shared.state is State.OPEN:
            with suppress(lmdb.Error):
                self._shared.check_readers()

    async def write(self, fn: Callable[[Writer], T], *, small: bool = False, size_bytes: int = 0) -> T:
        shared = self._shared
        self._bulky = size_bytes > _BULK_BYTES
        if not small:
            self._look_at_disk()
            shared.restrict()
        try:
            return await self._write(fn)
        except MapFull:
            if not ((small and shared.extend()) or shared.grow()):
                raise
            return await self._write(fn)

    async def _write(self, fn: Callable[[Writer], T]) -> T:
        if not self._shared.place.in_thread:
            return self._write_once(fn)
        self._shared.flushes_in_thread += 1
        with trio.CancelScope(shield=True):  # it is not abandoned once it is on its way to the thread
            result: T = await self._environment.threads.run_sync(self._write_once, fn)
        return result

    def _write_once(self, fn: Callable[[Writer], T]) -> T:
        shared = self._shared
        try:
            txn = shared.env.begin(write=True, buffers=True)
            try:
                this = txn.id()
                stale, self._seen = self._seen != this - 1, this - 1
                result = fn(_Writer(txn, shared.tables, stale))
            except BaseException:
                txn.abort()
                raise
        except lmdb.MapFullError as error:
            raise MapFull from error
        except lmdb.Error as error:
            self._translate(error)
        self._flush(txn)
        self._seen = this
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
            shared.doubt(f"a flush of {shared.folder} failed: {error}")
            raise MapDoubtful from error
        took = time.perf_counter() - began
        shared.flushes.note(took)
        if not self._bulky or shared.place.in_thread:  # the time of much data says little of the disk
            shared.place.note(took)

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

    # -- opening, and opening again ----------------------------------------------------------

    async def begin(self) -> None:
        """Commit one durable transaction, the epoch raised by one: what is read from here on does not rest on the page cache alone.

        Where another process has done so and lives, a writer that is frozen does not keep us out.

        Raises:
          Unavailable: the first to open the store may not write to it now.
          Full: it has no room for that.
        """
        shared = self._shared
        if shared.epoch:
            return
        try:
            await self.take_turn()
        except Unavailable:
            if shared.first:
                raise
            return
        try:
            shared.epoch = await self.write(_raise_epoch, small=True)
            shared.side.epoch = shared.epoch
            self._seen = -1  # our caller has not seen whether others wrote before
        except MapFull as error:
            status = self.status()
            raise Full(str(shared.folder), status.bytes_used, status.bytes_limit) from error
        except MapDoubtful as error:
            raise Unavailable(shared.why) from error
        finally:
            self.end_turn()

    async def reopen(self) -> None:
        shared = self._shared
        while shared.state is State.REOPENING:  # noqa: ASYNC110 - another loop of the process may be at it
            await trio.sleep(_BACK_S)
        if shared.state is State.OPEN:
            return
        shared.state = State.REOPENING
        try:
            await self._wait_unread()
            await self._environment.threads.run_sync(shared.reopen)
            shared.epoch, shared.first, shared.state, self._seen = 0, True, State.OPEN, -1
            await self.begin()
        except BaseException:
            if shared.state is not State.CLOSED:
                shared.state = State.DOUBTFUL
            raise

    async def _wait_unread(self) -> None:
        """Views of this loop are ended under those who hold them; those of others, and what a thread reads, end by themselves."""
        for held in [held for held in self._shared.held if not held.busy and held.thread == threading.get_ident()]:
            self._shared.held.discard(held)
            held.end()
        with trio.move_on_after(self._view_s + 1):
            while self._shared.held:  # noqa: ASYNC110 - another loop of the process may be at it
                await trio.sleep(_BACK_S)
        if self._shared.held:
            raise Unavailable(f"{self._shared.folder} is being read, it cannot be reopened")

    async def wait_back(self) -> None:
        while self._shared.away or self._shared.state is State.REOPENING:  # noqa: ASYNC110 - another loop of the process may be at it
            await trio.sleep(_BACK_S)

    # -- the rest ----------------------------------------------------------------------------

    def status(self) -> MapStatus:
        shared = self._shared
        details: dict[str, Any] = {
            "path": str(shared.folder),
            "epoch": shared.epoch,
            "reopened": shared.reopened,
            "flush": shared.place.how,
            "flushes": shared.flushes.count,
            "flushes_in_thread": shared.flushes_in_thread,
            "flush_mean_s": shared.flushes.mean_s,
            "flush_p50_s": shared.flushes.quantile_s(0.5),
            "flush_p99_s": shared.flushes.quantile_s(0.99),
            "flush_max_s": shared.flushes.max_s,
        }
        if shared.away:
            return MapStatus(bytes_limit=shared.size, verified=shared.verified, details=details)
        info, page = shared.env.info(), shared.env.stat()["psize"]
        oldest = shared.oldest_reader()
        with self._begin() as txn:
            pages = sum(
                stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in (txn.stat(db) for db in shared.tables.values())
            )
        return MapStatus(
            bytes_used=pages * page,
            bytes_limit=shared.size,
            verified=shared.verified,
            details={
                **details,
                "file_bytes": (info["last_pgno"] + 1) * page,
                "readers": info["num_readers"],
                "oldest_reader": None if oldest is None else attrs.asdict(oldest),
            },
        )

    async def check_files(self) -> list[str]:
        shared = self._shared
        if shared.held or shared.flushes.count:
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
                for held in [held for held in self._held if not held.busy]:
                    self._shared.held.discard(held)
                    held.end()
                with trio.move_on_after(self._view_s):
                    while any(held.busy for held in self._held):  # noqa: ASYNC110 - a thread reads
                        await trio.sleep(_BACK_S)
                self._turnstile.close()
                self._shared.leave_watcher()
                await self._environment.threads.run_sync(sharing.release, self._shared)

    def _translate(self, error: lmdb.Error) -> NoReturn:
        shared = self._shared
        if isinstance(error, lmdb.PanicError):
            shared.doubt(f"LMDB gave up on {shared.folder}: {error}", away=True)
            raise MapAway from error
        raise sharing.translated(error, str(shared.folder)) from error


def _raise_epoch(writer: Writer) -> int:
    epoch = read_meta(writer, "epoch") + 1
    write_meta(writer, "epoch", epoch)
    sweep_drawn(writer)
    return epoch
