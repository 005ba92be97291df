"""What varies from one run to another, as one frozen value: clock, ids, jitter, threads, disk, processes.

Folds, decisions and codecs take none of these: they read no clock and draw no random number.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, TypeVar

import attrs
import trio

from perdure.backends.disk import Disk, TrioDisk
from perdure.backends.processes import Processes, RealProcesses

T = TypeVar("T")


class Threads(Protocol):
    """The one way into a thread, so that a simulation can run the work inline."""

    async def run_sync(self, fn: Callable[..., T], *args: object) -> T: ...


class TrioThreads:
    """Real worker threads; a call that has begun is never abandoned."""

    async def run_sync(self, fn: Callable[..., T], *args: object) -> T:
        limiter = trio.CapacityLimiter(1)  # its own: a program whose calls use up Trio's would hold us up with a lock in hand
        return await trio.to_thread.run_sync(fn, *args, limiter=limiter)


class InlineThreads:
    """No threads: the work runs where it is asked for."""

    async def run_sync(self, fn: Callable[..., T], *args: object) -> T:
        await trio.lowlevel.checkpoint()
        return fn(*args)


def wall_us() -> int:
    """Microseconds since the epoch, UTC, by this machine's clock."""
    return time.time_ns() // 1000


class RandomIds:
    """16 random bytes at a time, drawn from the system many at once: a system call costs as much as half an append."""

    def __init__(self) -> None:
        self._drawn: Iterator[bytes] = iter(())
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def __call__(self) -> bytes:
        id = next(self._drawn, None)
        if id is None:
            drawn = os.urandom(4_096)
            self._drawn = iter([drawn[at : at + 16] for at in range(0, 4_096, 16)])
            id = next(self._drawn)
        return id

    def _forget(self) -> None:
        """A forked child must not draw what its parent draws."""
        self._drawn = iter(())


random_id: Final = RandomIds()
"""The process's source of ids."""


def boot_s() -> float:
    """Seconds since this machine was started, time asleep included (a laptop's lid must not look like a clock set wrong)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def process_tracers() -> Any:
    """The `TracerProvider` of OpenTelemetry that this process has set up, if it has; nothing is imported for that."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    provider = api.get_tracer_provider()
    return None if isinstance(provider, api.ProxyTracerProvider | api.NoOpTracerProvider) else provider


@attrs.frozen
class Environment:
    """The world a runtime runs in.

    *clock* gives wall time in microseconds, for records only (behaviour follows `trio.current_time()`);
    *elapsed* counts seconds that no one can set, also while the machine sleeps; *ids* draws 16-byte ids; *jitter* gives a number in [0, 1) for restart delays;
    *disk* is where our own files are; *processes* says which process this is, and whether another one has ended; *tracers* gives the `TracerProvider` of
    OpenTelemetry that spans go to, asked once when a runtime opens; None: there are none.
    """

    clock: Callable[[], int] = wall_us
    elapsed: Callable[[], float] = boot_s
    ids: Callable[[], bytes] = random_id
    jitter: Callable[[], float] = random.random
    threads: Threads = attrs.field(factory=TrioThreads)
    disk: Disk = attrs.field(factory=TrioDisk)
    processes: Processes = attrs.field(factory=RealProcesses)
    tracers: Callable[[], Any] = process_tracers
