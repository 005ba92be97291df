"""The reopenings of a store: one after the other, and none of a store that is closed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from perdure.backends.errors import Closed


class Reopenings:
    """Those of one backend. Whoever waited for its turn looks again at what is in doubt: it may be another group by then."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = trio.Lock()
        self._scope = trio.CancelScope()
        self._ended = False

    @property
    def under_way(self) -> bool:
        """Whether one is at it."""
        return self._lock.locked()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Alone in the body, which is cancelled when the store is closed.

        Raises:
          Closed: it was closed, before the body or in the middle of it.
        """
        async with self._lock:
            if not self._ended:
                with trio.CancelScope() as self._scope:  # noqa: ASYNC100 - the body is what it cuts
                    yield
            if self._ended:
                raise Closed(f"the store {self._url}")

    async def end(self) -> None:
        """Let no more begin; on return the one that was at it has let go of what it opened. Not for a cancelled caller: shield it."""
        self._ended = True
        self._scope.cancel()
        async with self._lock:
            pass
