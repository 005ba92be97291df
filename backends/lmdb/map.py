"""LMDB as an ordered map: whole transactions in one call, foreign errors translated here."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, NoReturn, TypeVar

import attrs
import lmdb
import trio

from perdure.backends.environment import Environment
from perdure.backends.errors import Corrupt, Unavailable
from perdure.backends.lmdb import shared as sharing
from perdure.backends.lmdb.files import DATA, FileLock
from perdure.backends.lmdb.opening import begin_writing, close_shared, reopen_shared, shrink
from perdure.backends.lmdb.rows import Held, TxnReader, TxnWriter
from perdure.backends.lmdb.shared import SharedEnv
from perdure.backends.lmdb.turnstile import Turnstile
from perdure.backends.lmdb.walk import check_pages
from perdure.backends.ordered_map import MapAway, MapDoubtful, MapFull, MapStatus
from perdure.backends.protocol import State
from perdure.backends.tables import Reader, Writer

T = TypeVar("T")

_DISK_LOOK_S = 0.5
_DISK_LOOK_BYTES = 1 << 20
_DISK_RESERVE_BYTES = 64 << 20
_BULK_BYTES = 256 << 10
_BACK_S = 0.01
"""How often who waits for a reopening looks."""


class LmdbMap:
    """See `OrderedMap`. One of possibly several users of a `SharedEnv` in this process."""

    def __init__(self, shared: SharedEnv, *, environment: Environment, gate_s: float, view_s: float) -> None:
        self._shared = shared
        self._environment = environment
        self._gate_s = gate_s
        self._view_s = view_s
        self.thread, self.reading = threading.get_ident(), False
        shared.handles.add(self)
        self._turnstile = Turnstile(shared.folder)
        self.news = shared.watcher()
        self._seen = -1
        """The transaction after which what our caller remembers was right."""
        self._held: set[Held] = set()
        self._looked_at, self._unseen_bytes = 0.0, 0
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
        self.reading = True
        try:
            with self._begin() as txn:
                return fn(TxnReader(txn, shared.tables))
        except lmdb.Error as error:
            self._translate(error)
        finally:
            self.reading = False

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
            if shared.held or any(handle.thread != self.thread for handle in shared.handles):
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

    async def take_turn(self, *, patient: bool = True) -> None:
        sharing.refuse_fork(self._shared)
        await self._turnstile.take(self._gate_s if patient else 0.0)
        try:
            if self._shared.looking:
                await begin_writing(self._shared, self._wait_unread, self._environment.threads)
            if self._shared.state is not State.OPEN:
                raise Unavailable(f"{self._shared.why}; it has to be reopened first")
        except BaseException:
            self._turnstile.let_go()
            raise

    def end_turn(self) -> None:
        self._turnstile.let_go()
        if self._shared.state is State.OPEN:
            with suppress(lmdb.Error):
                self._shared.check_readers()

    def end_waits(self) -> None:
        self._turnstile.refuse()

    async def tidy(self) -> bool:
        return False

    async def write(self, fn: Callable[[Writer], T], *, small: bool = False, size_bytes: int = 0) -> T:
        shared = self._shared
        self._bulky = size_bytes > _BULK_BYTES
        if not small:
            self._look_at_disk(size_bytes)
            shared.restrict()
        elif size_bytes:
            self._need(size_bytes, self._disk())
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
                result = fn(TxnWriter(txn, shared.tables, stale))
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

    def _look_at_disk(self, size_bytes: int) -> None:
        """A full disk shows as an IO error in the middle of a flush: so look first, from time to time, and before much is written."""
        now = time.monotonic()
        self._unseen_bytes += size_bytes
        if now - self._looked_at < _DISK_LOOK_S and self._unseen_bytes < _DISK_LOOK_BYTES:
            return
        disk = self._disk()
        self._need(min(_DISK_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // 100 + (8 << 20)) + size_bytes, disk)
        self._looked_at, self._unseen_bytes = now, 0

    def _disk(self) -> os.statvfs_result:
        try:
            return os.statvfs(self._shared.folder)
        except OSError as error:
            raise Unavailable(f"{self._shared.folder} cannot be looked at: {error.strerror or error}") from error

    def _need(self, free_bytes: int, disk: os.statvfs_result) -> None:
        if disk.f_bavail * disk.f_frsize < free_bytes:
            raise MapFull(((disk.f_blocks - disk.f_bavail) * disk.f_frsize, disk.f_blocks * disk.f_frsize))

    # -- opening again ------------------------------------------------------------------------

    async def reopen(self) -> None:
        shared = self._shared
        while shared.state is State.REOPENING:  # noqa: ASYNC110 - another loop of the process may be at it
            await trio.sleep(_BACK_S)
        if shared.state is State.OPEN:
            return
        shared.state = State.REOPENING
        try:
            with closing(Turnstile(shared.folder)) as turnstile:  # of its own: a commit of ours may be waiting in the other
                await reopen_shared(shared, turnstile, self._wait_unread, self._environment.threads, self._gate_s)
            self._seen = -1  # whatever our caller remembers
        except OSError as error:
            raise Unavailable(f"{shared.folder} cannot be opened: {error.strerror or error}") from error
        finally:
            if shared.state is State.REOPENING:
                shared.state = State.DOUBTFUL

    @contextmanager
    def claim_move(self) -> Iterator[None]:
        with closing(FileLock(self._shared.folder / "moving.lock")) as lock:
            if not lock.take():
                raise Unavailable(f"process {lock.read_pid()} is bringing {self._shared.folder} elsewhere: let it end, or end it")
            lock.write_pid()
            yield

    async def shrink(self) -> str:
        shared = self._shared
        sharing.refuse_fork(shared)
        if shared.state is not State.OPEN or shared.looking:
            return "it has to be opened for writing first"
        shared.state = State.REOPENING
        try:
            with closing(Turnstile(shared.folder)) as turnstile:  # of its own, as for a reopening
                return await shrink(shared, turnstile, self._wait_unread, self._environment.threads, self._gate_s)
        except OSError as error:
            raise Unavailable(f"{shared.folder} cannot be opened: {error.strerror or error}") from error
        finally:
            self._seen = -1  # the copy counts its transactions anew
            if shared.state is State.REOPENING:
                shared.state = State.OPEN

    async def _wait_unread(self) -> None:
        """Return when nobody reads and nobody can begin to: it is `away` from here on.

        Views of this loop are ended under those who hold them; those of others, and what a thread reads, end by themselves.

        Raises:
          Unavailable: somebody goes on reading; it is not away for that.
        """
        before, self._shared.away = self._shared.away, True
        for held in [held for held in self._shared.held if not held.busy and held.thread == threading.get_ident()]:
            self._shared.held.discard(held)
            held.end()
        try:
            with trio.move_on_after(self._view_s + 1):
                while self._shared.held or any(handle.reading for handle in self._shared.handles):  # noqa: ASYNC110 - other threads
                    await trio.sleep(_BACK_S)
            if self._shared.held:
                raise Unavailable(f"{self._shared.folder} is being read, it cannot be reopened")
        except BaseException:
            self._shared.away = before
            raise

    async def wait_back(self) -> None:
        while not self._closed and (self._shared.away or self._shared.state is State.REOPENING):  # noqa: ASYNC110 - another loop may be at it
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
            return MapStatus(bytes_limit=shared.size, verified=shared.verified, recovery=shared.recovery, details=details)
        info, page = shared.env.info(), shared.env.stat()["psize"]
        oldest = shared.oldest_reader()
        with self._begin() as txn:
            pages = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in (txn.stat(db) for db in shared.tables.values()))
        return MapStatus(
            bytes_used=pages * page,
            bytes_limit=shared.size,
            verified=shared.verified,
            recovery=shared.recovery,
            details={
                **details,
                "file_bytes": (info["last_pgno"] + 1) * page,
                "readers": info["num_readers"],
                "oldest_reader": None if oldest is None else attrs.asdict(oldest),
            },
        )

    def stretch(self) -> bool:
        """Make room beyond the size limit, for what was acknowledged before it was written here; whether that worked."""
        return self._shared.stretch()

    @property
    def rows_owed(self) -> bool:
        """Whether all rows are to be read before it is used."""
        return self._shared.rows_owed

    def rows_read(self) -> None:
        """They were, without a finding."""
        self._shared.rows_read()

    def found_sound(self) -> None:
        self._shared.found_sound("all rows, after opening")

    async def check_files(self) -> list[str]:
        shared = self._shared
        if shared.held or shared.flushes.count:
            shared.env.reader_check()
        try:
            await self._environment.threads.run_sync(check_pages, shared.folder / DATA)
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
                while any(held.busy for held in self._held):  # noqa: ASYNC110 - a thread reads, and comes to an end
                    await trio.sleep(_BACK_S)
                self._turnstile.close()
                self._shared.handles.discard(self)
                self._shared.leave_watcher()
                await close_shared(self._shared, self._environment.threads)

    def _translate(self, error: lmdb.Error) -> NoReturn:
        shared = self._shared
        if isinstance(error, lmdb.PanicError):
            shared.doubt(f"LMDB gave up on {shared.folder}: {error}", away=True)
            raise MapAway from error
        raise sharing.translated(error, str(shared.folder)) from error
