"""Export and import: the log as CloudEvents in lines of JSON, everything of each event kept. What a line says: `cloudevents`.

Into a new store events come with the positions, seqs, ids and times that they had; the store is `loading` until the last line, so
that an import that was cut off shows, and goes on when it is begun again. Into a store that has events of its own they are
appended as new ones, each commit once, however often it is tried.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar

import attrs

from perdure.backends.commit import Append, Commit, Committed, Draft, propose
from perdure.backends.errors import Misuse, PerdureError, Truncated
from perdure.backends.event import START, Extra, Position, Record, pack_extra
from perdure.backends.limits import LIMITS, Limits
from perdure.backends.progress import Progress, Told, nobody
from perdure.backends.protocol import Backend
from perdure.backends.selector import EVERYTHING, Selector
from perdure.runtime.cloudevents import Foreign, foreign_of, from_line, to_line

T = TypeVar("T")

LOAD_EVENTS: Final = 2_000
"""So many events are loaded in one durable step, or the few more of a commit,"""
LOAD_BYTES: Final = 2 << 20
"""or so many bytes."""
GROUP_COMMITS: Final = 64
"""So many commits are appended with one flush."""

Lines = AsyncIterator[Sequence[bytes]]
"""Some lines at a time."""


@attrs.frozen
class Imported:
    """What an import did. *known* events were there already, from an attempt before."""

    events: int
    known: int
    head: Position


class BadLine(Misuse):
    """A line that cannot be imported. What stands before it, up to the last whole commit, is stored."""


def _parsed(number: int, raw: bytes, parse: Callable[[bytes], T]) -> T | BadLine:
    try:
        return parse(raw)
    except PerdureError as error:
        bad = BadLine(f"line {number}: {error}")
        bad.__cause__ = error
        return bad


# -- export ----------------------------------------------------------------------------------


async def export(
    backend: Backend,
    write: Callable[[bytes], object],
    *,
    after: Position = START,
    where: Selector[object] = EVERYTHING,
    over_cuts: bool = False,
    limits: Limits = LIMITS,
    progress: Told = nobody,
) -> int:
    """Give *write* the lines of all events beyond *after* that *where* selects, up to where the log ends now; how many they were.

    With *over_cuts* what is left of them; a stream of which nothing is left does not show.

    Raises:
      Rewound: *after* is beyond the head.
      Truncated: some of them have been cut.
      Corrupt: an event does not fit its checksum; those before it have been written.
    """
    head, count, cursor = await backend.head(), 0, after
    while True:
        try:
            page = await backend.read_log(after=cursor, limit=limits.page_records, bytes_max=limits.page_bytes, where=where, over_cuts=over_cuts)
        except Truncated as error:
            error.remedy = f"--over-cuts (over_cuts=True) exports what is left, --after {error.position} what comes after the cut"
            raise
        records = [record for record in page.records if record.position <= head]
        for record in records:
            write(to_line(record) + b"\n")
        count, cursor = count + len(records), page.examined
        progress(Progress("events", min(cursor, head), head))
        if cursor >= head:
            return count


# -- import into a new store -----------------------------------------------------------------


async def import_new(backend: Backend, lines: Lines, *, anew: bool = False, progress: Told = nobody) -> Imported:
    """Load the events of *lines*, an export as a whole, into *backend*, which is new and was opened for loading.

    What an import that was cut off has loaded is not loaded again, unless *anew*. If cancelled or failed, the store says
    that it is being loaded: import into it again.

    Raises:
      BadLine: naming the line; what stands before it is loaded.
      Misuse: the store has events of its own.
      Unsupported: it cannot be loaded.
    """
    await backend.begin_load(anew=anew)
    loading = _Loading(backend, await backend.head(), progress)
    await loading.run(lines)
    loading.check_met()
    await backend.end_load()
    return Imported(loading.events, loading.known, await backend.head())


async def _each(lines: Lines, take: Callable[[int, bytes], Awaitable[None]], told: Callable[[], object]) -> None:
    """Every line that says something is taken, with its number; after each piece of *lines* it is told how far that is."""
    number = 0
    async for some in lines:
        for raw in some:
            number += 1
            if raw.strip():
                await take(number, raw)
        told()


class _Loading:
    """Gathers whole commits, and loads them when they are many."""

    def __init__(self, backend: Backend, start: Position, progress: Told) -> None:
        self.start = start
        self.met = not start
        """Whether the last event that was loaded before has been seen among the lines."""
        self.events = self.known = 0
        self._backend = backend
        self._progress = progress
        self._records: list[Record] = []
        self._numbers: list[int] = []
        """Their lines."""
        self._bytes = 0

    async def run(self, lines: Lines) -> None:
        await _each(lines, self._take, lambda: self._progress(Progress("events", self.events + self.known)))
        await self._load()

    async def _take(self, number: int, raw: bytes) -> None:
        record = _parsed(number, raw, from_line)
        if isinstance(record, BadLine):
            await self._load(whole=False)
            raise record
        if record.position <= self.start:
            await self._check_known(number, record)
            return
        self.check_met()
        if self._records and record.commit != self._records[-1].commit and (len(self._records) >= LOAD_EVENTS or self._bytes >= LOAD_BYTES):
            await self._load()
        self._records.append(record)
        self._numbers.append(number)
        self._bytes += len(raw)

    def check_met(self) -> None:
        """What was loaded before is at the beginning of these lines.

        Raises:
          BadLine: it is not.
        """
        if not self.met:
            raise BadLine(f"the store has been loaded up to position {self.start} before, which these lines do not have: import the same ones, or anew")

    async def _check_known(self, number: int, record: Record) -> None:
        """The last event that was loaded before is the same one."""
        self.known += 1
        if record.position == self.start:
            page = await self._backend.read_log(after=Position(self.start - 1), limit=1, bytes_max=1, over_cuts=True)
            if record not in page.records:
                raise BadLine(f"line {number}: another event has been loaded at position {self.start} before: import the same lines, or anew")
            self.met = True

    async def _load(self, *, whole: bool = True) -> None:
        """Load what was gathered; not *whole*: the last commit may go on, so it stays."""
        records, numbers = self._records, self._numbers
        self._records, self._numbers, self._bytes = [], [], 0
        if not whole and records:
            records = [record for record in records if record.commit != records[-1].commit]
        if not records:
            return
        try:
            await self._backend.load(records)
        except Misuse as error:
            raise BadLine(f"lines {numbers[0]} to {numbers[len(records) - 1]}: {error}") from error
        self.events += len(records)


# -- appending as new events -----------------------------------------------------------------


async def import_append(backend: Backend, lines: Lines, *, ids: Callable[[], bytes], limits: Limits = LIMITS, progress: Told = nobody) -> Imported:
    """Append the events of *lines* to *backend* as new ones: with positions, seqs and times of their own, their ids and what they are kept.

    When they happened is in `occurred`. Each commit has a key, so that one that is there already, of an attempt in the last
    `limits.keys_kept_s`, is not stored again. If cancelled or failed, begin again.

    Raises:
      BadLine: naming the line; what stands before it is stored.
    """
    appending = _Appending(backend, await backend.head(), ids, limits, progress)
    await appending.run(lines)
    return Imported(appending.events, appending.known, await backend.head())


@attrs.define
class _Draft:
    """A commit that is being gathered, and the lines that it comes from."""

    name: bytes
    first_line: int
    events: list[Foreign]
    last_line: int


class _Appending:
    """Gathers commits, and commits many with one flush."""

    def __init__(self, backend: Backend, before: Position, ids: Callable[[], bytes], limits: Limits, progress: Told) -> None:
        self.events = self.known = 0
        self._backend = backend
        self._before = before
        self._ids = ids
        self._limits = limits
        self._progress = progress
        self._drafts: list[_Draft] = []

    async def run(self, lines: Lines) -> None:
        await _each(lines, self._take, lambda: self._progress(Progress("events", self.events + self.known)))
        await self._commit(self._drafts)

    async def _take(self, number: int, raw: bytes) -> None:
        event = _parsed(number, raw, foreign_of)
        if isinstance(event, BadLine):
            await self._commit(self._drafts[:-1])  # the last one may go on
            raise event
        name = event.commit or hashlib.blake2b(event.name, digest_size=16, person=b"perdure-import").digest()
        if self._drafts and self._drafts[-1].name == name:
            self._drafts[-1].events.append(event)
            self._drafts[-1].last_line = number
            return
        if len(self._drafts) >= GROUP_COMMITS:
            drafts, self._drafts = self._drafts, []
            await self._commit(drafts)
        self._drafts.append(_Draft(name, number, [event], number))

    async def _commit(self, drafts: Sequence[_Draft]) -> None:
        if not drafts:
            return
        at_us = await self._backend.now_us()
        ready: list[tuple[_Draft, Commit]] = []
        refused: PerdureError | None = None
        for draft in drafts:
            try:
                ready.append((draft, self._proposed(draft, at_us)))
            except PerdureError as error:
                refused = _bad(draft, error)
                refused.__cause__ = error
                break
        if ready:
            group = await self._backend.commit([commit for _, commit in ready])
            for (draft, _), answer in zip(ready, group.answers, strict=True):
                if not isinstance(answer, Committed):
                    raise _bad(draft, answer) from answer
                self._count(draft, answer)
        if refused is not None:
            raise refused

    def _proposed(self, draft: _Draft, at_us: int) -> Commit:
        streams: dict[str, list[Draft]] = {}
        for event in draft.events:
            streams.setdefault(event.stream, []).append(_draft(event))
        writes = [Append(stream, events) for stream, events in streams.items()]
        return propose(writes, id=self._ids(), at_us=at_us, key=b"import " + draft.name, limits=self._limits)

    def _count(self, draft: _Draft, answer: Committed) -> None:
        if answer.position is not None and answer.position <= self._before:
            self.known += len(draft.events)
        else:
            self.events += len(draft.events)


def _draft(event: Foreign) -> Draft:
    extra: Extra = event.extra
    return Draft(event.type, event.version, event.payload, pack_extra(extra), extra.tags)


def _bad(draft: _Draft, error: PerdureError) -> BadLine:
    where = f"line {draft.first_line}" if draft.first_line == draft.last_line else f"lines {draft.first_line} to {draft.last_line}"
    return BadLine(f"{where}: {error}")
