"""What lies beyond what another process keeps of a model: where nothing there is wanted, the model stands further than its checkpoint says.

An owner writes no checkpoint for events that were not wanted; so who waits here for a position looks for itself.
"""

from __future__ import annotations

from typing import Any, Final

from perdure.backends.event import START, Position
from perdure.backends.protocol import Reads
from perdure.backends.selector import Selector

PAGE_BYTES: Final = 1 << 16


class Beyond:
    """Looks each part of the log through once."""

    def __init__(self, backend: Reads, where: Selector[Any]) -> None:
        self._backend = backend
        self._where = where
        self._kept = START
        self._looked = START
        self._wanted = False
        """Whether the event beyond is one that the owner has to apply first."""

    async def reach(self, kept: Position) -> Position:
        """How far a model is that is kept up to *kept*: up to before the next event that it wants."""
        if kept != self._kept:
            self._looked = max(kept, self._looked) if kept > self._kept else kept
            self._kept, self._wanted = kept, False
        while not self._wanted:
            page = await self._backend.read_log(after=self._looked, limit=1, bytes_max=PAGE_BYTES, where=self._where)
            if page.records:
                self._looked, self._wanted = Position(page.records[0].position - 1), True
            elif page.examined <= self._looked:
                break
            else:
                self._looked = page.examined
        return self._looked
