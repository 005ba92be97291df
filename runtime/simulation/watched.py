"""What a process sees of its store, watched: reads are noted, wake-ups go astray, and calls are points where the disk is none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, TypeVar

import trio

from perdure.backends.commit import Answer, Commit, Group
from perdure.backends.event import Position, Record
from perdure.backends.faulty import FaultyBackend, in_doubt
from perdure.backends.news import Moved, News
from perdure.backends.ordered import OrderedBackend
from perdure.backends.protocol import Backend, Changes, Entry, Page, Reads
from perdure.backends.selector import EVERYTHING, Selector
from perdure.runtime.simulation.world import Life, World

T = TypeVar("T")

Watching = Callable[[Backend, Sequence[Commit]], AbstractAsyncContextManager[list[Answer]]]


class Shown:
    """All that any process was ever shown of the store: it must stay so."""

    def __init__(self) -> None:
        self.records: dict[int, Record] = {}
        """By position."""
        self.values: dict[tuple[str, bytes, int], bytes | None] = {}
        """By bucket, key and revision; None: deleted."""
        self.broken: list[str] = []

    def note_records(self, records: Sequence[Record]) -> None:
        """These were shown."""
        for record in records:
            known = self.records.setdefault(record.position, record)
            if known is not record and known != record:
                self.broken.append(f"at position {record.position} was {known.stream} {known.seq}, and then {record.stream} {record.seq}")

    def note_value(self, bucket: str, key: bytes, revision: int, value: bytes | None) -> None:
        """So was this."""
        if not bucket.startswith("$") and self.values.setdefault((bucket, key, revision), value) != value:
            self.broken.append(f"key {key!r} of {bucket} at revision {revision} had two values")


class WatchedReads:
    """Reads, noted."""

    def __init__(self, reads: Reads, shown: Shown) -> None:
        self._reads = reads
        self._shown = shown

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reads, name)

    async def read_stream(self, stream: str, *, after: int, limit: int, bytes_max: int, backward: bool = False) -> list[Record]:
        """See `Reads.read_stream`."""
        records = await self._call("read_stream", lambda: self._reads.read_stream(stream, after=after, limit=limit, bytes_max=bytes_max, backward=backward))
        self._shown.note_records(records)
        return records

    async def read_log(
        self, *, after: Position, limit: int, bytes_max: int, where: Selector[Any] = EVERYTHING, over_cuts: bool = False
    ) -> Page:
        """See `Reads.read_log`."""
        page = await self._call("read_log", lambda: self._reads.read_log(after=after, limit=limit, bytes_max=bytes_max, where=where, over_cuts=over_cuts))
        self._shown.note_records(page.records)
        return page

    async def get(self, bucket: str, key: bytes) -> Entry | None:
        """See `Reads.get`."""
        entry = await self._call("get", lambda: self._reads.get(bucket, key))
        if entry is not None:
            self._shown.note_value(bucket, entry.key, entry.revision, entry.value)
        return entry

    async def scan(self, bucket: str, *, prefix: bytes = b"", after: bytes | None = None, limit: int) -> list[Entry]:
        """See `Reads.scan`."""
        entries = await self._call("scan", lambda: self._reads.scan(bucket, prefix=prefix, after=after, limit=limit))
        for entry in entries:
            self._shown.note_value(bucket, entry.key, entry.revision, entry.value)
        return entries

    async def read_changes(self, bucket: str, *, after: int, limit: int) -> Changes:
        """See `Reads.read_changes`."""
        found = await self._call("read_changes", lambda: self._reads.read_changes(bucket, after=after, limit=limit))
        for change in found.changes:
            self._shown.note_value(bucket, change.key, change.revision, change.value)
        return found

    async def _call(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        return await call()


def _nothing(_: Backend, __: Sequence[Commit]) -> AbstractAsyncContextManager[list[Answer]]:
    return nullcontext([])


class WatchedBackend(WatchedReads):
    """A backend, likewise. With *points* its calls are where things go wrong; else the calls of its disk are. *watching* is entered around each commit."""

    def __init__(self, backend: Backend, shown: Shown, world: World, life: Life, *, points: bool, watching: Watching = _nothing) -> None:
        self._watching = watching
        self._backend = FaultyBackend(backend) if points else backend
        super().__init__(self._backend, shown)
        self._world = world
        self._life = life
        self._points = points

    async def commit(self, commits: Sequence[Commit]) -> Group:
        """See `Backend.commit`; a flush is what it is called in the trace."""
        async with self._watching(self._backend, commits) as answers:
            group = await self._call("flush", lambda: self._backend.commit(commits))
            answers += group.answers
            return group

    async def maintain(self) -> bool:
        """See `Backend.maintain`."""
        return await self._call("maintain", self._backend.maintain)

    async def reopen(self) -> None:
        """See `Backend.reopen`."""
        await self._call("reopen", self._backend.reopen)

    @asynccontextmanager
    async def view(self) -> AsyncIterator[WatchedReads]:
        """See `Backend.view`."""
        async with self._backend.view() as view:
            yield WatchedReads(view, self._shown)

    async def _call(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        if not self._points:
            return await call()
        injection = self._world.point(self._life, "before", name, "backend")
        if self._life.held or (injection is not None and injection.what in ("restart", "cancel")):
            await trio.lowlevel.checkpoint()
        if injection is not None and injection.what == "slow":
            with trio.CancelScope(shield=True):
                await trio.sleep(float(injection.how))
        if injection is not None and injection.what == "flush" and isinstance(self._backend, FaultyBackend):
            self._backend.fail("commit", in_doubt, after=injection.how != "fail")
        result = await call()
        self._world.point(self._life, "after", name, "backend")
        return result


class WatchedMap:
    """An ordered map whose followers are told late, twice, or of nothing."""

    def __init__(self, inner: Any, world: World, life: Life) -> None:
        self._inner = inner
        self.news = WatchedNews(inner.news, world, life)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class WatchedNews:
    """See `News`: a wake-up is a hint, so any of this is allowed."""

    def __init__(self, inner: News, world: World, life: Life) -> None:
        self._inner = inner
        self._world = world
        self._life = life

    @property
    def head(self) -> int:
        """See `News.head`."""
        return self._inner.head

    async def wait(self, what: Moved) -> None:
        """See `News.wait`."""
        await self._inner.wait(what)

    def wake_all(self) -> None:
        """See `News.wake_all`."""
        self._inner.wake_all()

    def tell(self, moved: Moved, head: Position, revision: int) -> None:
        """See `News.tell`."""
        injection = self._world.point(self._life, "wake", "tell", f"{moved.name}")
        how = injection.how.split() if injection is not None and injection.what == "wake" else [""]
        match how[0]:
            case "late":
                self._world.after(float(how[1]), lambda: self._tell_late(moved, head, revision))
            case "twice":
                self._inner.tell(moved, head, revision)
                self._inner.wake_all()
            case "early":
                self._inner.wake_all()
                self._world.after(0.0, lambda: self._tell_late(moved, head, revision))
            case _:
                self._inner.tell(moved, head, revision)

    def _tell_late(self, moved: Moved, head: Position, revision: int) -> None:
        if not self._life.ended.is_set():
            self._inner.tell(moved, head, revision)


def watch_map(backend: OrderedBackend, world: World, life: Life) -> None:
    """Let the wake-ups of *backend* go astray."""
    backend._store = WatchedMap(backend._store, world, life)
