"""Mailboxes: bounded memory channels of requests, each with one answer slot.

A request's answer is handed over by rescheduling the one task that waits for it; until it has been
taken into work, a cancelled caller withdraws it. An actor never awaits its own answer: a context
variable knows which actor runs.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final, Generic, TypeVar

import outcome
import trio

from perdure.backends.errors import AskTimeout, Closed, Misuse

A = TypeVar("A")
Q = TypeVar("Q")

current_actor: Final[ContextVar[str | None]] = ContextVar("perdure_actor", default=None)
"""The name of the actor whose task runs."""


class Stage(enum.Enum):
    """Where a request is on its way."""

    WAITING = enum.auto()
    TAKEN = enum.auto()
    ANSWERED = enum.auto()
    WITHDRAWN = enum.auto()


class Slot(Generic[A]):
    """The place for one answer, and the task that waits for it."""

    __slots__ = ("_result", "_task", "stage")

    def __init__(self) -> None:
        self.stage = Stage.WAITING
        self._result: outcome.Outcome[A] | None = None
        self._task: trio.lowlevel.Task | None = None

    def take(self) -> bool:
        """Take it into work: from here on its caller waits for the answer. False if it has been withdrawn."""
        if self.stage is not Stage.WAITING:
            return False
        self.stage = Stage.TAKEN
        return True

    def answer(self, result: outcome.Outcome[A]) -> None:
        """Hand over the answer and wake the caller; a second answer is dropped."""
        if self.stage is Stage.ANSWERED or self.stage is Stage.WITHDRAWN:
            return
        self.stage = Stage.ANSWERED
        self._result = result
        if self._task is not None:
            trio.lowlevel.reschedule(self._task, result)
            self._task = None

    def fail(self, error: BaseException) -> None:
        """Answer with an error."""
        self.answer(outcome.Error(error))

    async def wait(self) -> A:
        """The answer. Cancelled before the request was taken: it is withdrawn; after: the answer is awaited all the same."""
        if self._result is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return self._result.unwrap()
        self._task = trio.lowlevel.current_task()
        answer: A = await trio.lowlevel.wait_task_rescheduled(self._abort)
        return answer

    def withdraw(self) -> bool:
        """Take it back, unless it has been taken."""
        if self.stage is not Stage.WAITING:
            return False
        self.stage = Stage.WITHDRAWN
        self._task = None
        return True

    def abandon(self) -> None:
        """Wait no longer, whatever its stage: an answer that comes later is dropped."""
        self.stage = Stage.WITHDRAWN
        self._task = None

    def _abort(self, _: Any) -> trio.lowlevel.Abort:
        return trio.lowlevel.Abort.SUCCEEDED if self.withdraw() else trio.lowlevel.Abort.FAILED


class _Impatient(Slot[A]):
    """A slot whose caller may leave at any time: what was asked of an actor changes nothing in the store."""

    __slots__ = ()

    def _abort(self, _: Any) -> trio.lowlevel.Abort:
        self.abandon()
        return trio.lowlevel.Abort.SUCCEEDED


class Question(Generic[Q, A]):
    """What is asked of an actor: *what*, and the slot for its answer."""

    __slots__ = ("slot", "what")

    def __init__(self, what: Q) -> None:
        self.what = what
        self.slot: Slot[A] = _Impatient()


class Mailbox(Generic[Q, A]):
    """An actor's mailbox for internal questions."""

    def __init__(self, actor: str, *, size: int, ask_s: float, wake: Callable[[], None]) -> None:
        self.actor = actor
        self.ask_s = ask_s
        self._wake = wake
        self._send, self.receive = trio.open_memory_channel[Question[Q, A]](size)

    @property
    def depth(self) -> int:
        """Questions that wait."""
        return self._send.statistics().current_buffer_used

    async def ask(self, what: Q) -> A:
        """The actor's answer.

        Raises:
          Misuse: an actor asks itself.
          AskTimeout: no answer within the limit; if it was not begun, it is withdrawn.
          Closed: the actor has ended.
        """
        if current_actor.get() == self.actor:
            raise Misuse(f"actor {self.actor!r} asks itself and would wait for ever: do it directly")
        question: Question[Q, A] = Question(what)
        try:
            with trio.fail_after(self.ask_s):
                await self._send.send(question)
                self._wake()
                return await question.slot.wait()
        except trio.TooSlowError:
            raise AskTimeout(self.actor, self.depth, self.ask_s) from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Closed(f"actor {self.actor!r}") from None

    def waiting(self) -> Iterator[Question[Q, A]]:
        """The questions that wait, each taken out."""
        while True:
            try:
                question = self.receive.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                return
            if question.slot.take():
                yield question

    def refuse(self) -> None:
        """Tell those that wait that nobody will answer."""
        for question in self.waiting():
            question.slot.fail(Closed(f"actor {self.actor!r}"))
