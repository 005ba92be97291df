"""Liars about what is written: what is answered, on which conditions, under which keys and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import msgspec
import trio

from perdure.backends import fetch, tables
from perdure.backends.commit import ANY, LEASES, NEW_FENCE, Append, Commit, Committed, Delete, Fence, Group, Put, Write
from perdure.backends.engine import Decisions, decide, needs
from perdure.backends.errors import Conflict, KeyReused, PerdureError
from perdure.backends.event import Position, Record
from perdure.backends.faulty import FaultyBackend
from perdure.backends.memory import MemoryMap
from perdure.backends.protocol import Page
from perdure.backends.selector import EVERYTHING, Selector
from perdure.backends.tables import Writer

from .honest import Durable, Honest, Liar, copy_of


class AcknowledgesBeforeCommit(Liar):
    """Answers at once, and stores when the next commit comes."""

    def __init__(self, rows: MemoryMap) -> None:
        super().__init__(rows)
        self._owed: list[Commit] = []

    async def commit(self, commits: Sequence[Commit]) -> Group:
        if self._owed:
            await self.inner.commit(self._owed)
        self._owed = list(commits)
        dry = FaultyBackend(Honest(copy_of(self.inner)))
        return await dry.commit(commits)


class LosesAtClose(Durable):
    """Claims durability, and forgets the last commit when it is closed."""

    async def commit(self, commits: Sequence[Commit]) -> Group:
        self._before = copy_of(self.inner)._tables
        return await super().commit(commits)

    async def aclose(self) -> None:
        if hasattr(self, "_before"):
            self.inner._store._tables = self._before
        await super().aclose()


class TwoWinners(Liar):
    """Looks whether the expectations hold, lets others run, then writes without looking again."""

    async def commit(self, commits: Sequence[Commit]) -> Group:
        dry = await Honest(copy_of(self.inner)).commit(commits)
        await trio.sleep(0)
        if any(isinstance(answer, Conflict) for answer in dry.answers):
            return await super().commit(commits)
        return await super().commit([msgspec.structs.replace(commit, writes=tuple(careless(write) for write in commit.writes)) for commit in commits])


def careless(write: Write) -> Write:
    """The same, whatever was expected."""
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
