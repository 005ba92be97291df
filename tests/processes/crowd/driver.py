"""Starts, kills, freezes and collects the members of a crowd; every wait is bounded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from crowd.domain import Done
from crowd.laws import Logged
from crowd.notes import Note, Reading
from crowd.options import Options, write_options
from perdure.runtime import Event, of, open_runtime

HERE = Path(__file__).resolve().parent.parent
WITHIN_S = 30.0
"""So long anything may take that a test waits for, unless it says otherwise."""
LOOK_EVERY_S = 0.005


@attrs.define(eq=False)
class Member:
    """One life of a process of the crowd."""

    options: Options
    process: trio.Process
    reading: Reading
    errors: Path
    frozen: list[tuple[int, int]] = attrs.field(factory=list)
    """When it was frozen, from and until (nanoseconds)."""
    killed_ns: int = 0
    asked_to_end: bool = False
    _frozen_ns: int = 0

    @property
    def pid(self) -> int:
        """Of its process."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended, and not been killed."""
        return not self.killed_ns and self.process.returncode is None

    def of(self, *kinds: str) -> list[Note]:
        """Its notes of these kinds."""
        return self.reading.of(*kinds)

    async def noted(self, kind: str, count: int = 1, within_s: float = WITHIN_S) -> list[Note]:
        """Its notes of that kind, as soon as there are so many."""
        await wait_until(lambda: self._seen(kind) >= count or self._check_alive(), f"{self.options.by} to note {kind} {count} times", within_s)
        return self.of(kind)

    def _seen(self, kind: str) -> int:
        self.reading.fresh()
        return self.reading.seen[kind]

    def _check_alive(self) -> bool:
        assert self.killed_ns or self.process.returncode in (None, 0), f"{self.options.by} has ended: {self.errors.read_text()}"
        return False

    # -- what is done to it ------------------------------------------------------------------

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.killed_ns = time.monotonic_ns()
        self.process.send_signal(signal.SIGKILL)
        with trio.fail_after(WITHIN_S):
            await self.process.wait()
        self._note_thawed()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._frozen_ns = time.monotonic_ns()
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)
        self._note_thawed()

    def _note_thawed(self) -> None:
        if self._frozen_ns:
            self.frozen.append((self._frozen_ns, time.monotonic_ns()))
            self._frozen_ns = 0

    async def end(self, within_s: float = WITHIN_S) -> None:
        """Ask it to end and see that it does so without a complaint."""
        self.asked_to_end = True
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        with trio.fail_after(within_s):
            await self.process.wait()
        said = self.errors.read_text()
        assert (self.process.returncode, said) == (0, ""), f"{self.options.by} ended with {self.process.returncode}: {said}"


class Crowd:
    """The members on one store. Made by `gather`."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.store = folder / "store"
        self.url = url
        self.members: list[Member] = []
        self._folder = folder
        self._lives: dict[str, int] = {}

    async def start(self, name: str, *jobs: str, within_s: float = WITHIN_S, **more: Any) -> Member:
        """A new life of the process *name*; returns when it has opened the store."""
        member = await self.launch(name, *jobs, **more)
        await member.noted("open", within_s=within_s)
        return member

    async def launch(self, name: str, *jobs: str, **more: Any) -> Member:
        """The same, without waiting."""
        life = self._lives[name] = self._lives.get(name, 0) + 1
        by = f"{name}.{life}"
        notes, errors = self._folder / f"{by}.notes", self._folder / f"{by}.err"
        options = Options(store=str(self.store), url=self.url, notes=str(notes), by=by, jobs=jobs, **more)
        with errors.open("wb") as stderr:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-W", "error", "-m", "crowd.child", write_options(options)],
                stdin=subprocess.PIPE,
                stdout=stderr,
                stderr=stderr,
                cwd=self._folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])},
                start_new_session=True,  # Ctrl-C is for the driver, who then ends them in order
            )
        member = Member(options, process, Reading(notes), errors)
        self.members.append(member)
        return member

    async def log(self) -> list[Logged]:
        """All events, read by this process."""
        async with open_runtime(self.url or f"lmdb:{self.store}") as rt:
            return [logged(event) async for event in rt.read_all(of(Done))]

    @property
    def living(self) -> list[Member]:
        """Those that have not ended."""
        return [member for member in self.members if member.alive]

    def of(self, *kinds: str) -> list[Note]:
        """The notes of these kinds of all members."""
        return [note for member in self.members for note in member.of(*kinds)]

    def clean(self) -> bool:
        """Whether the store is marked as left clean."""
        return (self.store / "clean").exists()

    async def end_all(self) -> None:
        """Ask all to end, at the same time."""
        async with trio.open_nursery() as nursery:
            for member in self.living:
                nursery.start_soon(member.end)


@asynccontextmanager
async def gather(folder: Path, url: str = "") -> AsyncIterator[Crowd]:
    """A crowd on the store of that URL (else one in the folder); whoever is left of it at the end is killed."""
    crowd = Crowd(folder, url)
    try:
        yield crowd
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + WITHIN_S):
            for note in crowd.of("forked"):
                _kill_forked(note.number(0))
            for member in crowd.members:
                if member.process.returncode is None:
                    await member.kill()
                if member.process.stdin is not None:
                    await member.process.stdin.aclose()
    for member in crowd.members:
        assert member.killed_ns or member.process.returncode == 0, f"{member.options.by} ended by itself: {member.errors.read_text()}"


def _kill_forked(pid: int) -> None:
    """A grandchild, if it is (still) one of ours."""
    try:
        if b"crowd.child" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        pass


async def wait_until(true: Callable[[], bool], what: str, within_s: float = WITHIN_S) -> None:
    """Return when it is true; a process that writes files tells nobody, so look again and again."""
    deadline = trio.current_time() + within_s
    while not true():
        assert trio.current_time() < deadline, f"waited {within_s:g} s for {what}"
        await trio.sleep(LOOK_EVERY_S)


def logged(event: Event[Done]) -> Logged:
    """What the laws need of an event."""
    return Logged(event.position, event.stream, event.seq, event.data.by, event.data.number)
