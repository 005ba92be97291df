"""Liars about what is read: pages, snapshots, changes, entries and views."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs

from perdure.backends.event import Position
from perdure.backends.memory import MemoryMap
from perdure.backends.ordered_reads import OrderedReads
from perdure.backends.protocol import ChangedEntry, Changes, Entry, Page, Snapshot
from perdure.backends.selector import EVERYTHING, Selector

from .honest import Liar


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
