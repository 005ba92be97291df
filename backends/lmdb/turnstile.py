"""The turnstile: who writes next, among several processes, by two advisory locks that are tried and never waited in.

    take next, then take the gate, then let next go; write; let the gate go.

The last holder cannot overtake: while it wrote, another has taken `next` and stands before the gate.
LMDB's own lock is taken by whoever holds the gate and nobody else, so no thread is ever parked in it.
A holder that dies lets go (the kernel sees to that); one that is frozen is named by its pid once
`gate_s` is over, and then nothing was begun.

Waiting is a sleep of the loop: ended by a touch of the file `turn` where inotify tells, by a short
timeout elsewhere, and when the holder died without one.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import trio

from perdure.backends.errors import Closed, Unavailable
from perdure.backends.lmdb.files import FileLock
from perdure.backends.lmdb.inotify import Watch, watch

_QUICK = 3
"""So often it is tried again at once, a round of the loop apart: `next` is mostly held for microseconds."""
_POLL_S = 0.005
REMEDY = "it may be frozen or stopped; let it go on, or end it"


class Turnstile:
    """One writer's place in the queue; each handle of a store has its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = FileLock(folder / "next.lock")
        self._gate = FileLock(folder / "gate.lock")
        self._turn = folder / "turn"
        self._touch: int | None = os.open(self._turn, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._watch: Watch | None = None
        self._refuses = False

    async def take(self, limit_s: float) -> None:
        """Get the right to write. If cancelled, it was not got, and nobody stands in the way.

        Raises:
          Unavailable: not within *limit_s*; the message names the process that has it. Or the locks cannot be asked for.
          Closed: it is being closed.
        """
        got = False
        try:
            await self._take(trio.current_time() + limit_s)
            got = True
        except OSError as error:
            raise Unavailable(f"the locks of {self._folder} cannot be taken: {error.strerror or error}") from error
        finally:
            if not got:
                self._next.let_go()
                self._gate.let_go()
                self._tell()

    async def _take(self, deadline: float) -> None:
        if self._next.take():
            self._next.write_pid()
            if self._gate.take():
                self._gate.write_pid()
                self._next.let_go()
                return
        else:
            await self._wait_for(self._next, deadline)
        await self._wait_for(self._gate, deadline)
        self._next.let_go()
        self._tell()

    def let_go(self) -> None:
        """Give the right back."""
        self._gate.let_go()
        self._tell()

    def _tell(self) -> None:
        if self._touch is not None:
            with suppress(OSError):  # then they look by the clock
                os.pwrite(self._touch, b"\n", 0)

    async def _wait_for(self, lock: FileLock, deadline: float) -> None:
        tries = 0
        while not lock.take():
            if self._refuses:
                raise Closed(f"the store {self._folder}")
            if trio.current_time() >= deadline:
                raise Unavailable(f"process {self._who(lock)} has the right to write to {self._folder} and keeps it: {REMEDY}")
            tries += 1
            if tries <= _QUICK:
                await trio.lowlevel.checkpoint()
            else:
                await self._wait_touched()
        lock.write_pid()

    def _who(self, lock: FileLock) -> str:
        """The pid of who keeps us out: not of one that itself waits for the gate."""
        if lock is self._next and not self._gate.take():
            return self._gate.read_pid()
        if lock is self._next:
            self._gate.let_go()
        return lock.read_pid()

    async def _wait_touched(self) -> None:
        if self._watch is None:
            self._watch = watch(self._turn)
        await self._watch.wait(_POLL_S)
        self._watch.drain()

    def refuse(self) -> None:
        """Who waits gets `Closed` within a few milliseconds."""
        self._refuses = True

    def close(self) -> None:
        """Let go of everything; nobody waits. Idempotent."""
        self._next.close()
        self._gate.close()
        if self._touch is not None:
            os.close(self._touch)
            self._touch = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None
