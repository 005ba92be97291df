"""What tells waiters that the store has moved: one answer that goes on (server-sent events), heard for all of them.

Of those that wait one listens for all; when it leaves, the next one does. What is told is where the store is, so a
hint that was missed is made good by the next one, and by the first line of a new connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from perdure.backends.errors import Closed, Unavailable
from perdure.backends.http.session import Listening, Lost

AGAIN_S = (0.05, 2.0)
"""Before it is listened again after a failure: at first, and at most."""


class HttpNews:
    """Where the store is, as far as it was told."""

    def __init__(self, listen: Callable[[], Awaitable[Listening]]) -> None:
        self._listen = listen
        self._listening: Listening | None = None
        self._lot = trio.lowlevel.ParkingLot()
        self._left = trio.lowlevel.ParkingLot()
        self._leader: trio.CancelScope | None = None
        self._pause_s = AGAIN_S[0]
        self._closed = False
        self.head, self.revision = 0, 0
        self.connects = 0

    async def wait(self, done: Callable[[int, int], bool]) -> None:
        """Return when *done* of head and revision.

        Raises:
          Closed: the store was closed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not done(self.head, self.revision):
            if self._closed:
                raise Closed("the store")
            if self._leader is not None:
                await self._lot.park()
            else:
                await self._lead(done)
        if self._leader is None:
            self._lot.unpark()
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def _lead(self, done: Callable[[int, int], bool]) -> None:
        try:
            with trio.CancelScope() as self._leader:
                while not (self._closed or done(self.head, self.revision)):
                    await self._look()
        finally:
            self._leader = None
            self._lot.unpark()
            self._left.unpark_all()

    async def _look(self) -> None:
        """Hear one line more; after a failure a while passes."""
        line: bytes | None = None
        try:
            if self._listening is None:
                self._listening = await self._listen()
                self.connects += 1
            line = await anext(self._listening)
        except (Lost, Unavailable):
            pass
        finally:
            if line is None:
                await self._hang_up()  # noqa: ASYNC102 - shielded, and it has a limit
        if line is None:
            await trio.sleep(self._pause_s)
            self._pause_s = min(self._pause_s * 2, AGAIN_S[1])
        elif line.startswith(b"data: "):
            self._pause_s = AGAIN_S[0]
            head, _, revision = line.removeprefix(b"data: ").partition(b" ")
            if head.isdigit() and revision.isdigit():
                self.tell(int(head), int(revision))

    def tell(self, head: int, revision: int) -> None:
        """It is at least there."""
        if head > self.head or revision > self.revision:
            self.head, self.revision = max(self.head, head), max(self.revision, revision)
            self._lot.unpark_all()

    async def _hang_up(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            await listening.aclose()

    async def aclose(self) -> None:
        """Tell everybody that there is nothing more."""
        self._closed = True
        self._lot.unpark_all()
        while self._leader is not None:
            self._leader.cancel()
            await self._left.park()
        await self._hang_up()
