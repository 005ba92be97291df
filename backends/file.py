"""`file:DIR`: all tables in memory, what changes them in a commit log, and images so that opening replays little.

For small stores, tests, and places without LMDB. One process at a time. A commit is acknowledged when its batch is
flushed; nothing is shown before.

    store            who it is: format, oldest format that may read it, id
    lock             held by the process that has it open; its pid
    log/             the commit log (`commit_log`)
    image-NUMBER     all rows, as batch NUMBER left them; made when the log has grown as large as the image before

Options in the URL's query: `size=` (bytes of rows), `segment=` (bytes of a log file, 16MiB), `flush=auto|inline|thread`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from typing import Any, TypeVar

import attrs
import trio

from perdure.backends import keys, redo
from perdure.backends.answers import sweep_drawn
from perdure.backends.commit_log import SEGMENT_BYTES, Batch, CommitLog, LogDoubtful, LogFull
from perdure.backends.denied import check_denied
from perdure.backends.disk import Disk, Lock
from perdure.backends.environment import Environment
from perdure.backends.errors import Corrupt, Misuse, Unavailable
from perdure.backends.identity import make_identity, prepare, read_identity, take_lock
from perdure.backends.image_file import ImageWriter, read_image
from perdure.backends.layered import Recorder
from perdure.backends.limits import LIMITS, Limits
from perdure.backends.memory import MemoryTables
from perdure.backends.news import LocalNews
from perdure.backends.ordered import OrderedBackend
from perdure.backends.ordered_map import MapDoubtful, MapFull, MapStatus
from perdure.backends.place import How, Place
from perdure.backends.protocol import Capabilities, State
from perdure.backends.recovery import Recovery
from perdure.backends.tables import Reader, Writer

T = TypeVar("T")

RESERVE = 0.01
"""So much of the size limit is kept for deletes and upkeep."""
IMAGE_SEGMENTS = 2
"""Below so many segments of log no image is due."""
SEGMENTS_MAX = 8
"""With more it is, however little is in them."""
_SLICE_BYTES = 256 << 10
"""An image is written in slices of about this size, one with each commit."""
_SLICE_ROWS = 1_000
_DISK_LOOK_S = 0.5
_ROOM_SEGMENTS = 4
"""So much of log has to have room beside an image."""
_IMAGE_FACTOR = 1.25
"""An image is larger than its rows by so much at most, but for tiny ones."""
_COMPACT_EVERY_S = 1.0
"""On a full disk an image is tried so often."""


@attrs.frozen
class Options:
    """What the URL's query says."""

    size: int | None = None
    segment: int = SEGMENT_BYTES
    flush: How = "auto"
    create: bool = True


class FileMap:
    """See `OrderedMap`."""

    def __init__(self, disk: Disk, folder: str, id: bytes, options: Options, lock: Lock) -> None:
        self.folder = folder
        self.id = id.hex()
        self.state = State.OPEN
        self.news = LocalNews()
        self._id = id
        self._disk = disk
        self._options = options
        self._lock = lock
        self._place = Place(options.flush)
        self._tables = MemoryTables()
        self._log = self._new_log()
        self._image_number = 0
        self._image_bytes = 0
        self._imaging: _Imaging | None = None
        self._image_due = options.segment * IMAGE_SEGMENTS
        self._image_error = ""
        self._tail_bytes = 0
        """Of batches since the image."""
        self._looked_at = self._compacted_at = self._image_again_at = float("-inf")
        self._unseen_bytes = 0
        """Written since the room was looked at."""
        self._why = ""
        self._reopened = 0
        self._recovery = Recovery()
        self._closed = False
        self._pid = os.getpid()

    def _new_log(self) -> CommitLog:
        return CommitLog(self._disk, f"{self.folder}/log", self._id, self._place, self._options.segment)

    # -- opening -----------------------------------------------------------------------------

    async def load(self) -> None:
        """Read image and log: what is there is durable from here on.

        Raises:
          Corrupt, WrongStore, TooNew: it is damaged, or not this store's.
        """
        try:
            await self._load()
        except BaseException:
            self._log.let_go()
            raise

    async def _load(self) -> None:
        began = trio.current_time()
        names = [name for name in await self._disk.entries(self.folder) if name.startswith("image-")]
        for name in names:
            if name.endswith(".new"):  # it was being written when the process stopped
                await self._disk.remove(f"{self.folder}/{name}")
        names = [name for name in names if not name.endswith(".new")]
        if names:
            await self._read_image(f"{self.folder}/{names[-1]}")
        for batch in await self._log.recover(self._image_number):
            self._replay(batch)
        self._recovery = attrs.evolve(self._log.recovery, took_s=trio.current_time() - began)
        for name in names[:-1]:
            await self._disk.remove(f"{self.folder}/{name}")
        await self._log.cut(self._image_number)
        with suppress(MapFull):
            await self.write(sweep_drawn, small=True)

    async def _read_image(self, path: str) -> None:
        async with read_image(self._disk, path) as reader:
            if reader.header.id != self._id:
                raise Corrupt(path, f"it is an image of the store {reader.header.id.hex()}, not of {self.id}")
            async for table, rows in reader:
                self._tables.apply({table: dict(rows)})
            self._image_number = reader.image.finish().number
        self._image_bytes = self._tables.bytes_used
        self._image_due = max(self._image_due, self._image_bytes)

    def _replay(self, batch: Batch) -> None:
        self._tables.apply(redo.decode(batch.payload, f"batch {batch.number} of {self.folder}/log"))
        self._tail_bytes += len(batch.payload)

    # -- reading -----------------------------------------------------------------------------

    def read(self, fn: Callable[[Reader], T]) -> T:
        self._refuse_fork()
        return fn(self._tables.reader)

    def hold(self, *, busy: bool = False) -> AbstractContextManager[Reader]:
        self._refuse_fork()
        return self._tables.hold(busy=busy)

    def _refuse_fork(self) -> None:
        """A forked child has these tables, and not the log: what its parent writes it does not see, and would write over.

        Raises:
          Misuse: this process is not the one that opened it.
        """
        if self._pid != os.getpid():
            raise Misuse(f"the store {self.folder} was opened by process {self._pid} and inherited by a fork: open it again in this process")

    # -- writing -----------------------------------------------------------------------------

    async def take_turn(self, *, patient: bool = True) -> None:
        self._refuse_fork()
        if self.state is not State.OPEN:
            raise Unavailable(f"{self._why}; it has to be reopened first")

    def end_turn(self) -> None:
        """Nobody else writes."""

    def end_waits(self) -> None:
        """Nobody waits."""

    async def write(self, fn: Callable[[Writer], T], *, small: bool = False, size_bytes: int = 0) -> T:
        recorder = Recorder(self._tables.reader)
        result = fn(recorder)
        if recorder.rows:
            payload = redo.encode(recorder.rows)
            with trio.CancelScope(shield=True):
                if not small:
                    await self._look_for_room(len(payload))
                try:
                    await self._append(payload)
                except MapFull:
                    if not small:
                        raise
                    with suppress(OSError):  # what is deleted has to make room, and the log is where it begins
                        await self.compact()
                    await self._append(payload)
                self._tables.apply(recorder.rows)
                self._tail_bytes += len(payload)
                with suppress(MapDoubtful):  # this batch is durable all the same; the next one is told
                    await self.tidy()
        return result

    async def _append(self, payload: bytes) -> None:
        try:
            await self._log.append(payload)
        except LogFull as error:
            used = self.status().bytes_used
            raise MapFull((used, used)) from error  # a quota, say, of which the disk does not tell
        except LogDoubtful as error:
            raise self._doubt(str(error)) from error

    def _doubt(self, why: str) -> MapDoubtful:
        if self.state is State.OPEN:
            self.state, self._why = State.DOUBTFUL, why
        return MapDoubtful(why)

    async def _look_for_room(self, payload_bytes: int) -> None:
        """Room for the next image, and for some log, has to be left: else nothing that is deleted would ever be given back.

        Raises:
          MapFull: there is too little.
        """
        if self._options.size is not None and self._tables.bytes_used + payload_bytes > self._options.size * (1 - RESERVE):
            raise MapFull
        now = trio.current_time()
        self._unseen_bytes += payload_bytes
        if now - self._looked_at < _DISK_LOOK_S and self._unseen_bytes < self._options.segment:
            return
        if await self._too_little() is not None and self._worth_an_image(now):
            self._compacted_at = now
            with suppress(OSError):
                await self.compact()
        if (free := await self._too_little()) is not None:
            raise MapFull((self._tables.bytes_used, self._tables.bytes_used + free))
        self._looked_at, self._unseen_bytes = now, 0

    async def _too_little(self) -> int | None:
        """How many bytes the disk has free, if they are too few; None if they suffice, or if it does not say: then the write will."""
        begun = 0 if self._imaging is None else self._imaging.written_bytes
        wanted = max(0, int(_IMAGE_FACTOR * self._tables.bytes_used) - begun) + _ROOM_SEGMENTS * self._options.segment
        try:
            free = await self._disk.free_bytes(self.folder)
        except OSError:
            return None
        return free if free < wanted else None

    def _worth_an_image(self, now: float) -> bool:
        """Whether one would give room back."""
        kept = self._tables.bytes_used + _ROOM_SEGMENTS * self._options.segment
        return self._image_bytes + self._log.size_bytes > kept and now - self._compacted_at >= _COMPACT_EVERY_S

    # -- images ------------------------------------------------------------------------------

    async def tidy(self) -> bool:
        """Write a slice of an image, if one is due or begun; whether there is more of it. Not cancelled: half a slice would spoil the image."""
        more = False
        with trio.CancelScope(shield=True):
            more = await self._tidy()
        return more  # noqa: RET504 - a scope may swallow what is raised in it

    async def _tidy(self) -> bool:
        if self._imaging is None:
            if (self._tail_bytes < self._image_due and self._log.segments <= SEGMENTS_MAX) or trio.current_time() < self._image_again_at:
                return False
            self._imaging = _Imaging(self._disk, self.folder, self._id, self._log.last, self._tables)
        try:
            if not await self._imaging.step():
                return True
        except OSError as error:  # the log has everything; try again when it has grown by as much again
            await self._give_up_imaging()
            self._image_error = str(error.strerror or error)
            self._image_due += self._tail_bytes
            return False
        await self._use_image(self._imaging)
        return False

    async def _use_image(self, made: _Imaging) -> None:
        before, self._image_number = self._image_number, made.number
        self._image_bytes = made.size_bytes
        self._tail_bytes -= made.tail_bytes(self._tail_bytes)
        self._image_due = max(self._options.segment * IMAGE_SEGMENTS, self._image_bytes)
        self._image_error = ""
        self._end_imaging()
        try:
            if before and before != made.number:
                await self._disk.remove(_image_path(self.folder, before))
            await self._log.cut(made.number)
        except OSError as error:
            raise self._doubt(f"{self.folder} cannot be tidied: {error.strerror or error}") from error

    async def _give_up_imaging(self) -> None:
        """It cannot be made now: upkeep begins no other one for a moment."""
        await self._drop_imaging()
        self._image_again_at = trio.current_time() + _COMPACT_EVERY_S

    async def _drop_imaging(self) -> None:
        """Give up an image that is being made, and the room that it takes."""
        if self._imaging is not None:
            path = self._imaging.path
            self._end_imaging()
            with suppress(OSError):
                await self._disk.remove(f"{path}.new")

    def _end_imaging(self) -> None:
        if self._imaging is not None:
            self._imaging.close()
            self._imaging = None

    def claim_move(self) -> AbstractContextManager[None]:
        return nullcontext()  # no other process has it open

    async def shrink(self) -> str:
        self._refuse_fork()
        if self.state is not State.OPEN:
            return "it has to be reopened first, after a failed flush"
        try:
            await self.compact()
        except OSError as error:
            return f"an image could not be written: {error.strerror or error}"
        except MapDoubtful as error:
            return str(error)
        return ""

    async def compact(self) -> None:
        """Write an image now, and let go of the log before it: what was overwritten and deleted takes no room any more.

        Raises:
          OSError: it could not be written; nothing is lost.
        """
        await self._drop_imaging()
        if self._image_number and self._image_number == self._log.last:
            return  # there is nothing that it does not have
        self._imaging = _Imaging(self._disk, self.folder, self._id, self._log.last, self._tables)
        try:
            while not await self._imaging.step():
                pass
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._give_up_imaging()
            raise
        with trio.CancelScope(shield=True):
            await self._use_image(self._imaging)

    # -- opening again -----------------------------------------------------------------------

    async def reopen(self) -> None:
        self._refuse_fork()
        while self.state is State.REOPENING:  # noqa: ASYNC110 - another task may be at it
            await trio.sleep(0.01)
        if self.state is not State.DOUBTFUL:
            return
        self.state = State.REOPENING
        try:
            self._end_imaging()
            await self._log.aclose(clean=False)
            fresh = self._new_log()
            confirmed = self._log.last
            batches = await fresh.recover(confirmed, kept=self._image_number, anew=True)
        except OSError as error:
            check_denied(error, self.folder)
            raise Unavailable(f"{self.folder} cannot be opened: {error.strerror or error}") from error
        finally:
            if self.state is State.REOPENING:
                self.state = State.DOUBTFUL
        self._log = fresh
        self._recovery = attrs.evolve(fresh.recovery, cuts=self._recovery.cuts + fresh.recovery.cuts)
        for batch in batches:
            self._replay(batch)
        self._reopened += 1
        self.state = State.OPEN

    async def wait_back(self) -> None:
        await trio.lowlevel.checkpoint()

    # -- the rest ----------------------------------------------------------------------------

    def status(self) -> MapStatus:
        log = self._log
        details: dict[str, Any] = {
            "path": self.folder,
            "epoch": log.epoch,
            "reopened": self._reopened,
            "flush": self._place.how,
            "flushes": log.flushes.count,
            "flushes_in_thread": log.flushes_in_thread,
            "flush_mean_s": log.flushes.mean_s,
            "flush_p50_s": log.flushes.quantile_s(0.5),
            "flush_p99_s": log.flushes.quantile_s(0.99),
            "flush_max_s": log.flushes.max_s,
            "batches": log.last,
            "segments": log.segments,
            "log_bytes": log.size_bytes,
            "image_batch": self._image_number,
            "image_bytes": self._image_bytes,
            "image_error": self._image_error,
        }
        return MapStatus(self._tables.bytes_used, self._options.size or 0, "all, at opening", self._recovery, details)

    def found_sound(self) -> None:
        """That was never in doubt: all of it was read at opening."""

    async def check_files(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return []

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._end_imaging()
        try:
            with suppress(OSError):  # without the mark the last batch is written again at the next opening: no more is lost
                await self._log.aclose(clean=self.state is State.OPEN)
        finally:
            self.state = State.CLOSED
            self._lock.release()


class _Imaging:
    """An image that is being made, of the tables as they were when it was begun."""

    def __init__(self, disk: Disk, folder: str, id: bytes, number: int, tables: MemoryTables) -> None:
        self.number = number
        self.size_bytes = self.written_bytes = 0
        self._tail_before = 0
        self._disk = disk
        self.path = _image_path(folder, number)
        self._id = id
        self._writer: ImageWriter | None = None
        self._stack = ExitStack()
        self._reader = self._stack.enter_context(tables.hold())
        self._since = tables.applied_bytes
        self._tables = tables
        self._left = list(keys.TABLES)
        self._start = b""

    async def step(self) -> bool:
        """Write one slice; whether it was the last and the image is durable."""
        if self._writer is None:
            self._writer = await ImageWriter.begin(self._disk, self.path, self._id, self.number)
        if self._left:
            table = self._left[0]
            rows, more = _slice(self._reader, table, self._start)
            await self._writer.add(table, rows)
            self.written_bytes += sum(len(key) + len(value) for key, value in rows)
            if more:
                self._start = rows[-1][0] + b"\0"
            else:
                self._start = b""
                del self._left[0]
            return False
        self.size_bytes = (await self._writer.end(self.number)).size_bytes
        return True

    def tail_bytes(self, now: int) -> int:
        """Of so many bytes of tail, those that the image has."""
        return max(0, now - (self._tables.applied_bytes - self._since))

    def close(self) -> None:
        """Let go of the reader and the file. Idempotent."""
        self._stack.close()
        if self._writer is not None:
            self._writer.close()


def _slice(reader: Reader, table: str, start: bytes) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Some rows from *start* on, of about `_SLICE_BYTES`, and whether there may be more."""
    found = reader.scan(table, start, None, _SLICE_ROWS)
    rows: list[tuple[bytes, bytes]] = []
    size = 0
    for key, value in found:
        rows.append((bytes(key), bytes(value)))
        size += len(key) + len(value)
        if size >= _SLICE_BYTES:
            break
    return rows, len(rows) < len(found) or len(found) == _SLICE_ROWS


def _image_path(folder: str, number: int) -> str:
    return f"{folder}/image-{number:016d}"


async def open_file(folder: str, options: Options, *, url: str, environment: Environment | None = None, limits: Limits = LIMITS) -> OrderedBackend:
    """Open the store in *folder*, making it if there is none.

    Raises:
      Misuse: the folder cannot hold a store, or this user has no right to it.
      Corrupt: damage was found while opening.
      TooNew: a newer perdure made it.
      Unavailable: another process has it open, or the disk refuses.
    """
    environment = environment or Environment()
    disk = environment.disk
    try:
        await prepare(disk, folder, create=options.create)
        lock = await take_lock(disk, folder)
        try:
            id = await read_identity(disk, folder) or await _create(disk, folder, environment.ids(), options)
            store = FileMap(disk, folder, id, options, lock)
            try:
                await store.load()
            except MapDoubtful as error:
                raise Unavailable(f"{folder} cannot be written: {error}", "see to the disk, then open it again") from error
        except BaseException:
            lock.release()
            raise
    except OSError as error:
        check_denied(error, folder)
        raise Unavailable(f"{folder} cannot be opened: {error.strerror or error}") from error
    capabilities = Capabilities(durable=True, views=True, loads=True, images=True, moves=True, cuts=True)
    return OrderedBackend(store, url=url, capabilities=capabilities, environment=environment, limits=limits)


async def _create(disk: Disk, folder: str, id: bytes, options: Options) -> bytes:
    """A new store: its log first, then the file that says that there is one."""
    log = CommitLog(disk, f"{folder}/log", id, Place(), options.segment)
    await log.create()
    await make_identity(disk, folder, id)
    return id
