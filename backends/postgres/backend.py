"""`postgresql://`: a store in a database that people may query; see `Backend`. What a group means is the engine's alone.

Most groups are one round trip: a statement that is a transaction of its own writes what the engine decided by
facts that the process knows already (see `belief`), if they are still true; else it writes nothing. While it has
the head row's lock it waits for nobody but the disk. Otherwise a group is two round trips. The first locks the
head row, by a statement of its own, and then asks for the facts: read by the next statement they are those
after the wait. The engine decides, between the two. The second writes all of it and commits. Either way
commit order is position order, and a reader needs no horizon.

The connection may go at any time. In the first of two round trips: nothing was begun. In the one that writes:
nobody knows, and the store is doubtful. Whoever then gets the lock of the head row knows that a transaction that
had it is over, for it holds that lock to its end; what has not got it yet finds the head's `epoch` raised, and
writes nothing. What is there, its commits' ids say.
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
from perdure.backends.engine import Decisions, Facts, Needs, decide, needs
from perdure.backends.environment import Environment
from perdure.backends.errors import Closed, Corrupt, Full, InDoubt, Misuse, PerdureError, StoreMoved, Unavailable, Unsupported
from perdure.backends.event import Position, Record
from perdure.backends.limits import Limits
from perdure.backends.loading import refused
from perdure.backends.news import Moved
from perdure.backends.postgres import checking, cutting, facts, session, writing
from perdure.backends.postgres.ahead import Ahead
from perdure.backends.postgres.belief import Belief, copy, further_on, provable
from perdure.backends.postgres.care import PostgresCare
from perdure.backends.postgres.held import LEAVE_S, Held
from perdure.backends.postgres.moves import PostgresMoves
from perdure.backends.postgres.news import PostgresNews, listen, tell
from perdure.backends.postgres.pool import Pool
from perdure.backends.postgres.reads import Asks, PostgresReads
from perdure.backends.postgres.schema import LOADING, NEW_EPOCH
from perdure.backends.postgres.session import ASK_S, Options, Server
from perdure.backends.postgres.wire import EPOCH_US, Lost, Question, Refused, Row, Wire
from perdure.backends.protocol import Capabilities, Moment, State
from perdure.backends.reopening import Reopenings
from perdure.backends.resolved import Resolved

T = TypeVar("T")

FLUSH_S = 10.0
"""Who has no answer to a COMMIT by then is in doubt."""
READERS = 8
"""So many reads are asked at a time."""

Connect = Callable[[], Awaitable[Wire]]


class PostgresBackend(PostgresMoves, PostgresCare):
    """See the module. *connect* makes a connection that is ready; *server* is what the server said of itself."""

    def __init__(
        self, id: str, connect: Connect, server: Server, options: Options, *, url: str, environment: Environment, limits: Limits, elsewhere: str
    ) -> None:
        super().__init__(self._ask_pool)
        self.id = id
        self.url = url
        self.environment = environment
        self.limits = limits
        writes = not options.readonly
        self.capabilities = Capabilities(durable=True, shared_reads=True, shared_writes=True, loads=True, cuts=True, writes=writes, moves=writes)
        self._options = options
        self._server = server
        self._connect = connect
        self._pid = os.getpid()
        self._owner = environment.ids()[:8]
        self._pool = Pool(connect, READERS)
        self._ahead = Ahead(self._pool)
        self._views = Pool(connect, READERS)
        self._news = PostgresNews(None if server.pooled else partial(listen, connect, id), self._head_and_revision)
        self._writer: Wire | None = None
        self._turn = trio.Lock()
        self._reopenings = Reopenings(url)
        self._flushing = False
        """Whether a COMMIT is under way."""
        self._closed = False
        self._away = False
        """Whether the server could not be reached when something was to be committed."""
        self._belief = Belief()
        self._doubts: list[bytes] = []
        """Ids of commits of which nobody knows whether they are stored,"""
        self._doubts_after = Position(0)
        """and where the log ended before them."""
        self._resolved = Resolved()
        """What was found of them once the server was back."""
        self._back = trio.lowlevel.ParkingLot()
        self._open_views: set[trio.CancelScope] = set()
        self._elsewhere = elsewhere
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
            self._resolved.forget(commits)
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

    async def _write(self, commits: Sequence[Commit]) -> Group:
        """Judge and write: by what is believed, or else with the head locked."""
        needed = needs(commits)
        if needed.cuts:
            async with self.claim_move():
                return await self._write_locked(commits, needed)
        if not (self._server.pooled or self._belief.takes_the_lock()):
            group = await self._write_believing(commits, needed)
            if group is not None:
                return group
        return await self._write_locked(commits, needed)

    async def _write_locked(self, commits: Sequence[Commit], needed: Needs) -> Group:
        """Judge and write, in two round trips."""
        head, answers = await self._lock(facts.questions(needed))
        known = facts.facts(needed, head, answers)
        done = decide(commits, known)
        self._elsewhere = head[3]
        if self._elsewhere or not (done.pieces or done.changes or done.states or done.snapshots or done.kept or done.drawn or done.cuts):
            await self._leave()
            if self._elsewhere:
                raise refused(self.url, "" if self._elsewhere == LOADING else self._elsewhere)
            return Group(done.follows, done.answers)
        place = writing.Place(self.id, head[4], done.follows, head[1])
        rows = await self._flush(commits, done.follows, writing.write(done, place, self._owner, alone=False), *cutting.write(done.cuts), "COMMIT")
        if not rows:
            raise Corrupt(f"the store {self.url}", "its table head has no row, or that of another store")
        group = self._written(done, known, head[4], head[1], heard=rows[0][3])
        if done.cuts:  # it is a new epoch
            self._belief.forget()
            self._ahead.drop()
        return group

    async def _write_believing(self, commits: Sequence[Commit], needed: Needs) -> Group | None:
        """Judge without a lock, and write if what it was judged by is still true; None: nothing was stored, and it has to be judged with the lock."""
        found = self._belief.facts(needed) or await self._ask_facts(needed)
        if found is None or self._writer is None or not self._writer.alive:
            return None
        known, epoch = found
        before = copy(known)
        done = decide(commits, known)
        if not provable(needed, done):
            return None
        place = writing.Place.believed(self.id, epoch, before, needed, done)
        rows = await self._flush(commits, before.head, writing.write(done, place, self._owner, alone=True))
        self._belief.note(right=bool(rows))
        if not rows:
            return None
        follows, since, at, heard = rows[0]
        if (follows, since, at + EPOCH_US) != (before.head, before.revision, before.at_us):  # others have written in between: the same, further on
            known = further_on(before, head=follows, at_us=at + EPOCH_US, revision=since)
            done = decide(commits, known)
        return self._written(done, known, epoch, since, heard=heard)

    async def _ask_facts(self, needed: Needs) -> tuple[Facts, int] | None:
        """The facts of now, and the epoch; None where they cannot be had, or not yet. If cancelled, nothing was begun."""
        with suppress(Lost, Refused):
            return await facts.ask(await self._writing_wire(), needed, within_s=ASK_S)
        return None

    def _written(self, done: Decisions, known: Facts, epoch: int, since: int, *, heard: bool) -> Group:
        """What is to be remembered and told of a group that was written, *since* being the revision before it."""
        moved, self._elsewhere = moved_by(done), ""
        self._belief.learn(known, epoch, since, done)
        self._news.tell(moved, done.head, done.revision)
        if self._writer is not None and heard:
            tell(self._writer, moved, done.head, done.revision)
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
            raise await self._held_up()
        locked, *rest = answers[len(begin) :]
        return locked[0], rest

    async def _held_up(self) -> Unavailable:
        who = await checking.who_writes(self._pool, within_s=LEAVE_S)
        return Unavailable(f"another has had the right to write to {self.url} for {self.limits.gate_s:g} s: {who}")

    async def _writing_wire(self) -> Wire:
        if self._writer is None or self._writer.lost:
            if self._writer is not None:
                self.reconnects += 1
            self._writer = await self._connect()
        return self._writer

    async def _flush(self, commits: Sequence[Commit], follows: Position, write: Question, *rest: Question | str) -> list[Row] | None:
        """The answer to the statement that writes, once all is committed; None: a row of its is there already. Not interrupted.

        Raises:
          InDoubt: there is no answer. Those of its events that are there have positions beyond *follows*.
          Unavailable, Full, Misuse: nothing was stored.
        """
        assert self._writer is not None
        self._flushing = True
        try:
            with trio.CancelScope(shield=True):
                rows, *_ = await self._writer.ask(write, *rest, within_s=FLUSH_S + (0 if rest else self.limits.gate_s + 1))
        except Refused as error:
            if rest:
                await self._leave()  # noqa: ASYNC120 - shielded
            elif error.state == "23505":
                return None
            if error.state == "55P03":
                raise await self._held_up() from error  # noqa: ASYNC120 - it has a limit
            session.raise_refusal(error, self.url)
        except Lost as error:
            self._belief.forget()
            self._doubts_after = min(self._doubts_after, follows) if self._doubts else follows
            self._doubts += [commit.id for commit in commits]
            raise InDoubt(commits[0].id, commits[0].key) from error
        finally:
            self._flushing = False
        return rows

    async def _leave(self) -> None:
        """Give the right to write back, nothing done."""
        if self._writer is not None and not self._writer.lost:
            with suppress(Lost, Refused), trio.CancelScope(shield=True):
                await self._writer.ask("ROLLBACK", within_s=LEAVE_S)

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
        if self._doubts or self._away:
            return State.REOPENING if self._reopenings.under_way else State.DOUBTFUL
        return State.LOADING if self._elsewhere == LOADING else State.MOVED if self._elsewhere else State.OPEN

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
        async with self._reopenings.turn():
            if not (self._doubts or self._away):
                return
            for scope in self._open_views:
                scope.cancel()
            async with self._turn:
                await self._resolve()
        self._back.unpark_all()
        self._news.wake_all()

    async def _resolve(self) -> None:
        """Connect anew, wait until nobody has the right to write, and look what is there of the commits in doubt; nothing of them comes later."""
        self._belief.forget()
        self._ahead.drop()
        if self._writer is not None:
            self._writer.close()
        head, _ = await self._lock(())
        assert self._writer is not None
        try:
            if self._doubts:
                ask: Asks = partial(self._writer.ask, within_s=ASK_S)
                found = await PostgresReads(ask).answers(self._doubts, self._doubts_after)
                await self._writer.ask(NEW_EPOCH, "COMMIT", within_s=FLUSH_S)
                self._resolved.note(self._doubts, found)
            self._doubts, self._away, self._elsewhere = [], False, head[3]
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

    async def read_stream(self, stream: str, *, after: int, limit: int, bytes_max: int, backward: bool = False) -> list[Record]:
        """See `Reads.read_stream`. Who reads full pages, one after the other, finds the next one asked for already."""
        more = partial(super().read_stream, stream, limit=limit, bytes_max=bytes_max, backward=backward)
        self._check_open()
        return await (more(after=after) if backward or self._doubts else self._ahead.read(stream, after, limit, bytes_max, more))

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
        head, revision, _, elsewhere = await self.numbers()
        if elsewhere != self._elsewhere:  # who waits for what will not come is to know
            self._elsewhere = elsewhere
            self._news.wake_all()
        return head, revision

    async def wait_beyond(self, position: Position) -> None:
        """See `Backend.wait_beyond`."""
        await self._wait(Moved.LOG, lambda head, _: head > position)

    async def wait_changed(self, revision: int) -> None:
        """See `Backend.wait_changed`."""
        await self._wait(Moved.KV, lambda _, newest: newest > revision)

    async def _wait(self, what: Moved, done: Callable[[int, int], bool]) -> None:
        while not done(*self._news.known):
            told = self._news.told(what)
            if done(*await self._look()):
                return
            if self._elsewhere not in ("", LOADING):
                raise StoreMoved(self.url, self._elsewhere)
            await self._news.wait(what, told)
            self._check_open()
        await trio.lowlevel.checkpoint()

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
                held = Held(wire, self.limits.view_s, self.url)
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

    async def load_rows(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """See `Backend.load_rows`."""
        await trio.lowlevel.checkpoint()
        raise Unsupported("images", self.url)

    def _note_mark(self, to: str) -> None:
        self._elsewhere = to
        self._belief.forget()
        self._ahead.drop()
        self._news.wake_all()

    # -- the end -----------------------------------------------------------------------------

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
            await self._reopenings.end()
            while self._flushing:  # noqa: ASYNC110 - what is being committed is answered first
                await trio.sleep(0.001)
        self._views.close()
        if self._writer is not None:
            await self._writer.settle(LEAVE_S)
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
