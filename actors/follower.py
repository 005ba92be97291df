"""The one loop of all followers: a page beyond the cursor, from the ring or the log, and a wait only at the head.

There is no catch-up mode and no live mode to hand over between. Wake-ups are hints; the log is the truth.
"""

from __future__ import annotations

from typing import Any

import trio

from perdure.actors.pace import Pace
from perdure.actors.ring import Ring
from perdure.backends.errors import Rewound
from perdure.backends.event import Position, Record
from perdure.backends.protocol import Backend
from perdure.backends.selector import Selector


class Follower:
    """Reads the selected records beyond *cursor*, a page at a time; holds one page, and never slows a writer."""

    def __init__(self, backend: Backend, ring: Ring, where: Selector[Any], cursor: Position, pace: Pace) -> None:
        self.cursor = cursor
        self.head = Position(0)
        """Where the log ended when it last looked."""
        self._backend = backend
        self._ring = ring
        self._where = where
        self._choose = None if where.everything else where
        self._pace = pace
        self._unyielded = 0
        """Records handed out since other tasks had their turn."""

    @property
    def caught_up(self) -> bool:
        """Whether it had examined all there was when it last looked."""
        return self.cursor >= self.head

    def page_nowait(self) -> list[Record]:
        """What of the next page stands in the ring; nothing if none does."""
        taken = self._ring.take(self.cursor, self._pace.page_records, self._choose)
        if taken is None:
            return []
        records, self.cursor = taken
        self.head = max(self.head, self._ring.last or self.cursor)
        return records

    async def page(self) -> list[Record]:
        """The next page, which may be empty where nothing was wanted; waits at the head.

        If cancelled, the cursor has not moved.

        Raises:
          Rewound: the log ends before the cursor.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            most = self._pace.page_records
            if self._unyielded >= most:
                await trio.lowlevel.checkpoint()
                self._unyielded = 0
            before = self.cursor
            records = self.page_nowait()
            if self.cursor > before:
                self._unyielded += len(records)
                return records
            if self._ring.last == self.cursor and not waited:  # up to date, unless another process has written
                await self._backend.wait_beyond(self.cursor)
                waited = True
                continue
            page = await self._backend.read_log(after=self.cursor, limit=most, bytes_max=self._pace.page_bytes, where=self._where)
            self.head = page.head
            if page.head < self.cursor:
                raise Rewound(page.head)
            if page.examined > self.cursor:
                self.cursor = page.examined
                return page.records
            await self._backend.wait_beyond(self.cursor)
