"""A backend from an ordered map and the engine: what `memory:` and `lmdb:` are made of.

The map keeps tables of ordered keys and writes a batch of them whole or not at all. All else (facts,
decisions, pages, waits, doubt) stands here once. A group is judged and written in one call of the map,
with no `await` between.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import trio

from perdure.backends import answers, build, fetch, loading, tables, trace, upkeep
from perdure.backends.apply import TYPES_MAX, TooManyTypes, apply
from perdure.backends.commit import Answer, Commit, Committed, Group
from perdure.backends.cutting import SWEEP_BYTES, sweep_some
from perdure.backends.effects import alone, frees_room, moved_by
from perdure.backends.engine import Decisions, decide, needs
from perdure.backends.environment import Environment
from perdure.backends.errors import Closed, Corrupt, Full, InDoubt, PerdureError, StoreMoved, TooLarge, Unavailable, Unsupported
from perdure.backends.event import Position
from perdure.backends.frame import TypeName
from perdure.backends.limits import LIMITS, Limits
from perdure.backends.news import Moved
from perdure.backends.ordered_loads import OrderedLoads
from perdure.backends.ordered_map import MapAway, MapDoubtful, MapFull, OrderedMap
from perdure.backends.ordered_reads import OrderedReads
from perdure.backends.progress import Progress, Told, nobody
from perdure.backends.protocol import Capabilities, State, StoreStatus
from perdure.backends.reopening import Reopenings
from perdure.backends.resolved import Resolved
from perdure.backends.scrub import PROBLEMS_MAX, Place, scrub_some
from perdure.backends.tables import Cache, Reader, Writer
from perdure.backends.verify import Finding, verify_tables

T = TypeVar("T")

VERIFY_SLICE_S = 0.05
"""A check looks so often whether it is to go on."""


class _NothingToWrite(Exception):
    """Ends a batch that turned out empty: no flush is owed."""


class OrderedBackend(OrderedLoads):
    """See `Backend`. *environment* gives the clock; *limits* what is kept and for how long."""

    def __init__(self, store: OrderedMap, *, url: str, capabilities: Capabilities, environment: Environment | None = None, limits: Limits = LIMITS) -> None:
        super().__init__(self._read_open, self._known_types)
        self.url = url
        self.capabilities = capabilities
        self.environment = environment or Environment()
        self.limits = limits
        self._store = store
        self._cache = Cache(owner=self.environment.ids()[:8])
        self._cache_valid = False
        self._loading: bool | None = None
        """Whether it is being loaded, as far as this handle knows; None before it looked;"""
        self._gone_to = ""
        """where it is now, as far as this handle knows."""
        self._claimed = False
        """Whether somebody brings it elsewhere by way of this handle."""
        self._cutting: ExitStack | None = None
        """The claim of a group that cuts, until the end of its turn."""
        self._read_types: list[TypeName] = []
        """The table of types as far as readers know it: the cache belongs to whoever writes, who may be a thread."""
        self._closed = False
        self._busy = False
        """Whether a group of ours is being judged or written."""
        self._turns_lot = trio.lowlevel.ParkingLot()
        self._moved = Moved.NOTHING
        self._moved_to = (Position(0), 0)
        """Head and revision after it."""
        self._doubts: list[bytes] = []
        """Ids of commits of which nobody knows whether they are stored,"""
        self._doubts_after = Position(0)
        """and where the log ended before them."""
        self._resolved = Resolved()
        """What was found of them once the store was back."""
        self._reopenings = Reopenings(url)
        self._views: set[trio.CancelScope] = set()
        self._scrub: Place | None = None
        """How far the scrub is that has been begun,"""
        self._scrubbed = ""
        """what the last one that was through said,"""
        self._damages: list[str] = []
        """and what was found."""

    def __repr__(self) -> str:
        return f"<backend {self.url}>"

    @property
    def id(self) -> str:
        """See `Backend.id`."""
        return self._store.id

    # -- writing -----------------------------------------------------------------------------

    async def commit(self, commits: Sequence[Commit]) -> Group:
        """See `Backend.commit`."""
        self._check_open()
        if not self.capabilities.writes:
            raise Unsupported("writes", self.url)
        await self._take_turn()
        try:
            if self._doubts:  # another handle of this process has reopened the map: our last ids are kept until we know of them
                raise Unavailable(f"{self.url} has to be reopened first, after a failed flush")
            self._resolved.forget(commits)
            group = await self._commit(commits)
            if self._moved:
                self._store.news.tell(self._moved, *self._moved_to)
            return group
        finally:
            self._end_turn()

    async def _take_turn(self, *, patient: bool = True) -> None:
        while self._busy:
            await self._turns_lot.park()
            self._check_open()
        self._busy = True
        try:
            await self._store.take_turn(patient=patient)
        except BaseException:
            self._let_next()
            raise

    def _claim_for_cuts(self) -> None:
        """While a store is brought elsewhere nothing is cut: until the end of the turn it is not.

        Raises:
          Unavailable: it is.
        """
        if self._claimed:
            raise Unavailable(f"{self.url} is being brought elsewhere, and nothing of it is cut meanwhile")
        if self._cutting is None:
            self._cutting = ExitStack()
            self._cutting.enter_context(self._store.claim_move())

    def _end_turn(self) -> None:
        if self._cutting is not None:
            self._cutting.close()
            self._cutting = None
        self._moved = Moved.NOTHING
        self._store.end_turn()
        self._let_next()

    def _let_next(self) -> None:
        self._busy = False
        if self._turns_lot:
            self._turns_lot.unpark()

    async def _commit(self, commits: Sequence[Commit]) -> Group:
        """One group; halved and asked again where one commit may be the reason that it fails, so that only that one is told so."""
        try:
            return await self._write(commits)
        except (MapFull, TooManyTypes, Corrupt) as error:
            if len(commits) == 1:
                return await self._answer_alone(commits[0], error)
        return await self._halve(commits)

    async def _write(self, commits: Sequence[Commit], *, small: bool = False) -> Group:
        runs: list[Decisions] = []
        try:
            size = sum([commit.size_bytes for commit in commits])
            await self._store.write(partial(self._decide_and_write, commits, runs), small=small, size_bytes=size)
        except _NothingToWrite:
            pass
        except MapAway as error:
            self._forget()
            raise Unavailable(f"{self.url} has to be reopened first, after a failed flush") from error
        except MapDoubtful as error:
            self._forget()
            if not runs:  # what came before these commits failed: they were not begun
                raise Unavailable(f"{self.url} has to be reopened first, after a failed flush") from error
            self._note_doubt(commits, runs[-1].follows)
            raise InDoubt(commits[0].id, commits[0].key) from error
        except tables.DAMAGE as error:
            self._forget()
            raise self._damaged(error) from error
        except BaseException:
            self._forget()
            raise
        done = runs[-1]
        self._moved |= moved_by(done)
        self._moved_to = (done.head, done.revision)
        return Group(done.follows, done.answers, partial(build.records_of, done.commits, done.pieces))

    def _decide_and_write(self, commits: Sequence[Commit], out: list[Decisions], writer: Writer) -> None:
        self._refresh(writer, again=bool(out))
        out.clear()
        if self._cache.loading or self._cache.moved:
            raise loading.refused(self.url, self._cache.moved)
        wanted = needs(commits)
        if wanted.cuts:
            self._check_declared("cuts")
            self._claim_for_cuts()
        done = decide(commits, fetch.facts(writer, self._cache, wanted))
        out.append(done)
        if not (done.pieces or done.changes or done.states or done.snapshots or done.kept or done.cuts):
            raise _NothingToWrite
        apply(writer, self._cache, done)

    def _refresh(self, writer: Writer, *, again: bool) -> None:
        """Know what the store says; *again*: the map has grown or opened its reserve, what the cache says of the first run was not written."""
        if again:
            self._forget()
        if writer.stale or not self._cache_valid:  # stale: another process has written
            self._cache.load(writer)
            self._cache_valid = True
            self._loading, self._gone_to = self._cache.loading, self._cache.moved

    def _forget(self) -> None:
        """What the cache says may not have been written."""
        self._cache = Cache(owner=self._cache.owner)
        self._cache_valid = False

    async def _halve(self, commits: Sequence[Commit]) -> Group:
        middle = len(commits) // 2
        first = await self._commit(commits[:middle])
        try:
            second = (await self._commit(commits[middle:])).answers
        except PerdureError as error:  # of the second half alone: the first is durable
            second = [alone(commit, error) for commit in commits[middle:]]
        return Group(first.follows, [*first.answers, *second])

    async def _answer_alone(self, commit: Commit, error: MapFull | TooManyTypes | Corrupt) -> Group:
        """What frees room may use the reserve; anything else is told why it fails."""
        if isinstance(error, MapFull) and frees_room(commit):
            try:
                return await self._write([commit], small=True)
            except (MapFull, Corrupt) as again:
                error = again
        answer: Answer
        match error:
            case MapFull():
                answer = self._full(error)
            case TooManyTypes():
                answer = self._too_many_types(error)
            case Corrupt():
                answer = error
        return Group(await self._look(lambda reader: tables.read_head(reader)[0]), [answer])

    def _full(self, error: MapFull) -> Full:
        if error.disk is not None:
            return Full(f"the disk of {self.url}", *error.disk)
        status = self._store.status()
        return Full(self.url, status.bytes_used, status.bytes_limit)

    @staticmethod
    def _too_many_types(error: TooManyTypes) -> TooLarge:
        return TooLarge("type table", f"the store, with type {error.type!r},", TYPES_MAX + 1, TYPES_MAX, "types", "use fewer event types")

    # -- doubt -------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """See `Backend.state`."""
        if self._closed:
            return State.CLOSED
        if self._store.state is not State.OPEN:
            return self._store.state
        return State.DOUBTFUL if self._doubts else State.LOADING if self._is_loading() else State.MOVED if self._gone_to else State.OPEN

    def _is_loading(self) -> bool:
        """As far as this handle knows: as it was opened, loaded it or committed last."""
        if self._loading is None:
            with suppress(MapAway):
                self._loading, self._gone_to = self._store.read(lambda reader: (bool(tables.read_meta(reader, "loading")), tables.read_moved(reader)))
        return bool(self._loading)

    def _note_doubt(self, commits: Sequence[Commit], follows: Position) -> None:
        self._doubts_after = min(self._doubts_after, follows) if self._doubts else follows
        self._doubts += [commit.id for commit in commits]

    async def reopen(self) -> None:
        """See `Backend.reopen`."""
        self._check_open()
        async with self._reopenings.turn():
            for scope in self._views if self._store.state is not State.OPEN else ():
                scope.cancel()
            await self._store.reopen()
            self._loading = None  # whatever was written last
            if self._doubts:
                found = await self._now(lambda reader: answers.answers(reader, self._known_types(reader), self._doubts, self._doubts_after), large=True)
                self._resolved.note(self._doubts, found)
                self._doubts.clear()
        self._store.news.wake_all()

    async def answer(self, id: bytes) -> Committed | None:
        """See `Backend.answer`: of a commit that was in doubt, what was found when the store was back."""
        if id in self._resolved:
            await trio.lowlevel.checkpoint_if_cancelled()
            return self._resolved[id]
        return await super().answer(id)

    async def _read_later(self, fn: Callable[[Reader], T]) -> T:
        with trio.move_on_after(self.limits.commit_s):
            while True:
                await self._store.wait_back()
                try:
                    return self._read_open(fn)
                except MapAway:
                    continue
        raise Unavailable(f"{self.url} was not reopened within {self.limits.commit_s:g} s after a failed flush")

    # -- waiting -----------------------------------------------------------------------------

    async def wait_beyond(self, position: Position) -> None:
        """See `Backend.wait_beyond`."""
        await self._wait(Moved.LOG, lambda reader: tables.read_head(reader)[0] > position, position)

    async def wait_changed(self, revision: int) -> None:
        """See `Backend.wait_changed`."""
        await self._wait(Moved.KV, lambda reader: tables.read_meta(reader, "revision") > revision)

    async def _wait(self, what: Moved, done: Callable[[Reader], bool], position: int | None = None) -> None:
        """Until *done*, or until it was told, while waiting, that the log is beyond *position*: it is told after it can be seen."""
        if self._woken:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        while not await self._look(done):
            if gone_to := await self._look(tables.read_moved):
                self._gone_to = gone_to
                raise StoreMoved(self.url, gone_to)
            await self._store.news.wait(what)
            self._woken = True
            if position is not None and self._store.news.head > position and not self._closed:
                return

    async def _look(self, done: Callable[[Reader], T]) -> T:
        """What *done* says, with no other task between the look and what its caller does next."""
        try:
            return self._read_open(done)
        except MapAway:
            return await self._read_later(done)

    # -- the rest ----------------------------------------------------------------------------

    @asynccontextmanager
    async def view(self) -> AsyncIterator[OrderedReads]:
        """See `Backend.view`."""
        self._check_open()
        try:
            with self._store.hold() as reader:
                types = self._known_types(reader)
                with trio.move_on_after(self.limits.view_s) as scope:  # noqa: ASYNC100 - the body is what it bounds
                    self._views.add(scope)
                    try:
                        yield OrderedReads(partial(self._read_held, reader, scope), lambda _: types)
                    finally:
                        self._views.discard(scope)
        except MapAway as error:
            raise Unavailable(f"{self.url} is being reopened after a failed flush") from error
        if scope.cancelled_caught:
            raise Closed(f"the view (open for {self.limits.view_s:g} s, or cut because the store had to be reopened)")

    async def now_us(self) -> int:
        """See `Backend.now_us`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        return max(await self._look(lambda reader: max(tables.read_head(reader)[1], tables.read_meta(reader, "at"))), self.environment.clock())

    async def maintain(self) -> bool:
        """See `Backend.maintain`."""
        self._check_open()
        if not self.capabilities.writes:
            return False
        now = self.environment.clock()
        keys_before = now - int(self.limits.keys_kept_s * 1e6)
        tombstones_before = now - int(self.limits.tombstones_kept_s * 1e6)
        swept_before = now - int(upkeep.DOUBTS * self.limits.commit_s * 1e6)
        await self._take_turn(patient=False)
        try:
            try:
                more = await self._store.tidy()
            except MapFull:
                more = False
            try:
                with suppress(MapFull):
                    room = upkeep.MERGE_ROOM_BYTES
                    write = self._store.write(lambda writer: self._maintain(writer, keys_before, tombstones_before, swept_before), small=True, size_bytes=room)
                    return await write or more
                write = self._store.write(lambda writer: self._maintain(writer, keys_before, tombstones_before, swept_before, merges=False), small=True)
                return await write or more
            except (_NothingToWrite, MapFull):
                return more
        except (MapDoubtful, MapAway) as error:
            self._forget()
            raise Unavailable(f"a flush of {self.url} failed during upkeep") from error
        finally:
            self._end_turn()

    def _maintain(self, writer: Writer, keys_before_us: int, tombstones_before_us: int, swept_before_us: int, *, merges: bool = True) -> bool:
        if writer.stale:
            self._cache_valid = False
        if tables.read_meta(writer, "loading") or tables.read_moved(writer):
            raise _NothingToWrite
        before = tables.read_meta(writer, "merged")
        left = trace.sweep(writer, self.environment.clock())
        if left:
            self._cache_valid = False
        forgotten = upkeep.forget_some(writer, keys_before_us=keys_before_us, tombstones_before_us=tombstones_before_us)
        swept = sweep_some(writer, before_us=swept_before_us, bytes_max=SWEEP_BYTES if merges else 1)
        merged = merges and not swept and upkeep.merge_some(writer, swept_before_us)
        if not (left or forgotten or swept or merged or before != tables.read_meta(writer, "merged")):
            raise _NothingToWrite
        return left or swept or merged or forgotten == upkeep.FORGET_ROWS

    async def shrink(self) -> str:
        """See `Backend.shrink`."""
        self._check_open()
        for scope in self._views:
            scope.cancel()
        while self._busy:
            await self._turns_lot.park()
            self._check_open()
        self._busy = True  # the map takes its own turn
        try:
            return await self._store.shrink()
        except MapAway as error:
            raise Unavailable(f"{self.url} is being reopened after a failed flush") from error
        finally:
            self._forget()
            self._let_next()

    async def verify(self, progress: Told = nobody) -> list[str]:
        """See `Backend.verify`."""
        self._check_open()
        try:
            with self._store.hold(busy=True) as reader:  # while it is held, no page that it can see is used again
                broken = await self._store.check_files()
                if broken:
                    return broken  # what cannot be walked is not handed to the database
                return await self._verify(reader, progress)
        except MapAway as error:
            raise Unavailable(f"{self.url} is being reopened after a failed flush") from error

    async def _verify(self, reader: Reader, progress: Told) -> list[str]:
        """Step by step, so that it can be cancelled, and a reopening need not wait for its end."""
        findings, problems = verify_tables(reader), list[str]()
        more = True
        while more:
            some, more = await self.environment.threads.run_sync(_next_findings, findings, self.environment.elapsed)
            problems += [finding for finding in some if isinstance(finding, str)]
            for at in [finding for finding in some if isinstance(finding, Progress)][-1:]:
                progress(at)
            if self._closed or self._store.state is not State.OPEN:
                raise Unavailable(f"{self.url} has to be reopened after a failed flush, or was closed")
        return problems

    async def scrub(self) -> bool:
        """See `Backend.scrub`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        place = Place() if self._scrub is None else self._scrub
        try:
            self._scrub, found = self._read_open(lambda reader: scrub_some(reader, self._known_types(reader), place))
        except MapAway:
            return True
        self._damages = [*self._damages, *(problem for problem in found if problem not in self._damages)][:PROBLEMS_MAX]
        if not self._scrub.done:
            return True
        self._scrub, self._scrubbed = None, "all rows" if not self._damages else f"all rows, {len(self._damages)} damaged"
        if not self._damages:
            self._store.found_sound()
        return False

    async def store_status(self) -> StoreStatus:
        """See `Backend.store_status`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        status = self._store.status()
        head, revision = await self._look(lambda reader: (tables.read_head(reader)[0], tables.read_meta(reader, "revision")))
        return StoreStatus(
            url=self.url,
            id=self.id,
            head=head,
            revision=revision,
            bytes_used=status.bytes_used,
            bytes_limit=status.bytes_limit,
            verified=self._scrubbed or status.verified,
            scrubbed_rows=0 if self._scrub is None else self._scrub.rows,
            damages=tuple(self._damages),
            state=self.state,
            recovery=status.recovery,
            details=status.details,
        )

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        for scope in self._views:
            scope.cancel()
        self._turns_lot.unpark_all()
        self._store.news.wake_all()
        self._store.end_waits()
        with trio.CancelScope(shield=True):
            await self._reopenings.end()
            while self._busy:  # noqa: ASYNC110 - what is being written, perhaps by a thread, is not closed under it
                await trio.sleep(0.001)
        await self._store.aclose()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"the store {self.url}")

    def _check_declared(self, capability: str) -> None:
        if capability not in self.capabilities.declared():
            raise Unsupported(capability, self.url)

    def _read_open(self, fn: Callable[[Reader], T]) -> T:
        self._check_open()
        try:
            return self._store.read(fn)
        except tables.DAMAGE as error:
            raise self._damaged(error) from error

    def _read_held(self, reader: Reader, scope: trio.CancelScope, fn: Callable[[Reader], T]) -> T:
        if scope.cancel_called or scope not in self._views:
            raise Closed("the view")
        try:
            return fn(reader)
        except tables.DAMAGE as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> Corrupt:
        return Corrupt(f"the store {self.url}", f"a row cannot be read ({error})")

    def _known_types(self, reader: Reader) -> Sequence[TypeName]:
        """The table of types as this reader sees it, at least."""
        rows = reader.scan_back("types", b"", None, 1)
        if rows and int.from_bytes(rows[0][0], "big") >= len(self._read_types):
            self._read_types = tables.read_types(reader)
        return self._read_types


def _next_findings(findings: Iterator[Finding], elapsed: Callable[[], float]) -> tuple[list[Finding], bool]:
    """What the check finds in some 50 ms, and whether there is more to look at."""
    some: list[Finding] = []
    deadline = elapsed() + VERIFY_SLICE_S
    for finding in findings:
        some.append(finding)
        if elapsed() >= deadline:
            return some, True
    return some, False
