"""Cancellation at a chosen moment of a run, and sweeps over all moments.

A run is cut into *steps*: a task's step lasts until its next yield to Trio. Between two steps anything
may happen, so a law about cancellation is a law about each of these places:

    def test_append():
        async def once(strike):
            async with open_runtime("memory:") as rt:
                with strike as scope:                  # counts from here on
                    await rt.append("a-1", [Wrote(1)])
                there = await rt.head() == 1
                assert there is not scope.cancelled_caught

        sweep(once)                                    # each step of the calling task
        sweep(once, of="run")                          # each step of any task meanwhile

Each place gets a run of its own, scheduled by a seed: the same number is the same moment again.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal

import trio
import trio._core._run as scheduler  # its random numbers decide in which order a round's tasks run
from trio.testing import MockClock

from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.faulty import FaultyBackend
from perdure.backends.memory import open_memory
from perdure.backends.urls import open_backend

_WEDGED_S = 10_000.0
"""No run lasts so long by the clock of a test: it waits for ever."""
_WEDGED_REAL_S = 30.0
_POINTS_MAX = 5_000

Of = Literal["task", "run"]


class Strike(trio.abc.Instrument):
    """A cancel scope that is cancelled after the *nth* step since it was entered (0: at once), of its own task or of the whole run."""

    def __init__(self, nth: int, of: Of = "task") -> None:
        self.nth = nth
        self.of = of
        self.steps = 0
        self.struck = False
        """Whether the nth step came before the scope was left."""
        self.scope = trio.CancelScope()
        self._counts = False
        self._task: trio.lowlevel.Task | None = None

    def __enter__(self) -> trio.CancelScope:
        self.scope.__enter__()
        self.begin()
        return self.scope

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        self.end()
        return bool(self.scope.__exit__(kind, error, trace))

    def begin(self) -> None:
        """Count from here on; for whoever enters `scope` earlier."""
        self._counts = True
        self._task = trio.lowlevel.current_task()
        trio.lowlevel.add_instrument(self)
        self._look()

    def end(self) -> None:
        """Count no further. Idempotent."""
        if self._counts:
            self._counts = False
            trio.lowlevel.remove_instrument(self)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.of == "run" or task is self._task:
            self.steps += 1
            self._look()

    def _look(self) -> None:
        if self.steps == self.nth:
            self.struck = True
            self.scope.cancel()


def sweep(once: Callable[[Strike], Awaitable[object]], *, of: Of = "task", first: int = 0, stride: int = 1, real_time: bool = False) -> int:
    """Run *once* anew for each place, from the *first* on, until its scope is left before it is struck; how many there were.

    Real time is for real threads: a virtual clock would jump while they work.

    Raises:
      AssertionError: what *once* raises, with the place as a note; or a run waits for ever, behind a shield.
    """
    for nth in range(first, _POINTS_MAX, stride):
        strike = Strike(nth, of)
        run_once(once, strike, seed=nth, real_time=real_time)
        if not strike.struck:
            return len(range(first, nth, stride))
    raise AssertionError(f"the call has not ended after {_POINTS_MAX} steps")


def run_once(once: Callable[[Strike], Awaitable[object]], strike: Strike, *, seed: int, real_time: bool = False) -> None:
    """One run of a sweep."""
    scheduler._r.seed(seed)
    try:
        trio.run(_watched, once, strike, _WEDGED_REAL_S if real_time else _WEDGED_S, clock=None if real_time else MockClock(autojump_threshold=0))
    except BaseException as error:
        error.add_note(f"cancelled after step {strike.nth} of the {strike.of}")
        raise


async def _watched(once: Callable[[Strike], Awaitable[object]], strike: Strike, wedged_s: float) -> None:
    limiter = trio.to_thread.current_default_thread_limiter()
    wedged = False

    async def watch() -> None:
        nonlocal wedged
        await trio.sleep(wedged_s)
        wedged = True
        for found in gc.get_objects():  # nothing else reaches a scope that is shielded and waits for ever
            if isinstance(found, trio.CancelScope) and found.shield:
                found.shield = False
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await once(strike)
        nursery.cancel_scope.cancel()
    assert not wedged, "it waits for ever, behind a shield"
    assert limiter.borrowed_tokens == 0, "a thread was left behind"
    left = [task.name for task in _children(trio.lowlevel.current_task())]
    assert not left, f"tasks were left behind: {left}"


def _children(task: trio.lowlevel.Task) -> list[trio.lowlevel.Task]:
    return [child for nursery in task.child_nurseries for child in nursery.child_tasks]


class Stores:
    """Fresh stores for the runs of a sweep, each below faults: `open` opens one, or opens it again."""

    def __init__(self, scheme: Literal["memory", "lmdb"], folder: Path, query: str = "", environment: Environment | None = None) -> None:
        self._scheme = scheme
        self._folder = folder
        self._query = query
        self._environment = environment or Environment(threads=InlineThreads())
        self._memory: dict[int, FaultyBackend] = {}
        self._numbers = itertools.count()

    def fresh(self) -> int:
        """The number of the next one."""
        return next(self._numbers)

    def folder(self, number: int) -> Path:
        """Where an LMDB store is."""
        return self._folder / str(number)

    @asynccontextmanager
    async def open(self, number: int) -> AsyncIterator[FaultyBackend]:
        """What was stored before is there again, and no fault."""
        if self._scheme == "memory":
            backend = self._memory.setdefault(number, FaultyBackend(open_memory(environment=self._environment)))
            backend.heal()
            yield backend
        else:
            async with open_backend(f"lmdb:{self.folder(number)}{self._query}", environment=self._environment) as inner:
                yield FaultyBackend(inner)
