"""Reading a store page by page, and laying over another one step by step: what bringing and comparing stores is made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from perdure.backends import keys
from perdure.backends.carried import Answered, BucketEntry, Rest, Tombstone
from perdure.backends.protocol import Backend

T = TypeVar("T")
Aged = Tombstone | Answered

PAGE_EVENTS: Final = 500
"""So many events are brought in one durable step, or the few more of a commit,"""
PAGE_BYTES: Final = 256 << 10
"""or so many bytes: what is done in one turn of the loop is what a live program waits for, several times in each append."""
PAGE_ROWS: Final = 500


class Pages(Generic[T]):
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

    async def all(self) -> list[T]:
        """All that are left."""
        found = []
        while (one := await self.next()) is not None:
            found.append(one)
        return found


class Step:
    """Gathers what is laid over a store in one durable step."""

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


def entry_pages(backend: Backend) -> Pages[BucketEntry]:
    """All entries, in order of bucket and key."""

    async def read(after: bytes) -> tuple[Sequence[BucketEntry], bytes | None]:
        page = await backend.read_entries(after=after, limit=PAGE_ROWS, bytes_max=PAGE_BYTES)
        return page.entries, page.after

    return Pages(read)


def aged_pages(backend: Backend, *, since_us: int = 0) -> Pages[Aged]:
    """What ages, in order of its time."""

    async def read(after: bytes) -> tuple[Sequence[Aged], bytes | None]:
        page = await backend.read_aged(since_us=since_us, after=after, limit=PAGE_ROWS)
        return page.aged, page.after

    return Pages(read)


def entry_key(entry: BucketEntry) -> bytes:
    """By it `entry_pages` are in order."""
    return keys.entry(entry.bucket, entry.key)


def aged_key(one: Aged) -> bytes:
    """By it `aged_pages` are in order."""
    if isinstance(one, Tombstone):
        return keys.aged(one.at_us, "tombstone", keys.entry(one.bucket, one.key))
    return keys.aged(one.kept.at_us, "key", one.id)
