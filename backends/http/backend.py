"""`http://` and `https://`: a store that a daemon has open; see `Backend`. The daemon decides, with its own engine.

A commit goes as it is, with its id, and through a *writer*: 16 bytes that this backend drew. The connection may go at any
time. Where a request cannot have arrived, nothing was begun. Else nobody knows: the commit may be stored, or may be on its
way still, held up in a proxy or in a daemon that is frozen. So the writer is barred, in the store itself, by a commit like any
other: whatever of it comes later is refused, by every daemon; and then what became of the commits is asked for by their ids.
With a new writer it goes on.
"""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, NoReturn

import msgspec
import trio

from perdure.backends.commit import Answer, Appended, Commit, Committed, Cut, Group
from perdure.backends.environment import Environment
from perdure.backends.errors import AT_HOME, Closed, InDoubt, Misuse, PerdureError, TooLarge, Unavailable, Unsupported
from perdure.backends.event import Position
from perdure.backends.http import wire
from perdure.backends.http.news import HttpNews
from perdure.backends.http.reads import HttpReads, committed
from perdure.backends.http.session import ASK_S, Listening, Lost, Session, Unreached, why_of
from perdure.backends.http.undeclared import Undeclared
from perdure.backends.limits import Limits
from perdure.backends.progress import Told, nobody
from perdure.backends.protocol import Capabilities, State, StoreStatus
from perdure.backends.reopening import Reopenings
from perdure.backends.resolved import Resolved

SLOWEST_BYTES_S: Final = 200_000
"""A commit gets a second more for each of these."""
RESOLVE_S: Final = 20.0
VERIFY_S: Final = 3_600.0


class HttpBackend(HttpReads, Undeclared):
    """See the module. *hello* is what the daemon said of itself; *scratch* names a store of our own there."""

    def __init__(self, session: Session, hello: wire.Hello, *, environment: Environment, limits: Limits, scratch: str = "") -> None:
        super().__init__(self._ask_daemon)
        self.id = hello.store
        self.url = session.url
        self.limits = limits
        self.capabilities = Capabilities(durable=hello.durable, shared_reads=hello.durable, shared_writes=hello.durable, writes=hello.writes, upkeep=False)
        self._session = session
        self._body_bytes = hello.body_bytes
        self._headers: dict[str, str] = {wire.STORE: hello.store, **({wire.SCRATCH: scratch} if scratch else {})}
        self._ids = environment.ids
        self._pid = os.getpid()
        self._writer = environment.ids()
        self._turn = trio.Lock()
        self._reopenings = Reopenings(session.url)
        self._closed = False
        self._away = False
        """Whether the daemon could not be reached when something was to be committed."""
        self._doubts: list[bytes] = []
        """Ids of commits of which nobody knows whether they are stored,"""
        self._doubts_after = 0
        """and where the log was before them, or earlier."""
        self._resolved = Resolved()
        """What was found of them."""
        self._back = trio.lowlevel.ParkingLot()
        self._open_views: set[trio.CancelScope] = set()
        self._news = HttpNews(partial(self._listen, "/news", quiet_s=hello.alive_s * 2 + ASK_S))
        self._news.tell(hello.head, hello.revision)
        self.reopenings = 0

    def __repr__(self) -> str:
        return f"<backend {self.url}>"

    # -- writing -----------------------------------------------------------------------------

    async def commit(self, commits: Sequence[Commit]) -> Group:
        """See `Backend.commit`."""
        self._check_open()
        if not self.capabilities.writes:
            raise Unsupported("writes", self.url)
        if any(isinstance(write, Cut) for commit in commits for write in commit.writes):
            raise Unsupported("cuts", self.url, AT_HOME)
        async with self._turn:
            self._check_sound()
            self._resolved.forget(commits)
            before = self._news.head
            answers = await self._commit(commits)
            return Group(Position(_follows(answers, before)), answers)

    async def _commit(self, commits: Sequence[Commit]) -> list[Answer]:
        """The answers; what does not fit into one request is halved, so that only the commit that does not fit is told so."""
        body = wire.to_bytes(wire.Proposals(self._writer, [wire.proposal_of(commit) for commit in commits]))
        if len(body) <= self._body_bytes:
            return await self._send(commits, body)
        if len(commits) == 1:
            return [TooLarge("commit", f"{len(commits[0].writes)} writes", len(body), self._body_bytes)]
        middle = len(commits) // 2
        first = await self._commit(commits[:middle])
        try:
            second = await self._commit(commits[middle:])
        except InDoubt:
            second = [InDoubt(commit.id, commit.key) for commit in commits[middle:]]
        except PerdureError as error:  # of the second half alone: the first is durable
            second = [Unavailable(why_of(error)) for _ in commits[middle:]]
        return [*first, *second]

    async def _send(self, commits: Sequence[Commit], body: bytes) -> list[Answer]:
        """Ask the daemon; not interrupted.

        Raises:
          Unavailable: it was not begun.
          InDoubt: there is no answer, or the daemon does not know.
        """
        within_s, after = min(ASK_S, self.limits.commit_s) + len(body) / SLOWEST_BYTES_S, self._news.head
        with trio.CancelScope(shield=True):
            try:
                said = await self._session.ask("POST", "/commit", msgspec.Raw(body), wire.Answers, headers=self._headers, within_s=within_s)
            except Unreached as error:
                self._away = True
                raise Unavailable(f"{self.url} cannot be reached ({error})") from error
            except Lost as error:
                self._doubt(commits, after, error)
        answers = [wire.answer_of(one) for one in said.answers]
        if len(answers) != len(commits) or any(isinstance(one, InDoubt) for one in answers):
            self._doubt(commits, after, None)
        self._news.tell(said.head, said.revision)
        return answers  # type: ignore[return-value]  # what a daemon answers to a commit

    def _doubt(self, commits: Sequence[Commit], after: int, cause: Exception | None) -> NoReturn:
        """Note that nobody knows what became of *commits*; the log went to *after* when they were sent."""
        if not self._doubts:
            self._doubts_after = after
        self._doubts += [commit.id for commit in commits]
        raise InDoubt(commits[0].id, commits[0].key) from cause

    # -- doubt -------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """See `Backend.state`."""
        if self._closed:
            return State.CLOSED
        if self._doubts or self._away:
            return State.REOPENING if self._reopenings.under_way else State.DOUBTFUL
        return State.OPEN

    async def reopen(self) -> None:
        """See `Backend.reopen`."""
        self._check_open()
        await trio.lowlevel.checkpoint()
        if not (self._doubts or self._away):
            return
        async with self._reopenings.turn():
            if not (self._doubts or self._away):
                return
            for scope in self._open_views:
                scope.cancel()
            async with self._turn:
                try:
                    await self._resolve()
                except Lost as error:
                    raise Unavailable(f"{self.url} cannot be reached ({error})") from error
        self.reopenings += 1
        self._back.unpark_all()

    async def _resolve(self) -> None:
        """Bar the writer, and learn what is stored of what it sent.

        Raises:
          Lost, Unavailable: it is not known now.
          WrongStore: the daemon has another store open.
        """
        await self._session.ask("GET", "", None, wire.Hello, headers=self._headers)
        if self._doubts:
            asked = wire.Resolve(self._writer, self._doubts, self._doubts_after)
            found: list[wire.Done | None] = await self._session.ask(
                "POST", "/resolve", asked, list[wire.Done | None], headers=self._headers, within_s=RESOLVE_S
            )
            self._resolved.note(self._doubts, {id: committed(one) for id, one in zip(self._doubts, found, strict=True) if one is not None})
            self._writer = self._ids()
        self._doubts, self._away = [], False

    async def answer(self, id: bytes) -> Committed | None:
        """See `Backend.answer`: of a commit that was in doubt, what was found when its writer was barred."""
        if id in self._resolved:
            await trio.lowlevel.checkpoint_if_cancelled()
            return self._resolved[id]
        return await super().answer(id)

    # -- reading -----------------------------------------------------------------------------

    async def _ask_daemon(self, question: Any, kind: Any, *, within_s: float = ASK_S) -> Any:
        """Ask; while there is no answer, for as long as a commit may take. While there is a doubt, nothing is shown.

        Raises:
          Unavailable: there was none.
        """
        self._check_open()
        until = trio.current_time() + self.limits.commit_s
        while True:
            await self._wait_sure(until)
            answer = await self._session.ask_again(
                "POST", "/read", question, kind, headers=self._headers, for_s=self.limits.commit_s, within_s=within_s
            )
            if not self._doubts:
                return answer

    async def _wait_sure(self, until: float) -> None:
        """Return when nothing is in doubt.

        Raises:
          Unavailable: it is still then.
        """
        with trio.move_on_at(until):
            while self._doubts and not self._closed:
                await self._back.park()
        self._check_open()
        if self._doubts:
            raise Unavailable(f"{self.url} was not reopened within {self.limits.commit_s:g} s after its connection was lost", "try again")

    async def wait_beyond(self, position: Position) -> None:
        """See `Backend.wait_beyond`."""
        await self._wait(lambda head, _: head > position)

    async def wait_changed(self, revision: int) -> None:
        """See `Backend.wait_changed`."""
        await self._wait(lambda _, newest: newest > revision)

    async def _wait(self, done: Callable[[int, int], bool]) -> None:
        self._check_open()
        await self._news.wait(done)
        await self._wait_sure(math.inf)

    async def _listen(self, path: str, *, quiet_s: float, headers: Mapping[str, str] | None = None) -> Listening:
        return await self._session.begin(path, headers={**self._headers, **(headers or {})}, quiet_s=quiet_s)

    @asynccontextmanager
    async def view(self) -> AsyncIterator[HttpReads]:
        """See `Backend.view`: the daemon holds it open for as long as the connection lasts that asked for it."""
        self._check_open()
        await self._wait_sure(trio.current_time() + self.limits.commit_s)
        listening = await self._begin_view()
        scope = trio.CancelScope()
        try:
            name = (await _next_line(listening)).decode()
            self._open_views.add(scope)
            scope.deadline = trio.current_time() + self.limits.view_s
            with scope:
                yield HttpReads(partial(self._ask_view, name))
        finally:
            self._open_views.discard(scope)
            await listening.aclose()  # noqa: ASYNC102 - shielded, and it has a limit
        if scope.cancelled_caught:
            raise Closed(f"the view (open for {self.limits.view_s:g} s, or cut because the store was in doubt)")

    async def _begin_view(self) -> Listening:
        try:
            return await self._listen("/view", quiet_s=ASK_S)
        except Lost as error:
            raise Unavailable(f"{self.url} cannot be reached ({error})", "try again") from error

    async def _ask_view(self, name: str, question: Any, kind: Any) -> Any:
        self._check_open()
        try:
            return await self._session.ask("POST", "/read", question, kind, headers={**self._headers, wire.VIEW: name})
        except Lost as error:
            raise Closed(f"the view (the connection was lost: {error})") from error

    # -- models ------------------------------------------------------------------------------

    async def hasten(self, name: str, position: Position) -> bool:
        """See `Hastens.hasten`."""
        runs: bool = await self._ask_daemon(wire.Hasten(name, position), bool)
        return runs

    # -- the rest ----------------------------------------------------------------------------

    async def now_us(self) -> int:
        """See `Backend.now_us`."""
        self._check_open()
        hello = await self._session.ask_again("GET", "", None, wire.Hello, headers=self._headers, for_s=self.limits.commit_s)
        now: int = hello.now_us
        return now

    async def maintain(self) -> bool:
        """See `Backend.maintain`: the daemon does it."""
        await trio.lowlevel.checkpoint()
        self._check_sound()
        return False

    async def shrink(self) -> str:
        """See `Backend.shrink`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        return "a daemon has the store open: ask where it runs"

    async def verify(self, progress: Told = nobody) -> list[str]:
        """See `Backend.verify`: the daemon does it."""
        problems: list[str] = await self._ask_daemon(wire.Verify(), list[str], within_s=VERIFY_S)
        return problems

    async def scrub(self) -> bool:
        """See `Backend.scrub`: the daemon does it."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        return False

    async def store_status(self) -> StoreStatus:
        """See `Backend.store_status`."""
        said = await self._ask_daemon(wire.AskStatus(), dict[str, Any])
        try:
            status = msgspec.convert({**said, "url": self.url, "state": self.state}, StoreStatus)
        except msgspec.ValidationError as error:
            raise Misuse(f"{self.url} does not answer as this perdure does: {error}") from error
        status.details.update({"news": self._news.connects, "reopenings": self.reopenings})
        return status

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        self._back.unpark_all()
        for scope in self._open_views:
            scope.cancel()
        with trio.CancelScope(shield=True):
            await self._reopenings.end()
            await self._news.aclose()
            async with self._turn:  # what is being committed is answered first
                await self._session.aclose()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"the store {self.url}")
        if os.getpid() != self._pid:
            raise Misuse(f"{self.url} was opened by process {self._pid} and inherited by a fork: open it in this process")

    def _check_sound(self) -> None:
        self._check_open()
        if self._doubts or self._away:
            raise Unavailable(f"{self.url} has to be reopened first, after its connection was lost")


def _follows(answers: Sequence[Answer], head: int) -> int:
    """The position just before the first event of *answers*; *head*, where they have none."""
    for answer in answers:
        for part in answer.parts if isinstance(answer, Committed) else ():
            if isinstance(part, Appended) and part.position is not None:
                return part.position - (part.last - part.first) - 1
    return head


async def _next_line(listening: Listening) -> bytes:
    try:
        return await anext(listening)
    except Lost as error:
        raise Unavailable(f"the view did not begin ({error})", "try again") from error
