"""A hold that follows a place kept in another database: so that no cut passes it.

It is durable before anything is read from there, stands never beyond what is committed there, and behind it by a minute at most, so it costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from perdure.backends.commit import HOLDS, Committed, Put, Write
from perdure.backends.errors import Conflict, Full, InDoubt, Unavailable
from perdure.backends.event import START, Position
from perdure.backends.held import Hold, held_at, pack_hold
from perdure.backends.protocol import Backend

EVERY_S: Final = 60.0
"""It is moved at most so often,"""
EVENTS: Final = 100_000
"""or when it is behind by so many."""


class HeldPlace:
    """The hold of one follower, under *name*; *commit* is of whoever owns it, a conflict of that means that another does by now."""

    def __init__(self, name: str, backend: Backend, commit: Callable[[list[Write]], Awaitable[Committed | Conflict]], why: str) -> None:
        self._key = name.encode()
        self._backend = backend
        self._commit = commit
        self._why = why
        self._position = START
        self._moved_at_s = float("-inf")

    async def begin(self) -> bool:
        """See to it that there is one, at the start if there was none; False if it is another's."""
        entry = await self._backend.get(HOLDS, self._key)
        held = None if entry is None else held_at(entry.value)
        self._moved_at_s = float("-inf")
        if held is None:
            return await self._put(START)
        self._position = Position(held)
        return True

    async def stand(self, position: Position) -> bool:
        """Stand at *position* or before it, whatever was; False if it is another's. It moves back where the other database was, or was made anew."""
        if self._position > position:
            return await self._put(position)
        await self.follow(position)
        return True

    async def follow(self, position: Position, *, now: bool = False) -> None:
        """Let go what lies before *position*, which is committed, if that is due or is asked for *now*. What the store does not take is tried later."""
        if position <= self._position:
            return
        if now or position - self._position >= EVENTS or trio.current_time() >= self._moved_at_s + EVERY_S:
            try:
                await self._put(position)
            except (Unavailable, InDoubt, Full):
                self._moved_at_s = trio.current_time()  # what is in doubt is no further than what is committed

    async def _put(self, position: Position) -> bool:
        answer = await self._commit([Put(HOLDS, self._key, pack_hold(Hold(position, self._why)))])
        if isinstance(answer, Conflict):
            return False
        self._position, self._moved_at_s = position, trio.current_time()
        return True
