"""Bringing what one store holds to another that is being loaded, while the first one is in use.

The log is followed by position: each page is loaded, read back and compared, and goes into a running digest. The rest
(entries, tombstones, answers, snapshots) is laid over the target as a whole once, page by page, and then followed: entries by
revision, what ages by time. What leaves no trace when it goes (entries of unwatched buckets, forgotten tombstones) is found by
counting, and then the rest is compared as a whole once more.

Cuts come first, and none is made meanwhile (see `Moves.claim_move`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import attrs
import msgspec
import trio

from perdure.backends import keys
from perdure.backends.errors import Corrupt, Misuse
from perdure.backends.event import START, Position, Record
from perdure.backends.progress import Progress, Told, nobody
from perdure.backends.protocol import AgedPage, Answered, Backend, BucketEntry, EntryPage, Numbers, Rest, SnapshotHead, Tombstone
from perdure.runtime.carry_cuts import bring_cuts, cut_away

T = TypeVar("T")

PAGE_EVENTS: Final = 500
"""So many events are brought in one durable step, or the few more of a commit,"""
PAGE_BYTES: Final = 256 << 10
"""or so many bytes: what is done in one turn of the loop is what a live program waits for, several times in each append."""
PAGE_ROWS: Final = 500
ROUND_S: Final = 0.05
"""Who catches up in less is as near as one comes to a store in use."""
ROUNDS_MAX: Final = 20
_encode = msgspec.msgpack.Encoder().encode


class Carrier:
    """See the module. `begin`, `catch_up`; then, while nobody commits to the source, `finish`."""

    def __init__(self, source: Backend, target: Backend, progress: Told = nobody) -> None:
        self.position = START
        """So far the log is there, and equal."""
        self.events = self.entries = 0
        """What was brought: not what was there already."""
        self._source = source
        self._target = target
        self._progress = progress
        self._digest = hashlib.blake2b(digest_size=16)
        self._loaded = START
        self._over_cuts = False
        """Whether something of the log was cut."""
        self._numbers: Numbers | None = None
        """The counters of the source before the rest was read last,"""
        self._compacted: dict[str, int] = {}
        """and what it had forgotten before it was compared as a whole."""
        self._snapshots: dict[tuple[str, Position], SnapshotHead] = {}

    @property
    def digest(self) -> str:
        """Of all records up to `position`."""
        return self._digest.hexdigest()

    async def begin(self) -> None:
        """Begin to load the target, or go on with what was loaded before.

        Raises:
          Misuse: it holds something that was not loaded.
        """
        await self._target.begin_load()
        self._over_cuts = await bring_cuts(self._source, self._target)
        self._loaded = await self._target.head()

    async def catch_up(self) -> None:
        """Bring all that there is, until what comes meanwhile is little.

        Raises:
          Misuse: what was loaded before is not what the source holds.
          Corrupt: something is damaged; what was brought before it is there.
          Full: the target has no room.
        """
        for _ in range(ROUNDS_MAX):
            began = trio.current_time()
            await self._bring_log()
            await (self._compare_rest() if self._numbers is None else self._follow_rest())
            if trio.current_time() - began < ROUND_S:
                return

    async def finish(self) -> None:
        """Bring what is missing while nobody commits to the source: on return the target holds the same.

        Raises:
          Corrupt: what is read back is not what was brought.
        """
        assert self._numbers is not None, "catch_up first"
        before = self._numbers
        await self._bring_log()
        await self._follow_rest()
        if await self._has_lost_track():
            await self._compare_rest()
        await self._target.load_rest(Rest(numbers=self._numbers))
        await self._check_last(before)

    # -- the log -----------------------------------------------------------------------------

    async def _bring_log(self) -> None:
        while True:
            page = await self._source.read_log(after=self.position, limit=PAGE_EVENTS, bytes_max=PAGE_BYTES, over_cuts=self._over_cuts)
            new = [record for record in page.records if record.position > self._loaded]
            if new:
                await self._target.load(new)
                self._loaded = new[-1].position
            await self._check_page(page.records, known=len(page.records) - len(new))
            self.events += len(new)
            self.position = page.examined
            self._progress(Progress("events", self.position, page.head))
            if self.position >= page.head:
                return

    async def _check_page(self, records: Sequence[Record], *, known: int) -> None:
        """Read *records* back; the first *known* of them were there before."""
        there: list[Record] = []
        after = self.position
        while len(there) < len(records):
            page = await self._target.read_log(after=after, limit=len(records) - len(there), bytes_max=PAGE_BYTES, over_cuts=True)
            there += page.records
            after = page.examined
            if page.examined >= page.head:
                break
        if there != records:
            place = next((number for number, (one, other) in enumerate(zip(records, there, strict=False)) if one != other), len(there))
            where = records[place].position if place < len(records) else there[place].position
            if place < known or place >= len(records):
                raise Misuse(f"the target has another event at position {where} than the source: it is no earlier state of the same store; name a new place")
            raise Corrupt(f"the target at position {where}", "what is read back is not what was loaded")
        self._digest.update(b"".join(map(_encode, records)))

    # -- the rest, as a whole ----------------------------------------------------------------

    async def _compare_rest(self) -> None:
        """Make the rest of the target that of the source, whatever was there before."""
        numbers = await self._source.read_numbers()
        await self._compare(_entries, _entry_key, _put_entry, _drop_entry)
        await self._compare(_aged, _aged_key, _put_aged, _drop_aged)
        self._snapshots = _by_place(await self._target.snapshot_heads())
        await self._bring_snapshots()
        self._numbers, self._compacted = numbers, numbers.compacted

    async def _compare(
        self, read: Callable[[Backend], _Pages[T]], key: Callable[[T], object], put: Callable[[Rest, T], int], drop: Callable[[Rest, T], None]
    ) -> None:
        """Walk through both in order, and change what differs."""
        there, here = read(self._source), read(self._target)
        left, right = await there.next(), await here.next()
        step = _Step(self._target)
        while left is not None or right is not None:
            if left is None or (right is not None and key(right) < key(left)):  # type: ignore[operator]  # tuples of one shape
                assert right is not None
                drop(step.rest, right)
                await step.note(0)
                right = await here.next()
            elif right is None or key(left) < key(right):  # type: ignore[operator]  # likewise
                await step.note(put(step.rest, left))
                self._count()
                left = await there.next()
            else:
                if left != right:
                    await step.note(put(step.rest, left))
                    self._count()
                left, right = await there.next(), await here.next()
        await step.load()

    def _count(self) -> None:
        self.entries += 1
        if self.entries % PAGE_ROWS == 0:
            self._progress(Progress("entries", self.entries))

    async def _bring_snapshots(self) -> None:
        """Those that the target has not, and away with those that the source has no more."""
        wanted, step = _by_place(await self._source.snapshot_heads()), _Step(self._target)
        for place in [place for place in self._snapshots if place not in wanted]:
            step.rest.gone_snapshots.append(place)
            del self._snapshots[place]
            await step.note(0)
        for (name, position), head in wanted.items():
            if self._snapshots.get((name, position)) == head:
                continue
            snapshot = await self._source.read_snapshot(name, at_most=position)
            if snapshot is not None and snapshot.position == position:  # else it went meanwhile
                step.rest.snapshots.append(snapshot)
                self._snapshots[name, position] = SnapshotHead(name, position, snapshot.fingerprint, snapshot.at_us)
                await step.note(len(snapshot.state))
        await step.load()

    # -- the rest, as it changes -------------------------------------------------------------

    async def _follow_rest(self) -> None:
        assert self._numbers is not None
        numbers, before = await self._source.read_numbers(), self._numbers
        step = _Step(self._target)
        entries = _entries(self._source, beyond=before.revision)
        while (entry := await entries.next()) is not None:
            await step.note(_put_entry(step.rest, entry))
            self._count()
        await step.load()  # a key that was deleted since then comes after it was put
        aged = _aged(self._source, since_us=before.at_us)
        while (one := await aged.next()) is not None:
            await step.note(_put_aged(step.rest, one))
        await step.load()
        await self._bring_snapshots()
        self._numbers = numbers

    async def _has_lost_track(self) -> bool:
        """Whether something is gone from the source that left no trace."""
        assert self._numbers is not None
        if self._numbers.compacted != self._compacted or await self._source.count_unwatched() != await self._target.count_unwatched():
            return True
        return await _aged(self._source).next() != await _aged(self._target).next()

    async def _check_last(self, before: Numbers) -> None:
        """Read back what was brought since *before*."""
        for read, key in ((_entries_beyond(before.revision), _entry_key), (_aged_since(before.at_us), _aged_key)):
            wanted, found = [await _all(read(backend)) for backend in (self._source, self._target)]
            if sorted(wanted, key=key) != sorted(found, key=key):
                raise Corrupt("the target", "what is read back is not what was brought last")
        if await self._target.read_numbers() != self._numbers or _by_place(await self._target.snapshot_heads()) != self._snapshots:
            raise Corrupt("the target", "its numbers or snapshots are not those that were brought")


class _Step:
    """Gathers what is laid over the target in one durable step."""

    def __init__(self, target: Backend) -> None:
        self.rest = Rest()
        self._target = target
        self._rows = self._bytes = 0

    async def note(self, size_bytes: int) -> None:
        """Something was added to `rest`: enough is loaded at once."""
        self._rows += 1
        self._bytes += size_bytes
        if self._rows >= PAGE_ROWS or self._bytes >= PAGE_BYTES:
            await self.load()

    async def load(self) -> None:
        """Load what there is."""
        rest, self.rest, self._rows, self._bytes = self.rest, Rest(), 0, 0
        if rest:
            await self._target.load_rest(rest)


class _Pages(Generic[T]):
    """What is read page by page, one after the other."""

    def __init__(self, read: Callable[[bytes], Awaitable[tuple[Sequence[T], bytes | None]]]) -> None:
        self._read = read
        self._page: list[T] = []
        self._after: bytes | None = b""

    async def next(self) -> T | None:
        """The next one; None at the end."""
        while not self._page:
            if self._after is None:
                return None
            page, self._after = await self._read(self._after)
            self._page = list(reversed(page))
        return self._page.pop()


async def _all(pages: _Pages[T]) -> list[T]:
    found = []
    while (one := await pages.next()) is not None:
        found.append(one)
    return found


def _entries(backend: Backend, *, beyond: int = 0) -> _Pages[BucketEntry]:
    async def read(after: bytes) -> tuple[Sequence[BucketEntry], bytes | None]:
        page: EntryPage = await backend.read_entries(beyond=beyond, after=after, limit=PAGE_ROWS, bytes_max=PAGE_BYTES)
        return page.entries, page.after

    return _Pages(read)


def _aged(backend: Backend, *, since_us: int = 0) -> _Pages[Tombstone | Answered]:
    async def read(after: bytes) -> tuple[Sequence[Tombstone | Answered], bytes | None]:
        page: AgedPage = await backend.read_aged(since_us=since_us, after=after, limit=PAGE_ROWS)
        return page.aged, page.after

    return _Pages(read)


def _entries_beyond(revision: int) -> Callable[[Backend], _Pages[BucketEntry]]:
    return lambda backend: _entries(backend, beyond=revision)


def _aged_since(at_us: int) -> Callable[[Backend], _Pages[Tombstone | Answered]]:
    return lambda backend: _aged(backend, since_us=at_us)


def _entry_key(entry: BucketEntry) -> bytes:
    return keys.entry(entry.bucket, entry.key)


def _aged_key(one: Tombstone | Answered) -> bytes:
    if isinstance(one, Tombstone):
        return keys.aged(one.at_us, "tombstone", keys.entry(one.bucket, one.key))
    return keys.aged(one.kept.at_us, "key", one.id)


def _put_entry(rest: Rest, entry: BucketEntry) -> int:
    rest.entries.append(entry)
    return len(entry.value)


def _drop_entry(rest: Rest, entry: BucketEntry) -> None:
    rest.gone.append((entry.bucket, entry.key))


def _put_aged(rest: Rest, one: Tombstone | Answered) -> int:
    rest.aged.append(one)
    return 100


def _drop_aged(rest: Rest, one: Tombstone | Answered) -> None:
    if isinstance(one, Tombstone):
        rest.gone.append((one.bucket, one.key))
    else:
        rest.gone_answers.append(one.id)


def _by_place(heads: Sequence[SnapshotHead]) -> dict[tuple[str, Position], SnapshotHead]:
    return {(head.name, head.position): head for head in heads}


# -- digests ---------------------------------------------------------------------------------


@attrs.frozen
class Digests:
    """What a store holds, as two short texts: equal ones, equal stores."""

    log: str
    rest: str


async def digest_of(backend: Backend) -> Digests:
    """Read all of a store; nobody is to write meanwhile."""
    log, rest = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    cursor = START
    while True:
        page = await backend.read_log(after=cursor, limit=PAGE_EVENTS, bytes_max=PAGE_BYTES, over_cuts=True)
        log.update(b"".join(map(_encode, page.records)))
        cursor = page.examined
        if cursor >= page.head:
            break
    for one in [*await _all(_entries(backend)), *await _all(_aged(backend)), *await backend.snapshot_heads(), await backend.read_numbers()]:
        rest.update(repr(one).encode())
    for told in (await cut_away(backend)).told():
        rest.update(repr(told).encode())
    for head in await backend.snapshot_heads():
        rest.update(repr(await backend.read_snapshot(head.name, at_most=head.position)).encode())
    return Digests(log.hexdigest(), rest.hexdigest())
