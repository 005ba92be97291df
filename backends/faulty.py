"""A backend that fails when it is told to: around another one, for tests of whatever stands above.

    backend = FaultyBackend(inner)
    backend.fail("commit", Unavailable("a test"), nth=3)              # before the third commit from now
    backend.fail("commit", in_doubt, after=True)                      # stored, and then nobody knows
    backend.fail("read_log", Corrupt("a frame", "a test"), for_good=True)
    backend.delay("commit", 0.5)
    backend.cancel("read_stream", scope, after=True)
    backend.heal()

A fault belongs to a method by name, and strikes at its nth call from the moment the fault was set,
once or (`for_good`) from then on. *after* means: the call was carried out, only its answer is lost.
`calls` counts, faults or not. The reads of a view count like those of the store. A commit that fails
with `InDoubt` leaves the store doubtful, as a failed flush does, until it is reopened: reads wait, so that
none shows what is in doubt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from inspect import isfunction
from typing import Any, TypeVar

import attrs
import trio

from perdure.backends.carried import AgedPage, BucketEntry, EntryPage, Numbers, Rest, SnapshotHead, Traced, TracePage
from perdure.backends.commit import Commit, Committed, Group
from perdure.backends.errors import Closed, InDoubt, Misuse, Unavailable
from perdure.backends.event import Position, Record
from perdure.backends.progress import Told, nobody
from perdure.backends.protocol import (
    Backend,
    Capabilities,
    Changes,
    CutBound,
    Entry,
    Held,
    Moment,
    Moves,
    Page,
    Reads,
    Snapshot,
    State,
    StoreStatus,
    StreamInfo,
)
from perdure.backends.reopening import Reopenings
from perdure.backends.resolved import Resolved
from perdure.backends.selector import EVERYTHING, Selector

T = TypeVar("T")

Failure = BaseException | Callable[..., BaseException]
"""An error, or what makes one from the arguments of the call."""


def in_doubt(commits: Sequence[Commit]) -> InDoubt:
    """The error of a commit whose answer is lost: of the group's first."""
    return InDoubt(commits[0].id, commits[0].key)


@attrs.define
class _Fault:
    at_call: int
    for_good: bool
    after: bool
    error: Failure | None = None
    delay_s: float = 0.0
    scope: trio.CancelScope | None = None

    def strikes(self, call: int) -> bool:
        return call >= self.at_call if self.for_good else call == self.at_call

    async def strike(self, args: Sequence[object]) -> None:
        if self.delay_s:
            await trio.sleep(self.delay_s)
        if self.scope is not None:
            self.scope.cancel()
            await trio.lowlevel.checkpoint_if_cancelled()
        if self.error is not None:
            raise self.error if isinstance(self.error, BaseException) else self.error(*args)


class Faults:
    """Which calls go wrong, and how many there were of each method."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.doubt: trio.Event | None = None
        """Set when the store, doubtful now, is back."""
        self._faults: dict[str, list[_Fault]] = {}

    def add(self, method: str, nth: int, for_good: bool, after: bool, **what: Any) -> None:
        """Let the *nth* call of *method* from now go wrong."""
        if method not in METHODS:
            raise Misuse(f"a backend has no method {method!r}: it is one of {', '.join(METHODS)}")
        if nth < 1:
            raise Misuse(f"nth={nth}: the next call is the first")
        self._faults.setdefault(method, []).append(_Fault(self.calls[method] + nth, for_good, after, **what))

    def clear(self) -> None:
        """No call goes wrong any more."""
        self._faults.clear()

    async def through(self, method: str, args: Sequence[object], call: Callable[[], Awaitable[T]]) -> T:
        """Make the call, with what is to go wrong before and after it."""
        self.calls[method] += 1
        striking = [fault for fault in self._faults.get(method, ()) if fault.strikes(self.calls[method])]
        for fault in striking:
            if not fault.after:
                await fault.strike(args)
        result = await call()
        for fault in striking:
            if fault.after:
                await fault.strike(args)
        return result

    async def read(self, method: str, args: Sequence[object], call: Callable[[], Awaitable[T]]) -> T:
        """The same for a read of a store: it waits while that is doubtful."""
        while True:
            await self.wait_back()
            result = await self.through(method, args, call)
            if self.doubt is None:
                return result

    async def wait_back(self) -> None:
        """Return when the store is not doubtful."""
        while self.doubt is not None:
            await self.doubt.wait()

    def end_doubt(self) -> None:
        """The store is back, or closed. Idempotent."""
        if self.doubt is not None:
            self.doubt.set()
            self.doubt = None


class FaultyReads:
    """The reads of a store or (*held*) of a view, by way of *faults*."""

    def __init__(self, reads: Reads, faults: Faults, *, held: bool = False) -> None:
        self._reads = reads
        self._faults = faults
        self._go = faults.through if held else faults.read

    async def read_stream(self, stream: str, *, after: int, limit: int, bytes_max: int, backward: bool = False) -> list[Record]:
        read = self._reads.read_stream
        return await self._go("read_stream", [stream], lambda: read(stream, after=after, limit=limit, bytes_max=bytes_max, backward=backward))

    async def read_log(
        self, *, after: Position, limit: int, bytes_max: int, where: Selector[Any] = EVERYTHING, over_cuts: bool = False
    ) -> Page:
        read = self._reads.read_log
        return await self._go("read_log", [], lambda: read(after=after, limit=limit, bytes_max=bytes_max, where=where, over_cuts=over_cuts))

    async def head(self) -> Position:
        return await self._go("head", [], self._reads.head)

    async def revision(self) -> int:
        return await self._go("revision", [], self._reads.revision)

    async def answer(self, id: bytes) -> Committed | None:
        return await self._go("answer", [id], lambda: self._reads.answer(id))

    async def get(self, bucket: str, key: bytes) -> Entry | None:
        return await self._go("get", [bucket, key], lambda: self._reads.get(bucket, key))

    async def scan(self, bucket: str, *, prefix: bytes = b"", after: bytes | None = None, limit: int) -> list[Entry]:
        return await self._go("scan", [bucket], lambda: self._reads.scan(bucket, prefix=prefix, after=after, limit=limit))

    async def read_changes(self, bucket: str, *, after: int, limit: int) -> Changes:
        return await self._go("read_changes", [bucket], lambda: self._reads.read_changes(bucket, after=after, limit=limit))

    async def read_snapshot(self, name: str, *, at_most: Position | None = None) -> Snapshot | None:
        return await self._go("read_snapshot", [name], lambda: self._reads.read_snapshot(name, at_most=at_most))

    async def snapshots(self, name: str) -> list[Position]:
        return await self._go("snapshots", [name], lambda: self._reads.snapshots(name))

    async def stream(self, name: str) -> StreamInfo | None:
        return await self._go("stream", [name], lambda: self._reads.stream(name))

    async def cuts(self) -> list[CutBound]:
        return await self._go("cuts", [], self._reads.cuts)

    async def streams(self, *, prefix: str = "", after: str | None = None, limit: int) -> list[StreamInfo]:
        return await self._go("streams", [], lambda: self._reads.streams(prefix=prefix, after=after, limit=limit))


class FaultyHeld:
    """A held store, by way of *faults*."""

    def __init__(self, held: Held, faults: Faults) -> None:
        self._held = held
        self._faults = faults

    async def mark(self, to: str, *, revision: int = 0) -> None:
        await self._faults.through("mark", [to], lambda: self._held.mark(to, revision=revision))


class FaultyBackend(FaultyReads):
    """See `Backend`: *inner*, and what is told to go wrong. Without faults it keeps every law that *inner* keeps."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner, Faults())
        self.inner = inner
        self._doubts: list[bytes] = []
        self._resolved = Resolved()
        """What was found of commits in doubt."""
        self._reopenings = Reopenings("that is made to fail")
        self._views: set[trio.CancelScope] = set()

    # -- what goes wrong ---------------------------------------------------------------------

    def fail(self, method: str, error: Failure, *, nth: int = 1, after: bool = False, for_good: bool = False) -> None:
        """Raise *error* (or what it makes of the call's arguments) instead of the nth call from now, or *after* it."""
        self._faults.add(method, nth, for_good, after, error=error)

    def delay(self, method: str, seconds: float, *, nth: int = 1, after: bool = False, for_good: bool = False) -> None:
        """Wait before the nth call from now, or before its answer."""
        self._faults.add(method, nth, for_good, after, delay_s=seconds)

    def cancel(self, method: str, scope: trio.CancelScope, *, nth: int = 1, after: bool = False) -> None:
        """Cancel *scope* just before the nth call from now, or just *after* it."""
        self._faults.add(method, nth, False, after, scope=scope)

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        self._faults.clear()

    @property
    def calls(self) -> Counter[str]:
        """How often each method was called."""
        return self._faults.calls

    # -- the backend -------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    @property
    def id(self) -> str:
        return self.inner.id

    @property
    def state(self) -> State:
        return self.inner.state if self._faults.doubt is None else State.DOUBTFUL

    async def commit(self, commits: Sequence[Commit]) -> Group:
        self._check_sound()
        self._resolved.forget(commits)
        try:
            return await self._faults.through("commit", [commits], lambda: self.inner.commit(commits))
        except InDoubt:
            self._faults.doubt = self._faults.doubt or trio.Event()
            self._doubts = [commit.id for commit in commits]
            raise

    def _check_sound(self) -> None:
        if self._faults.doubt is not None:
            raise Unavailable("a flush was made to fail; it has to be reopened first")

    async def reopen(self) -> None:
        async with self._reopenings.turn():
            for scope in self._views if self._faults.doubt is not None else ():
                scope.cancel()
            await self._faults.through("reopen", [], self.inner.reopen)
            if self._faults.doubt is not None:
                answers = {id: await self.inner.answer(id) for id in self._doubts}
                self._resolved.note(self._doubts, {id: found for id, found in answers.items() if found is not None})
                self._faults.end_doubt()

    async def answer(self, id: bytes) -> Committed | None:
        if id in self._resolved:
            return await self._go("answer", [id], partial(_at_once, self._resolved[id]))
        return await super().answer(id)

    async def wait_beyond(self, position: Position) -> None:
        await self._faults.through("wait_beyond", [position], lambda: self.inner.wait_beyond(position))

    async def wait_changed(self, revision: int) -> None:
        await self._faults.through("wait_changed", [revision], lambda: self.inner.wait_changed(revision))

    @asynccontextmanager
    async def view(self) -> AsyncIterator[FaultyReads]:
        await self._faults.through("view", [], trio.lowlevel.checkpoint)
        self._check_sound()
        async with self.inner.view() as view:
            with trio.CancelScope() as scope:  # noqa: ASYNC100 - the body is what it cuts
                self._views.add(scope)
                try:
                    yield FaultyReads(view, self._faults, held=True)
                finally:
                    self._views.discard(scope)
        if scope.cancelled_caught:
            raise Closed("the view was cut because the store had to be reopened")

    @asynccontextmanager
    async def moment(self) -> AsyncIterator[Moment]:
        await self._faults.through("moment", [], trio.lowlevel.checkpoint)
        self._check_sound()
        async with self.inner.moment() as moment:
            yield moment

    async def begin_load(self, *, anew: bool = False) -> None:
        self._check_sound()
        await self._faults.through("begin_load", [], lambda: self.inner.begin_load(anew=anew))

    async def load(self, records: Sequence[Record]) -> None:
        self._check_sound()
        await self._faults.through("load", [records], lambda: self.inner.load(records))

    async def load_cuts(self, streams: Sequence[StreamInfo], cuts: Sequence[CutBound]) -> None:
        self._check_sound()
        await self._faults.through("load_cuts", [streams, cuts], lambda: self.inner.load_cuts(streams, cuts))

    async def load_rows(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        self._check_sound()
        await self._faults.through("load_rows", [table, rows], lambda: self.inner.load_rows(table, rows))

    async def load_rest(self, rest: Rest) -> None:
        self._check_sound()
        await self._faults.through("load_rest", [rest], lambda: self.inner.load_rest(rest))

    async def end_load(self) -> None:
        self._check_sound()
        await self._faults.through("end_load", [], self.inner.end_load)

    async def read_entries(self, *, beyond: int = 0, after: bytes = b"", limit: int, bytes_max: int) -> EntryPage:
        read = self.inner.read_entries
        return await self._go("read_entries", [], lambda: read(beyond=beyond, after=after, limit=limit, bytes_max=bytes_max))

    async def read_aged(self, *, since_us: int = 0, after: bytes = b"", limit: int) -> AgedPage:
        return await self._go("read_aged", [], lambda: self.inner.read_aged(since_us=since_us, after=after, limit=limit))

    async def read_these(self, keys: Sequence[tuple[str, bytes]], *, bytes_max: int) -> tuple[list[BucketEntry], int]:
        return await self._go("read_these", [], lambda: self.inner.read_these(keys, bytes_max=bytes_max))

    async def begin_trace(self) -> int:
        self._check_sound()
        return await self._faults.through("begin_trace", [], self.inner.begin_trace)

    async def read_trace(self, *, after: bytes = b"", limit: int) -> TracePage:
        return await self._go("read_trace", [], lambda: self.inner.read_trace(after=after, limit=limit))

    async def forget_trace(self, traced: Sequence[Traced]) -> None:
        self._check_sound()
        await self._faults.through("forget_trace", [], lambda: self.inner.forget_trace(traced))

    async def end_trace(self) -> None:
        self._check_sound()
        await self._faults.through("end_trace", [], self.inner.end_trace)

    async def snapshot_heads(self) -> list[SnapshotHead]:
        return await self._go("snapshot_heads", [], self.inner.snapshot_heads)

    async def read_numbers(self) -> Numbers:
        return await self._go("read_numbers", [], self.inner.read_numbers)

    async def moved_to(self) -> str:
        return await self._go("moved_to", [], self.inner.moved_to)

    @asynccontextmanager
    async def hold_commits(self) -> AsyncIterator[Held]:
        await self._faults.through("hold_commits", [], trio.lowlevel.checkpoint)
        self._check_sound()
        async with self.inner.hold_commits() as held:
            yield FaultyHeld(held, self._faults)

    @asynccontextmanager
    async def claim_move(self) -> AsyncIterator[None]:
        await self._faults.through("claim_move", [], trio.lowlevel.checkpoint)
        async with self.inner.claim_move():
            yield

    async def now_us(self) -> int:
        return await self._faults.through("now_us", [], self.inner.now_us)

    async def maintain(self) -> bool:
        self._check_sound()
        return await self._faults.through("maintain", [], self.inner.maintain)

    async def scrub(self) -> bool:
        return await self._faults.through("scrub", [], self.inner.scrub)

    async def shrink(self) -> str:
        self._check_sound()
        return await self._faults.through("shrink", [], self.inner.shrink)

    async def verify(self, progress: Told = nobody) -> list[str]:
        return await self._faults.through("verify", [], lambda: self.inner.verify(progress))

    async def store_status(self) -> StoreStatus:
        status = await self._faults.through("store_status", [], self.inner.store_status)
        return attrs.evolve(status, state=self.state)

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await self._reopenings.end()
        await self._faults.through("aclose", [], self.inner.aclose)
        self._faults.end_doubt()


async def _at_once(value: T) -> T:
    await trio.lowlevel.checkpoint()
    return value


METHODS = tuple(name for kind in (Reads, Moves, Held, Backend) for name, value in vars(kind).items() if isfunction(value) and not name.startswith("_"))
"""Every method that a fault may be set for."""
