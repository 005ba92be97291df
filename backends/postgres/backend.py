"""`postgresql://`: a store in a database that people may query; see `Backend`. What a group means is the engine's alone.

A group is two round trips on a connection of its own. The first locks the head row, by a statement of its
own, and then asks for the facts: read by the next statement they are those after the wait. The engine decides,
between the two. The second writes all of it and commits. So commit order is position order, and a reader
needs no horizon.

The connection may go at any time. In the first round trip: nothing was begun. In the second: nobody knows, and
the store is doubtful. Whoever then gets the lock of the head row knows that the other transaction is over, for
it holds that lock to its end; and what is there of it, its commits' ids say.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import trio

from perdure.backends import build
from perdure.backends.commit import Commit, Committed, Group
from perdure.backends.effects import alone, moved_by
from perdure.backends.engine import Decisions, decide, needs
from perdure.backends.environment import Environment
from perdure.backends.errors import Closed, Full, InDoubt, Misuse, PerdureError, Unavailable, Unsupported
from perdure.backends.event import Position, Record
from perdure.backends.limits import Limits
from perdure.backends.loading import refusal as loading_refusal
from perdure.backends.news import Moved
from perdure.backends.postgres import checking, cutting, facts, filling, session, upkeep, writing
from perdure.backends.postgres.news import CHANNEL, PostgresNews, tell
from perdure.backends.postgres.pool import Pool
from perdure.backends.postgres.reads import Asks, PostgresReads
from perdure.backends.postgres.session import ASK_S, Options, Server
from perdure.backends.postgres.wire import EPOCH_US, Lost, Question, Refused, Row, Wire
from perdure.backends.progress import Told, nobody
from perdure.backends.protocol import Capabilities, CutBound, Moment, State, StoreStatus, StreamInfo

T = TypeVar("T")

FLUSH_S = 10.0
"""Who has no answer to a COMMIT by then is in doubt."""
READERS = 8
"""So many reads are asked at a time."""
_LEAVE_S = 1.0
"""A connection gets so long for its last word."""
_NOTHING = "ROLLBACK"

Connect = Callable[[], Awaitable[Wire]]


class PostgresBackend(PostgresReads):
    """See the module. *connect* makes a connection that is ready; *server* is what the server said of itself."""

    def __init__(
        self, id: str, connect: Connect, server: Server, options: Options, *, url: str, environment: Environment, limits: Limits, loading: bool
    ) -> None:
        super().__init__(self._ask_pool)
        self.id = id
        self.url = url
        self.environment = environment
        self.limits = limits
        self.capabilities = Capabilities(durable=True, shared_reads=True, shared_writes=True, loads=True, cuts=True, writes=not options.readonly)
        self._options = options
        self._server = server
        self._connect = connect
        self._pid = os.getpid()
        self._owner = environment.ids()[:8]
        self._pool = Pool(connect, READERS)
        self._views = Pool(connect, READERS)
        self._news = PostgresNews(None if server.pooled else self._listen, self._head_and_revision)
        self._writer: Wire | None = None
        self._turn = trio.Lock()
        self._reopening = trio.Lock()
        self._flushing = False
        """Whether a COMMIT is under way."""
        self._closed = False
        self._away = False
        """Whether the server could not be reached when something was to be committed."""
        self._doubts: list[bytes] = []
        """Ids of commits of which nobody knows whether they are stored,"""
        self._doubts_after = Position(0)
        """and where the log ended before them."""
        self._resolved: dict[bytes, Committed | None] = {}
        """What was found of them once the server was back."""
        self._back = trio.lowlevel.ParkingLot()
        self._open_views: set[trio.CancelScope] = set()
        self._loading = loading
        self._scrub: checking.Scrub | None = None
        self._scrubbed = ""
        self._damages: list[str] = []
        self.reconnects = 0

    def __repr__(self) -> str:
        return f"<backend {self.url}>"

    # -- writing -----------------------------------------------------------------------------

    async def commit(self, commits: Sequence[Commit]) -> Group:
        """See `Backend.commit`."""
        self._check_open()
        self._check_writes()
        async with self._turn:
            self._check_sound()
            for commit in commits if self._resolved else ():
                self._resolved.pop(commit.id, None)  # what was found of it then is over
            return await self._commit(commits)

    async def _commit(self, commits: Sequence[Commit]) -> Group:
        """One group; halved and asked again where the server has no room for it, so that only what does not fit is told so."""
        try:
            return await self._write(commits)
        except Full as error:
            if len(commits) == 1:
                return Group(await self.head(), [error])
        middle = len(commits) // 2
        first = await self._commit(commits[:middle])
        try:
            second = (await self._commit(commits[middle:])).answers
        except PerdureError as error:  # of the second half alone: the first is durable
            second = [alone(commit, error) for commit in commits[middle:]]
        return Group(first.follows, [*first.answers, *second])

    async def _write(self, commits: Sequence[Commit], *, people: bool = True) -> Group:
        """Judge and write; *people*: with the form that payloads have for people, where the server can take it."""
        needed = needs(commits)
        head, answers = await self._lock(facts.questions(needed))
        done = decide(commits, facts.facts(needed, head, answers))
        self._loading = head[3]
        if self._loading or not (done.pieces or done.changes or done.states or done.snapshots or done.kept or done.drawn or done.cuts):
            await self._leave()
            if self._loading:
                raise Unavailable(loading_refusal(self.url))
        else:
            moved = moved_by(done)
            try:
                await self._flush(commits, done, moved, people=people and self._options.json)
            except _Unfit:
                return await self._write(commits, people=False)
            self._news.tell(moved, done.head, done.revision)
        return Group(done.follows, done.answers, partial(build.records_of, done.commits, done.pieces))

    async def _lock(self, questions: Sequence[Question]) -> tuple[Row, list[list[Row]]]:
        """Begin, get the right to write, and ask; on a new connection where the one of before turns out to be gone. If cancelled, nothing was begun.

        Raises:
          Unavailable: another has the right to write and keeps it; or the server cannot be reached.
        """
        for fresh in (False, True):
            try:
                wire = await self._writing_wire()
                return await self._lock_with(wire, questions)
            except Lost as error:
                self._check_open()
                if fresh:
                    self._away = True
                    raise Unavailable(f"{self.url} cannot be reached ({error})") from error
            except Refused as error:
                await self._leave()
                session.raise_refusal(error, self.url)
        raise AssertionError("two rounds")

    async def _lock_with(self, wire: Wire, questions: Sequence[Question]) -> tuple[Row, list[list[Row]]]:
        begin = ["BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"]
        if self._server.pooled:
            begin.append(session.configure(session.guards(self._server, self.limits), local=True))
        got = False
        try:
            with trio.move_on_after(self.limits.gate_s):
                answers = await wire.ask(*begin, Question(facts.LOCK), *questions, within_s=self.limits.gate_s + ASK_S)
                got = True
        finally:
            if not got:
                wire.close()
        if not got:
            raise Unavailable(f"another has had the right to write to {self.url} for {self.limits.gate_s:g} s: {await self._who_writes(wire.pid)}")
        locked, *rest = answers[len(begin) :]
        return locked[0], rest

    async def _who_writes(self, pid: int) -> str:
        """Who stands in the way of the process *pid* of the server."""
        with suppress(Lost, Refused):
            async with self._pool.wire() as wire:
                (rows,) = await wire.ask(checking.blockers(pid), within_s=_LEAVE_S)
                if rows:
                    return ", ".join(f"{name or 'somebody'} at {address or 'this machine'} (server process {pid})" for name, address, pid in rows)
        return "nobody knows who"

    async def _writing_wire(self) -> Wire:
        if self._writer is None or self._writer.lost:
            if self._writer is not None:
                self.reconnects += 1
            self._writer = await self._connect()
        return self._writer

    async def _flush(self, commits: Sequence[Commit], done: Decisions, moved: Moved, *, people: bool) -> None:
        """Write what was decided; not interrupted.

        Raises:
          InDoubt: there is no answer.
          _Unfit: a payload's form for people is refused; nothing was stored.
        """
        try:
            await self._finish([writing.write(done, self._owner, people=people), *cutting.write(done.cuts)], *tell(moved, done.head, done.revision))
        except Refused as error:
            await self._leave()  # noqa: ASYNC120 - shielded
            if people and error.state[:2] in ("22", "54"):
                raise _Unfit from error
            session.raise_refusal(error, self.url)
        except Lost as error:
            self._doubts_after = min(self._doubts_after, done.follows) if self._doubts else done.follows
            self._doubts += [commit.id for commit in commits]
            raise InDoubt(commits[0].id, commits[0].key) from error

    async def _finish(self, writes: Sequence[Question], *hints: Question) -> None:
        """Write, commit, and tell; shielded, for what has begun is not interrupted."""
        assert self._writer is not None
        self._flushing = True
        try:
            with trio.CancelScope(shield=True):
                await self._writer.ask(*writes, "COMMIT", *hints, within_s=FLUSH_S, hints=len(hints))
        finally:
            self._flushing = False

    async def _leave(self) -> None:
        """Give the right to write back, nothing done."""
        if self._writer is not None and not self._writer.lost:
            with suppress(Lost, Refused), trio.CancelScope(shield=True):
                await self._writer.ask(_NOTHING, within_s=_LEAVE_S)

    @asynccontextmanager
    async def _step(self, *, within_s: float = FLUSH_S) -> AsyncIterator[tuple[Row, Callable[..., Awaitable[list[list[Row]]]]]]:
        """A transaction that has the right to write, for what is no commit: gives the head's row and a way to ask; committed at the end of the block.

        Raises:
          Unavailable: it could not be had, or nobody knows whether it was done.
        """
        self._check_open()
        self._check_writes()
        async with self._turn:
            self._check_sound()
            head, _ = await self._lock(())
            wire = self._writer
            assert wire is not None
            ended = False
            try:
                yield head, partial(wire.ask, within_s=within_s)
                self._flushing = True
                with trio.CancelScope(shield=True):
                    await wire.ask("COMMIT", within_s=within_s)
                ended = True
            except Lost as error:
                self._away = True
                raise Unavailable(f"the connection to {self.url} was lost ({error})") from error
            except Refused as error:
                session.raise_refusal(error, self.url)
            finally:
                self._flushing = False
                if not ended:
                    await self._leave()  # noqa: ASYNC102 - shielded, and it has a limit

    # -- doubt -------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """See `Backend.state`."""
        if self._closed:
            return State.CLOSED
        if self._reopening.locked():
            return State.REOPENING
        return State.DOUBTFUL if self._doubts or self._away else State.LOADING if self._loading else State.OPEN

    def _check_sound(self) -> None:
        self._check_open()
        if self._doubts or self._away:
            raise Unavailable(f"{self.url} has to be reopened first, after its connection was lost")

    async def reopen(self) -> None:
        """See `Backend.reopen`."""
        self._check_open()
        await trio.lowlevel.checkpoint()
        if not (self._doubts or self._away):
            return
        async with self._reopening:
            if not (self._doubts or self._away):
                return
            for scope in self._open_views:
                scope.cancel()
            async with self._turn:
                await self._resolve()
        self._back.unpark_all()
        self._news.wake_all()

    async def _resolve(self) -> None:
        """Connect anew, wait until nobody has the right to write, and look what is there of the commits in doubt."""
        if self._writer is not None:
            self._writer.close()
        head, _ = await self._lock(())
        assert self._writer is not None
        try:
            if self._doubts:
                ask: Asks = partial(self._writer.ask, within_s=ASK_S)
                found = await PostgresReads(ask).answers(self._doubts, self._doubts_after)
                self._resolved = {id: found.get(id) for id in self._doubts}
            self._doubts, self._away, self._loading = [], False, head[3]
        except (Lost, Refused) as error:
            raise Unavailable(f"{self.url} went away again ({error})") from error
        finally:
            await self._leave()  # noqa: ASYNC102 - shielded, and it has a limit

    async def answer(self, id: bytes) -> Committed | None:
        """See `Backend.answer`: of a commit that was in doubt, what was found when the server was back."""
        if id in self._resolved:
            await trio.lowlevel.checkpoint_if_cancelled()
            return self._resolved[id]
        return await super().answer(id)

    # -- reading -----------------------------------------------------------------------------

    async def _ask_pool(self, *questions: Question) -> list[list[Row]]:
        """Ask on any connection; while there is none, for as long as a commit may take. While there is a doubt, nothing is shown.

        Raises:
          Unavailable: there was none.
        """
        self._check_open()
        await trio.lowlevel.checkpoint_if_cancelled()
        deadline, delay_s = trio.current_time() + self.limits.commit_s, 0.0
        while True:
            await self._wait_sure(deadline)
            try:
                async with self._pool.wire() as wire:
                    answers = await wire.ask(*questions, within_s=ASK_S)
                if not self._doubts:
                    return answers
                continue
            except Lost as error:
                lost = error
            except Refused as error:
                session.raise_refusal(error, self.url)
            self._check_open()
            if trio.current_time() + delay_s >= deadline:
                raise Unavailable(f"{self.url} cannot be reached ({lost})") from lost
            await trio.sleep(delay_s)
            delay_s = min(1.0, max(0.05, 2 * delay_s))

    async def _wait_sure(self, deadline: float) -> None:
        if not self._doubts:
            return
        with trio.move_on_at(deadline):
            while self._doubts and not self._closed:
                await self._back.park()
        self._check_open()
        if self._doubts:
            raise Unavailable(f"{self.url} was not reopened within {self.limits.commit_s:g} s after its connection was lost")

    async def _head_and_revision(self) -> tuple[int, int]:
        head, revision, _, self._loading = await self.numbers()
        return head, revision

    async def _listen(self) -> Wire:
        wire = await self._connect()
        try:
            await wire.ask(f'LISTEN "{CHANNEL}"', within_s=ASK_S)
        except BaseException:
            wire.close()
            raise
        return wire

    async def wait_beyond(self, position: Position) -> None:
        """See `Backend.wait_beyond`."""
        await self._wait(Moved.LOG, lambda head, _: head > position)

    async def wait_changed(self, revision: int) -> None:
        """See `Backend.wait_changed`."""
        await self._wait(Moved.KV, lambda _, newest: newest > revision)

    async def _wait(self, what: Moved, done: Callable[[int, int], bool]) -> None:
        while True:
            told = self._news.told(what)
            if done(*await self._look()):
                return
            await self._news.wait(what, told)
            self._check_open()

    async def _look(self) -> tuple[int, int]:
        """Head and revision, however long that takes: a wait has no end of its own."""
        while True:
            try:
                return await self._head_and_revision()
            except Unavailable:
                await trio.sleep(1)

    @asynccontextmanager
    async def view(self) -> AsyncIterator[PostgresReads]:
        """See `Backend.view`."""
        self._check_open()
        await self._wait_sure(trio.current_time() + self.limits.commit_s)
        scope = trio.CancelScope()
        try:
            async with self._views.wire() as wire:
                held = _Held(wire, self.limits.view_s, self.url)
                await held.begin()
                self._open_views.add(scope)
                scope.deadline = trio.current_time() + self.limits.view_s
                try:
                    with scope:
                        yield PostgresReads(held.ask)
                finally:
                    self._open_views.discard(scope)
                    await held.end()  # noqa: ASYNC102 - shielded, and it has a limit
        except Lost as error:
            self._check_open()
            raise Unavailable(f"{self.url} cannot be reached ({error})") from error
        if scope.cancelled_caught:
            raise Closed(f"the view (open for {self.limits.view_s:g} s, or cut because the store had to be reopened)")

    # -- whole stores ------------------------------------------------------------------------

    def moment(self) -> AbstractAsyncContextManager[Moment]:
        """See `Backend.moment`."""
        raise Unsupported("images", self.url)

    async def load_cuts(self, streams: Sequence[StreamInfo], cuts: Sequence[CutBound]) -> None:
        """See `Backend.load_cuts`."""
        async with self._step(within_s=self.limits.commit_s) as (head, ask):
            filling.check_loading(head, self.url)
            await cutting.load(ask, streams, cuts)

    async def load_rows(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """See `Backend.load_rows`."""
        await trio.lowlevel.checkpoint()
        raise Unsupported("images", self.url)

    async def begin_load(self, *, anew: bool = False) -> None:
        """See `Backend.begin_load`."""
        async with self._step(within_s=self.limits.commit_s) as (head, ask):
            await filling.begin(head, ask, self.url, anew=anew)
            self._loading = True

    async def load(self, records: Sequence[Record]) -> None:
        """See `Backend.load`."""
        async with self._step(within_s=self.limits.commit_s) as (head, ask):
            await filling.load(head, ask, self.url, records)

    async def end_load(self) -> None:
        """See `Backend.end_load`."""
        async with self._step() as (_, ask):
            await ask("UPDATE perdure.head SET loading = false WHERE loading")
        self._loading = False
        self._news.wake_all()

    # -- the rest ----------------------------------------------------------------------------

    async def now_us(self) -> int:
        """See `Backend.now_us`: the server's clock."""
        ((row,),) = await self._ask(checking.CLOCK)
        return int(row[0]) + EPOCH_US

    async def maintain(self) -> bool:
        """See `Backend.maintain`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        if not self.capabilities.writes:
            return False
        async with self._step() as (_, ask):
            return await upkeep.forget(ask, self.limits)

    async def shrink(self) -> str:
        """See `Backend.shrink`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        return "PostgreSQL gives room back by itself (see autovacuum), to the disk by VACUUM FULL"

    async def verify(self, progress: Told = nobody) -> list[str]:
        """See `Backend.verify`."""
        return await checking.verify(self._ask_long, progress)

    async def _ask_long(self, *questions: Question) -> list[list[Row]]:
        """Ask what may take its time."""
        self._check_open()
        try:
            async with self._pool.wire() as wire:
                answers = await wire.ask("BEGIN READ ONLY", "SET LOCAL statement_timeout = 0", *questions, "COMMIT", within_s=3_600)
                return answers[2:-1]
        except Lost as error:
            self._check_open()
            raise Unavailable(f"the connection to {self.url} was lost ({error})") from error
        except Refused as error:
            session.raise_refusal(error, self.url)

    async def scrub(self) -> bool:
        """See `Backend.scrub`."""
        scrub = self._scrub or checking.Scrub()
        found = await scrub.slice(self._ask)
        self._damages += [problem for problem in found if problem not in self._damages][: checking.PROBLEMS_MAX - len(self._damages)]
        self._scrub = None if scrub.done else scrub
        if scrub.done:
            self._scrubbed = "all events" if not self._damages else f"all events, {len(self._damages)} damaged"
        return not scrub.done

    async def store_status(self) -> StoreStatus:
        """See `Backend.store_status`."""
        self._check_open()
        ((row,),) = await self._ask(checking.SIZES)
        return StoreStatus(
            url=self.url,
            id=self.id,
            head=Position(row[0]),
            revision=row[1],
            bytes_used=row[2],
            bytes_limit=0,
            verified=self._scrubbed or ("by the server's page checksums" if self._server.checksums else "not since it was opened"),
            scrubbed_rows=0 if self._scrub is None else self._scrub.rows,
            damages=tuple(self._damages),
            state=self.state,
            details={
                "server": self._server.version,
                "pooled": self._server.pooled,
                "told by": "LISTEN" if self._news.hears else "polling",
                "synchronous_commit": self._server.synchronous,
                "connections": self._pool.size + self._views.size + (self._writer is not None) + self._news.hears,
                "reconnects": self.reconnects,
            },
        )

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        for scope in self._open_views:
            scope.cancel()
        self._news.close()
        self._back.unpark_all()
        self._pool.close()
        with trio.CancelScope(shield=True):
            while self._flushing:  # noqa: ASYNC110 - what is being committed is answered first
                await trio.sleep(0.001)
        self._views.close()
        if self._writer is not None:
            self._writer.close()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"the store {self.url}")
        if os.getpid() != self._pid:
            raise Misuse(f"{self.url} was opened by process {self._pid} and inherited by a fork: open it in this process")

    def _check_writes(self) -> None:
        if not self.capabilities.writes:
            raise Unsupported("writes", self.url)


class _Unfit(Exception):
    """What was decided is refused for its form for people."""


class _Held:
    """A transaction that shows one state of the store."""

    def __init__(self, wire: Wire, view_s: float, url: str) -> None:
        self._wire = wire
        self._view_s = view_s
        self._url = url
        self._one = trio.Lock()
        self._ended = False

    async def begin(self) -> None:
        """From here on it stands still."""
        idle = f"SET LOCAL idle_in_transaction_session_timeout = '{self._view_s + 5:g}s'"
        await self._wire.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", idle, "SELECT position FROM perdure.head", within_s=ASK_S)

    async def ask(self, *questions: Question) -> list[list[Row]]:
        """See `Wire.ask`, one task at a time."""
        async with self._one:
            if self._ended or self._wire.lost:
                raise Closed("the view")
            try:
                return await self._wire.ask(*questions, within_s=ASK_S)
            except Lost as error:
                raise Closed(f"the view (its connection was lost: {error})") from error
            except Refused as error:
                session.raise_refusal(error, self._url)

    async def end(self) -> None:
        """It is not needed any more."""
        self._ended = True
        if not self._wire.lost:
            with suppress(Lost, Refused), trio.CancelScope(shield=True):
                await self._wire.ask(_NOTHING, within_s=_LEAVE_S)
