"""Supervisors: actors that start, watch and restart others. The rules are in `restart`; this carries them out.

Only an `Exception` is caught (a group that holds `Cancelled` or another BaseException passes); it is
logged with its traceback, kept in the status, and published: swallowed is never silent.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import attrs
import trio

from perdure.actors.restart import GIVE_UP_AFTER, Cause, Decision, History, Restart, Strategy, to_restart
from perdure.actors.status import Lifecycle, What
from perdure.backends.errors import Full, InDoubt, TooManyRestarts, Unavailable

log = logging.getLogger("perdure.supervisor")

GRACE_S = 5.0


class Run(Protocol):
    """What a child does: started when it says so, ended when it returns or raises."""

    def __call__(self, *, task_status: trio.TaskStatus[None]) -> Awaitable[None]: ...


@attrs.frozen
class Child:
    """What a supervisor starts.

    *stop* asks it to end by itself within the grace period (without it, it is cancelled); *progress*
    gives a number that grows while it gets on; *final* says of an error that starting again cannot help. When it is out of restarts, *spent*
    is told, and the others go on; without one the supervisor gives up.
    """

    name: str
    run: Run
    restart: Restart = Restart.PERMANENT
    stop: Callable[[], None] | None = None
    progress: Callable[[], int] = lambda: 0
    final: Callable[[BaseException], bool] = lambda _: False
    spent: Callable[[TooManyRestarts], Awaitable[None]] | None = None


@attrs.define(eq=False)
class _Slot:
    """A child's place in the tree, and what has happened in it."""

    child: Child
    state: str = "new"
    restarts: int = 0
    last_error: BaseException | None = None
    history: History = attrs.field(factory=History)
    errors: list[BaseException] = attrs.field(factory=list)
    began: float = 0.0
    best_progress: int = 0
    """The furthest it had got before it was started: what it does again after a restart is no progress."""
    left: bool = False
    """It has ended and is not started again."""
    restart: object = None
    """The restart that is going to start it; a later one may take it over."""
    scope: trio.CancelScope | None = None
    started: trio.Event = attrs.field(factory=trio.Event)
    ended: trio.Event = attrs.field(factory=trio.Event)


class _Status:
    """A task status that sets an event."""

    def __init__(self, event: trio.Event) -> None:
        self._event = event

    def started(self, value: Any = None) -> None:
        self._event.set()


class Supervisor:
    """Runs *children* in order until stopped; itself a child if need be."""

    def __init__(
        self,
        name: str,
        children: Sequence[Child],
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        jitter: Callable[[], float] = lambda: 0.5,
        publish: Callable[[Lifecycle], None] = lambda _: None,
        grace_s: float = GRACE_S,
    ) -> None:
        self.name = name
        self._strategy = strategy
        self._jitter = jitter
        self._publish = publish
        self._grace_s = grace_s
        self._slots = {child.name: _Slot(child) for child in children}
        self._nursery: trio.Nursery | None = None
        self._stopping = False
        self._gave_up: TooManyRestarts | None = None
        self._all_stopped = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the children in order, then watch them.

        Raises:
          TooManyRestarts: a child failed six times in a row without progress; its cause is the group of the failures.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for slot in self._slots.values():
                if not self._stopping:
                    await self._start(slot)
            task_status.started()
            await self._all_stopped.wait()
            nursery.cancel_scope.cancel()
        if self._gave_up is not None:
            raise self._gave_up

    async def stop(self, *, together: bool = False) -> None:
        """Stop the children in reverse order, each within the grace period, and end; *together*: all are asked first, then waited for."""
        self._stopping = True
        for slot in reversed(self._slots.values()) if together else ():
            if slot.scope is not None and slot.child.stop is not None:
                slot.child.stop()
        for slot in reversed(self._slots.values()):
            await self._stop(slot)
        self._all_stopped.set()

    # -- one child ---------------------------------------------------------------------------

    async def _start(self, slot: _Slot) -> None:
        assert self._nursery is not None
        slot.started, slot.ended = trio.Event(), trio.Event()
        self._nursery.start_soon(self._live, slot, name=f"{self.name}/{slot.child.name}")
        await slot.started.wait()

    async def _live(self, slot: _Slot) -> None:
        child = slot.child
        error: Exception | None = None
        slot.state, slot.began, slot.best_progress = "running", trio.current_time(), max(slot.best_progress, child.progress())
        self._tell(slot, What.STARTED)
        try:
            with trio.CancelScope() as slot.scope:
                try:
                    if not self._stopping:
                        await child.run(task_status=_Status(slot.started))
                except Exception as caught:
                    error = caught
        finally:
            slot.scope = None
            replaced = slot.state == "replaced"
            slot.state = "stopped" if error is None else "failed"
            slot.started.set()
            slot.ended.set()
        if error is not None:
            slot.last_error = error
            log.error("%s/%s failed: %s", self.name, child.name, error, exc_info=error)
        self._tell(slot, What.STOPPED if error is None else What.FAILED, error)
        if not self._stopping and not replaced:
            await self._decide(slot, error)

    async def _decide(self, slot: _Slot, error: Exception | None) -> None:
        child = slot.child
        progressed = child.progress() > slot.best_progress
        ran_s = trio.current_time() - slot.began
        cause = self._cause(child, error)
        decision, delay_s = slot.history.note(
            cause, child.restart, ran_s=ran_s, progressed=progressed, jitter=self._jitter()
        )
        slot.errors = [*(slot.errors if not progressed else []), *([error] if error is not None else [])][-GIVE_UP_AFTER - 1 :]
        match decision:
            case Decision.LEAVE:
                slot.left = True
                self._tell(slot, What.LEFT, error)
            case Decision.GIVE_UP:
                await self._give_up(slot)
            case Decision.RESTART:
                await self._restart(slot, delay_s, counted=cause is not Cause.STORE)

    def _cause(self, child: Child, error: Exception | None) -> Cause:
        if error is None:
            return Cause.DONE
        if isinstance(error, Unavailable | InDoubt | Full):
            return Cause.STORE
        return Cause.FINAL if child.final(error) else Cause.FAILED

    async def _restart(self, failed: _Slot, delay_s: float, *, counted: bool) -> None:
        failed.state = "waiting"
        if failed.restart is not None:
            return  # one that is under way starts it too
        names = to_restart(list(self._slots), failed.child.name, self._strategy)
        affected = [slot for slot in map(self._slots.__getitem__, names) if slot is failed or not slot.left]
        this = object()
        for slot in affected:
            slot.restart = this
        for slot in reversed(affected):
            if slot is not failed and slot.state == "running":
                slot.state = "replaced"
                await self._stop(slot)
        await trio.sleep(delay_s)
        for slot in affected:
            if self._stopping:
                return
            if slot.restart is this:
                slot.restart = None
                await self._again(slot, failed, counted)

    async def _again(self, slot: _Slot, failed: _Slot, counted: bool) -> None:
        if slot is not failed and slot.child.restart is Restart.TEMPORARY:
            slot.left = True
            self._tell(slot, What.LEFT)
            return
        slot.restarts += counted
        self._tell(slot, What.RESTARTED, failed.last_error)
        await self._start(slot)

    async def _stop(self, slot: _Slot) -> None:
        if slot.scope is None:
            return
        ended, scope = slot.ended, slot.scope
        if slot.child.stop is not None:
            slot.child.stop()
            with trio.move_on_after(self._grace_s):
                await ended.wait()
        scope.cancel()
        await ended.wait()

    async def _give_up(self, slot: _Slot) -> None:
        error = TooManyRestarts(slot.child.name, slot.history.failures - 1)
        error.__cause__ = ExceptionGroup(f"failures of {slot.child.name}", [e for e in slot.errors if isinstance(e, Exception)])
        self._tell(slot, What.GAVE_UP, error)
        if slot.child.spent is not None:
            slot.state, slot.left = "gave up", True
            await slot.child.spent(error)
            return
        self._stopping, self._gave_up = True, error
        assert self._nursery is not None
        self._nursery.start_soon(self.stop, name=f"{self.name} stops")

    def _tell(self, slot: _Slot, what: What, error: BaseException | None = None) -> None:
        self._publish(Lifecycle(f"{self.name}/{slot.child.name}", what, str(error) if error is not None else None, trio.current_time()))

    # -- what it knows -----------------------------------------------------------------------

    def slot(self, name: str) -> tuple[str, int, BaseException | None]:
        """State, restarts and last error of a child."""
        slot = self._slots[name]
        return slot.state, slot.restarts, slot.last_error

    @property
    def names(self) -> tuple[str, ...]:
        """The children, in the order of their start."""
        return tuple(self._slots)
