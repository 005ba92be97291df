"""Liars about what is loaded, traced and moved to another store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import msgspec

from perdure.backends import tables
from perdure.backends.carried import Answered, EntryPage, Rest, Tombstone, Traced
from perdure.backends.commit import Commit, Delete
from perdure.backends.engine import Decisions
from perdure.backends.errors import PerdureError
from perdure.backends.event import Record
from perdure.backends.frame import with_checksum
from perdure.backends.memory import MemoryMap
from perdure.backends.protocol import Backend
from perdure.backends.tables import Writer

from .honest import Durable, Honest, Liar


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
