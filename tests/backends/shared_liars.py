"""Stores in memory that several handles write to and whose flushes can fail: an honest one, and liars made of it.

Each handle stands for a process: it has a map, a cache and a state of its own over the rows of one `Disk`.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any, TypeVar

import attrs
import msgspec
import trio

from perdure.actors.ring import Ring
from perdure.backends.commit import ANY, BEATS, LEASES, Commit, Committed, Delete, Fence, Group, Put, Write
from perdure.backends.engine import Decisions
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Unavailable
from perdure.backends.event import Position, Record
from perdure.backends.layered import Recorder
from perdure.backends.memory import MemoryMap
from perdure.backends.news import LocalNews, Moved
from perdure.backends.ordered import OrderedBackend
from perdure.backends.ordered_map import MapAway, MapDoubtful, MapStatus
from perdure.backends.ordered_reads import OrderedReads
from perdure.backends.protocol import Backend, Capabilities, ChangedEntry, Changes, State
from perdure.backends.tables import Reader, Writer

T = TypeVar("T")

GATE_S = 1.0
_POLL_S = 0.005


class Disk:
    """The rows of one store, who may write to them, and how often they were written."""

    def __init__(self) -> None:
        self.rows = MemoryMap(Environment().ids().hex())
        self.news = LocalNews()
        self.writes = 0
        self.holder: object | None = None
        self.given = Position(0)
        """The last position that was given, of a commit that may be on its way."""

    def take(self, holder: object) -> bool:
        """Get the right to write, if nobody has it."""
        if self.holder is not None:
            return False
        self.holder = holder
        return True


class SharedMap:
    """See `OrderedMap`: one handle's. A flush that is to fail leaves it away until it is reopened."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.id = disk.rows.id
        self.news = disk.news
        self.state = State.OPEN
        self.fails: bool | None = None
        """Whether the next flush fails, and if so, whether what it wrote is there afterwards."""
        self.seen = -1
        self.held: tuple[trio.Event, trio.Event] | None = None
        """Where the next flush is held up: set when it has begun, and when it may go on."""

    def read(self, fn: Callable[[Reader], T]) -> T:
        if self.state in (State.DOUBTFUL, State.REOPENING):
            raise MapAway
        return self.disk.rows.read(fn)

    def hold(self, *, busy: bool = False) -> AbstractContextManager[Reader]:
        if self.state is not State.OPEN:
            raise MapAway
        return self.disk.rows.hold(busy=busy)

    async def take_turn(self, *, patient: bool = True) -> None:
        if not self.disk.take(self) and patient:
            with trio.move_on_after(GATE_S):
                while not self.disk.take(self):
                    await trio.sleep(_POLL_S)
        if self.disk.holder is not self:
            raise Unavailable(f"process {os.getpid()} has the right to write and keeps it")
        if self.state is not State.OPEN:
            self.end_turn()
            raise Unavailable("it has to be reopened first")

    def end_turn(self) -> None:
        self.disk.holder = None

    async def tidy(self) -> bool:
        return False

    def found_sound(self) -> None:
        """Nobody asked."""

    async def write(self, fn: Callable[[Writer], T], *, small: bool = False, size_bytes: int = 0) -> T:
        def told(writer: Any) -> T:
            writer.stale, self.seen = self.seen != self.disk.writes, self.disk.writes
            result = fn(writer)
            if self.fails is False:
                self._doubt()
            return result

        if self.held is not None:
            await self._wait_held()
        result = await self.disk.rows.write(told)
        self.disk.writes += 1
        if self.fails:
            self._doubt()
        self.seen = self.disk.writes
        return result

    async def _wait_held(self) -> None:
        held, self.held = self.held, None
        if held is not None:
            held[0].set()
            await held[1].wait()

    def _doubt(self) -> None:
        self.fails, self.state = None, State.DOUBTFUL
        raise MapDoubtful

    def claim_move(self) -> AbstractContextManager[None]:
        return nullcontext()

    async def shrink(self) -> str:
        return "it has no file"

    async def reopen(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.state is not State.DOUBTFUL:
            return
        self.state = State.REOPENING
        try:
            with trio.move_on_after(GATE_S):
                while not self.disk.take(self):
                    await trio.sleep(_POLL_S)
            if self.disk.holder is not self:
                raise Unavailable(f"process {os.getpid()} has the right to write and keeps it")
            self.end_turn()
        except BaseException:
            self.state = State.DOUBTFUL
            raise
        self.state = State.OPEN
        self.forget()

    def forget(self) -> None:
        """What was seen of the disk is not known any more."""
        self.seen = -1

    def end_waits(self) -> None:
        """They end by their limit."""

    async def wait_back(self) -> None:
        while self.state in (State.DOUBTFUL, State.REOPENING):
            await trio.sleep(_POLL_S)

    def status(self) -> MapStatus:
        return self.disk.rows.status()

    async def check_files(self) -> list[str]:
        return await self.disk.rows.check_files()

    async def aclose(self) -> None:
        self.state = State.CLOSED
        await trio.lowlevel.checkpoint()


class Honest(OrderedBackend):
    """One handle; it keeps all laws, and its disk outlives it."""

    map_type: type[SharedMap] = SharedMap

    def __init__(self, disk: Disk) -> None:
        self.map = self.map_type(disk)
        capabilities = Capabilities(durable=True, shared_reads=True, shared_writes=True)
        super().__init__(self.map, url="shared:", capabilities=capabilities, environment=Environment(threads=InlineThreads()))


class SharedStores:
    """See `Stores`: a name is a disk, each opening a handle of it."""

    def __init__(self, make: Callable[[Disk], Honest]) -> None:
        self._make = make
        self._disks: dict[str, Disk] = {}

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[Backend]:
        backend = self._make(self._disks.setdefault(name, Disk()))
        try:
            yield backend
        finally:
            await backend.aclose()

    def fail_flush(self, backend: Backend, *, stored: bool) -> None:
        assert isinstance(backend, Honest)
        backend.map.fails = stored

    @contextmanager
    def hold_flush(self, backend: Backend) -> Iterator[trio.Event]:
        assert isinstance(backend, Honest)
        begun, goes_on = backend.map.held = (trio.Event(), trio.Event())
        try:
            yield begun
        finally:
            backend.map.held = None
            goes_on.set()

    @contextmanager
    def hold_turn(self, name: str) -> Iterator[None]:
        disk = self._disks[name]
        assert disk.take("a frozen process")
        try:
            yield
        finally:
            disk.holder = None


# -- liars about others ----------------------------------------------------------------------


class _NeverStale(SharedMap):
    async def write(self, fn: Callable[[Writer], T], *, small: bool = False, size_bytes: int = 0) -> T:
        def trusting(writer: Any) -> T:
            writer.stale = False
            return fn(writer)

        return await super().write(trusting, small=small, size_bytes=size_bytes)


class TrustsItsCache(Honest):
    """Takes what it remembers for true although another process has written."""

    map_type = _NeverStale


class TellsBeforeItShows(Honest):
    """Wakes followers when a group is on its way, and lets them believe it."""

    async def commit(self, commits: Sequence[Commit]) -> Group:
        self.map.news.wake_all()
        await trio.sleep(0.001)
        return await super().commit(commits)

    async def wait_beyond(self, position: Position) -> None:
        if await self.head() <= position:
            await self.map.news.wait(Moved.LOG)


class WakesOnlyItsOwn(Honest):
    """Tells nobody in another process."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self.map.news = LocalNews()


class FollowsWhatItKnows(Honest):
    """Takes the end of its own last group for the head."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self._last = Position(0)

    async def commit(self, commits: Sequence[Commit]) -> Group:
        group = await super().commit(commits)
        follows, self._last = self._last, await self.head()
        return attrs.evolve(group, follows=follows)


class KeepsOneRowOfIds(Honest):
    """All processes keep the ids of their last groups in one place."""

    def _forget(self) -> None:
        super()._forget()
        self._cache.owner = b"everyone"

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self._forget()


class ClosesForAll(Honest):
    """Closing one handle ends the store of the others."""

    async def aclose(self) -> None:
        await super().aclose()
        self.map.disk.rows = MemoryMap(self.id)


class _LetsGoTooSoon(SharedMap):
    """Gives the right to write back before what was judged is there."""

    async def write(self, fn: Callable[[Writer], T], *, small: bool = False, size_bytes: int = 0) -> T:
        if self.held is None:
            return await super().write(fn, small=small, size_bytes=size_bytes)
        recorder = Recorder(self.disk.rows._tables.reader)
        recorder.stale = True
        result = fn(recorder)
        self.end_turn()
        await self._wait_held()
        self.disk.rows._tables.apply(recorder.rows)
        self.disk.writes += 1
        return result


class NumbersBeforeItCommits(Honest):
    """Gives positions as a sequence does: in the order in which commits begin."""

    map_type = _LetsGoTooSoon

    def _refresh(self, writer: Writer, *, again: bool) -> None:
        super()._refresh(writer, again=again)
        self._cache.head = max(self._cache.head, self.map.disk.given)

    def _decide_and_write(self, commits: Sequence[Commit], out: list[Decisions], writer: Writer) -> None:
        super()._decide_and_write(commits, out, writer)
        self.map.disk.given = out[-1].head


# -- liars about the right to write ----------------------------------------------------------


class CommitsLater(Honest):
    """Gives up waiting, and leaves a thread parked in the lock that commits when it gets it."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self._parked: list[Commit] = []

    async def commit(self, commits: Sequence[Commit]) -> Group:
        parked, self._parked = self._parked, []
        if parked:
            await super().commit(parked)
        try:
            return await super().commit(commits)
        except Unavailable:
            self._parked += commits
            raise


class _WaitsForEver(SharedMap):
    async def take_turn(self, *, patient: bool = True) -> None:
        while not self.disk.take(self):
            await trio.sleep(_POLL_S)


class WaitsWithoutALimit(Honest):
    """Waits for a frozen process as long as it is frozen."""

    map_type = _WaitsForEver


class _Blocks(SharedMap):
    async def take_turn(self, *, patient: bool = True) -> None:
        if self.disk.holder is not None:
            time.sleep(0.3)  # noqa: ASYNC251 - this is what it is caught for
        if not self.disk.take(self):
            raise Unavailable(f"process {os.getpid()} has the right to write and keeps it")


class BlocksTheLoop(Honest):
    """Waits in a blocking call."""

    map_type = _Blocks


class _StaysInTheWay(SharedMap):
    async def take_turn(self, *, patient: bool = True) -> None:
        try:
            await super().take_turn(patient=patient)
        except trio.Cancelled:
            self.disk.rows.in_the_way = True  # type: ignore[attr-defined]  # the liar's own
            raise
        if getattr(self.disk.rows, "in_the_way", False):
            self.end_turn()
            await trio.sleep_forever()


class StaysInTheWay(Honest):
    """Keeps its place in the queue when it is cancelled."""

    map_type = _StaysInTheWay


# -- liars about doubt -----------------------------------------------------------------------


class GuessesAbsent(Honest):
    """Takes what was in doubt for lost."""

    async def reopen(self) -> None:
        lost = set(self._doubts)
        await super().reopen()
        self._lost = lost

    async def answer(self, id: bytes) -> Committed | None:
        return None if id in getattr(self, "_lost", ()) else await super().answer(id)


class GuessesThere(Honest):
    """Takes what was in doubt for stored, as it was decided."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self._decided: dict[bytes, Any] = {}
        self._guessed: dict[bytes, Committed] = {}

    def _decide_and_write(self, commits: Sequence[Commit], out: list[Decisions], writer: Writer) -> None:
        super()._decide_and_write(commits, out, writer)
        self._decided = {commit.id: answer for commit, answer in zip(commits, out[-1].answers, strict=True)}

    async def reopen(self) -> None:
        self._guessed = {id: answer for id in self._doubts if isinstance(answer := self._decided[id], Committed)}
        await super().reopen()

    async def answer(self, id: bytes) -> Committed | None:
        return self._guessed.get(id) or await super().answer(id)


class _RemembersWhatItSaw(SharedMap):
    def forget(self) -> None:
        self.seen = self.disk.writes


class KeepsItsCaches(Honest):
    """Judges after a failed flush by what it believes to have written."""

    map_type = _RemembersWhatItSaw

    def _forget(self) -> None:
        """Nothing is forgotten."""


class _GoesOn(SharedMap):
    async def take_turn(self, *, patient: bool = True) -> None:
        while not self.disk.take(self):
            await trio.sleep(_POLL_S)


class GoesOnCommitting(Honest):
    """Takes a failed flush for a commit that failed, and the next one as it comes."""

    map_type = _GoesOn

    def _note_doubt(self, commits: Sequence[Commit], follows: Position) -> None:
        """It doubts nothing."""


class _ShowsAll(SharedMap):
    def read(self, fn: Callable[[Reader], T]) -> T:
        return self.disk.rows.read(fn)


class ShowsWhatIsInDoubt(Honest):
    """Reads on in a store whose flush failed, whatever it finds."""

    map_type = _ShowsAll


class LooksAmongEventsOnly(Honest):
    """Looks for what was in doubt in the log, where a commit of kv leaves no trace."""

    async def answer(self, id: bytes) -> Committed | None:
        found = await super().answer(id)
        return found if found is None or found.position is not None else None


class CachesTails(Honest):
    """Knows the end of each stream that it has read or written itself."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self._tails: dict[tuple[str, int], tuple[int, list[Record]]] = {}

    async def read_stream(self, stream: str, *, after: int, limit: int, bytes_max: int, backward: bool = False) -> list[Record]:
        known = self._tails.get((stream, after))
        if known is not None and known[0] == self.map.seen:
            return known[1]
        found = await super().read_stream(stream, after=after, limit=limit, bytes_max=bytes_max, backward=backward)
        self._tails[stream, after] = (self.map.seen, found)
        return found


class HidesBehindOthers(Honest):
    """Looks for what was in doubt among the newest groups only."""

    async def reopen(self) -> None:
        self._doubts.clear()
        await super().reopen()


class ReopensSideBySide(Honest):
    """Its reopenings overlap: the later one ends whatever is in doubt by then, with what it found of the doubt before."""

    async def reopen(self) -> None:
        before = list(self._doubts)
        await self.map.reopen()
        found = {id: answer for id in before if (answer := await OrderedReads.answer(self, id)) is not None}
        self._resolved.note(self._doubts, found)
        self._doubts.clear()


class LeavesReopeningsWaiting(Honest):
    """Closing it does not end those that wait for their turn."""

    async def reopen(self) -> None:
        if self._reopenings.under_way:
            while self._reopenings.under_way:
                await trio.lowlevel.checkpoint()
            if self._closed:
                await trio.sleep_forever()
        await super().reopen()


class RemembersFences(Honest):
    """Takes a lease that it has taken for its own until it hears otherwise."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self._fences: dict[str, int] = {}

    async def commit(self, commits: Sequence[Commit]) -> Group:
        group = await super().commit([msgspec.structs.replace(commit, writes=self._trusted(commit.writes)) for commit in commits])
        for commit in commits:
            for write in commit.writes:
                if isinstance(write, Put) and write.bucket == LEASES and isinstance(write.key, bytes) and (entry := await self.get(LEASES, write.key)):
                    self._fences[write.key.decode()] = int.from_bytes(entry.value[:8], "big")
        return group

    def _trusted(self, writes: tuple[Write, ...]) -> tuple[Write, ...]:
        return tuple(write for write in writes if not (isinstance(write, Fence) and self._fences.get(write.name) == write.number)) or writes


class StealsBlindly(Honest):
    """Lets whoever comes last take a lease, whatever it had seen."""

    async def commit(self, commits: Sequence[Commit]) -> Group:
        return await super().commit([msgspec.structs.replace(commit, writes=tuple(map(_blind, commit.writes))) for commit in commits])


def _blind(write: Write) -> Write:
    own = isinstance(write, Put | Delete) and write.bucket in (LEASES, BEATS)
    return attrs.evolve(write, expected=ANY) if own and isinstance(write, Put | Delete) else write


class TellsBeats(Honest):
    """Tells of every beat, as of any other change."""

    async def read_changes(self, bucket: str, *, after: int, limit: int) -> Changes:
        if bucket != BEATS:
            return await super().read_changes(bucket, after=after, limit=limit)
        entries = await self.scan(BEATS, limit=limit)
        return Changes([ChangedEntry(entry.key, entry.revision, entry.value) for entry in entries], await self.revision())


LIARS: dict[str, tuple[Callable[[Disk], Honest], str]] = {
    "a cache that is trusted though another process wrote": (TrustsItsCache, "expectations-are-judged-anew"),
    "a wake-up before visibility": (TellsBeforeItShows, "a-wake-up-comes-with-what-it-tells"),
    "no wake-up for other processes": (WakesOnlyItsOwn, "others-commits-wake"),
    "a group that follows what its process knew": (FollowsWhatItKnows, "follows-is-the-head-whoever-wrote"),
    "one row of ids for all processes": (KeepsOneRowOfIds, "each-process-has-its-last-ids"),
    "a handle whose closing takes the others with it": (ClosesForAll, "closing-one-leaves-the-others"),
    "numbers that are given before the commit": (NumbersBeforeItCommits, "nothing-becomes-visible-below"),
    "an Unavailable that commits later": (CommitsLater, "unavailable-never-happens"),
    "a wait for a frozen process without a limit": (WaitsWithoutALimit, "who-cannot-write-is-told"),
    "a wait that blocks the loop": (BlocksTheLoop, "the-loop-keeps-turning"),
    "a cancelled wait that stays in the way": (StaysInTheWay, "a-cancelled-wait-is-out-of-the-way"),
    "a doubt answered with absent": (GuessesAbsent, "each-answer-is-true"),
    "a doubt answered with there": (GuessesThere, "each-answer-is-true"),
    "a reopening that keeps its caches": (KeepsItsCaches, "expectations-are-true-after-reopening"),
    "a doubtful store that goes on committing": (GoesOnCommitting, "a-doubtful-store-commits-nothing"),
    "reads that show what is in doubt": (ShowsWhatIsInDoubt, "nothing-in-doubt-is-shown"),
    "a doubt looked for among events only": (LooksAmongEventsOnly, "histories-of-doubt-are-linearizable"),
    "an end of a stream that is known until one writes oneself": (CachesTails, "histories-of-processes-are-linearizable"),
    "a doubt hidden by what others committed": (HidesBehindOthers, "others-do-not-hide-the-answer"),
    "reopenings that overlap": (ReopensSideBySide, "each-doubt-has-its-own-answer"),
    "reopenings that closing leaves waiting": (LeavesReopeningsWaiting, "closing-ends-reopenings"),
    "a fence that is known until one is told otherwise": (RemembersFences, "the-old-owner-stores-nothing"),
    "a steal that looks at nothing": (StealsBlindly, "of-two-thieves-one-wins"),
    "beats that are changes": (TellsBeats, "beats-leave-nothing"),
}
"""What each does, and the law that must catch it."""


class RingWithoutLinks(Ring):
    """A ring that takes every group for the next one: what another process wrote in between is skipped."""

    def put(self, follows: Position, last: Position, size_bytes: int, make: Callable[[], list[Record]]) -> None:
        if self.last is not None:
            follows = self.last
        super().put(follows, last, size_bytes, make)
