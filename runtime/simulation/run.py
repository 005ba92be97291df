"""One run: an app on simulated processes, under a workload, held to the laws at every opening and at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Final

import attrs
import msgspec
import trio

from perdure.actors.fold import Keyed
from perdure.actors.model import bucket_of
from perdure.backends.codec import Codec
from perdure.backends.commit import CHECKPOINTS
from perdure.actors import cursor
from perdure.backends.errors import Closed, Corrupt, Full, InDoubt, ModelFaulted, PerdureError, RuntimeFailed, Unavailable
from perdure.backends.event import START, Position, Record
from perdure.backends.limits import Limits
from perdure.backends.protocol import Reads
from perdure.runtime.app import App
from perdure.runtime.open import open_runtime
from perdure.runtime.runtime import Runtime
from perdure.runtime.simulation import laws
from perdure.runtime.simulation.faults import Drawn, Faults, Injection, Replayed
from perdure.runtime.simulation.ledger import WatchedJournal, WatchedStreams
from perdure.runtime.simulation.scheduler import Circles, Scheduler, process_of, run_seeded
from perdure.runtime.simulation.stores import Kind, kind_of
from perdure.runtime.simulation.trace import Trace
from perdure.runtime.simulation.world import Life, Violation, World

Workload = Callable[[Runtime, Random], Awaitable[object]]
Check = Callable[[Runtime], Awaitable[object]]

LIMIT_S: Final = 7_200.0
"""Virtual seconds that a run may take."""
REACH_S: Final = 60.0
"""Virtual seconds within which followers reach the head when nothing goes wrong any more."""
LIMITS: Final = Limits(page_records=8)
"""Pages are short, so that there are many."""
INTERRUPTED: Final = (Closed, Unavailable, InDoubt, Full)
"""What a workload may well meet when something goes wrong: it begins again."""


@attrs.frozen
class Subject:
    """What is tried."""

    app: App
    workload: Workload
    check: Check | None = None
    limits: Limits = LIMITS


@attrs.frozen
class Plan:
    """What determines a run: with the same subject, two runs of one plan are equal."""

    seed: int
    url: str = "file:"
    runtimes: int = 1
    sessions: int = 3
    """So many times the workload runs, at once and one after the other."""
    faults: Faults = attrs.field(factory=Faults)
    injections: tuple[Injection, ...] | None = None
    """None: drawn."""


@attrs.frozen
class Run:
    """What became of a plan."""

    plan: Plan
    injections: tuple[Injection, ...]
    violations: tuple[Violation, ...]
    trace: Trace
    counts: dict[str, int]
    records: tuple[Record, ...]
    digest: str
    """Equal for equal runs."""


def run_once(subject: Subject, plan: Plan) -> Run:
    """Do it."""
    kind = kind_of(plan.url)
    script = Drawn(plan.seed, plan.faults, kind.faults) if plan.injections is None else Replayed(plan.injections)
    scheduler = Scheduler(plan.seed)
    world = World(plan.seed, script, plan.runtimes)
    play = _Play(subject, plan, kind, world, scheduler)
    run_seeded(scheduler, play.run)
    world.trace.add("life", 0.0, "", f"{scheduler.rounds} rounds, {scheduler.digest:08x}")
    return Run(plan, tuple(world.injections), tuple(world.violations), world.trace, world.counts, tuple(play.shown), world.trace.digest())


class _Play:
    """A run under way."""

    def __init__(self, subject: Subject, plan: Plan, kind: Kind, world: World, scheduler: Scheduler) -> None:
        self._subject = subject
        self._plan = plan
        self._kind = kind
        self._world = world
        self._scheduler = scheduler
        self._unfinished = dict.fromkeys(range(plan.sessions), 0)
        """Sessions, and how often each was begun."""
        self._taken: set[int] = set()
        self._done = trio.Event()
        self.shown: list[Record] = []
        """The log as it was read last."""
        self._samples: dict[str, list[tuple[Position, dict[str, bytes], str]]] = {projection.name: [] for projection in subject.app.projections}
        self._codec = Codec()
        self._initial = {
            projection.name: self._codec.encoder(projection.state_type)(projection.initial) for projection in subject.app.projections
        }

    async def run(self) -> None:
        """See the module."""
        world = self._world
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(world.run_timers)
            try:
                with trio.move_on_after(LIMIT_S) as scope:
                    async with trio.open_nursery() as nodes:
                        for node in range(1, self._plan.runtimes + 1):
                            nodes.start_soon(self._node, node)
                if scope.cancelled_caught:
                    left = ", ".join(f"session {number}, begun {times} times" for number, times in self._unfinished.items())
                    world.violate(laws.ENDS, f"after {LIMIT_S:g} s there are left: {left or 'processes that do not end'}")
                elif not world.violations:
                    await self._judge()
            finally:
                world.unwind()
                self._scheduler.calm = True
                self._nursery.cancel_scope.cancel()

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
        except BaseException as error:
            if life.dead or world.ledger.closed:
                return  # noqa: ASYNC104 - the process is dead: nobody is told
            self._judge_error(life, error)
        finally:
            if not life.dead and not life.ended.is_set():
                world.note("life", "ends", life.who)
                life.process.kill()
                life.ended.set()

    def _judge_error(self, life: Life, error: BaseException) -> None:
        """What a process ended with: trouble of the store is well, anything else is not."""
        for one in _leaves(error):
            cause = one.__cause__ if isinstance(one, RuntimeFailed) and one.__cause__ is not None else one
            if isinstance(cause, INTERRUPTED):
                self._world.note("life", f"{type(one).__name__}: {cause}", life.who)
            elif isinstance(cause, Corrupt):
                self._world.violate(laws.SOUND, f"runtime {life.who}: {cause}")
            elif isinstance(cause, PerdureError):
                self._world.violate(laws.CLEAR, f"runtime {life.who} ended with {type(cause).__name__}: {cause}")
            else:
                self._world.violate(laws.CLEAR, f"runtime {life.who} ended with {cause!r}")

    @asynccontextmanager
    async def _opened(self, life: Life) -> AsyncIterator[Runtime]:
        backend = await self._kind.open(self._world, life, self._subject.limits)
        self._world.note("life", "has opened the store", life.who)
        try:
            await self._audit(life, backend)
            async with open_runtime(backend, self._subject.app, environment=life.environment, limits=self._subject.limits) as rt:
                rt._journal = WatchedJournal(rt._journal, self._world.ledger, life.who)  # type: ignore[assignment]
                rt._streams = WatchedStreams(rt._streams, self._world.ledger, life.who)  # type: ignore[assignment]
                yield rt
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._subject.limits.close_s):
                await backend.aclose()

    async def _serve(self, life: Life) -> None:
        """Run some of the sessions, until they are through or the process is told to leave."""
        async with trio.open_nursery() as sessions:
            async with self._opened(life) as rt:
                life.mine = self._choose(life)
                for number in life.mine:
                    sessions.start_soon(self._session, life, rt, number)
                sessions.start_soon(self._watch, life, rt)
                sessions.start_soon(self._follow, life, rt)
                if not life.mine:
                    life.leave.set()
                await life.leave.wait()
                if life.leaves_by == "cancel":
                    sessions.cancel_scope.cancel()
            sessions.cancel_scope.cancel()

    def _choose(self, life: Life) -> list[int]:
        """Some of the sessions that nobody is at."""
        taken = {number for other in self._world.lives if not other.ended.is_set() for number in other.mine}
        free = [number for number in self._unfinished if number not in taken]
        return free[: Random(f"life {self._plan.seed} {life.who}").randint(1, len(free))] if free else []

    async def _session(self, life: Life, rt: Runtime, number: int) -> None:
        """The workload once, begun again where it was broken off."""
        while number in self._unfinished and not life.leave.is_set():
            self._unfinished[number] += 1
            random = Random(f"session {self._plan.seed} {number} {self._unfinished[number]}")
            with trio.CancelScope() as scope:
                life.sessions[number] = scope
                try:
                    await self._subject.workload(rt, random)
                    del self._unfinished[number]
                except Exception as error:
                    if self._world.ledger.closed:
                        return
                    self._judge_workload(life, number, error)
                finally:
                    life.sessions.pop(number, None)
            await trio.sleep(random.random())
        if not any(number in self._unfinished for number in life.mine):
            life.leave.set()

    def _judge_workload(self, life: Life, number: int, error: Exception) -> None:
        wrong = [one for one in _leaves(error) if not isinstance(one, INTERRUPTED)]
        if wrong:
            del self._unfinished[number]
            self._world.violate(laws.WORKLOAD, f"session {number} in runtime {life.who}: {wrong[0]!r}")
        else:
            self._world.note("life", f"session {number} is broken off: {type(error).__name__}", life.who)

    async def _watch(self, life: Life, rt: Runtime) -> None:
        """Look at the models now and then."""
        draw = Random(f"watch {self._plan.seed} {life.who}")
        while True:
            await trio.sleep(draw.expovariate(1.0))
            await self._sample(rt, f"in runtime {life.who}")

    async def _follow(self, life: Life, rt: Runtime) -> None:
        """Follow the log under a name, from life to life."""

    async def _sample(self, rt: Runtime, when: str) -> None:
        for projection in self._subject.app.projections:
            encode = self._codec.encoder(projection.state_type)
            model = rt.model(projection)
            if isinstance(projection, Keyed):
                try:
                    async with rt.backend.view() as view:
                        states = await _kept_states(view, projection, rt.backend.id)
                except (Closed, Unavailable):
                    return
                self._samples[projection.name].append((*states, when))
            elif model.running and model.position > START:
                self._samples[projection.name].append((model.position, {"": encode(model.state)}, when))  # type: ignore[union-attr]

    # -- judging -----------------------------------------------------------------------------

    def _hold(self, found: Iterator[tuple[str, str]]) -> None:
        for law, text in found:
            self._world.violate(law, text)

    async def _audit(self, life: Life, reads: Reads) -> None:
        """The log as it is now against all that is known of it."""
        records = await _read_all(reads)
        self._hold(laws.judge_log(self._world.ledger, records, self.shown))
        self.shown = records
        self._world.note("law", f"the log has {len(records)} events", life.who)

    async def _judge(self) -> None:
        """Everything, in a last process to which nothing happens."""
        world = self._world
        draw = Random(f"end {self._plan.seed}")
        world.heal()
        if self._kind.on_disk and (policy := draw.choice(("", "lose", "lose", "random"))):
            world.cut_power(policy, draw.randrange(1_000_000), 0.0)
        life = world.start(self._plan.runtimes + 1)
        self._nursery.start_soon(self._live, life, self._judge_in)
        await life.ended.wait()

    async def _judge_in(self, life: Life) -> None:
        world, ledger = self._world, self._world.ledger
        async with self._opened(life) as rt:
            head = await rt.head()
            for projection in self._subject.app.projections:
                with trio.move_on_after(REACH_S) as scope:
                    await rt.model(projection).wait_for(head)
                if scope.cancelled_caught:
                    world.violate(laws.REACHED, f"{projection.name} stands at {rt.model(projection).position}, the head is {head}")
            await self._sample(rt, "at the end")
            await self._audit(life, rt.backend)
            for problem in await rt.backend.verify():
                world.violate(laws.VERIFIED, problem)
            for bucket in laws.buckets_of(ledger):
                self._hold(laws.judge_bucket(ledger, bucket, await _read_changes(rt.backend, bucket)))
            self._hold(laws.judge_order(ledger))
            for projection in self._subject.app.projections:
                reference = laws.Reference(projection, self._initial[projection.name])
                reference.begin(self.shown)
                self._hold(laws.judge_model(reference, self._samples[projection.name], msgspec.msgpack.decode))
                if self._codec.encoder(projection.state_type)(projection.initial) != self._initial[projection.name]:
                    world.violate(laws.PURE, f"the initial state of {projection.name!r} was changed: a step returns a new state (attrs.evolve)")
            if self._subject.check is not None:
                await self._check(rt)

    async def _check(self, rt: Runtime) -> None:
        assert self._subject.check is not None
        try:
            await self._subject.check(rt)
        except Exception as error:
            self._world.violate(laws.CHECK, f"{error!r}")


async def _read_all(reads: Reads) -> list[Record]:
    records: list[Record] = []
    after = START
    while True:
        page = await reads.read_log(after=after, limit=1_000, bytes_max=1 << 20)
        records += page.records
        if page.examined <= after or page.examined >= page.head:
            return records
        after = page.examined


async def _read_changes(reads: Reads, bucket: str) -> list[Any]:
    changes: dict[bytes, Any] = {}
    after = 0
    while True:
        page = await reads.read_changes(bucket, after=after, limit=1_000)
        changes.update({change.key: change for change in page.changes})
        if page.examined <= after or not page.changes:
            return list(changes.values())
        after = page.examined


async def _kept_states(view: Reads, projection: Keyed[Any, Any], store: str) -> tuple[Position, dict[str, bytes]]:
    """The checkpoint of a keyed projection, and its states at the same moment."""
    entry = await view.get(CHECKPOINTS, projection.name.encode())
    position = START if entry is None else Position(cursor.unpack(projection.name, entry.value, store).position)
    states: dict[str, bytes] = {}
    after = None
    while page := await view.scan(bucket_of(projection.name), after=after, limit=1_000):
        states.update({one.key.decode(): one.value for one in page})
        after = page[-1].key
    return position, states


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error
