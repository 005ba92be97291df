"""The ring: what this process committed last, for followers that are nearly up to date. Pure.

A chain: each group follows the one before. A group that does not (another process wrote in between)
clears the ring, and it starts anew. A follower takes from it only at or beyond its floor; else it
reads the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice, takewhile
from typing import Any, Final

from perdure.backends.event import Position, Record
from perdure.backends.limits import PAGE_EXAMINED
from perdure.backends.selector import Selector

FAR: Final = 1_024
"""Groups."""
EVENT_BYTES: Final = 300
"""What an event weighs beside its payload once it is a record."""


class _Links:
    """One group: its records are made when first asked for."""

    __slots__ = ("_make", "_records", "bytes", "follows", "last")

    def __init__(self, follows: Position, last: Position, size_bytes: int, make: Callable[[], list[Record]]) -> None:
        self.follows = follows
        self.last = last
        self.bytes = size_bytes
        self._make = make
        self._records: list[Record] | None = None

    def records(self) -> list[Record]:
        if self._records is None:
            self._records = self._make()
        return self._records


class Ring:
    """At most *limit_bytes* of the newest groups."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._groups: deque[_Links] = deque()
        self._bytes = 0

    @property
    def floor(self) -> Position | None:
        """From here on followers can be served; None while it is empty."""
        return self._groups[0].follows if self._groups else None

    @property
    def last(self) -> Position | None:
        """The position it reaches to."""
        return self._groups[-1].last if self._groups else None

    @property
    def bytes(self) -> int:
        """What it holds."""
        return self._bytes

    def put(self, follows: Position, last: Position, size_bytes: int, make: Callable[[], list[Record]]) -> None:
        """Add a group that has been answered."""
        size_bytes += EVENT_BYTES * (last - follows)
        if self._groups and self._groups[-1].last != follows:
            self.clear()
        self._groups.append(_Links(follows, last, size_bytes, make))
        self._bytes += size_bytes
        while self._bytes > self._limit_bytes and self._groups:
            self._bytes -= self._groups.popleft().bytes

    def clear(self) -> None:
        """Forget everything."""
        self._groups.clear()
        self._bytes = 0

    def take(self, after: Position, limit: int, where: Selector[Any] | None) -> tuple[list[Record], Position] | None:
        """Selected records beyond *after* and how far was looked; None if the ring does not reach back so far or has nothing newer.

        Also None for a follower more than `FAR` groups behind: the log serves it better. Whole groups, soft by one of
        them; it ends after 10,000 examined records.
        """
        if not self._groups or after < self._groups[0].follows or after >= self._groups[-1].last:
            return None
        newer = list(islice(takewhile(lambda group: group.last > after, reversed(self._groups)), FAR + 1))
        if len(newer) > FAR:
            return None
        found: list[Record] = []
        types = None if where is None else where.only_types()
        examined, looked_at = after, 0
        for group in reversed(newer):
            records: Sequence[Record] = group.records()
            if group.follows < after:
                records = [record for record in records if record.position > after]
            found += records if where is None else _chosen(records, where, types)
            looked_at += len(records)
            examined = group.last
            if len(found) >= limit or looked_at >= PAGE_EXAMINED:
                break
        return found, examined


def _chosen(records: Sequence[Record], where: Selector[Any], types: frozenset[str] | None) -> list[Record]:
    if types is not None:
        return [record for record in records if record.type in types]
    return [record for record in records if where.matches(record.stream, record.type, record.tags)]
