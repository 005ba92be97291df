"""Backends that are broken on purpose in how they cut: the laws of cuts must catch every one of them. See `liars`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import msgspec

from perdure.backends import fetch
from perdure.backends.commit import Commit, Cut, Group
from perdure.backends.engine import Decisions
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Conflict, Truncated
from perdure.backends.event import Position, Record
from perdure.backends.faulty import FaultyBackend, FaultyReads
from perdure.backends.memory import MemoryMap
from perdure.backends.ordered import OrderedBackend
from perdure.backends.protocol import Backend, Capabilities, CutBound, Page, StreamInfo
from perdure.backends.selector import EVERYTHING, Selector
from perdure.backends.stream_row import read_row
from perdure.backends.tables import Writer


class Honest(OrderedBackend):
    """What they are made of, durable in that its map outlives it."""

    def __init__(self, rows: MemoryMap) -> None:
        capabilities = Capabilities(loads=True, images=True, cuts=True)
        super().__init__(rows, url="liar:", capabilities=capabilities, environment=Environment(threads=InlineThreads()))


class Liar(FaultyBackend):
    """Around an honest store in memory."""

    def __init__(self, rows: MemoryMap) -> None:
        super().__init__(Honest(rows))
        self.rows = rows._tables._tables


class Durable(Liar):
    """One that claims to be durable, too."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(durable=True, loads=True, images=True, cuts=True)


def _names(commits: Sequence[Commit]) -> list[str]:
    return [write.stream for commit in commits for write in commit.writes if isinstance(write, Cut)]


class ForgetsTheEnd(Liar):
    """Takes a stream of which nothing is left for one that never was."""

    async def commit(self, commits: Sequence[Commit]) -> Group:
        group = await super().commit(commits)
        for name in _names(commits):
            info = await self.inner.stream(name)
            if info is not None and info.first > info.last:
                self.rows["streams"].pop(name.encode())
        return group


class LosesAtClose(Durable):
    """Keeps the cuts of streams in memory, and nowhere else."""

    async def commit(self, commits: Sequence[Commit]) -> Group:
        before = dict(self.rows["streams"])
        group = await super().commit(commits)
        self._owed = {name.encode(): before[name.encode()] for name in _names(commits) if name.encode() in before} or getattr(self, "_owed", {})
        return group

    async def aclose(self) -> None:
        self.rows["streams"].update(getattr(self, "_owed", {}))
        await super().aclose()


class ReadsFromTheFirst(Liar):
    """Gives what is left of a stream to who asks for all of it."""

    async def read_stream(self, stream: str, *, after: int, limit: int, bytes_max: int, backward: bool = False) -> list[Record]:
        try:
            return await super().read_stream(stream, after=after, limit=limit, bytes_max=bytes_max, backward=backward)
        except Truncated as error:
            if backward:
                return []
            return await super().read_stream(stream, after=error.first - 1, limit=limit, bytes_max=bytes_max)


class ForgetsArchives(Liar):
    """Does not say where it is now."""

    async def read_stream(self, stream: str, *, after: int, limit: int, bytes_max: int, backward: bool = False) -> list[Record]:
        try:
            return await super().read_stream(stream, after=after, limit=limit, bytes_max=bytes_max, backward=backward)
        except Truncated as error:
            raise Truncated(error.stream, error.first) from None


class LeavesOut(Liar):
    """Gives what is left of the log to who asks for all of it."""

    async def read_log(
        self, *, after: Position, limit: int, bytes_max: int, where: Selector[Any] = EVERYTHING, over_cuts: bool = False
    ) -> Page:
        return await super().read_log(after=after, limit=limit, bytes_max=bytes_max, where=where, over_cuts=True)


class RefusesEverybody(Liar):
    """Refuses who would have missed nothing, too."""

    async def read_log(
        self, *, after: Position, limit: int, bytes_max: int, where: Selector[Any] = EVERYTHING, over_cuts: bool = False
    ) -> Page:
        if not over_cuts:
            await super().read_log(after=after, limit=1, bytes_max=1)
        return await super().read_log(after=after, limit=limit, bytes_max=bytes_max, where=where, over_cuts=over_cuts)


class _OtherFacts(Honest):
    """Decides over other facts than there are."""

    def _decide_and_write(self, commits: Sequence[Commit], out: list[Decisions], writer: Writer) -> None:
        real = fetch.facts
        fetch.facts = lambda reader, cache, wanted: self._changed(real(reader, cache, wanted))  # type: ignore[assignment]  # for this group
        try:
            super()._decide_and_write(commits, out, writer)
        finally:
            fetch.facts = real

    def _changed(self, facts: Any) -> Any:
        raise NotImplementedError


class AsksNobody(_OtherFacts):
    """Looks at no place of a consumer."""

    def _changed(self, facts: Any) -> Any:
        facts.holds.clear()
        return facts


class AsksAsItWas(_OtherFacts):
    """Does not see who registers in the same group."""

    def _changed(self, facts: Any) -> Any:
        facts.holds = _Unchanging(facts.holds)
        return facts


class _Unchanging(dict[Any, int]):
    def __setitem__(self, key: Any, value: int) -> None:
        pass

    def pop(self, key: Any, default: Any = None) -> Any:
        return default


class JudgesWhatIsLeft(_OtherFacts):
    """Lets a condition hold where a match may have been cut."""

    def _changed(self, facts: Any) -> Any:
        facts.conditions = {query: None if isinstance(found, Truncated) else found for query, found in facts.conditions.items()}
        return facts


class CutsAnyway(Liar):
    """Cuts, whatever becomes of the rest of the commit."""

    async def commit(self, commits: Sequence[Commit]) -> Group:
        group = await super().commit(commits)
        for commit, answer in zip(commits, group.answers, strict=True):
            cuts = tuple(write for write in commit.writes if isinstance(write, Cut))
            if isinstance(answer, Conflict) and cuts and len(cuts) < len(commit.writes):
                await super().commit([msgspec.structs.replace(commit, id=bytes(16), key=None, writes=cuts)])
        return group


class CutsBeyondTheEnd(Liar):
    """Takes a cut of more than there is for one of all."""

    async def commit(self, commits: Sequence[Commit]) -> Group:
        return await super().commit([msgspec.structs.replace(commit, writes=tuple([await self._bounded(w) for w in commit.writes])) for commit in commits])

    async def _bounded(self, write: Any) -> Any:
        info = await self.inner.stream(write.stream) if isinstance(write, Cut) and isinstance(write.first, int) else None
        return write if info is None or write.first <= info.last + 1 else attrs.evolve(write, first=info.last + 1)


class SweepsTooMuch(Liar):
    """Takes one event more than was cut."""

    async def maintain(self) -> bool:
        rows = self.rows["streams"]
        before = dict(rows)
        for name, value in before.items():
            row = read_row(name, value)
            if row.cut and not row.emptied:
                rows[name] = attrs.evolve(row, first=row.first + 1).packed(name)
        more = await super().maintain()
        rows.update({name: value for name, value in before.items() if name in rows})
        return more


class SweepsKeys(Liar):
    """Forgets commits with what they appended, whoever has a key."""

    async def maintain(self) -> bool:
        tables_ = self.rows
        if any(read_row(name, value).cut for name, value in tables_["streams"].items()):
            tables_["keys"].clear()
            tables_["ages"].clear()
        return await super().maintain()


class MovingView(Liar):
    """Its views see what is cut later."""

    @asynccontextmanager
    async def view(self) -> AsyncIterator[FaultyReads]:
        yield self


class LoadsWithoutArchives(Liar):
    """Takes over where streams begin, and not where the rest is."""

    async def load_cuts(self, streams: Sequence[StreamInfo], cuts: Sequence[CutBound]) -> None:
        await super().load_cuts([attrs.evolve(stream, archive=None) for stream in streams], cuts)


class TellsOfTheNewest(Liar):
    """Says how far it was cut, not how often."""

    async def cuts(self) -> list[CutBound]:
        return [attrs.evolve(bound, times=1) for bound in await super().cuts()]


class Undeclared(Liar):
    """Cuts, and does not say that it can."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(loads=True, images=True)


LIARS: dict[str, tuple[Callable[[MemoryMap], Backend], str]] = {
    "a cut that forgets the last seq": (ForgetsTheEnd, "what-was-emptied-goes-on"),
    "a cut that closing loses": (LosesAtClose, "cuts-outlive-closing"),
    "a stream that begins where it was cut": (ReadsFromTheFirst, "before-the-first-is-truncated"),
    "an archive that nobody is told of": (ForgetsArchives, "before-the-first-is-truncated"),
    "a log that leaves out what was cut": (LeavesOut, "a-reader-of-the-log-is-told"),
    "a log that is cut for everybody": (RefusesEverybody, "a-reader-of-the-log-is-told"),
    "a cut that asks no consumer": (AsksNobody, "a-cut-stops-at-consumers"),
    "a cut that does not see who registers in its group": (AsksAsItWas, "a-cut-stops-at-consumers"),
    "a cut behind another that nobody sees": (TellsOfTheNewest, "each-cut-is-told"),
    "a condition judged over what is left": (JudgesWhatIsLeft, "conditions-know-of-cuts"),
    "a cut without its commit": (CutsAnyway, "a-cut-is-of-its-commit"),
    "a cut beyond the end": (CutsBeyondTheEnd, "cuts-are-judged"),
    "a sweep that takes too much": (SweepsTooMuch, "a-cut-moves-the-first"),
    "a sweep that takes keys": (SweepsKeys, "what-is-expected-stays"),
    "a view that sees later cuts": (MovingView, "a-view-does-not-see-later-cuts"),
    "a loading that forgets archives": (LoadsWithoutArchives, "cuts-are-loaded"),
    "cuts that are not declared": (Undeclared, "cuts-are-declared"),
}
"""What each does, and the law that must catch it."""
