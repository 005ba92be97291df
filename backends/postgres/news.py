"""What tells followers that another process has committed: NOTIFY, heard by one connection for each store and loop.

It is a hint, sent after the commit: a writer that dies between the two is found out by the slow poll. Behind
a pooler nothing is heard, and only polling finds out.

Who listens has a share of an advisory lock. A writer that gets that lock alone, until the end of its transaction,
knows that nobody listens and tells nobody; who comes to listen meanwhile gets its share when that transaction is
over, and then looks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Final

import trio

from perdure.backends.errors import PerdureError
from perdure.backends.event import Position
from perdure.backends.news import Moved
from perdure.backends.postgres.session import ASK_S
from perdure.backends.postgres.wire import Lost, Question, Refused, Statement, Wire

CHANNEL: Final = "perdure."
"""Named after the store's schema: see `Statement`."""
POLL_S: Final = 0.5
"""How often a waiter looks for itself where it is told,"""
POLL_UNTOLD_S: Final = 0.05
"""and where nothing tells."""
_AGAIN_S: Final = 1.0

TELL: Final = Statement(f"SELECT set_config('synchronous_commit', 'off', true), pg_notify('{CHANNEL}', $1)", ("text",))
"""A transaction of its own that need not be flushed: a notification has an id, and would cost a flush as long as the commit's."""


def tell(wire: Wire, moved: Moved, head: int, revision: int) -> None:
    """Let others hear of a commit, where it is for anybody; nobody waits for it."""
    if moved & (Moved.LOG | Moved.KV):
        wire.tell_nowait(Question(TELL, (f"{head} {revision}".encode(),)))


def heard_by(store: str) -> int:
    """The advisory lock of those who listen to *store*."""
    return int.from_bytes(blake2b(store.encode(), digest_size=8, person=b"perdure-news").digest(), "big", signed=True)


async def listen(connect: Callable[[], Awaitable[Wire]], store: str) -> Wire:
    """A connection that listens, and is known to."""
    wire = await connect()
    try:
        await wire.ask(f'LISTEN "{CHANNEL}"', f"SELECT pg_advisory_lock_shared({heard_by(store)})", within_s=ASK_S)
    except BaseException:
        wire.close()
        raise
    return wire


class PostgresNews:
    """Wakes waiters, as `News` does. Of those that wait one listens for all; when it leaves, the next one does."""

    def __init__(self, listen: Callable[[], Awaitable[Wire]] | None, numbers: Callable[[], Awaitable[tuple[int, int]]]) -> None:
        self._listen = listen
        """Makes a connection to listen with; None: there is no use in it."""
        self._numbers = numbers
        self._wire: Wire | None = None
        self._lots = {Moved.LOG: trio.lowlevel.ParkingLot(), Moved.KV: trio.lowlevel.ParkingLot()}
        self._told = {Moved.LOG: 0, Moved.KV: 0}
        """How often each was news."""
        self._closed = False
        self._leader: trio.CancelScope | None = None
        self._leads = Moved.NOTHING
        """What the leader waits for itself."""
        self._quiet_until = 0.0
        """No connection to listen with is tried before."""
        self.head, self._revision = -1, -1

    @property
    def hears(self) -> bool:
        """Whether there is a connection that listens."""
        return self._wire is not None and not self._wire.lost

    @property
    def known(self) -> tuple[int, int]:
        """Head and revision as far as they were told, by a server that can still be heard; else -1."""
        return (self.head, self._revision) if self.hears else (-1, -1)

    # -- waiting -----------------------------------------------------------------------------

    def told(self, what: Moved) -> int:
        """How often it was news: to be asked before looking, for a look takes its time."""
        return self._told[what]

    async def wait(self, what: Moved, told: int) -> None:
        """Return when there may be news of *what* since `told` said *told*; also for nothing."""
        while self._leader is not None and not self._closed and self._told[what] == told:
            await self._lots[what].park()
        if self._told[what] != told:
            if self._leader is None:
                self._hand_over()
            await trio.lowlevel.checkpoint()
            return
        if self._closed:
            await trio.lowlevel.checkpoint()
        else:
            await self._lead(what)

    async def _lead(self, what: Moved) -> None:
        self._leads = what
        try:
            with trio.CancelScope() as self._leader:
                moved = Moved.NOTHING
                while not (moved & what or self._closed):
                    moved = await self._look()
                    self._wake(moved)
        finally:
            self._leader, self._leads = None, Moved.NOTHING
            self._hand_over()

    def _hand_over(self) -> None:
        """One of those who wait leads from now on: it finds that nobody does."""
        next((lot for lot in self._lots.values() if lot), self._lots[Moved.LOG]).unpark()

    async def _look(self) -> Moved:
        """What has moved, as soon as something is heard, or after a while."""
        if not self.hears and self._listen is not None and trio.current_time() >= self._quiet_until:
            try:
                self._wire = await self._listen()
                self.head = self._revision = -1  # of the server of before, which may have known more
                return Moved.LOG | Moved.KV  # what came before it listened was told to nobody
            except (Lost, Refused, PerdureError):
                self._quiet_until = trio.current_time() + _AGAIN_S
        try:
            if self._wire is not None and self.hears:
                heard = await self._wire.wait_told(POLL_S)
                if heard:
                    return self._compare(*_furthest(heard))
            else:
                await trio.sleep(POLL_UNTOLD_S)
            return self._compare(*await self._numbers())
        except (Lost, PerdureError):
            return Moved.NOTHING

    def _compare(self, head: int, revision: int) -> Moved:
        moved = Moved.LOG if head > self.head else Moved.NOTHING
        moved |= Moved.KV if revision > self._revision else Moved.NOTHING
        self.head, self._revision = max(self.head, head), max(self._revision, revision)
        return moved

    # -- telling -----------------------------------------------------------------------------

    def tell(self, moved: Moved, head: Position, revision: int) -> None:
        """See `News.tell`: others were told by the server."""
        self._wake(self._compare(head, revision))

    def wake_all(self) -> None:
        """See `News.wake_all`."""
        self._wake(Moved.LOG | Moved.KV)

    def _wake(self, moved: Moved) -> None:
        for what, lot in self._lots.items():
            if moved & what:
                self._told[what] += 1
                lot.unpark_all()
        if self._leader is not None and moved & self._leads:
            self._leader.cancel()

    def close(self) -> None:
        """Wake everybody, listen no more."""
        self._closed = True
        self.wake_all()
        if self._wire is not None:
            self._wire.close()


def _furthest(heard: list[str]) -> tuple[int, int]:
    numbers = [tuple(map(int, one.split())) for one in heard]
    return max(number[0] for number in numbers), max(number[1] for number in numbers)
