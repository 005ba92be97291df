"""The supervision tree as one list, its order of closing, and its status as values.

keeper        brings the store back when a flush failed; when it gives up, that is the runtime's failure
journal       every commit goes through it; its failure is the runtime's
streams       a stream actor per stream in use, ending when idle
leases        beats for what is held here, and takes what other processes leave
upkeep        merges and forgets while the journal is idle; scrubs
projections   one child per projection of the app, one_for_one
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from heapq import nlargest
from typing import TYPE_CHECKING, Any

import attrs
import trio

from perdure.actors.journal import Journal, JournalStatistics, upkeep
from perdure.actors.keeper import Keeper
from perdure.actors.lease import Claim, Leases
from perdure.actors.mailbox import current_actor
from perdure.actors.restart import Restart
from perdure.actors.scrubber import scrub
from perdure.actors.status import ActorStatus, Hub, Lifecycle, What
from perdure.actors.stream import Streams
from perdure.actors.subscription import Subscription
from perdure.actors.supervisor import Child, Supervisor
from perdure.backends.commit import Committed, Write
from perdure.backends.environment import Environment
from perdure.backends.errors import Conflict, Corrupt, Misuse, PerdureError, Unsupported
from perdure.backends.event import Position
from perdure.backends.limits import Limits
from perdure.backends.processes import told
from perdure.backends.protocol import Backend
from perdure.runtime.encode import Encoder
from perdure.runtime.lease import open_lease

if TYPE_CHECKING:
    from perdure.runtime.models import Models, Running


DURABLE_LOOK_S = 60.0
"""So often it is looked whether the store has become one that lasts."""
STREAMS_TOLD = 100
"""So many stream actors the status names: there may be thousands."""
LOOK_S = 1.0
"""So long opening waits at most to learn which projections are its own."""


@attrs.frozen
class Status:
    """A runtime, as values: where its log ends as far as it knows, its journal's numbers, and the tree."""

    store: str
    head: Position
    journal: JournalStatistics
    ring_bytes: int
    streams_live: int
    """Streams with an actor; the tree names those with the fullest mailboxes."""
    loop_stall_max_s: float
    root: ActorStatus

    def find(self, name: str) -> ActorStatus | None:
        """The actor of that name."""
        return self.root.find(name)


class Tree:
    """Starts, watches and closes the parts of a runtime."""

    def __init__(
        self,
        backend: Backend,
        keeper: Keeper,
        journal: Journal,
        streams: Streams,
        encoder: Encoder,
        environment: Environment,
        limits: Limits,
        hub: Hub,
    ) -> None:
        self._backend = backend
        self._keeper = keeper
        self._journal = journal
        self._streams = streams
        self._encoder = encoder
        self._environment = environment
        self._limits = limits
        self._hub = hub
        self.leases = Leases(backend, self.commit_derived, environment, limits)
        self._projections: Supervisor | None = None
        self._upkeep: Supervisor | None = None
        self._journal_ended = trio.Event()
        self._stall_s = 0.0
        self.closing = False
        self.failure: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None

    async def commit_derived(self, writes: list[Write]) -> Committed | Conflict:
        """Commit perdure's own writes."""
        return await self._journal.commit(self._encoder.own(writes), derived=True)

    # -- starting ----------------------------------------------------------------------------

    async def start(
        self,
        nursery: trio.Nursery,
        models: Models,
        projections: Iterable[Any],
        retain: Callable[[Callable[[str], object]], Awaitable[None]] | None = None,
    ) -> None:
        """Start everything, in order."""
        nursery.start_soon(self._guard, self._keeper.run, name="keeper")
        nursery.start_soon(self._guard, self._run_journal, name="journal")
        await nursery.start(self._streams.run)
        nursery.start_soon(self._guard, self.leases.run, name="leases")
        jitter, publish = self._environment.jitter, self._hub.publish
        upkeep = []
        if self._backend.capabilities.upkeep:
            upkeep.append(Child("merge", self._run_upkeep, Restart.PERMANENT, final=_damaged))
            upkeep.append(Child("scrub", self._run_scrub, Restart.PERMANENT, final=_damaged))
        if retain is not None:
            upkeep.append(Child("retention", partial(self._run_retention, retain), Restart.PERMANENT, final=_hopeless))
        self._upkeep = Supervisor("upkeep", upkeep, jitter=jitter, publish=publish)
        nursery.start_soon(self._guard, self._upkeep.run, name="upkeep")
        nursery.start_soon(self._watch_loop)
        children = [models.child(projection) for projection in projections]
        for running in models.all():
            running.actor.ask()  # all at once, so that one commit takes them
        with trio.move_on_after(LOOK_S):
            await self.leases.wait_looked()
        self._projections = Supervisor("projections", children, jitter=jitter, publish=publish, grace_s=self._limits.close_s)
        started = trio.Event()
        nursery.start_soon(self._guard, self._run_projections, started, name="projections")
        await started.wait()

    async def _guard(self, run: Callable[..., Any], *args: Any) -> None:
        """What fails here fails the runtime."""
        try:
            await run(*args)
        except Exception as error:
            self.failure = self.failure or _sole(error)
            self.on_failure()

    async def _run_journal(self) -> None:
        current_actor.set("journal")
        try:
            await self._journal.run()
        finally:
            self._journal_ended.set()

    async def _run_upkeep(self, *, task_status: trio.TaskStatus[None]) -> None:
        """A damaged frame ends upkeep, not the runtime: what can be read and written still can."""
        task_status.started()
        try:
            await upkeep(self._backend, self._journal, self._keeper)
        except Corrupt as error:
            self._hub.publish(Lifecycle("upkeep/merge", What.WARNED, f"nothing is merged or forgotten any more: {error}", trio.current_time()))
            raise

    async def _run_scrub(self, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        while not self._backend.capabilities.durable:  # noqa: ASYNC110 - it may be brought to where it lasts
            await trio.sleep(DURABLE_LOOK_S)
        await scrub(self._backend, self._warn_of_damage)

    async def _run_retention(self, retain: Callable[[Callable[[str], object]], Awaitable[None]], *, task_status: trio.TaskStatus[None]) -> None:
        """In one process at a time: two would archive the same twice."""
        task_status.started()

        def tell(text: str) -> None:
            self._hub.publish(Lifecycle("upkeep/retention", What.NOTED, text, trio.current_time()))

        async with open_lease(self.leases, "retention", lease_s=self._limits.lease_s, release_s=self._limits.ask_s):
            await retain(tell)

    def _warn_of_damage(self, problem: str) -> None:
        self._hub.publish(Lifecycle("upkeep/scrub", What.WARNED, f"damage was found: {problem}", trio.current_time()))

    async def _run_projections(self, started: trio.Event) -> None:
        assert self._projections is not None
        try:
            await self._projections.run(task_status=_Started(started))
        finally:
            started.set()

    async def _watch_loop(self) -> None:
        """The longest time for which the loop did not turn."""
        while True:
            due = trio.current_time() + 0.1
            await trio.sleep_until(due)
            self._stall_s = max(self._stall_s, trio.current_time() - due)

    # -- closing -----------------------------------------------------------------------------

    async def close(self, models: Models, subscriptions: Iterable[Subscription[Any]]) -> None:
        """Intake, subscriptions, projections, leases, the journal's last group: each step in order, none without end."""
        self.closing = True
        self._streams.close()
        self._journal.close_intake()
        for running in models.all():
            if not running.supervised:  # the others are stopped by their supervisor, who would start them again
                running.actor.stop()
        for subscription in list(subscriptions):
            subscription.stop()
        for subscription in list(subscriptions):
            with suppress(PerdureError):  # its own task is told
                await subscription.save()
        await models.wait_projected()
        if self._upkeep is not None:
            await self._upkeep.stop()
        if self._projections is not None:
            await self._projections.stop(together=True)  # so that their last states share a group
        with suppress(PerdureError):  # others wait for the lease time then
            await self.leases.close()
        self._journal.close()
        await self._journal_ended.wait()

    def cut(self) -> None:
        """Wait for nothing any more."""
        self._journal.cut()

    # -- status ------------------------------------------------------------------------------

    def status(self, streams: Streams, models: Models, subscriptions: Iterable[Subscription[Any]]) -> Status:
        """See `Runtime.status`."""
        head = max([self._journal.head, *(running.cell.position for running in models.all())])
        journal = self._journal.statistics()
        failure = self._keeper.failure
        depths = streams.depths()
        children = (
            ActorStatus("keeper", self._backend.state.value, restarts=self._keeper.reopenings, last_error=None if failure is None else str(failure)),
            ActorStatus("journal", "failed" if self._journal.failure else "running", mailbox=journal.waiting, position=head),
            ActorStatus(
                "streams",
                "running",
                mailbox=sum(depths.values()),
                children=tuple(ActorStatus(f"stream {name}", "running", mailbox=depth) for name, depth in nlargest(STREAMS_TOLD, depths.items(), key=_depth)),
            ),
            ActorStatus("leases", "running", children=tuple(ActorStatus(claim.name, "held", owner=told(claim.process)) for claim in self.leases.held())),
            self._upkeep_status(),
            ActorStatus("projections", "running", children=tuple(self._projection(running, head) for running in models.all())),
            ActorStatus(
                "subscriptions",
                "running",
                children=tuple(
                    ActorStatus(
                        one.name or "(unnamed)",
                        "running" if one.owns else "standing by",
                        position=one.done,
                        lag_events=max(0, head - one.done),
                        owner=_owner(one.claim),
                    )
                    for one in subscriptions
                ),
            ),
        )
        root = ActorStatus("runtime", "running", children=children)
        return Status(self._backend.id, head, journal, self._journal.ring.bytes, len(depths), self._stall_s, root)

    def models_status(self, models: Models) -> tuple[ActorStatus, ...]:
        """The projections alone: for who looks often."""
        head = max([self._journal.head, *(running.cell.position for running in models.all())])
        return tuple([self._projection(running, head) for running in models.all()])

    def _upkeep_status(self) -> ActorStatus:
        if self._upkeep is None or not self._upkeep.names:
            return ActorStatus("upkeep", "new" if self._upkeep is None else "elsewhere")
        state, restarts, error = self._upkeep.slot("merge")
        return ActorStatus("upkeep", state, restarts=restarts, last_error=None if error is None else str(error))

    def _projection(self, running: Running, head: Position) -> ActorStatus:
        cell, actor, name = running.cell, running.actor, running.projection.name
        state, restarts, error = ("running" if cell.running else "stopped"), 0, cell.fault
        if self._projections is not None and name in self._projections.names:
            state, restarts, last = self._projections.slot(name)
            error = error or (str(last) if last is not None else None)
        if state == "running" and not actor.owns:
            state = "standing by"
        lag = max(0, head - cell.position)
        behind_s = max(0.0, (self._environment.clock() - cell.at_us) / 1e6) if lag and cell.at_us else 0.0
        return ActorStatus(
            name,
            "faulted" if cell.fault is not None and state != "gave up" else state,
            mailbox=actor.mailbox.depth,
            position=cell.position,
            lag_events=lag,
            lag_s=behind_s,
            restarts=restarts,
            restored_from=actor.restored_from,
            last_error=error,
            owner=_owner(actor.claim),
        )


def _depth(item: tuple[str, int]) -> int:
    return item[1]


def _owner(claim: Claim | None) -> str | None:
    return None if claim is None else told(claim.process) or None


def _damaged(error: BaseException) -> bool:
    return isinstance(error, Corrupt)


def _hopeless(error: BaseException) -> bool:
    return isinstance(error, Corrupt | Misuse | Unsupported)


def _sole(error: Exception) -> Exception:
    """The error itself, where a nursery has wrapped a single one."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class _Started:
    def __init__(self, event: trio.Event) -> None:
        self._event = event

    def started(self, value: Any = None) -> None:
        self._event.set()
