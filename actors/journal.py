"""The journal: the one actor through which every commit of a runtime goes.

All that waits when it runs becomes one group with one flush; while a flush runs the next group
gathers. Each waiting task is woken once, in one sweep. What was answered goes into the ring.

When a flush fails, nobody knows what is stored. The group stays in hand until the keeper has brought the
store back; then each of its commits is asked for by its id: what is there is answered, what is not is
decided again, in the same order. Meanwhile new commits wait.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import attrs
import outcome
import trio

from perdure.actors import batch
from perdure.actors.keeper import Keeper
from perdure.actors.mailbox import Slot, Stage
from perdure.actors.pace import Pace
from perdure.actors.ring import Ring
from perdure.backends.commit import Answer, Commit, Committed, Group
from perdure.backends.errors import Closed, Conflict, Full, InDoubt, Misuse, PerdureError, Unavailable
from perdure.backends.event import Position
from perdure.backends.limits import Limits
from perdure.backends.protocol import Backend, State
from perdure.backends.timing import Timings

if TYPE_CHECKING:
    from perdure.actors.spans import Spans

_UPKEEP_IDLE_S = 0.25
"""The journal has been idle for so long when upkeep begins."""
_TICKS = 10
"""How often within `limits.commit_s` it is looked whether someone has waited so long."""


caller_span: Final[ContextVar[Any]] = ContextVar("perdure_span", default=None)
"""The span of the write that the caller's task is about, where its trace is followed."""


class Request(Slot[Committed | Conflict]):
    """A commit on its way, with its caller's answer slot."""

    __slots__ = ("commit", "span", "ticks")

    def __init__(self, commit: Commit) -> None:
        super().__init__()
        self.commit = commit
        self.ticks = 0
        """How often it was found waiting before a group that does not get on."""
        self.span = caller_span.get()


@attrs.frozen
class JournalStatistics:
    """Numbers about the journal since it began."""

    groups: int
    commits: int
    waiting: int
    waiting_bytes: int
    doubts: int
    """Groups whose flush failed."""
    refused: int
    """Commits that the store did not take: it was unavailable, or full."""
    refusal: str
    """Why, of the last of them; '' since it has taken one again."""
    flush_mean_s: float
    flush_p50_s: float
    flush_p99_s: float
    flush_max_s: float


class Journal:
    """See the module. `run` is its task; `enqueue` never blocks, `wait_room` holds back whoever wants to."""

    def __init__(self, backend: Backend, limits: Limits, ring: Ring, keeper: Keeper, spans: Spans | None = None) -> None:
        self._backend = backend
        self._keeper = keeper
        self._spans = spans
        self._pid = os.getpid()
        self._limits = limits
        self.ring = ring
        self.pace = Pace(limits)
        self.head = Position(0)
        """The last position this journal knows of."""
        self.at_us = 0
        self._callers: deque[Request] = deque()
        self._derived: deque[Request] = deque()
        self._bytes = 0
        self._room = trio.lowlevel.ParkingLot()
        self._task: trio.lowlevel.Task | None = None
        self._refuses = False
        """Callers get `Closed`; derived commits still pass."""
        self._ending = False
        self._scope: trio.CancelScope | None = None
        self._in_flight: tuple[float, Sequence[Request]] | None = None
        self._begun = False
        """Whether what is in flight may be stored."""
        self._commits = self._doubts = self._refused = 0
        self._refusal = ""
        self.flushes = Timings()
        """How long the store took for each group."""
        self.failure: BaseException | None = None

    # -- for callers -------------------------------------------------------------------------

    async def commit(self, commit: Commit, *, derived: bool = False) -> Committed | Conflict:
        """The answer to *commit*.

        If cancelled, nothing was stored: once its group is formed the call waits for its answer.

        Raises:
          KeyReused, TooLarge, Full, ConditionTooBroad: nothing was stored.
          Unavailable, Closed: nothing was stored, and nothing will be.
          InDoubt: the store did not answer, or did not come back from a failed flush, within `limits.commit_s`.
        """
        self.refuse_fork()
        if self.full and not derived:
            await self.wait_room()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        request = Request(commit)
        self.enqueue(request, derived=derived)
        return await request.wait()

    async def commit_all(self, commits: Sequence[Commit]) -> list[Committed | Conflict | PerdureError]:
        """The answers to *commits*, which are asked in this order; what `commit` would raise for one is its answer.

        If cancelled before they are asked, nothing was stored; after that their answers are awaited.

        Raises:
          Unavailable, Closed: none of them was asked.
        """
        self.refuse_fork()
        await self.wait_room()
        requests = [Request(commit) for commit in commits]
        for request in requests:
            self.enqueue(request)
        answers: list[Committed | Conflict | PerdureError] = []
        with trio.CancelScope(shield=True):
            for request in requests:
                try:
                    answers.append(await request.wait())
                except PerdureError as error:
                    answers.append(error)
        return answers

    def enqueue(self, request: Request, *, derived: bool = False) -> None:
        """Put a request where the next group takes it from.

        Raises:
          Closed: the journal takes no more.
        """
        if self._ending or (self._refuses and not derived):
            raise Closed("the runtime")
        (self._derived if derived else self._callers).append(request)
        self._bytes += request.commit.size_bytes
        self._wake()

    def refuse_fork(self) -> None:
        """A forked child has this loop's tasks without the loop.

        Raises:
          Misuse: this process is not the one that opened the runtime.
        """
        if os.getpid() != self._pid:
            raise Misuse(f"this runtime was opened by process {self._pid} and inherited by a fork: open one in this process")

    async def wait_room(self) -> None:
        """Return when less waits than `limits.journal_bytes`.

        Raises:
          Unavailable: not within `limits.commit_s`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.move_on_after(self._limits.commit_s) as scope:
            while self.full and not self._refuses:
                await self._room.park()
        if scope.cancelled_caught:
            raise Unavailable(f"it has had no room for another commit for {self._limits.commit_s:g} s")

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        return not (self._callers or self._derived or self._in_flight)

    @property
    def full(self) -> bool:
        """Whether as much waits as may."""
        return self._bytes > self._limits.journal_bytes

    # -- the task ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Form groups until closed and empty."""
        try:
            with trio.CancelScope(shield=True) as self._scope:  # one for all groups: entering one costs as much as deciding one
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch)
                    await self._groups_until_closed()
                    nursery.cancel_scope.cancel()
        finally:
            self._refuse_rest()

    async def _groups_until_closed(self) -> None:
        while True:
            await self._wait_work()
            if self._callers:
                self.pace.note_callers(trio.current_time())
            group = batch.next_group(self._callers, self._derived, self._limits, self._take)
            if group:
                await self._flush(group)
            elif self._ending and not (self._callers or self._derived):
                return
            if self._room:
                self._room.unpark_all()

    def _take(self, request: Request) -> bool:
        self._bytes -= request.commit.size_bytes
        return request.take()

    async def _wait_work(self) -> None:
        """Park while nothing waits; with only derived commits, let callers come first.

        Some turns of the loop are enough for those who wait to be woken to commit again (a timer would have whole
        milliseconds), and a derived commit is not held up for more.
        """
        if self._callers or self._ending:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        if not self._derived:
            await self._park()
        if self._derived and not self._callers and not self._refuses:
            for _ in range(batch.RIDE_TURNS):
                await trio.lowlevel.cancel_shielded_checkpoint()
                if self._callers:
                    break

    async def _park(self) -> None:
        self._task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _wake(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    async def _flush(self, requests: list[Request]) -> None:
        self._in_flight = (trio.current_time(), requests)
        try:
            while requests:
                requests = await self._try(requests)
        except trio.Cancelled:
            self._give_up(self._in_flight[1], Closed("the journal"))
            raise
        except BaseException as error:
            self.failure = error
            self._begun = True
            self._give_up(self._in_flight[1], error)
            raise
        finally:
            self._in_flight, self._begun = None, False

    async def _try(self, requests: list[Request]) -> list[Request]:
        """Commit *requests* once; those that have to be tried again."""
        began = trio.current_time()
        self._begun = True
        try:
            group = await self._backend.commit([request.commit for request in requests])
            if len(group.answers) != len(requests):
                raise RuntimeError(f"the backend gave {len(group.answers)} answers to {len(requests)} commits: it breaks its contract")
        except InDoubt as error:
            return await self._resolve(requests, error)
        except PerdureError as error:
            self._begun = False
            if self._backend.state is State.DOUBTFUL or self._backend.state is State.REOPENING:
                return await self._wait_open(requests)
            self._refuse(error, len(requests))
            for request in requests:
                request.answer(outcome.Error(_again(error)))
            return []
        took_s = trio.current_time() - began
        self._note(took_s, len(requests))
        if self._spans is not None:
            self._spans.group(requests, group.answers, took_s)
        self._keeper.sound()
        doubtful = self._sweep(requests, group)
        return await self._resolve(doubtful, None) if doubtful else []

    def _sweep(self, requests: list[Request], group: Group) -> list[Request]:
        """Wake every caller with its own answer, then hand the group to the ring; those in doubt."""
        last = group.follows
        doubtful: list[Request] = []
        for request, answer in zip(requests, group.answers, strict=True):
            if type(answer) is Committed:
                self._refusal = ""
                request.answer(outcome.Value(answer))
                if answer.position is not None and answer.position > last:
                    last = answer.position
            elif isinstance(answer, InDoubt):
                doubtful.append(request)
            else:
                if isinstance(answer, Full):
                    self._refuse(answer, 1)
                request.answer(_outcome_of(answer))
        if last > group.follows:
            self.head = max(self.head, last)
            if group.records is None:
                self.ring.clear()
            else:
                size = sum([request.commit.size_bytes for request in requests])
                self.ring.put(group.follows, last, size, group.records)
        return doubtful

    # -- doubt -------------------------------------------------------------------------------

    async def _resolve(self, requests: list[Request], cause: InDoubt | None) -> list[Request]:
        """Answer those that are stored once the store is back; the others, in order, are to be tried again."""
        self._doubts += 1
        self.ring.clear()
        again: list[Request] = []
        left = deque(requests)
        while left:
            try:
                await self._keeper.reopened()
            except Unavailable as error:
                self._give_up([*left, *again], cause or error)
                return []
            try:
                while left:
                    if await self._is_absent(left[0]):
                        again.append(left[0])
                    left.popleft()
            except Unavailable:
                continue  # trouble again: it is reopened once more
            except InDoubt as error:
                self._give_up([*left, *again], cause or error)
                return []
        self._begun = False
        return [request for request in again if request.stage is Stage.TAKEN]

    async def _is_absent(self, request: Request) -> bool:
        """Whether a commit in doubt turned out not to be stored; one that is, is answered. Whoever was told of the doubt is left with it."""
        if request.stage is not Stage.TAKEN:
            return False
        if request.commit.key is not None:
            return True  # the engine knows its key: asked again it gives the first answer, or says that the content is another
        answer = await self._backend.answer(request.commit.id)
        if answer is None:
            return True
        request.answer(outcome.Value(answer))
        self.head = max(self.head, answer.position or self.head)
        return False

    async def _wait_open(self, requests: list[Request]) -> list[Request]:
        """The store was doubtful already: nothing was begun, and is tried again when it is back."""
        try:
            await self._keeper.reopened()
        except Unavailable as error:
            self._give_up(requests, error)
            return []
        return [request for request in requests if request.stage is Stage.TAKEN]

    def _give_up(self, requests: Sequence[Request], error: BaseException) -> None:
        """Tell those who still wait: in doubt, or that nothing was begun."""
        for request in requests:
            if not self._begun:
                told: PerdureError = Unavailable(str(error))
            else:
                told = InDoubt(request.commit.id, request.commit.key)
            told.__cause__ = error
            request.answer(outcome.Error(told))

    async def _watch(self) -> None:
        """No caller waits longer than `limits.commit_s`, in a group or before one; a flush under way goes on."""
        limit_s = self._limits.commit_s
        while True:
            await trio.sleep(limit_s / _TICKS)
            if self._in_flight is None or trio.current_time() - self._in_flight[0] < limit_s / _TICKS:
                continue
            if trio.current_time() - self._in_flight[0] >= limit_s:
                self._give_up(self._in_flight[1], TimeoutError(f"no answer from the store within {limit_s:g} s"))
            for queue in (self._callers, self._derived):
                self._refuse_old(queue, limit_s)

    def _refuse_old(self, queue: deque[Request], limit_s: float) -> None:
        for request in queue:
            request.ticks += 1
        while queue and queue[0].ticks > _TICKS:
            request = queue.popleft()
            self._bytes -= request.commit.size_bytes
            request.answer(outcome.Error(Unavailable(f"it has taken no commit for {limit_s:g} s")))
        if self._room and not self.full:
            self._room.unpark_all()

    def _note(self, took_s: float, commits: int) -> None:
        self._commits += commits
        self.flushes.note(took_s)

    def _refuse(self, error: PerdureError, commits: int) -> None:
        self._refused += commits
        self._refusal = str(error)

    # -- closing -----------------------------------------------------------------------------

    def close_intake(self) -> None:
        """Callers get `Closed` from now on, and those in no group yet; derived commits still pass."""
        self._refuses = True
        for request in self._callers:
            if request.stage is Stage.WAITING:
                request.answer(outcome.Error(Closed("the runtime")))
            self._bytes -= request.commit.size_bytes
        self._callers.clear()
        if self._room:
            self._room.unpark_all()

    def close(self) -> None:
        """After the last group of what waits, `run` ends."""
        self._refuses = self._ending = True
        self._wake()

    def cut(self) -> None:
        """Wait no longer for the flush under way: its callers are in doubt."""
        if self._scope is not None:
            self._scope.cancel()

    def _refuse_rest(self) -> None:
        self._refuses = self._ending = True
        for request in (*self._callers, *self._derived):
            request.answer(outcome.Error(Closed("the runtime")))
        self._callers.clear()
        self._derived.clear()
        self._bytes = 0
        self._room.unpark_all()

    def statistics(self) -> JournalStatistics:
        """Numbers, now."""
        return JournalStatistics(
            groups=self.flushes.count,
            commits=self._commits,
            waiting=len(self._callers) + len(self._derived),
            waiting_bytes=self._bytes,
            doubts=self._doubts,
            refused=self._refused,
            refusal=self._refusal,
            flush_mean_s=self.flushes.mean_s,
            flush_p50_s=self.flushes.quantile_s(0.5),
            flush_p99_s=self.flushes.quantile_s(0.99),
            flush_max_s=self.flushes.max_s,
        )


def _outcome_of(answer: Answer) -> outcome.Outcome[Committed | Conflict]:
    """Conflicts are values; what else is no success is raised in the caller's task."""
    if not isinstance(answer, Committed | Conflict):
        return outcome.Error(answer)
    return outcome.Value(answer)


def _again(error: PerdureError) -> PerdureError:
    """The same error for one more task: an exception object carries one traceback."""
    copy = type(error)(*error.args)
    copy.__cause__ = error
    return copy


async def upkeep(backend: Backend, journal: Journal, keeper: Keeper) -> None:
    """Merge and forget in small slices whenever the journal has been idle for a while.

    Raises:
      Corrupt: what it would merge is damaged; asking again finds the same.
    """
    while True:
        before = journal.statistics().groups
        await trio.sleep(_UPKEEP_IDLE_S)
        if not before or journal.statistics().groups != before or not journal.idle:
            continue  # a runtime that has written nothing leaves upkeep to others
        try:
            more = True
            while more and journal.idle:
                more = await backend.maintain()
                await trio.lowlevel.checkpoint()
        except Unavailable:
            if backend.state is State.OPEN:
                await trio.sleep(5)
            else:
                await keeper.reopened()
