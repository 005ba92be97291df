"""Projection actors: a fold kept up to date, its state durable by snapshots, its cursor a compare-and-set.

Where several processes share the store, the actor folds while it holds the lease of its projection, and every commit
carries the fence. Without the lease it stands by: it shows what the owner keeps, and takes over from there. Where no other process can
write there is no lease; of two runtimes on one store the loser of the compare-and-set stands by for good. When the store
had to be brought back after a failed flush, the actor begins again from what is durable.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import attrs
import outcome
import trio

from perdure.actors import snapshots
from perdure.actors.beyond import Beyond
from perdure.actors.cursor import Checkpoint, Progress
from perdure.actors.fold import Definition, Projection, Stopped, bytes_of, fingerprint, fold_page, step_print
from perdure.actors.follower import Follower
from perdure.actors.lease import Claim, Leases
from perdure.actors.mailbox import Mailbox, current_actor
from perdure.actors.model import LOOK_EVERY_S, LOOK_IDLE_S, Cell, Sources, failed, lease_of, newest_snapshot, other_version
from perdure.actors.pace import SLICE, Pace
from perdure.actors.restart import delay_s
from perdure.actors.ring import Ring
from perdure.actors.status import What
from perdure.actors.subscription import Place
from perdure.backends.codec import Codec, check_stable
from perdure.backends.commit import Committed, SaveSnapshot, Stored, Write
from perdure.backends.environment import Threads, TrioThreads
from perdure.backends.errors import (
    Closed,
    Conflict,
    Full,
    InDoubt,
    MissingExtra,
    Misuse,
    ModelFaulted,
    PerdureError,
    ProjectionFailed,
    Rewound,
    StateTooLarge,
    TooLarge,
    Truncated,
    Unavailable,
    Unreadable,
    UnstableState,
    WrongStore,
)
from perdure.backends.event import START, Position, Record
from perdure.backends.limits import Limits
from perdure.backends.protocol import Backend, State

if TYPE_CHECKING:
    from perdure.actors.spans import Spans

P = TypeVar("P", bound=Definition)

log = logging.getLogger("perdure.projection")

Changed = Literal["refuse", "rebuild"]


@attrs.frozen
class Services:
    """What an actor needs of the runtime it lives in. *commit* is for derived commits."""

    backend: Backend
    ring: Ring
    codec: Codec
    limits: Limits
    pace: Pace
    commit: Callable[[list[Write]], Awaitable[Committed | Conflict]]
    changed: Changed = "refuse"
    warn: Callable[[str, str], None] = lambda name, text: log.warning("%s: %s", name, text)
    reopened: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    """Returns when a doubtful store is open again."""
    reopenings: Callable[[], int] = lambda: 0
    """How often it had to be."""
    leases: Leases | None = None
    """Asked where other processes may run the same projections."""
    tell: Callable[[str, What, str], None] = lambda name, what, text: log.info("%s: %s", name, text)
    threads: Threads = attrs.field(factory=TrioThreads)
    """For databases of read models."""
    spans: Spans | None = None
    """Told of each page, where there is OpenTelemetry."""


class ProjectionActor(Generic[P]):
    """What both kinds of projection do; a kind says how it begins, applies a page, and keeps what it has."""

    def __init__(self, projection: P, services: Services, cell: Cell) -> None:
        self.projection = projection
        self.cell = cell
        self.name = projection.name
        self.mailbox: Mailbox[str, Position] = Mailbox(
            f"projection {self.name}", size=services.limits.mailbox, ask_s=services.limits.ask_s, wake=self._interrupt
        )
        """Asked "save", it answers with the durable position."""
        cell.mailbox = self.mailbox
        self.restored_from = START
        """Where it began this time: what lay beyond was folded again."""
        self._services = services
        self._codec = services.codec
        self._fingerprint = fingerprint(projection, services.codec)
        self._step_print = step_print(projection)
        self._place = Place(self.name, services.backend)
        self._progress = Progress(START, START)
        self._waiting: trio.CancelScope | None = None
        self._stopping = False
        self.claim: Claim | None = None
        """Of its lease, once `ask` has been called, where there are leases."""
        self._outrun = False
        """Without leases: another runtime has moved the checkpoint, and nothing is kept from here."""
        self._failure: Exception | None = None
        self._checked = False
        self._reopenings = 0
        self._folding = False
        """Whether what is in memory may stand in the middle of a page."""
        self._doubted: Checkpoint | None = None
        """What we asked to be kept when the store went away: it may be kept yet, and is ours then."""
        self._troubles = 0
        """Of the store, in a row."""

    _delay_max_s = float("inf")
    """What was in trouble is tried again so soon at least."""
    _starts_in_trouble = False
    """Whether it counts as started though it cannot be reached where its state is kept."""

    # -- its life ----------------------------------------------------------------------------

    def ask(self) -> None:
        """Want the lease of the projection from now on, where other processes may run it too."""
        if self._services.leases is not None and self.claim is None and self._services.backend.capabilities.shared_writes:
            self.claim = self._services.leases.claim(lease_of(self.name), self._interrupt)

    async def leave(self) -> None:
        """Give the lease back: it is not run here any more."""
        claim, self.claim = self.claim, None
        if claim is not None and self._services.leases is not None:
            await self._services.leases.release(claim)

    @property
    def owns(self) -> bool:
        """Whether what is folded here is kept."""
        return self.claim.held if self.claim is not None else not self._outrun

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:  # noqa: ASYNC128 - called by another name
        """Restore, then follow the log until stopped.

        Raises:
          ProjectionFailed: an event could not be folded; the model stands before it.
          ModelFaulted: what is stored is of another version of the projection.
          StateTooLarge, UnstableState: the state cannot be kept.
        """
        token = current_actor.set(f"projection {self.name}")
        self.cell.running = True
        self._stopping = self._outrun = False
        started = Once(task_status.started)
        try:
            self.ask()
            while not self._stopping:
                try:
                    if not self.owns:
                        await self._stand_by(started)
                        continue
                    follower = await self._begin_anew()
                    started()
                    while await self._follow_on(follower):
                        pass
                except (Unavailable, InDoubt, Full, Stale) as error:
                    if self._starts_in_trouble:
                        started()
                    await self._wait_out(error)
            if not started.done:
                raise Closed("the runtime")
        except PerdureError as error:
            if final(error):
                self.cell.stand_still(f"{error}: {error.__cause__!r}" if error.__cause__ is not None else str(error))
            raise
        finally:
            current_actor.reset(token)
            self.mailbox.refuse()

    async def _begin_anew(self) -> Follower:
        """Forget what is in memory, and stand where the store says."""
        services = self._services
        self._progress, self._reopenings, self._folding = Progress(START, START), services.reopenings(), False
        await self._restore()
        return Follower(services.backend, services.ring, self.projection.events, self._progress.position, services.pace)

    async def _follow_on(self, follower: Follower) -> bool:
        """Follow; whether to go on with what is in memory, because nothing happened but that the store did not take something now."""
        try:
            await self._follow(follower)
        except (Unavailable, Full) as error:
            if self._folding or not self.owns or self._services.backend.state is not State.OPEN:
                raise  # what is in memory is not what the follower stands behind
            await self._wait_out(error)
            return not self._stopping
        return False

    async def _wait_out(self, error: Exception) -> None:
        """The store is in trouble: nobody's fault here, and no restart."""
        services = self._services
        if self._stopping:
            services.warn(self.name, f"what it had folded since its last save is folded again next time: {error}")
            return
        services.warn(self.name, f"it waits for the store: {error}")
        delay = min(delay_s(self._troubles, 0.5), self._delay_max_s)
        self._troubles += 1
        with trio.CancelScope() as self._waiting:
            if services.backend.state is State.OPEN:
                await trio.sleep(delay)
            else:
                await services.reopened()

    async def _follow(self, follower: Follower) -> None:
        """Until stopped or disowned, or until the store had to be brought back: then memory may be ahead of it."""
        while not self._stopping:
            if self._services.reopenings() != self._reopenings or not self.owns:
                return
            self._fail_if_told()
            records = await self._next_page(follower)
            if records is None:
                owned = await self.save()
                for question in self.mailbox.waiting():
                    question.slot.answer(outcome.Value(self._progress.written))
            else:
                spans = self._services.spans
                with nullcontext() if spans is None else spans.page(self.name, records):
                    owned = await self._deal_with(records, follower)
            if not owned:
                return
        await self.save()

    def _fail_if_told(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def _next_page(self, follower: Follower) -> list[Record] | None:
        """The next page; None when there is something to keep and nothing has come for a while, or when it is to stop."""
        if self.mailbox.depth:
            return None
        with trio.move_on_after(self._patience_s) as self._waiting:
            if self._stopping or self._failure is not None:
                return []
            return await follower.page()
        return None if not self._stopping else []

    @property
    def _patience_s(self) -> float:
        """How long the next page is waited for before what there is is kept."""
        return snapshots.IDLE_S if self._progress.events else float("inf")

    async def _deal_with(self, records: list[Record], follower: Follower) -> bool:
        """Apply a page and keep what is due; False when another process turns out to own the projection."""
        self._folding = True
        stopped = await self._apply(records) if records else None
        self._folding = stopped is not None
        if stopped is not None:
            before = Position(stopped.record.position - 1)
            records = [record for record in records if record.position <= before]
            self._progress.looked(max(before, self._progress.position), len(records), bytes_of(records))
            self._show(records, stopped)
            error = failed(self.name, stopped)
            if not await self.save(fault=f"{error}: {stopped.error!r}"):
                return False
            raise error from stopped.error
        if records or follower.cursor > self._progress.position:
            self._progress.looked(follower.cursor, len(records), bytes_of(records))
        self._show(records, None)
        if self.due(follower) or self._progress.worth_writing:
            return await self.save()
        return True

    def stop(self) -> None:
        """Finish the commit under way, keep what there is, end; without catching up."""
        self._stopping = True
        self._interrupt()

    def fail(self, error: Exception) -> None:
        """Make the actor fail with *error* before its next page: for trying out supervision."""
        self._failure = error
        self._interrupt()

    def _interrupt(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()

    # -- restoring ---------------------------------------------------------------------------

    async def _restore(self) -> None:
        """Begin from what is kept, or anew."""
        kept = await self._place.read()
        if kept is not None and kept.fingerprint != self._fingerprint:
            if self._services.changed == "refuse":
                await self._show_kept(kept)
                raise ModelFaulted(self.name, other_version(kept))
            kept = None
            await self._discard()
        elif kept is not None and kept.step and self._step_print and kept.step != self._step_print:
            self._services.warn(self.name, "its step was changed without raising its version: states so far were made by the old one")
        self.cell.fault = None
        await self._begin(kept)
        self.restored_from = self._progress.position
        self._progress.written = self._progress.position

    async def _begin(self, kept: Checkpoint | None) -> None:
        raise NotImplementedError

    async def _discard(self) -> None:
        raise NotImplementedError

    async def _show_kept(self, kept: Checkpoint) -> None:
        raise NotImplementedError

    # -- a page ------------------------------------------------------------------------------

    async def _apply(self, records: list[Record]) -> Stopped | None:
        """Fold a page, with a turn for other tasks between its slices; nothing of it is shown before its end."""
        stopped = await self._apply_slice(records[:SLICE])
        for start in range(SLICE, len(records), SLICE):
            if stopped is None:
                await trio.lowlevel.checkpoint()
                stopped = await self._apply_slice(records[start : start + SLICE])
        return stopped

    async def _apply_slice(self, records: list[Record]) -> Stopped | None:
        raise NotImplementedError

    def _show(self, records: list[Record], stopped: Stopped | None) -> None:
        raise NotImplementedError

    def due(self, follower: Follower) -> bool:
        """Whether what has been folded should be kept now."""
        raise NotImplementedError

    # -- keeping -----------------------------------------------------------------------------

    async def save(self, fault: str = "") -> bool:
        """Keep state and cursor in one commit, if there is anything to keep; False when it turns out to be another's."""
        progress = self._progress
        if not self.owns:
            return False
        had_fault = bool(self._place.kept and self._place.kept.fault)
        if progress.position == progress.written and not fault and not had_fault:
            return True
        if not progress.events and not fault and not had_fault and not (self._stopping or progress.worth_writing):
            return True
        writes, done = await self._writes()
        checkpoint = Checkpoint(self._services.backend.id, progress.position, self._fingerprint, self._step_print, fault, self._durable(progress))
        try:
            answer = await self._commit([self._place.put(checkpoint), *writes])
        except InDoubt:
            self._doubted = checkpoint
            raise
        if isinstance(answer, Conflict):
            if not self.owns:
                return False
            doubted, self._doubted = self._doubted, None
            if self.claim is not None or (doubted is not None and await self._place.read() == doubted):
                raise Stale
            self._outrun = True
            return False
        stored = answer.parts[0]
        assert isinstance(stored, Stored)
        self._place.wrote(checkpoint, stored.revision)
        progress.wrote()
        self._troubles = 0
        done()
        return True

    async def _commit(self, writes: list[Write]) -> Committed | Conflict:
        """Commit with the fence of its lease; a conflict of that means that another process owns it now."""
        if self.claim is None:
            return await self._services.commit(writes)
        answer = await self._services.commit([*writes, self.claim.fence])
        if isinstance(answer, Conflict) and any(one.what == "fence" for one in (answer, *answer.more)):
            self.claim.lose()
        return answer

    def _durable(self, progress: Progress) -> int:
        return progress.position

    async def _writes(self) -> tuple[list[Write], Callable[[], None]]:
        """What is written beside the checkpoint, and what to do once it is durable."""
        raise NotImplementedError

    def _encoder(self) -> Callable[[Any], bytes]:
        """What gives the bytes of a state; the first one in each run is checked for stability."""
        if self._checked:
            return self._codec.encoder(self.projection.state_type)
        return self._check_and_encode

    def _check_and_encode(self, state: Any) -> bytes:
        if self._checked:
            return self._codec.encoder(self.projection.state_type)(state)
        raw = check_stable(self._codec, self.projection.state_type, state, name=self.name)
        self._checked = True
        return raw

    # -- another process owns it -------------------------------------------------------------

    async def _stand_by(self, started: Callable[[], None]) -> None:
        """Drop what is in memory and show what the owner keeps, until it is ours, or stopped."""
        self._services.tell(self.name, What.STANDING_BY, "it is run elsewhere: this one shows what is kept there")
        self._drop()
        backend, shown = self._services.backend, -1
        beyond = Beyond(backend, self.projection.events)
        self.cell.hurry = self._interrupt
        while not self._stopping and not self.owns:
            self._fail_if_told()
            revision, head, awaited = await backend.revision(), await backend.head(), self.cell.awaited
            kept = await self._place.read()
            if kept is not None and self._place.revision != shown:
                await self._show_others(kept)
                shown = self._place.revision
            if not self.cell.loaded:
                self.cell.publish(self.projection.initial, START)  # nothing was kept yet
            if awaited and self.cell.fault is None and (kept is None or kept.fingerprint == self._fingerprint):
                self.cell.reach(await beyond.reach(self.cell.position))
            started()
            for question in self.mailbox.waiting():
                question.slot.answer(outcome.Value(START if kept is None else Position(kept.position)))
            with trio.CancelScope() as self._waiting:
                if not (self._stopping or self.owns or self._failure or self.mailbox.depth or self.cell.awaited > awaited):
                    await trio.sleep(LOOK_EVERY_S if awaited else LOOK_IDLE_S)
                    await (_wait_either(backend, revision, head) if awaited else backend.wait_changed(revision))
        self.cell.hurry = lambda: None  # nothing is held back here

    async def _show_others(self, kept: Checkpoint) -> None:
        """What another process keeps, if it can be shown; it may be of another version."""
        if kept.fingerprint != self._fingerprint:
            if kept.fingerprint:  # else it is being built anew
                self.cell.stand_still(other_version(kept))
            return
        await self._show_kept(kept)
        self.cell.fault = None
        if kept.fault:
            self.cell.stand_still(kept.fault)

    def _drop(self) -> None:
        """Forget what is in memory."""
        raise NotImplementedError


async def _wait_either(backend: Backend, revision: int, head: Position) -> None:
    """Until kv has changed, or the log has grown."""
    async with trio.open_nursery() as nursery:

        async def wait(change: Callable[[], Awaitable[None]]) -> None:
            await change()
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait, lambda: backend.wait_changed(revision))
        nursery.start_soon(wait, lambda: backend.wait_beyond(head))


class Once:
    """Calls something the first time only."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self.done = False

    def __call__(self) -> None:
        if not self.done:
            self.done = True
            self._call()


class Stale(Exception):
    """The checkpoint was moved, though nobody else may: a save in doubt was kept after all. Begin again from it."""

    def __str__(self) -> str:
        return "what is kept is further than it thought"


def final(error: BaseException) -> bool:
    """Whether restarting cannot help: the projection's own decision, or a fault of the program."""
    faults = ProjectionFailed | ModelFaulted | StateTooLarge | TooLarge | UnstableState
    return isinstance(error, faults | Misuse | MissingExtra | WrongStore | Rewound | Truncated)


class SingleActor(ProjectionActor[Projection[Any, Any]]):
    """A projection with one state: memory is ahead, snapshots are what is durable."""

    def __init__(self, projection: Projection[Any, Any], services: Services, cell: Cell) -> None:
        super().__init__(projection, services, cell)
        self.state = projection.initial
        self._snapshot_bytes = 0
        self._snapshots: list[Position] = []
        self._stale: list[Position] = []
        """Snapshots of another version, to be dropped with the next one."""

    async def _begin(self, kept: Checkpoint | None) -> None:
        self._snapshots = await self._services.backend.snapshots(self.name)
        self._stale, self._snapshot_bytes = (list(self._snapshots) if kept is None else []), 0
        self.state, position, at_us = self.projection.initial, START, 0
        if kept is not None:
            found = await newest_snapshot(self._sources, self.projection, warn=self._services.warn)
            if found is not None:
                self.state, position, at_us = found[0], found[1].position, found[1].at_us
                self._snapshot_bytes = len(found[1].state)
            if position == kept.durable and kept.position > position:
                position = Position(kept.position)  # what came after the snapshot was not wanted
        self._progress = Progress(position, position)
        self._publish(at_us)

    def _publish(self, at_us: int) -> None:
        """Show the state, unless what is shown is further on: memory is never ahead of what was acknowledged, so a model does not go back."""
        if self._progress.position >= self.cell.position or not self.cell.loaded:
            self.cell.publish(self.state, self._progress.position, at_us)

    @property
    def _sources(self) -> Sources:
        return Sources(self._services.backend, self._codec, self._services.limits)

    async def _discard(self) -> None:
        """What is there goes with the first snapshot: see `_begin`."""

    def _drop(self) -> None:
        self.state = self.projection.initial

    async def _show_kept(self, kept: Checkpoint) -> None:
        snapshot = await self._services.backend.read_snapshot(self.name)
        if snapshot is None:
            return
        try:
            state = self._codec.decoder(self.projection.state_type)(snapshot.state)
        except Unreadable:
            return
        if snapshot.position >= self.cell.position or not self.cell.loaded:  # what was shown here was true already
            self.cell.publish(state, snapshot.position, snapshot.at_us)

    async def _apply_slice(self, records: list[Record]) -> Stopped | None:
        self.state, stopped = fold_page(self._codec, self.projection.step, self.state, records)
        return stopped

    def _show(self, records: list[Record], stopped: Stopped | None) -> None:
        self._publish(records[-1].at_us if records else 0)

    def due(self, follower: Follower) -> bool:
        return snapshots.due(events=self._progress.events, folded_bytes=self._progress.bytes, last_bytes=self._snapshot_bytes)

    def _durable(self, progress: Progress) -> int:
        if self._new_snapshot:
            return progress.position
        return START if self._place.kept is None else self._place.kept.durable

    @property
    def _new_snapshot(self) -> bool:
        return bool(self._progress.events or self._stale)

    async def _writes(self) -> tuple[list[Write], Callable[[], None]]:
        if not self._new_snapshot:
            return [], lambda: None
        raw = self._encoder()(self.state)
        limit = self._services.limits.state_bytes
        if len(raw) > limit:
            raise StateTooLarge(self.name, len(raw), limit)
        position = self._progress.position
        stale = [older for older in self._stale if older != position]
        kept = [older for older in self._snapshots if older not in self._stale]
        drop = (*stale, *snapshots.to_drop(kept, position))

        def done() -> None:
            self._snapshot_bytes, self._stale = len(raw), []
            self._snapshots = sorted({*(older for older in self._snapshots if older not in drop), position})

        return [SaveSnapshot(self.name, position, self._fingerprint, raw, drop)], done
