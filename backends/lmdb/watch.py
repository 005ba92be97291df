"""What tells followers that another process has committed: a side file, and one watcher of it per store and loop.

The file `news`, 40 bytes, is written in one call after a commit is visible, by whoever holds the gate:

    magic 4 | version u32 | epoch u64 | head u64 | revision u64 | CRC-32 of these u32 | zero u32   (little end first)

It is a hint: a writer that dies between its commit and this write is found out by the slow poll, which
looks at the id of a real read transaction.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from zlib import crc32

import trio

from perdure.backends.event import Position
from perdure.backends.lmdb.inotify import watch
from perdure.backends.news import Moved

_BODY = struct.Struct("<4sIQQQ")
_END = struct.Struct("<II")
_MAGIC, _VERSION = b"prdN", 1
POLL_S = 0.5
"""How often a waiter looks for itself where it is told,"""
POLL_UNTOLD_S = 0.02
"""and where nothing tells."""


class SideFile:
    """The file `news` of a store; without *write* it is only read, if it is there."""

    def __init__(self, path: Path, *, write: bool = True) -> None:
        self.path = path
        self._handle: int | None = None
        with nullcontext() if write else suppress(OSError):
            self._handle = os.open(path, (os.O_RDWR | os.O_CREAT if write else os.O_RDONLY) | os.O_CLOEXEC, 0o644)
        self.epoch = 0

    def write(self, head: int, revision: int) -> None:
        """Say how far the store is. What cannot be written is found by polling."""
        body = _BODY.pack(_MAGIC, _VERSION, self.epoch, head, revision)
        if self._handle is not None:
            with suppress(OSError):
                os.pwrite(self._handle, body + _END.pack(crc32(body), 0), 0)

    def read(self) -> tuple[int, int] | None:
        """Head and revision as they were said last; None if that cannot be made out."""
        if self._handle is None:
            return None
        try:
            raw = os.pread(self._handle, _BODY.size + _END.size, 0)
        except OSError:
            return None
        if len(raw) != _BODY.size + _END.size or _END.unpack_from(raw, _BODY.size)[0] != crc32(raw[: _BODY.size]):
            return None
        magic, version, _, head, revision = _BODY.unpack_from(raw)
        return (head, revision) if (magic, version) == (_MAGIC, _VERSION) else None

    def close(self) -> None:
        """Idempotent."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class Watcher:
    """See `News`. Of those that wait one watches the file for all; when it leaves, the next one does."""

    def __init__(self, side: SideFile, last_transaction: Callable[[], int]) -> None:
        self._side = side
        self._watch = watch(side.path)
        self._poll_s = POLL_S if self._watch.tells else POLL_UNTOLD_S
        self._last_transaction = last_transaction
        self._transaction = -1
        self._lots = {Moved.LOG: trio.lowlevel.ParkingLot(), Moved.KV: trio.lowlevel.ParkingLot()}
        self._told = {Moved.LOG: 0, Moved.KV: 0}
        """How often each was news."""
        self._closed = False
        self._leader: trio.CancelScope | None = None
        self._leads = Moved.NOTHING
        """What the leader waits for itself."""
        self.head, self._revision = -1, -1

    # -- waiting -----------------------------------------------------------------------------

    async def wait(self, what: Moved) -> None:
        """See `News.wait`.

        Who is woken by news while nobody leads passes the lead on before it goes: else those who go on waiting would have nobody.
        """
        told = self._told[what]
        while self._leader is not None and not self._closed:
            await self._lots[what].park()
            if self._told[what] != told:
                if self._leader is None:
                    self._hand_over()
                return
        if not self._closed:
            await self._lead(what)

    async def _lead(self, what: Moved) -> None:
        self._leads = what
        try:
            with trio.CancelScope() as self._leader:
                moved = Moved.NOTHING
                while not (moved & what or self._closed):
                    await self._watch.wait(self._poll_s)
                    moved = self._look()
                    self._wake(moved)
        finally:
            self._leader, self._leads = None, Moved.NOTHING
            self._hand_over()

    def _hand_over(self) -> None:
        """One of those who wait leads from now on: it finds that nobody does."""
        next((lot for lot in self._lots.values() if lot), self._lots[Moved.LOG]).unpark()

    def _look(self) -> Moved:
        """What has moved since the last look."""
        if self._watch.drain() and (said := self._side.read()) is not None:
            return self._compare(*said)
        transaction = self._last_transaction()
        if transaction != self._transaction:
            self._transaction = transaction
            return Moved.LOG | Moved.KV
        return Moved.NOTHING

    def _compare(self, head: int, revision: int) -> Moved:
        moved = Moved.LOG if head != self.head else Moved.NOTHING
        moved |= Moved.KV if revision != self._revision else Moved.NOTHING
        self.head, self._revision = head, revision
        return moved

    # -- telling -----------------------------------------------------------------------------

    def tell(self, moved: Moved, head: Position, revision: int) -> None:
        """See `News.tell`: to other processes by the file, here directly."""
        if moved & (Moved.LOG | Moved.KV):
            self._side.write(head, revision)
            self._watch.drain()  # our own touch; what others did before it is told with it
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
        """Wake everybody, watch no more."""
        self._closed = True
        self.wake_all()
        self._watch.close()
