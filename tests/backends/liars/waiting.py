"""Liars about waiting and closing."""

from __future__ import annotations

import trio

from perdure.backends.errors import Closed
from perdure.backends.event import Position
from perdure.backends.news import Moved

from .honest import Liar


class LosesWakeUps(Liar):
    """Looks, lets others run, and only then listens."""

    async def wait_beyond(self, position: Position) -> None:
        head = await self.head()
        if head <= position:
            await trio.sleep(0)
            await self.inner._store.news.wait(Moved.LOG)


class WakesForNothing(Liar):
    """Wakes followers of the log for anything that is committed."""

    async def wait_beyond(self, position: Position) -> None:
        if await self.head() <= position:
            await self.inner._store.news.wait(Moved.KV)


class GoesOnAfterClose(Liar):
    """Closes nothing."""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class ClosesOnce(Liar):
    """Refuses to be closed again."""

    async def aclose(self) -> None:
        if getattr(self, "_gone", False):
            raise Closed("this store")
        self._gone = True
        await super().aclose()
