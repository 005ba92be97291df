"""Projections into SQL: a handler changes tables, and the checkpoint stands beside them, moved in the same transaction.

The row that says how far the tables are is compared and set with every page, and carries the fence of the lease: an owner that was
frozen, and thrown out meanwhile, changes nothing any more. After any trouble with the database the actor begins again from that row, so it
need not know what has become of its last transaction. Tables of a new version are built beside those that people read, and
swapped with them when they have caught up. Since the place stands elsewhere, a hold in the store follows it: no cut passes what is not yet applied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import attrs
import outcome
import trio

from perdure.actors import mark as marks
from perdure.actors.beyond import Beyond
from perdure.actors.fold import Stopped, bytes_of, check_projection_name, check_version, fingerprint
from perdure.actors.follower import Follower
from perdure.actors.hold import HeldPlace
from perdure.actors.mark import Start, Step
from perdure.actors.model import Cell, Readable, Sources, failed, lease_of
from perdure.actors.projection import ProjectionActor, Services, Stale
from perdure.actors.status import What
from perdure.backends.databases import check_database, open_database, shown
from perdure.backends.environment import Threads
from perdure.backends.errors import Corrupt, Misuse, ModelFaulted, PerdureError, Unreadable, WrongStore
from perdure.backends.event import START, Event, Position, Record
from perdure.backends.selector import EVERYTHING, Selector
from perdure.backends.sql import Mark, OpenDatabase, SqlDatabase, Transaction

D = TypeVar("D")

KEEP_EVERY_S: Final = 1.0
"""A cursor moved only by events that were not wanted is written so often; so often it is looked whether the database is still there."""
LOOK_S: Final = 0.05
"""Who waits here for tables that another process keeps is told so soon;"""
LOOK_ELSEWHERE_S: Final = 0.2
"""and so soon where the projection is not even standing by, for each look is a connection of its own."""


def _check_database(_: object, __: object, database: str | OpenDatabase) -> None:
    if isinstance(database, str):
        check_database(database)
    elif not callable(database):
        raise Misuse(f"a read model's database is a URL, sqlite:PATH or postgresql://..., not {database!r}")


@attrs.frozen
class SqlProjection(Generic[D]):
    """A named, versioned read model in tables of a SQL database, which anybody may query there.

    *tables* makes them, in the transaction that it gets; *handle* changes them by one event, in the transaction that also says how far
    they are: so each event is applied exactly once. Both run in a thread, and do nothing outside of that transaction: it may have to be
    done again. *database* is a URL, `sqlite:PATH` or `postgresql://USER@HOST/DATABASE` (whose placeholders are `?` and `%s`), or what
    opens a database of another kind. Raise *version* when the same events shall give other tables: those are built beside the old ones,
    which people read until the new ones have caught up.
    """

    name: str = attrs.field(validator=check_projection_name)
    version: int = attrs.field(kw_only=True, validator=check_version)
    database: str | OpenDatabase = attrs.field(kw_only=True, validator=_check_database)
    tables: Callable[[Transaction], None] = attrs.field(kw_only=True)
    handle: Callable[[Event[D], Transaction], None] = attrs.field(kw_only=True)
    events: Selector[D] = attrs.field(kw_only=True, default=EVERYTHING)

    @property
    def where(self) -> str:
        """Its database, for people: without a password."""
        return shown(self.database)

    @property
    def step(self) -> Callable[..., Any]:
        """What is watched for changes."""
        return self.handle

    @property
    def initial(self) -> None:
        """It has no state but its tables."""
        return

    @property
    def state_type(self) -> Any:
        """The same."""
        return type(None)


class SqlActor(ProjectionActor[SqlProjection[Any]]):
    """Applies a page in a transaction, in a thread; nothing is in memory that is not in the database."""

    def __init__(self, projection: SqlProjection[Any], services: Services, cell: Cell) -> None:
        super().__init__(projection, services, cell)
        self._database: SqlDatabase | None = None
        self._mark = self._new_mark()
        """The row as we wrote or found it last: another one there means that somebody else writes."""
        self._read: Mark | None = None
        """The row of the tables that people read, while others are built beside them."""
        self._kept_at_s = float("-inf")
        self._hold = HeldPlace(lease_of(self.name), services.backend, self._commit, f"tables in {projection.where}")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:  # noqa: ASYNC128 - handed on
        """See `ProjectionActor.run`.

        Raises also:
          WrongStore: the tables hold events of another store.
        """
        try:
            await super().run(task_status=task_status)
        finally:
            with trio.CancelScope(shield=True):
                await self._close()

    _starts_in_trouble = True  # its database may be on another machine, and the rest of the program can do without it
    _delay_max_s = KEEP_EVERY_S  # a database is locked by who is frozen, and free as soon as that one is killed

    @property
    def _patience_s(self) -> float:
        return KEEP_EVERY_S

    # -- beginning ---------------------------------------------------------------------------

    async def _restore(self) -> None:
        await self._close()
        held = await self._hold.begin()
        if not held or not await self._in_thread(self._open, None if self.claim is None else self.claim.number) or not await self._hold.stand(self._applied):
            self._outrun_by_another()
            raise Stale
        if self._mark.step and self._step_print and self._mark.step != self._step_print:
            self._services.warn(self.name, "its handler was changed without raising its version: rows so far were made by the old one")
        if self._read is not None:
            self._services.warn(self.name, f"tables of version {self._read.version} are read until those of version {self._mark.version} have caught up")
        position = Position(self._mark.position)
        self.cell.fault = None
        self._progress.position = self._progress.written = self.restored_from = position
        self._show_position(position)
        if self._read is not None and position >= await self._services.backend.head():
            await self._swap()

    def _open(self, fence: int | None) -> bool:
        """Open the database and take it over; False if it is somebody else's by now."""
        database = open_database(self.projection.database, self.name)
        assert database is not None
        self._database = database
        live, building = database.mark(), database.mark(building=True)
        start = marks.start(live, building, self._new_mark(fence or 0), rebuild=self._services.changed == "rebuild")
        self._read = None
        if live is not None and start.beside:
            self._read = take(database, live, fence, building=False)
            if self._read is None:
                return False
        if start.stray:
            database.drop_building()
        if start.step in (Step.GO_ON, Step.GO_ON_BESIDE):
            mark = take(database, start.mark, fence, building=start.beside)
        else:
            mark = start.mark if self._make(database, start) else None
        self._mark = mark or self._mark
        return mark is not None

    def _make(self, database: SqlDatabase, start: Start) -> bool:
        try:
            return database.make(start.mark, self.projection.tables, building=start.beside)
        except PerdureError:
            raise
        except Exception as error:
            raise ModelFaulted(self.name, f"its tables could not be made: {error!r}") from error

    def _new_mark(self, fence: int = 0) -> Mark:
        projection, store = self.projection, self._services.backend.id
        return Mark(
            projection=self.name, version=projection.version, fingerprint=self._fingerprint, step=self._step_print, store=store, position=START, fence=fence
        )

    # -- a page ------------------------------------------------------------------------------

    async def _deal_with(self, records: list[Record], follower: Follower) -> bool:
        position, stopped = follower.cursor, None
        if records:
            try:
                stopped = await self._certain(self._write, records, position)
            except _Outrun:
                return self._outrun_by_another()
            position = Position(self._mark.position)
        if position > self._progress.position:
            self._progress.looked(position, len(records), bytes_of(records))
        if records:
            self._wrote()
            await self._hold.follow(self._applied)
        self._show_position(position, records[-1].at_us if records and stopped is None else 0)
        if stopped is not None:
            raise failed(self.name, stopped) from stopped.error
        if self._read is not None and follower.caught_up:
            return await self._swap()
        if self._progress.worth_writing or trio.current_time() >= self._kept_at_s + KEEP_EVERY_S:
            return await self.save()
        return True

    def _write(self, records: Sequence[Record], position: Position) -> Stopped | None:
        """Apply *records* and move the row to *position*, whole; or to before the event that could not be applied."""
        assert self._database is not None
        if self._database.gone():
            raise _Gone
        stopped: Stopped | None = None
        while True:
            fault = "" if stopped is None else f"{failed(self.name, stopped)}: {stopped.error!r}"
            after = attrs.evolve(self._mark, position=max(position, self._mark.position), fault=fault, step=self._step_print)
            page = _Page(self._codec, self.projection.handle, records)
            try:
                moved = self._database.move(self._mark, after, page.apply, building=self._read is not None)
            except _Raised:
                assert page.stopped is not None
                stopped, records = page.stopped, records[: page.index]  # nothing was done: those before it once more
                position = Position(stopped.record.position - 1)
                continue
            if not moved:
                raise _Outrun
            self._mark = after
            return stopped

    async def save(self, fault: str = "") -> bool:
        """Write how far it has looked, if that is not written; False when it turns out to be another's."""
        if not self.owns or self._database is None:
            return False
        try:
            await self._certain(self._write_cursor, self._progress.position)
        except _Outrun:
            return self._outrun_by_another()
        self._wrote()
        await self._hold.follow(self._applied, now=self._stopping)
        return True

    def _write_cursor(self, position: Position) -> None:
        assert self._database is not None
        if self._database.gone():
            raise _Gone
        if position > self._mark.position or self._mark.fault:
            self._write([], position)

    @property
    def _applied(self) -> Position:
        """Up to where all tables are, those that are read and those that are built beside."""
        return Position(self._mark.position if self._read is None else min(self._mark.position, self._read.position))

    def _wrote(self) -> None:
        self._progress.wrote()
        self._troubles, self._kept_at_s = 0, trio.current_time()

    async def _swap(self) -> bool:
        """People read the new tables from now on."""
        database, read = self._database, self._read
        assert database is not None
        assert read is not None
        if not await self._certain(database.swap, read, self._mark):
            return self._outrun_by_another()
        self._read = None
        self._show_position(self._progress.position)
        return True

    def _show_position(self, position: Position, at_us: int = 0) -> None:
        """Where the tables of this version stand, for those who read them: nowhere, while others are read."""
        self.cell.publish(None, position if self._read is None else START, at_us)

    def _outrun_by_another(self) -> bool:
        """Somebody else has moved the row: another process that has the lease by now, or (where there are none) another runtime."""
        if self.claim is None:
            self._outrun = True
        elif self.claim.held:
            self.claim.lose()
        return False

    # -- another process owns it -------------------------------------------------------------

    async def _stand_by(self, started: Callable[[], None]) -> None:
        self._services.tell(self.name, What.STANDING_BY, "it is run elsewhere: this one shows how far its tables are")
        await self._close()
        look, beyond = Look(self.projection), Beyond(self._services.backend, self.projection.events)
        self.cell.hurry, self.cell.kept = self._interrupt, self.cell.position
        try:
            while not self._stopping and not self.owns:
                self._fail_if_told()
                awaited = self.cell.awaited
                show_mark(self.cell, await self._in_thread(look.mark), self._new_mark())
                if awaited and self.cell.fault is None:
                    self.cell.reach(await beyond.reach(self.cell.position))
                started()
                for question in self.mailbox.waiting():
                    question.slot.answer(outcome.Value(self.cell.position))
                with trio.move_on_after(LOOK_S if awaited else KEEP_EVERY_S) as self._waiting:
                    if not (self._stopping or self.owns or self._failure or self.mailbox.depth or self.cell.awaited > awaited):
                        await trio.sleep_forever()
        finally:
            self.cell.hurry = lambda: None
            with trio.CancelScope(shield=True):
                await self._in_thread(look.close)

    # -- its database ------------------------------------------------------------------------

    async def _certain(self, fn: Callable[..., Any], *args: object) -> Any:
        """Something that writes: if it fails, only the row knows what has been done."""
        self._folding = True
        done = await self._in_thread(fn, *args)
        self._folding = False
        return done

    async def _in_thread(self, fn: Callable[..., Any], *args: object) -> Any:
        try:
            return await self._services.threads.run_sync(fn, *args)
        except Corrupt as error:
            raise ModelFaulted(self.name, f"{error}: delete the database, and it is built again") from error
        except (PerdureError, Stale, _Outrun):
            raise
        except Exception as error:
            raise ModelFaulted(self.name, f"its database does not take what it should: {error!r}") from error

    async def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            await self._in_thread(database.close)


class _Page:
    """Records to apply, and which one could not be."""

    def __init__(self, codec: Any, handle: Callable[[Event[Any], Transaction], None], records: Sequence[Record]) -> None:
        self._codec = codec
        self._handle = handle
        self._records = records
        self.index = 0
        self.stopped: Stopped | None = None

    def apply(self, tx: Transaction) -> None:
        """Hand each event to the handler."""
        self.index = 0
        try:
            try:
                events = iter(self._codec.events(self._records))
            except Unreadable:
                events = map(self._codec.event, self._records)  # up to the one that cannot be read
            for event in events:
                self._handle(event, tx)
                self.index += 1
        except Exception as error:
            self.stopped = Stopped(self._records[self.index], error)
            raise _Raised from error


class _Raised(Exception):
    """The handler did, or an event could not be read."""


class _Outrun(Exception):
    """The row is another one than we wrote."""


class _Gone(Stale):
    """The database is another one than was opened."""

    def __str__(self) -> str:
        return "its database was deleted or replaced: it goes on from what is there now"


# -- reading how far it is -----------------------------------------------------------------------


class Look:
    """Reads the row of the tables that people read, with the database left open in between. Blocks."""

    def __init__(self, projection: SqlProjection[Any]) -> None:
        self._projection = projection
        self._database: SqlDatabase | None = None

    def mark(self) -> Mark | None:
        """The row; None while there is none."""
        mark = None
        try:
            if self._database is not None and self._database.gone():
                self.close()
            if self._database is None:
                self._database = open_database(self._projection.database, self._projection.name, create=False)
            if self._database is not None:
                mark = self._database.mark()
        finally:
            if mark is None:
                self.close()
        return mark

    def close(self) -> None:
        """Idempotent."""
        database, self._database = self._database, None
        if database is not None:
            database.close()


def read_mark(projection: SqlProjection[Any]) -> Mark | None:
    """The same, once."""
    look = Look(projection)
    try:
        return look.mark()
    finally:
        look.close()


def take(database: SqlDatabase, mark: Mark, fence: int | None, *, building: bool) -> Mark | None:
    """Put our fence into a row, so that who wrote it before writes nothing any more; None if it is under a newer one, or moves just now."""
    if fence is None:
        return mark
    if mark.fence > fence:
        return None
    taken = attrs.evolve(mark, fence=fence)
    return taken if database.move(mark, taken, lambda tx: None, building=building) else None


def why_not(mark: Mark, print_: str, store: str) -> str:
    """Why the tables at *mark* are not those that a program with that fingerprint and store would fill; '' if they are."""
    if mark.store != store:
        return str(WrongStore(mark.store, store))
    if mark.fingerprint != print_:
        return f"its tables are of version {mark.version} (at position {mark.position}), and were made by another definition"
    return ""


def show_mark(cell: Cell, mark: Mark | None, wanted: Mark) -> None:
    """Publish what another process keeps; *wanted* is what this program would."""
    if mark is not None and mark.store != wanted.store:
        raise WrongStore(mark.store, wanted.store)
    if mark is not None and mark.fingerprint != wanted.fingerprint:
        cell.stand_still(f"its tables are of version {mark.version} (at position {mark.position}), this program's are of version {wanted.version}")
        return
    position = START if mark is None else Position(mark.position)
    cell.fault = None
    if not cell.loaded or position != cell.kept:
        cell.publish(None, position if position < cell.kept else max(position, cell.position))
        cell.kept = position
    if mark is not None and mark.fault:
        cell.stand_still(mark.fault)


class SqlModel(Readable):
    """How far the tables of a `SqlProjection` are; their rows are read in the database. See `Runtime.model`."""

    def __init__(self, projection: SqlProjection[Any], cell: Cell, sources: Sources, threads: Threads) -> None:
        super().__init__(cell, sources, projection.events)
        self._projection = projection
        self._threads = threads

    def __repr__(self) -> str:
        return f"<model {self.name} in {self._projection.where} at position {self.position}>"

    async def _wait_kept(self, revision: int) -> None:
        await trio.sleep(LOOK_ELSEWHERE_S)

    async def refresh(self) -> SqlModel:
        """Read the position, where nobody here runs the projection; else nothing. The model itself.

        Raises:
          WrongStore: the tables hold events of another store.
          Unavailable, Corrupt: the database cannot be read.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._cell.running:
            projection, sources = self._projection, self._sources
            found = await self._threads.run_sync(read_mark, projection)
            wanted = Mark(
                projection=self.name,
                version=projection.version,
                fingerprint=fingerprint(projection, sources.codec),
                step="",
                store=sources.backend.id,
                position=START,
            )
            show_mark(self._cell, found, wanted)
        return self
