"""Backends that are broken on purpose, each in one way: the laws must catch every one of them.

Most stand around an honest store in memory (`FaultyBackend` without faults is a transparent wrapper),
some change one step of `OrderedBackend`. A store of a liar keeps what it holds by its name, so that
what is opened again is the same store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import msgspec
import trio

from perdure.backends import fetch, tables
from perdure.backends.carried import Answered, EntryPage, Rest, Tombstone, Traced
from perdure.backends.commit import ANY, LEASES, NEW_FENCE, Append, Commit, Committed, Delete, Fence, Group, Put, Write
from perdure.backends.engine import Decisions, decide, needs
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Closed, Conflict, KeyReused, PerdureError
from perdure.backends.event import Position, Record
from perdure.backends.faulty import FaultyBackend
from perdure.backends.frame import with_checksum
from perdure.backends.memory import MemoryMap
from perdure.backends.news import Moved
from perdure.backends.ordered import OrderedBackend
from perdure.backends.ordered_reads import OrderedReads
from perdure.backends.protocol import Backend, Capabilities, ChangedEntry, Changes, Entry, Page, Snapshot
from perdure.backends.selector import EVERYTHING, Selector
from perdure.backends.tables import Writer


class LastingMap(MemoryMap):
    """Memory that outlives its backend, as a disk would."""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Honest(OrderedBackend):
    """What the liars are made of; it keeps all laws, durable in that its map outlives it."""

    _store: MemoryMap

    def __init__(self, rows: MemoryMap) -> None:
        capabilities = Capabilities(loads=True, images=True, moves=True, cuts=True)
        super().__init__(rows, url="liar:", capabilities=capabilities, environment=Environment(threads=InlineThreads()))


class Liar(FaultyBackend):
    """Around an honest store in memory."""

    inner: Honest

    def __init__(self, rows: MemoryMap) -> None:
        super().__init__(Honest(rows))


class Durable(Liar):
    """One that claims to be durable, too."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(durable=True, loads=True, images=True, moves=True, cuts=True)


# -- writing ---------------------------------------------------------------------------------


class AcknowledgesBeforeCommit(Liar):
    """Answers at once, and stores when the next commit comes."""

    def __init__(self, rows: MemoryMap) -> None:
        super().__init__(rows)
        self._owed: list[Commit] = []

    async def commit(self, commits: Sequence[Commit]) -> Group:
        if self._owed:
            await self.inner.commit(self._owed)
        self._owed = list(commits)
        dry = FaultyBackend(Honest(_copy(self.inner)))
        return await dry.commit(commits)


def _copy(backend: Honest) -> MemoryMap:
    rows = MemoryMap(backend.id)
    rows._tables = backend._store._tables.copy()
    return rows


class LosesAtClose(Durable):
    """Claims durability, and forgets the last commit when it is closed."""

    async def commit(self, commits: Sequence[Commit]) -> Group:
        self._before = _copy(self.inner)._tables
        return await super().commit(commits)

    async def aclose(self) -> None:
        if hasattr(self, "_before"):
            self.inner._store._tables = self._before
        await super().aclose()


class TwoWinners(Liar):
    """Looks whether the expectations hold, lets others run, then writes without looking again."""

    async def commit(self, commits: Sequence[Commit]) -> Group:
        dry = await Honest(_copy(self.inner)).commit(commits)
        await trio.sleep(0)
        if any(isinstance(answer, Conflict) for answer in dry.answers):
            return await super().commit(commits)
        return await super().commit([msgspec.structs.replace(commit, writes=tuple(_careless(write) for write in commit.writes)) for commit in commits])


def _careless(write: Write) -> Write:
    if isinstance(write, Append):
        return msgspec.structs.replace(write, expected=ANY)
    return attrs.evolve(write, expected=ANY) if isinstance(write, Put | Delete) else write


class SwallowsConflicts(Liar):
    """Says that all went well."""

    async def commit(self, commits: Sequence[Commit]) -> Group:
        group = await super().commit(commits)
        return attrs.evolve(group, answers=[Committed(None, ()) if isinstance(answer, Conflict) else answer for answer in group.answers])


class SwallowsErrors(Liar):
    """Takes a read that failed for one that found nothing."""

    async def read_stream(self, stream: str, *, after: int, limit: int, bytes_max: int, backward: bool = False) -> list[Record]:
        try:
            return await super().read_stream(stream, after=after, limit=limit, bytes_max=bytes_max, backward=backward)
        except PerdureError:
            return []


class OneBadCommitFailsItsGroup(Honest):
    """An engine that takes a group for one transaction."""

    def _decide_and_write(self, commits: Sequence[Commit], out: list[Decisions], writer: Writer) -> None:
        super()._decide_and_write(commits, out, writer)
        bad = [answer for answer in out[0].answers if not isinstance(answer, Committed)]
        if bad:
            self._forget()
            out[0].answers[:] = [bad[0]] * len(commits)
            raise _Undone

    async def _commit(self, commits: Sequence[Commit]) -> Group:
        try:
            return await super()._commit(commits)
        except _Undone:
            dry: list[Decisions] = []
            await self._store.write(lambda writer: dry.append(decide(commits, fetch.facts(writer, _loaded(writer), needs(commits)))))
            bad = next(answer for answer in dry[0].answers if not isinstance(answer, Committed))
            return Group(dry[0].follows, [bad] * len(commits))


class _Undone(Exception):
    """Takes the batch back."""


def _loaded(writer: Writer) -> tables.Cache:
    cache = tables.Cache()
    cache.load(writer)
    return cache


class AnswersKeyForOtherContent(Liar):
    """Knows a key when it sees one, and looks no further."""

    def __init__(self, rows: MemoryMap) -> None:
        super().__init__(rows)
        self._known: dict[bytes, Committed] = {}

    async def commit(self, commits: Sequence[Commit]) -> Group:
        group = await super().commit(commits)
        answered = list(zip(commits, group.answers, strict=True))
        answers = [self._known[commit.key] if isinstance(answer, KeyReused) and commit.key else answer for commit, answer in answered]
        self._known.update({commit.key: answer for commit, answer in zip(commits, answers, strict=True) if commit.key and isinstance(answer, Committed)})
        return attrs.evolve(group, answers=answers)


class KeepsConflicts(Liar):
    """Remembers a conflict under its key, for ever."""

    def __init__(self, rows: MemoryMap) -> None:
        super().__init__(rows)
        self._known: dict[bytes, Conflict] = {}

    async def commit(self, commits: Sequence[Commit]) -> Group:
        if len(commits) == 1 and commits[0].key in self._known:
            return Group(await self.inner.head(), [self._known[commits[0].key]])
        group = await super().commit(commits)
        self._known.update({commit.key: answer for commit, answer in zip(commits, group.answers, strict=True) if commit.key and isinstance(answer, Conflict)})
        return group


class StealsKeepTheFence(Liar):
    """Takes a steal for a beat."""

    async def commit(self, commits: Sequence[Commit]) -> Group:
        return await super().commit([msgspec.structs.replace(commit, writes=tuple([await self._kept(write) for write in commit.writes])) for commit in commits])

    async def _kept(self, write: Write) -> Write:
        if not (isinstance(write, Put) and write.bucket == LEASES and isinstance(write.key, bytes)):
            return write
        entry = await self.inner.get(LEASES, write.key)
        return write if entry is None or not write.value.startswith(NEW_FENCE) else attrs.evolve(write, value=entry.value[:8] + write.value[8:])


class ForgetsFences(Liar):
    """Lets the holder write that is not one any more."""

    async def commit(self, commits: Sequence[Commit]) -> Group:
        return await super().commit([msgspec.structs.replace(commit, writes=_unfenced(commit.writes)) for commit in commits])


def _unfenced(writes: tuple[Write, ...]) -> tuple[Write, ...]:
    return tuple(write for write in writes if not isinstance(write, Fence)) or writes


class RevisionsComeBack(Honest):
    """Counts down when the newest entry is deleted."""

    def _decide_and_write(self, commits: Sequence[Commit], out: list[Decisions], writer: Writer) -> None:
        super()._decide_and_write(commits, out, writer)
        last = out[0].changes[-1] if out[0].changes else None
        if last is not None and last.value is None:
            self._cache.revision -= 1
            tables.write_meta(writer, "revision", self._cache.revision)


class TimeGoesBack(Liar):
    """Takes whatever time is proposed."""

    async def read_log(
        self, *, after: Position, limit: int, bytes_max: int, where: Selector[Any] = EVERYTHING, over_cuts: bool = False
    ) -> Page:
        page = await super().read_log(after=after, limit=limit, bytes_max=bytes_max, where=where, over_cuts=over_cuts)
        return attrs.evolve(page, records=[_at(record, record.at_us - record.position) for record in page.records])


def _at(record: Record, at_us: int) -> Record:
    fields = {name: getattr(record, name) for name in Record.__struct_fields__}
    return Record(**{**fields, "at_us": at_us})


# -- reading ---------------------------------------------------------------------------------


class EndsPagesInsideCommits(Liar):
    """Takes `limit` by the word."""

    async def read_log(
        self, *, after: Position, limit: int, bytes_max: int, where: Selector[Any] = EVERYTHING, over_cuts: bool = False
    ) -> Page:
        page = await super().read_log(after=after, limit=limit, bytes_max=bytes_max, where=where, over_cuts=over_cuts)
        if len(page.records) <= limit:
            return page
        return Page(page.records[:limit], page.records[limit - 1].position, page.head)


class UnorderedPages(Liar):
    """Gives a page stream by stream."""

    async def read_log(
        self, *, after: Position, limit: int, bytes_max: int, where: Selector[Any] = EVERYTHING, over_cuts: bool = False
    ) -> Page:
        page = await super().read_log(after=after, limit=limit, bytes_max=bytes_max, where=where, over_cuts=over_cuts)
        return attrs.evolve(page, records=sorted(page.records, key=lambda record: (record.stream, record.seq)))


class SkipsOverTheUnread(Liar):
    """Says that it looked as far as the head, whatever it read."""

    async def read_log(
        self, *, after: Position, limit: int, bytes_max: int, where: Selector[Any] = EVERYTHING, over_cuts: bool = False
    ) -> Page:
        page = await super().read_log(after=after, limit=limit, bytes_max=bytes_max, where=where, over_cuts=over_cuts)
        return attrs.evolve(page, examined=page.head)


class StaleSnapshot(Liar):
    """Remembers the snapshot it read first."""

    def __init__(self, rows: MemoryMap) -> None:
        super().__init__(rows)
        self._known: dict[str, Snapshot | None] = {}

    async def read_snapshot(self, name: str, *, at_most: Position | None = None) -> Snapshot | None:
        found = self._known.get(name) or await super().read_snapshot(name, at_most=at_most)
        self._known[name] = found
        return found


class ForgetsDeletes(Liar):
    """Tells watchers only of what is there."""

    async def read_changes(self, bucket: str, *, after: int, limit: int) -> Changes:
        found = await super().read_changes(bucket, after=after, limit=limit)
        return attrs.evolve(found, changes=[change for change in found.changes if change.value is not None])


class TellsOldRevisions(Liar):
    """Tells each change with the key's newest value but every revision it ever had."""

    async def read_changes(self, bucket: str, *, after: int, limit: int) -> Changes:
        found = await super().read_changes(bucket, after=after, limit=limit)
        return attrs.evolve(found, changes=[ChangedEntry(change.key, max(after + 1, change.revision - 1), change.value) for change in found.changes])


class ShowsDeletedEntries(Liar):
    """Gives the value of a deleted key from a cache that nobody told."""

    def __init__(self, rows: MemoryMap) -> None:
        super().__init__(rows)
        self._known: dict[tuple[str, bytes], Entry] = {}

    async def get(self, bucket: str, key: bytes) -> Entry | None:
        found = await super().get(bucket, key)
        if found is not None:
            self._known[bucket, key] = found
        return found or self._known.get((bucket, key))


class MovingView(Liar):
    """A view that is the store itself."""

    @asynccontextmanager
    async def view(self) -> AsyncIterator[Any]:
        async with self.inner.view():
            yield self.inner


class EndlessView(Liar):
    """A view that nobody cuts."""

    @asynccontextmanager
    async def view(self) -> AsyncIterator[Any]:
        with self.inner._store.hold() as reader:
            yield OrderedReads(lambda fn: fn(reader), self.inner._known_types)


# -- many at once ----------------------------------------------------------------------------


class LooksBeforeItPuts(Liar):
    """Compares the revision, lets others run, and puts."""

    async def commit(self, commits: Sequence[Commit]) -> Group:
        for commit in commits:
            for write in commit.writes:
                if isinstance(write, Put | Delete) and write.expected is not ANY:
                    assert isinstance(write.key, bytes)
                    entry = await self.inner.get(write.bucket, write.key)
                    if write.expected != (entry.revision if entry else 0):
                        return await super().commit(commits)
        await trio.sleep(0)
        return await super().commit([msgspec.structs.replace(commit, writes=tuple(map(_careless_of_entries, commit.writes))) for commit in commits])


def _careless_of_entries(write: Write) -> Write:
    return write if isinstance(write, Append) else _careless(write)


class ReadsFromACache(Liar):
    """Reads an entry from the store each third time only."""

    def __init__(self, rows: MemoryMap) -> None:
        super().__init__(rows)
        self._cache: dict[tuple[str, bytes], tuple[int, Entry | None]] = {}

    async def get(self, bucket: str, key: bytes) -> Entry | None:
        times, found = self._cache.get((bucket, key), (0, None))
        if times % 3 == 0:
            found = await super().get(bucket, key)
        self._cache[bucket, key] = (times + 1, found)
        return found


class ReadsWhatIsOnItsWay(Liar):
    """Shows a stream's new events before the group is stored."""

    def __init__(self, rows: MemoryMap) -> None:
        super().__init__(rows)
        self._on_its_way = 0

    async def commit(self, commits: Sequence[Commit]) -> Group:
        dry = Honest(_copy(self.inner))
        await dry.commit(commits)
        honest, self._reads = self._reads, dry
        try:
            await trio.sleep(0)
        finally:
            self._reads = honest
        return await super().commit(commits)


# -- loading ---------------------------------------------------------------------------------


class LoadsUnderNewNumbers(Liar):
    """Gives what is loaded the positions that come next."""

    async def load(self, records: Sequence[Record]) -> None:
        head = await self.inner.head()
        await self.inner.load([with_checksum(msgspec.structs.replace(record, position=head + place)) for place, record in enumerate(records, 1)])


class LoadsDamage(Liar):
    """Makes a new checksum for whatever it is given."""

    async def load(self, records: Sequence[Record]) -> None:
        await self.inner.load([with_checksum(record) for record in records])


class CommitsWhileLoading(Honest):
    """Does not look whether what it commits to is whole."""

    def _decide_and_write(self, commits: Sequence[Commit], out: list[Decisions], writer: Writer) -> None:
        self._cache.loading, before = False, self._cache.loading
        try:
            super()._decide_and_write(commits, out, writer)
        finally:
            self._cache.loading = before


class ForgetsTheLoading(Durable):
    """Knows that it is being loaded while it runs, and opens as if it were whole."""

    async def aclose(self) -> None:
        with suppress(PerdureError):
            await self.inner.end_load()
        await super().aclose()


class NumbersEntriesAnew(Liar):
    """Gives the entries that are loaded revisions of its own."""

    async def load_rest(self, rest: Rest) -> None:
        entries = [attrs.evolve(entry, revision=place) for place, entry in enumerate(rest.entries, 1)]
        await self.inner.load_rest(attrs.evolve(rest, entries=entries))


class LoadsNoTombstones(Liar):
    """Takes what was deleted for what was never there."""

    async def load_rest(self, rest: Rest) -> None:
        await self.inner.load_rest(attrs.evolve(rest, aged=[one for one in rest.aged if isinstance(one, Answered)]))


class LoadsNoAnswers(Liar):
    """Forgets to which keys it has answered."""

    async def load_rest(self, rest: Rest) -> None:
        await self.inner.load_rest(attrs.evolve(rest, aged=[one for one in rest.aged if isinstance(one, Tombstone)]))


class OverlooksWhatIsUnwatched(Liar):
    """Finds changes of watched buckets only."""

    async def read_entries(self, *, beyond: int = 0, after: bytes = b"", limit: int, bytes_max: int) -> EntryPage:
        page = await super().read_entries(beyond=beyond, after=after, limit=limit, bytes_max=bytes_max)
        return attrs.evolve(page, entries=[entry for entry in page.entries if not (beyond and entry.bucket.startswith("$"))])


class TracesNoDeletes(Honest):
    """Notes what is put, and not what is deleted."""

    def _decide_and_write(self, commits: Sequence[Commit], out: list[Decisions], writer: Writer) -> None:
        trace = tables.read_meta(writer, tables.TRACE)
        if trace and any(isinstance(write, Delete) for commit in commits for write in commit.writes):
            tables.write_meta(writer, tables.TRACE, 0)
            self._cache_valid = False
        super()._decide_and_write(commits, out, writer)
        if trace:
            tables.write_meta(writer, tables.TRACE, trace)
            self._cache_valid = False


class ForgetsWhatIsTraced(Liar):
    """Forgets what was changed again, too."""

    async def forget_trace(self, traced: Sequence[Traced]) -> None:
        seen: list[Traced] = []
        after: bytes | None = b""
        while after is not None:
            page = await self.inner.read_trace(after=after, limit=100)
            seen, after = seen + page.traced, page.after
        names = {(one.bucket, one.key) for one in traced}
        await self.inner.forget_trace([one for one in seen if (one.bucket, one.key) in names])


class CommitsWhereItWas(Honest):
    """Does not look whether it is elsewhere."""

    def _decide_and_write(self, commits: Sequence[Commit], out: list[Decisions], writer: Writer) -> None:
        self._cache.moved, before = "", self._cache.moved
        try:
            super()._decide_and_write(commits, out, writer)
        finally:
            self._cache.moved = before


class HoldsNobody(Liar):
    """Lets commits through while they are held."""

    @asynccontextmanager
    async def hold_commits(self) -> AsyncIterator[Any]:
        yield _HeldForAMoment(self.inner)


class _HeldForAMoment:
    def __init__(self, inner: Backend) -> None:
        self._inner = inner

    async def mark(self, to: str, *, revision: int = 0) -> None:
        async with self._inner.hold_commits() as held:
            await held.mark(to, revision=revision)


class MovingMoment(Liar):
    """Reads each slice of a moment as it is by then."""

    @asynccontextmanager
    async def moment(self) -> AsyncIterator[Any]:
        async with self.inner.moment() as moment:
            store = self.inner._store
            moment._reader = _Newest(store)  # type: ignore[attr-defined]  # in place of what it began with
            yield moment


class _Newest:
    def __init__(self, store: MemoryMap) -> None:
        self._store = store

    def scan(self, table: str, start: bytes, stop: bytes | None, limit: int) -> Any:
        return self._store.read(lambda reader: reader.scan(table, start, stop, limit))


# -- waiting and closing ---------------------------------------------------------------------


class LosesWakeUps(Liar):
    """Looks, lets others run, and only then listens."""

    async def wait_beyond(self, position: Position) -> None:
        head = await self.head()
        if head <= position:
            await trio.sleep(0)
            await self.inner._store.news.wait(Moved.LOG)


class WakesForNothing(Liar):
    """Wakes followers of the log for anything that is committed."""

    async def wait_beyond(self, position: Position) -> None:
        if await self.head() <= position:
            await self.inner._store.news.wait(Moved.KV)


class GoesOnAfterClose(Liar):
    """Closes nothing."""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class ClosesOnce(Liar):
    """Refuses to be closed again."""

    async def aclose(self) -> None:
        if getattr(self, "_gone", False):
            raise Closed("this store")
        self._gone = True
        await super().aclose()


LIARS: dict[str, tuple[Callable[[MemoryMap], Backend], str]] = {
    "ack before commit": (AcknowledgesBeforeCommit, "what-was-answered-is-seen"),
    "ack of what closing loses": (LosesAtClose, "all-is-there-again"),
    "two winners": (TwoWinners, "of-two-appenders-one-wins"),
    "swallowed conflict": (SwallowsConflicts, "a-stream-is-not-as-expected"),
    "swallowed error": (SwallowsErrors, "a-closed-store-says-so"),
    "an await between the look at a revision and the put": (LooksBeforeItPuts, "histories-of-entries-are-linearizable"),
    "a cache of entries": (ReadsFromACache, "histories-of-entries-are-linearizable"),
    "reads of what is on its way": (ReadsWhatIsOnItsWay, "histories-of-appends-are-linearizable"),
    "lost wake-up": (LosesWakeUps, "no-wake-up-is-lost"),
    "wake-up for nothing": (WakesForNothing, "what-has-no-events-wakes-no-follower"),
    "a page that ends inside a commit": (EndsPagesInsideCommits, "a-page-holds-whole-commits"),
    "unordered pages": (UnorderedPages, "pages-give-everything-once"),
    "a cursor beyond what was read": (SkipsOverTheUnread, "pages-give-everything-once"),
    "revisions that come back after a delete": (RevisionsComeBack, "a-revision-never-comes-back"),
    "a steal that keeps the fence": (StealsKeepTheFence, "a-fence-is-a-revision"),
    "a fence that is not checked": (ForgetsFences, "a-fence-is-a-revision"),
    "a key answered for other content": (AnswersKeyForOtherContent, "a-key-is-not-for-other-content"),
    "a conflict kept under its key": (KeepsConflicts, "conflicts-are-decided-anew"),
    "a stale snapshot": (StaleSnapshot, "a-snapshot-is-never-stale"),
    "an engine that lets one bad commit fail its group": (OneBadCommitFailsItsGroup, "one-bad-commit-fails-alone"),
    "time that goes back": (TimeGoesBack, "time-never-goes-back"),
    "changes without deletes": (ForgetsDeletes, "changes-are-coalesced"),
    "changes of other revisions": (TellsOldRevisions, "a-change-has-its-own-value"),
    "entries that outlive their delete": (ShowsDeletedEntries, "an-entry-has-its-revision"),
    "a view that moves": (MovingView, "a-view-stands-still"),
    "a view without an end": (EndlessView, "a-view-ends"),
    "a store that is never closed": (GoesOnAfterClose, "a-closed-store-says-so"),
    "a store that is closed only once": (ClosesOnce, "closing-twice-is-closing-once"),
    "loading under new numbers": (LoadsUnderNewNumbers, "positions-may-have-gaps"),
    "loading what is damaged": (LoadsDamage, "damage-is-not-loaded"),
    "commits while it is loaded": (CommitsWhileLoading, "what-is-loaded-takes-no-commits"),
    "a loading that does not outlive its process": (ForgetsTheLoading, "loading-outlives-its-process"),
    "revisions anew": (NumbersEntriesAnew, "what-is-beside-the-log-is-loaded-as-it-was"),
    "deletes that are not brought": (LoadsNoTombstones, "what-is-beside-the-log-is-loaded-as-it-was"),
    "keys that are not brought": (LoadsNoAnswers, "what-was-loaded-counts"),
    "deletes that are not traced": (TracesNoDeletes, "a-trace-holds-what-is-changed"),
    "a change forgotten for the one before": (ForgetsWhatIsTraced, "a-trace-holds-what-is-changed"),
    "changes of states overlooked": (OverlooksWhatIsUnwatched, "changed-entries-are-found-by-revision"),
    "commits where it was": (CommitsWhereItWas, "a-moved-store-says-where-it-is"),
    "commits while they are held": (HoldsNobody, "held-commits-wait"),
    "a moment that moves": (MovingMoment, "a-moment-stands-still"),
}
"""What each does, and the law that must catch it."""


class LiarStores:
    """See `Stores`: each name keeps its rows, for liars that claim to be durable."""

    def __init__(self, make: Callable[[MemoryMap], Backend]) -> None:
        self._make = make
        self._kept: dict[str, MemoryMap] = {}

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[Backend]:
        rows = self._kept.setdefault(name, MemoryMap(Environment().ids().hex()))
        backend = self._make(rows)
        if not backend.capabilities.durable:
            backend = self._make(MemoryMap(Environment().ids().hex()))
        try:
            yield backend
        finally:
            with suppress(Closed):
                await backend.aclose()
