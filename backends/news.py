"""Who waits for what is committed, in one loop: followers of the log, and those of kv, told apart."""

from __future__ import annotations

import enum
from typing import Protocol

import trio

from perdure.backends.event import Position


class Moved(enum.IntFlag):
    """What a group of commits moved."""

    NOTHING = 0
    LOG = 1
    KV = 2
    CHECKPOINT = 4
    """The revision, by bare checkpoints and beats: nobody in another process is woken for them."""


class News(Protocol):
    """Wakes waiters. A wake-up is a hint: who is woken looks for itself."""

    @property
    def head(self) -> int:
        """As far as it was told."""
        ...

    async def wait(self, what: Moved) -> None:
        """Return when something of *what* may have moved since this step of the loop began; also for nothing."""
        ...

    def tell(self, moved: Moved, head: Position, revision: int) -> None:
        """A group is visible: wake who waits for what it moved. *head* and *revision* are those after it."""
        ...

    def wake_all(self) -> None:
        """Nothing was committed, but everybody shall look."""
        ...


class LocalNews:
    """`News` where no other process can write."""

    def __init__(self) -> None:
        self._lots = {Moved.LOG: trio.lowlevel.ParkingLot(), Moved.KV: trio.lowlevel.ParkingLot()}
        self.head = 0

    async def wait(self, what: Moved) -> None:
        await self._lots[what].park()

    def tell(self, moved: Moved, head: Position, revision: int) -> None:
        self.head = head
        if moved & Moved.LOG and (lot := self._lots[Moved.LOG]):
            lot.unpark_all()
        if moved & (Moved.KV | Moved.CHECKPOINT) and (lot := self._lots[Moved.KV]):
            lot.unpark_all()

    def wake_all(self) -> None:
        for lot in self._lots.values():
            lot.unpark_all()
