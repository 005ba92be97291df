"""A backend from an ordered map and the engine: what `memory:` and `lmdb:` are made of.

The map keeps tables of ordered keys and writes a batch of them whole or not at all. All else (facts,
decisions, pages, waits) stands here once. A group is judged and written in one call of the map, with
no `await` between.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import attrs
import trio

from perdure.backends import build, tables, upkeep
from perdure.backends.apply import TYPES_MAX, TooManyTypes, apply
from perdure.backends.commit import Answer, Check, Commit, Committed, Delete, Fence, Group, Unless
from perdure.backends.engine import Decisions, decide, needs
from perdure.backends.environment import Environment
from perdure.backends.errors import Closed, Corrupt, Full, InDoubt, PerdureError, TooLarge
from perdure.backends.event import Position, Record
from perdure.backends.frame import TypeName
from perdure.backends.limits import LIMITS, Limits
from perdure.backends.protocol import Capabilities, Changes, Entry, Page, Snapshot, StoreStatus, StreamInfo
from perdure.backends.selector import EVERYTHING, Selector
from perdure.backends.tables import Cache, Reader, Writer
from perdure.backends.verify import verify_tables

T = TypeVar("T")


class MapFull(Exception):
    """A batch does not fit; nothing of it was written."""


@attrs.frozen
class MapStatus:
    """Numbers about a map."""

    bytes_used: int = 0
    bytes_limit: int = 0
    verified: str = "all"
    details: dict[str, Any] = attrs.field(factory=dict)


class OrderedMap(Protocol):
    """Tables of ordered keys. Calls do not await: a transaction begins, works and ends in one of them."""

    @property
    def id(self) -> str: ...

    @property
    def poll_s(self) -> float:
        """How often to look for what other processes wrote; infinite when there can be none."""
        ...

    def read(self, fn: Callable[[Reader], T]) -> T:
        """What *fn* says of the state as it is now."""
        ...

    def hold(self) -> AbstractContextManager[Reader]:
        """A reader of the state as it is now, for longer."""
        ...

    async def prepare(self) -> bool:
        """Get the right to write; whether another process may have written since the last time.

        Raises:
          Unavailable: another process has it and keeps it.
        """
        ...

    def write(self, fn: Callable[[Writer], T], *, small: bool = False) -> T:
        """Do *fn* as one batch, durable on return, unless it raises. *small*: it frees room, and may use the reserve.

        Raises:
          MapFull: it does not fit.
        """
        ...

    def status(self) -> MapStatus: ...

    async def check_files(self) -> list[str]:
        """Problems of the files below the tables, each a sentence."""
        ...

    async def aclose(self) -> None: ...


class _NothingToWrite(Exception):
    """Ends a batch that turned out empty: no flush is owed."""


class OrderedReads:
    """The reads, over whatever gives a reader: the map's newest state, or one that is held."""

    def __init__(self, read: Callable[[Callable[[Reader], Any]], Any], types: Callable[[Reader], Sequence[TypeName]]) -> None:
        self._read = read
        self._types = types
        self._turns = 0

    async def _now(self, fn: Callable[[Reader], T]) -> T:
        """A small read: every sixteenth one lets other tasks run, all see a cancellation."""
        self._turns = (self._turns + 1) & 15
        if self._turns:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        result: T = self._read(fn)
        return result

    async def read_stream(self, stream: str, *, after: int, limit: int, bytes_max: int, backward: bool = False) -> list[Record]:
        """See `Reads.read_stream`."""
        return await self._now(
            lambda reader: tables.read_stream(reader, self._types(reader), stream, after=after, limit=limit, bytes_max=bytes_max, backward=backward)
        )

    async def read_log(self, *, after: Position, limit: int, bytes_max: int, where: Selector[Any] = EVERYTHING) -> Page:
        """See `Reads.read_log`."""
        await trio.lowlevel.checkpoint()
        page: Page = self._read(
            lambda reader: tables.read_log(reader, self._types(reader), after=after, limit=limit, bytes_max=bytes_max, where=where)
        )
        return page

    async def head(self) -> Position:
        """See `Reads.head`."""
        return await self._now(lambda reader: tables.read_head(reader)[0])

    async def revision(self) -> int:
        """See `Reads.revision`."""
        return await self._now(lambda reader: tables.read_meta(reader, "revision"))

    async def answer(self, id: bytes) -> Committed | None:
        """See `Reads.answer`."""
        return await self._now(lambda reader: tables.answer(reader, self._types(reader), id))

    async def get(self, bucket: str, key: bytes) -> Entry | None:
        """See `Reads.get`."""
        return await self._now(lambda reader: tables.get(reader, bucket, key))

    async def scan(self, bucket: str, *, prefix: bytes = b"", after: bytes | None = None, limit: int) -> list[Entry]:
        """See `Reads.scan`."""
        return await self._now(lambda reader: tables.scan(reader, bucket, prefix=prefix, after=after, limit=limit))

    async def read_changes(self, bucket: str, *, after: int, limit: int) -> Changes:
        """See `Reads.read_changes`."""
        return await self._now(lambda reader: tables.read_changes(reader, bucket, after=after, limit=limit))

    async def read_snapshot(self, name: str, *, at_most: Position | None = None) -> Snapshot | None:
        """See `Reads.read_snapshot`."""
        return await self._now(lambda reader: tables.read_snapshot(reader, name, at_most))

    async def snapshots(self, name: str) -> list[Position]:
        """See `Reads.snapshots`."""
        return await self._now(lambda reader: tables.snapshots(reader, name))

    async def stream(self, name: str) -> StreamInfo | None:
        """See `Reads.stream`."""
        return await self._now(lambda reader: None if (row := reader.get("streams", name.encode())) is None else tables.stream_info(reader, name, row))

    async def streams(self, *, prefix: str = "", after: str | None = None, limit: int) -> list[StreamInfo]:
        """See `Reads.streams`."""
        return await self._now(lambda reader: tables.streams(reader, prefix=prefix, after=after, limit=limit))


class OrderedBackend(OrderedReads):
    """See `Backend`. *environment* gives the clock; *limits* what is kept and for how long."""

    def __init__(
        self, store: OrderedMap, *, url: str, capabilities: Capabilities, environment: Environment | None = None, limits: Limits = LIMITS
    ) -> None:
        super().__init__(self._read_open, self._known_types)
        self.url = url
        self.capabilities = capabilities
        self.environment = environment or Environment()
        self.limits = limits
        self._store = store
        self._cache = Cache()
        self._cache_valid = False
        self._closed = False
        self._news = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<backend {self.url}>"

    @property
    def id(self) -> str:
        """See `Backend.id`."""
        return self._store.id

    # -- writing -----------------------------------------------------------------------------

    async def commit(self, commits: Sequence[Commit]) -> Group:
        """See `Backend.commit`."""
        self._check_open()
        if await self._store.prepare():
            self._cache_valid = False
        group = self._commit(commits)
        if self._news:
            self._news.unpark_all()
        return group

    def _commit(self, commits: Sequence[Commit]) -> Group:
        """One group; halved and asked again where one commit may be the reason that it fails, so that only that one is told so."""
        try:
            return self._write(commits)
        except (MapFull, TooManyTypes, Corrupt) as error:
            if len(commits) == 1:
                return self._answer_alone(commits[0], error)
        return self._halve(commits)

    def _write(self, commits: Sequence[Commit], *, small: bool = False) -> Group:
        runs: list[Decisions] = []
        try:
            self._store.write(partial(self._decide_and_write, commits, runs), small=small)
        except _NothingToWrite:
            pass
        except tables.DAMAGE as error:
            self._forget()
            raise self._damaged(error) from error
        except BaseException:
            self._forget()
            raise
        done = runs[-1]
        return Group(done.follows, done.answers, partial(build.records_of, done.commits, done.pieces))

    def _decide_and_write(self, commits: Sequence[Commit], out: list[Decisions], writer: Writer) -> None:
        if out:  # the map has grown or opened its reserve: what the cache says of the first run was not written
            self._forget()
            out.clear()
        if not self._cache_valid:
            self._cache.load(writer)
            self._cache_valid = True
        done = decide(commits, tables.facts(writer, self._cache, needs(commits)))
        out.append(done)
        if not (done.pieces or done.changes or done.states or done.snapshots or done.kept):
            raise _NothingToWrite
        apply(writer, self._cache, done)

    def _forget(self) -> None:
        """What the cache says may not have been written."""
        self._cache = Cache()
        self._cache_valid = False

    def _halve(self, commits: Sequence[Commit]) -> Group:
        middle = len(commits) // 2
        first = self._commit(commits[:middle])
        try:
            second = self._commit(commits[middle:]).answers
        except PerdureError as error:  # of the second half alone: the first is durable
            second = [_told(commit, error) for commit in commits[middle:]]
        return Group(first.follows, [*first.answers, *second])

    def _answer_alone(self, commit: Commit, error: MapFull | TooManyTypes | Corrupt) -> Group:
        """What frees room may use the reserve; anything else is told why it fails."""
        if isinstance(error, MapFull) and frees_room(commit):
            try:
                return self._write([commit], small=True)
            except (MapFull, Corrupt) as again:
                error = again
        answer: Answer
        match error:
            case MapFull():
                status = self._store.status()
                answer = Full(self.url, status.bytes_used, status.bytes_limit)
            case TooManyTypes():
                answer = TooLarge("type table", f"the store, with type {error.type!r},", TYPES_MAX + 1, TYPES_MAX, "types", "use fewer event types")
            case Corrupt():
                answer = error
        return Group(self._read_open(lambda reader: tables.read_head(reader)[0]), [answer])

    # -- waiting -----------------------------------------------------------------------------

    async def wait_beyond(self, position: Position) -> None:
        """See `Backend.wait_beyond`."""
        await self._wait(lambda reader: tables.read_head(reader)[0] > position)

    async def wait_changed(self, revision: int) -> None:
        """See `Backend.wait_changed`."""
        await self._wait(lambda reader: tables.read_meta(reader, "revision") > revision)

    async def _wait(self, done: Callable[[Reader], bool]) -> None:
        await trio.lowlevel.checkpoint()
        while not self._read_open(done):
            with trio.move_on_after(self._store.poll_s) if math.isfinite(self._store.poll_s) else trio.CancelScope():
                await self._news.park()

    # -- the rest ----------------------------------------------------------------------------

    @asynccontextmanager
    async def view(self) -> AsyncIterator[OrderedReads]:
        """See `Backend.view`."""
        self._check_open()
        with self._store.hold() as reader:
            types = self._known_types(reader)
            with trio.move_on_after(self.limits.view_s) as scope:  # noqa: ASYNC100 - the body is what it bounds
                yield OrderedReads(partial(self._read_held, reader), lambda _: types)
        if scope.cancelled_caught:
            raise Closed(f"the view (open for {self.limits.view_s:g} s)")

    async def now_us(self) -> int:
        """See `Backend.now_us`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        return max(self._read_open(lambda reader: max(tables.read_head(reader)[1], tables.read_meta(reader, "at"))), self.environment.clock())

    async def maintain(self) -> bool:
        """See `Backend.maintain`."""
        self._check_open()
        if await self._store.prepare():
            self._cache_valid = False
        now = self.environment.clock()
        keys_before = now - int(self.limits.keys_kept_s * 1e6)
        tombstones_before = now - int(self.limits.tombstones_kept_s * 1e6)
        try:
            return self._store.write(lambda writer: self._maintain(writer, keys_before, tombstones_before), small=True)
        except _NothingToWrite:
            return False
        except MapFull:
            return False

    def _maintain(self, writer: Writer, keys_before_us: int, tombstones_before_us: int) -> bool:
        before = tables.read_meta(writer, "merged")
        forgotten = upkeep.forget_some(writer, keys_before_us=keys_before_us, tombstones_before_us=tombstones_before_us)
        merged = upkeep.merge_some(writer)
        if not (forgotten or merged or before != tables.read_meta(writer, "merged")):
            raise _NothingToWrite
        return merged or forgotten == upkeep.FORGET_ROWS

    async def verify(self) -> list[str]:
        """See `Backend.verify`."""
        self._check_open()
        with self._store.hold() as reader:  # while it is held, no page that it can see is used again
            broken = await self._store.check_files()
            if broken:
                return broken  # what cannot be walked is not handed to the database
            return await self.environment.threads.run_sync(verify_tables, reader, self._known_types(reader))

    async def store_status(self) -> StoreStatus:
        """See `Backend.store_status`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        status = self._store.status()
        head, revision = self._read_open(lambda reader: (tables.read_head(reader)[0], tables.read_meta(reader, "revision")))
        return StoreStatus(
            url=self.url,
            id=self.id,
            head=head,
            revision=revision,
            bytes_used=status.bytes_used,
            bytes_limit=status.bytes_limit,
            verified=status.verified,
            details=status.details,
        )

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        self._news.unpark_all()
        await self._store.aclose()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"the store {self.url}")

    def _read_open(self, fn: Callable[[Reader], T]) -> T:
        self._check_open()
        try:
            return self._store.read(fn)
        except tables.DAMAGE as error:
            raise self._damaged(error) from error

    def _read_held(self, reader: Reader, fn: Callable[[Reader], T]) -> T:
        try:
            return fn(reader)
        except tables.DAMAGE as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> Corrupt:
        return Corrupt(f"the store {self.url}", f"a row cannot be read ({error})")

    def _known_types(self, reader: Reader) -> Sequence[TypeName]:
        """The table of types as this reader sees it, at least."""
        rows = reader.scan_back("types", b"", None, 1)
        if rows and int.from_bytes(rows[0][0], "big") >= len(self._cache.types):
            self._cache.load_types(reader)
        return self._cache.types


def _told(commit: Commit, error: PerdureError) -> Any:
    """The error as the answer of one commit of several: an exception object carries one traceback."""
    answer = InDoubt(commit.id, commit.key) if isinstance(error, InDoubt) else type(error)(*error.args)
    answer.__cause__ = error
    return answer


def frees_room(commit: Commit) -> bool:
    """Whether a commit only deletes and checks."""
    return all(isinstance(write, Delete | Check | Unless | Fence) for write in commit.writes)
