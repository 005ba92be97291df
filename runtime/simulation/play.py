"""A run under way: processes that open the store, do the workload, die, and are followed by others; at the end a last one that judges."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from random import Random
from typing import Any, Final

import trio

from perdure.backends.blobs.protocol import BlobStore
from perdure.backends.blobs.urls import open_blobs
from perdure.backends.cuts import Policy
from perdure.backends.errors import BlobsUnavailable, Closed, Corrupt, Full, InDoubt, PerdureError, RuntimeFailed, Unavailable
from perdure.backends.event import Record
from perdure.runtime.open import open_runtime
from perdure.runtime.runtime import Runtime
from perdure.runtime.simulation import laws
from perdure.runtime.simulation.faults import Drawn, Replayed, What
from perdure.runtime.simulation.ledger import WatchedJournal, WatchedStreams
from perdure.runtime.simulation.retained import FOLDER
from perdure.runtime.simulation.run import Check, Plan, Subject
from perdure.runtime.simulation.scheduler import ROUNDS_MAX, Scheduler, process_of, run_seeded
from perdure.runtime.simulation.stores import Kind, kind_of
from perdure.runtime.simulation.watched import WatchedBackend, watch_map
from perdure.runtime.simulation.witness import Witness
from perdure.runtime.simulation.world import Life, World

LIMIT_S: Final = 7_200.0
"""Virtual seconds that a run may take."""
OPENINGS_MAX: Final = 40
"""So often in a row a store may fail to open, though nothing else has gone wrong and nobody has it."""
INTERRUPTED: Final = (Closed, Unavailable, InDoubt, Full, BlobsUnavailable)
"""What a workload may well meet when something goes wrong: it begins again."""


def play(subject: Subject, plan: Plan, script: Callable[[Sequence[What]], Drawn | Replayed]) -> tuple[World, list[Record]]:
    """The world after the run, and the log as it was read last."""
    kind = kind_of(plan.url)
    world = World(plan.seed, script(kind.faults), plan.runtimes)
    scheduler = Scheduler(plan.seed)
    run = _Play(subject, plan, kind, world, scheduler)
    try:
        run_seeded(scheduler, run.run)
    finally:
        kind.end(world)
    world.trace.add("life", 0.0, "", f"{scheduler.rounds} rounds, {scheduler.digest:08x}")
    return world, run.witness.records


class _Play:
    """See the module."""

    def __init__(self, subject: Subject, plan: Plan, kind: Kind, world: World, scheduler: Scheduler) -> None:
        self._subject = subject
        self._plan = plan
        self._kind = kind
        self._world = world
        self._scheduler = scheduler
        self._unfinished = dict.fromkeys(range(plan.sessions), 0)
        """Sessions, and how often each was begun."""
        self._failed = (0, 0)
        """Openings that failed in a row, and how much had gone wrong by the first of them."""
        self.witness = Witness(subject.app, world)
        world.ledger.most, world.ledger.spent = plan.commits, self._unfinished.clear

    async def run(self) -> None:
        """All of it."""
        world = self._world
        with _logs_noted(world):
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(world.run_timers)
                try:
                    with trio.CancelScope() as scope:
                        self._scheduler.on_circles = scope.cancel
                        await self._play()
                        if not world.violations:
                            await self._judge()
                    if scope.cancelled_caught:
                        world.violate(laws.ENDS, f"after {ROUNDS_MAX:,} rounds of the loop its tasks still wake each other, and time stands still")
                finally:
                    world.unwind()
                    self._scheduler.calm = True
                    self._nursery.cancel_scope.cancel()

    async def _play(self) -> None:
        with trio.move_on_after(LIMIT_S) as scope:
            async with trio.open_nursery() as nodes:
                for node in range(1, self._plan.runtimes + 1):
                    nodes.start_soon(self._node, node)
        if scope.cancelled_caught:
            left = ", ".join(f"session {number}, begun {times} times" for number, times in self._unfinished.items())
            self._world.violate(laws.ENDS, f"after {LIMIT_S:g} s there are left: {left or 'processes that do not end'}")

    # -- processes ---------------------------------------------------------------------------

    async def _node(self, node: int) -> None:
        """One process after the other."""
        draw = Random(f"node {self._plan.seed} {node}")
        while self._unfinished and not self._world.violations:
            life = self._world.start(node)
            life.pause_s = draw.random()
            self._nursery.start_soon(self._live, life, self._serve)
            await life.ended.wait()
            await trio.sleep(life.pause_s)

    async def _live(self, life: Life, serve: Callable[[Life], Awaitable[None]]) -> None:
        process_of.set(life)
        world = self._world
        try:
            with life.scope:
                await serve(life)
        except BaseException as error:  # noqa: ASYNC103 - a process ends here, whatever it ended with
            if any(isinstance(one, KeyboardInterrupt) for one in _leaves(error)):
                raise
            if not (life.dead or world.ledger.closed):  # else nobody is told
                self._judge_error(life, error)
        finally:
            if not life.ended.is_set():
                world.note("life", "ends", life.who)
                life.process.kill()
                life.ended.set()

    def _judge_error(self, life: Life, error: BaseException) -> None:
        """What a process ended with: trouble of the store is well, anything else is not."""
        for one in _leaves(error):
            cause = one.__cause__ if isinstance(one, RuntimeFailed) and one.__cause__ is not None else one
            if isinstance(cause, INTERRUPTED):
                self._world.note("life", f"{type(one).__name__}: {cause}", life.who)
                if not life.opened:
                    self._note_failed(life, cause)
            elif isinstance(cause, Corrupt):
                self._world.violate(laws.SOUND, f"runtime {life.who}: {cause}")
            elif isinstance(cause, PerdureError):
                self._world.violate(laws.CLEAR, f"runtime {life.who} ended with {type(cause).__name__}: {cause}")
            else:
                self._world.violate(laws.CLEAR, f"runtime {life.who} ended with {cause!r}")

    def _note_failed(self, life: Life, error: BaseException) -> None:
        """The store did not open: once more without a reason?"""
        world, (times, injections) = self._world, self._failed
        others = any(not other.ended.is_set() for other in world.lives if other is not life)
        if others or len(world.injections) != injections or trio.current_time() < world.full_until:
            times = 0
        self._failed = (times + 1, len(world.injections))
        if times + 1 == OPENINGS_MAX:
            world.violate(laws.SOUND, f"it has not opened {OPENINGS_MAX} times in a row, though nothing more went wrong: {error}")

    @asynccontextmanager
    async def _opened(self, life: Life) -> AsyncIterator[Runtime]:
        world, limits = self._world, self._subject.limits
        backend = await self._kind.open(world, life, limits)
        try:
            watch_map(backend, world, life)
            watched = WatchedBackend(backend, self.witness.shown, world, life, points=not self._kind.on_disk, **self._asked)
            world.note("life", "has opened the store", life.who)
            async with self._blobs(life) as blobs, AsyncExitStack() as stack:
                life.opened, self._failed = True, (0, 0)
                await self.witness.audit(backend, life.who, blobs)
                rt = await stack.enter_async_context(open_runtime(watched, self._subject.app, environment=life.environment, limits=limits, blobs=blobs))
                rt._journal = WatchedJournal(rt._journal, world.ledger, life.who)  # type: ignore[assignment]  # it hands the rest on
                rt._streams = WatchedStreams(rt._streams, world.ledger, life.who)  # type: ignore[assignment]  # it hands the rest on
                yield rt
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + limits.close_s):
                await self._kind.close(backend)

    @property
    def _asked(self) -> dict[str, Any]:
        return {} if self.witness.retained is None else {"watching": self.witness.retained.watching}

    @asynccontextmanager
    async def _blobs(self, life: Life) -> AsyncIterator[BlobStore | None]:
        """Where the app's retention puts archives: beside the store, on the same disk."""
        if self.witness.retained is None:
            yield None
            return
        async with open_blobs(f"directory:{FOLDER}", environment=life.environment) as blobs:
            yield blobs

    async def _serve(self, life: Life) -> None:
        """Run some of the sessions, until they are through or the process is told to leave."""
        async with trio.open_nursery() as sessions:
            async with self._opened(life) as rt:
                life.mine = self._choose(life)
                for number in life.mine:
                    sessions.start_soon(self._session, life, rt, number)  # noqa: ASYNC111 - they meet a runtime that closes
                sessions.start_soon(self._run_beside, life, rt)  # noqa: ASYNC111 - likewise
                sessions.start_soon(self._look_on, life, rt)  # noqa: ASYNC111 - likewise
                if not life.mine:
                    life.leave.set()
                await life.leave.wait()
                if life.leaves_by == "cancel":
                    sessions.cancel_scope.cancel()
            sessions.cancel_scope.cancel()

    async def _run_beside(self, life: Life, rt: Runtime) -> None:
        """The user's own tasks, once in each process."""
        if self._subject.beside is None:
            return
        try:
            await self._subject.beside(rt)
        except Exception as error:
            if not self._world.ledger.closed:
                self._judge_workload(life, "what runs beside", error)

    def _choose(self, life: Life) -> list[int]:
        """Some of the sessions that nobody is at."""
        taken = {number for other in self._world.lives if not other.ended.is_set() for number in other.mine}
        free = [number for number in self._unfinished if number not in taken]
        return free[: Random(f"life {self._plan.seed} {life.who}").randint(1, len(free))] if free else []

    async def _look_on(self, life: Life, rt: Runtime) -> None:
        """Watch the models, and follow the log."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.witness.watch, rt, life.who)
                nursery.start_soon(self.witness.follow, rt, life.who)
                if self.witness.retained is not None:
                    nursery.start_soon(self.witness.retained.run, rt, life)
                if self._plan.runtimes == 1 or self._kind.alone:
                    nursery.start_soon(self.witness.follow_on, rt, life.who)
        except* INTERRUPTED:
            pass

    async def _session(self, life: Life, rt: Runtime, number: int) -> None:
        """The workload once, begun again where it was broken off."""
        while number in self._unfinished and not life.leave.is_set():
            self._unfinished[number] += 1
            random = Random(f"session {self._plan.seed} {number} {self._unfinished[number]}")
            with trio.CancelScope() as scope:
                life.sessions[number] = scope
                try:
                    await self._subject.workload(rt, random)
                    self._unfinished.pop(number, None)
                except Exception as error:
                    if self._world.ledger.closed:
                        return
                    if self._judge_workload(life, f"session {number}", error):
                        self._unfinished.pop(number, None)
                finally:
                    life.sessions.pop(number, None)
            await trio.sleep(random.random())
        if not any(number in self._unfinished for number in life.mine):
            life.leave.set()

    def _judge_workload(self, life: Life, about: str, error: Exception) -> bool:
        """Whether it failed, and was not only broken off."""
        wrong = [one for one in _leaves(error) if not isinstance(one, INTERRUPTED)]
        if wrong:
            self._world.violate(laws.WORKLOAD, f"{about}, in runtime {life.who}: {wrong[0]!r}")
        else:
            self._world.note("life", f"{about} is broken off: {type(error).__name__}", life.who)
        return bool(wrong)

    # -- the end -----------------------------------------------------------------------------

    async def _judge(self) -> None:
        """A last process, to which nothing happens, looks at everything."""
        world = self._world
        draw = Random(f"end {self._plan.seed}")
        world.heal()
        policies: tuple[Policy | None, ...] = (None, "lose", "lose", "random")
        if self._kind.on_disk and (policy := draw.choice(policies)):
            world.cut_power(policy, draw.randrange(1_000_000), 0.0)
        life = world.start(self._plan.runtimes + 1)
        self._nursery.start_soon(self._live, life, self._judge_in)
        await life.ended.wait()

    async def _judge_in(self, life: Life) -> None:
        """One more session, so that followers have to be woken once more, then rest."""
        async with self._opened(life) as rt:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.witness.follow, rt, life.who)
                self._unfinished[self._plan.sessions] = 0
                with trio.move_on_after(LIMIT_S):
                    await self._session(life, rt, self._plan.sessions)
                self._world.ledger.most = None
                await self.witness.reach(rt)
                nursery.cancel_scope.cancel()
            await self.witness.judge(rt, life)
            if self._subject.check is not None:
                await self._check(self._subject.check, life, rt)

    async def _check(self, check: Check, life: Life, rt: Runtime) -> None:
        """The user's own, beside what runs in every process."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_beside, life, rt)
            try:
                await check(rt)
            except Exception as error:
                self._world.violate(laws.CHECK, f"{error!r}")
            nursery.cancel_scope.cancel()


@contextmanager
def _logs_noted(world: World) -> Iterator[None]:
    """What perdure logs goes into the trace, and nowhere else."""

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not world.ledger.closed:
                world.note("life", f"logs: {record.getMessage().partition(chr(10))[0]}")

    logger, handler = logging.getLogger("perdure"), Noting()
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error
