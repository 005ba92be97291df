"""Liars about what happens at once: they let others run where they must not."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import trio

from perdure.backends.commit import ANY, Append, Commit, Delete, Group, Put, Write
from perdure.backends.memory import MemoryMap
from perdure.backends.protocol import Entry

from .honest import Honest, Liar, copy_of
from .writing import careless


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
    return write if isinstance(write, Append) else careless(write)


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
        dry = Honest(copy_of(self.inner))
        await dry.commit(commits)
        honest, self._reads = self._reads, dry
        try:
            await trio.sleep(0)
        finally:
            self._reads = honest
        return await super().commit(commits)
