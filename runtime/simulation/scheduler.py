"""A Trio loop whose every choice comes from a seed, with virtual time; a process's tasks may be held as SIGSTOP and SIGKILL hold them.

Trio runs what can run in rounds, in an order that is drawn from random numbers of its own. It has a private
switch that makes a round's order depend on those numbers alone, which Hypothesis' plugin uses too. We use it, and
the numbers, and the queue of tasks that can run; no public way leads there. So `check_trio` looks whether this is a
Trio that we know, and says `Unsupported` otherwise. Loops in other threads keep their own numbers.

Time stands still while anything can run, and jumps to the next deadline when nothing can.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from random import Random
from typing import Any, Final, Protocol, TypeVar
from zlib import crc32

import trio

from perdure.backends.errors import Misuse, Unsupported

T = TypeVar("T")

FIRST, LAST = (0, 31), (0, 35)
"""The versions of Trio that were looked at."""
ROUNDS_MAX: Final = 300_000
"""A run of so many rounds goes in circles; most have some thousands."""
_SWITCH = "_ALLOW_DETERMINISTIC_SCHEDULING"


class Held(Protocol):
    """What may be held: the tasks of a process."""

    held: bool
    parked: list[Any]
    """Its tasks that could run and were not let."""


process_of: ContextVar[Held | None] = ContextVar("perdure_simulated_process", default=None)
"""The process that a task belongs to; inherited by those that it starts."""


class Scheduler:
    """Orders each round by *seed*. Some tasks are slow: they are passed over again and again, as beside a busy machine."""

    def __init__(self, seed: int) -> None:
        self._random = Random(f"scheduler {seed}")
        self._slow_share = self._random.choice((0.0, 0.0, 0.1, 0.3))
        self._slow: dict[int, bool] = {}
        self.rounds = 0
        self.digest = 0
        """Of every round's order."""
        self.calm = False
        """No task is slow any more."""
        self.on_circles: Callable[[], object] = lambda: None
        """Called when the run goes in circles: to be ended from outside."""

    def order(self, batch: list[Any]) -> None:
        """Put the round's tasks in the order in which they are taken from the end; keep back those that are not to run."""
        self.rounds += 1
        if self.rounds == ROUNDS_MAX:
            self.on_circles()
        random, later = self._random, []
        kept: list[Any] = []
        for task in batch:
            process = task.context.get(process_of)
            if process is not None and process.held:
                process.parked.append(task)
            elif self._slow_share and not self.calm and self._passed_over(task):
                later.append(task)
            else:
                kept.append(task)
        if len(kept) > 1:
            random.shuffle(kept)
        batch[:] = kept
        queue(later)
        self.digest = crc32(b"%d %d" % (len(kept), len(later)), self.digest)

    def _passed_over(self, task: Any) -> bool:
        slow = self._slow.get(task._counter)
        if slow is None:
            slow = self._slow[task._counter] = self._random.random() < self._slow_share
        return slow and self._random.random() < 0.8


def queue(tasks: list[Any]) -> None:
    """Let *tasks*, which were kept back, run in the next round."""
    if tasks:
        trio._core._run.GLOBAL_RUN_CONTEXT.runner.runq.extend(tasks)


class _Numbers:
    """Stands where Trio has its random numbers: this thread's loop asks the scheduler, others ask *usual*."""

    def __init__(self, scheduler: Scheduler, usual: Random) -> None:
        self._scheduler = scheduler
        self._usual = usual
        self._thread = threading.get_ident()

    def shuffle(self, batch: list[Any]) -> None:
        if threading.get_ident() == self._thread:
            self._scheduler.order(batch)
        else:
            self._usual.shuffle(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._usual, name)


def check_trio() -> None:
    """
    Raises:
      Unsupported: this is no Trio whose order can be told.
    """
    version = tuple(int(part) for part in trio.__version__.split(".")[:2])
    inside = trio._core._run
    known = hasattr(inside, _SWITCH) and isinstance(getattr(inside, "_r", None), Random | _Numbers) and hasattr(inside, "GLOBAL_RUN_CONTEXT")
    if not (FIRST <= version <= LAST and known):
        raise Unsupported("simulation", f"trio {trio.__version__} (simulation was made for {_dotted(FIRST)} to {_dotted(LAST)})")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


@contextmanager
def _ordered_by(scheduler: Scheduler) -> Iterator[None]:
    inside: Any = trio._core._run
    usual, switch = inside._r, getattr(inside, _SWITCH)
    if isinstance(usual, _Numbers):
        raise Misuse("a simulation runs already in this process: one at a time")
    inside._r = _Numbers(scheduler, usual)
    setattr(inside, _SWITCH, True)
    try:
        yield
    finally:
        inside._r = usual
        setattr(inside, _SWITCH, switch)


def run_seeded(scheduler: Scheduler, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
    """What `trio.run(fn, *args)` gives, in virtual time, every order the *scheduler*'s. When garbage is collected changes nothing: it is not.

    Raises:
      Unsupported: this Trio cannot be told.
      Misuse: a loop runs in this thread already, or another simulation.
    """
    check_trio()
    if trio.lowlevel.in_trio_run():
        raise Misuse("a simulation is a loop of its own: call it from a plain function, not from inside Trio")
    collects = gc.isenabled()
    gc.disable()
    try:
        with _ordered_by(scheduler):
            from trio.testing import MockClock  # late: it loads pytest where that is installed

            return trio.run(fn, *args, clock=MockClock(autojump_threshold=0))
    finally:
        if collects:
            gc.enable()
