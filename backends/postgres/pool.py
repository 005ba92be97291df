"""Connections to read with: one for each reader at a time, kept for the next one; and patience while there is none to be had."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from perdure.backends.postgres.wire import Wire

IDLE_MAX = 8
"""So many are kept."""


class Pool:
    """See the module."""

    def __init__(self, connect: Callable[[], Awaitable[Wire]], most: int) -> None:
        self._connect = connect
        self._room = trio.Semaphore(most)
        self._idle: list[Wire] = []
        self._used: set[Wire] = set()
        self._closed = False

    @asynccontextmanager
    async def wire(self) -> AsyncIterator[Wire]:
        """A connection, as long as the block lasts.

        Raises:
          Lost: there is none to be had.
        """
        await self._room.acquire()
        try:
            wire = self._idle.pop() if self._idle else await self._connect()
        except BaseException:
            self._room.release()
            raise
        self._used.add(wire)
        try:
            yield wire
        finally:
            self.take_back(wire)

    def lend_nowait(self) -> Wire | None:
        """A connection that nobody uses, to be given to `take_back`; None if there is none."""
        if not self._idle or self._closed:
            return None
        try:
            self._room.acquire_nowait()
        except trio.WouldBlock:
            return None
        wire = self._idle.pop()
        self._used.add(wire)
        return wire

    def take_back(self, wire: Wire) -> None:
        """It is not used any more."""
        self._room.release()
        self._used.discard(wire)
        if wire.lost:
            self.drop_idle()  # they are of the same server
        elif self._closed or len(self._idle) >= IDLE_MAX:
            wire.close()
        else:
            self._idle.append(wire)

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self._idle) + len(self._used)

    def drop_idle(self) -> None:
        """Close those that nobody uses."""
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        """Close all; who reads is told that its connection is lost."""
        self._closed = True
        self.drop_idle()
        for wire in list(self._used):
            wire.close()
