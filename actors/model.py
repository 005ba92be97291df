"""Models: the readable side of a projection, wherever it runs.

A cell is what the actor publishes into: state, position, and why it stands still. A model is a typed
handle that reads a cell, or, where nobody in this process runs the projection, what it has kept.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

import attrs
import trio

from perdure.actors import cursor
from perdure.actors.beyond import Beyond
from perdure.actors.cursor import Checkpoint
from perdure.actors.fold import Keyed, Projection, Stopped, fingerprint, fold_page, keys_of, stepper
from perdure.actors.lease import Owner
from perdure.actors.mailbox import Mailbox, current_actor
from perdure.backends.codec import Codec
from perdure.backends.commit import CHECKPOINTS, MODELS
from perdure.backends.errors import Closed, Corrupt, Misuse, ModelFaulted, ProjectionFailed, Rewound, TooLarge, Unreadable
from perdure.backends.event import START, Position, Record, to_us
from perdure.backends.limits import Limits
from perdure.backends.protocol import Backend, Entry, Reads, Snapshot, hastens
from perdure.backends.selector import Selector

S = TypeVar("S")

log = logging.getLogger("perdure.projection")

LOOK_EVERY_S: Final = 0.01
"""Whoever shows what another process keeps looks so often at most: any change of kv wakes it."""
LOOK_IDLE_S: Final = 0.1
"""And so often where nobody waits for it: several looks for each commit of another process would be what that one waits for."""
OWNER_EVERY_S: Final = 1.0
"""And so often at least, whether that one lives."""


def _nothing() -> None:
    """Nobody is to be told."""


class Cell:
    """What a projection publishes. *fault* says why it stands still for good; None while it runs or may run again. *closing* tells whether its runtime ends."""

    def __init__(self, name: str, initial: Any, closing: Callable[[], bool] = lambda: False) -> None:
        self.name = name
        self.state = initial
        self.closing = closing
        self.position = START
        self.at_us = 0
        self.fault: str | None = None
        self.running = False
        self.mailbox: Mailbox[str, Position] | None = None
        """Where its actor is asked to save."""
        self.hurry: Callable[[], None] = _nothing
        """Tells the actor that someone waits for what it may be holding back."""
        self.loaded = False
        self.kept = START
        """How far what another process keeps was, when it was shown last."""
        self.listeners: weakref.WeakSet[Any] = weakref.WeakSet()
        """Iterators over touched keys; one that nobody holds any more is forgotten."""
        self._lot = trio.lowlevel.ParkingLot()

    def publish(self, state: Any, position: Position, at_us: int = 0, touched: tuple[str, ...] = ()) -> None:
        """A new state at *position*."""
        self.state, self.position, self.loaded = state, position, True
        self.at_us = at_us or self.at_us
        if touched:
            for listener in self.listeners:
                listener.note(touched)
        if self._lot:
            self._lot.unpark_all()

    def reach(self, position: Position) -> None:
        """It stands at *position* too: no event before it was wanted."""
        if position > self.position:
            self.publish(self.state, position)

    @property
    def awaited(self) -> bool:
        """Whether someone waits for it to move."""
        return bool(self._lot)

    def stand_still(self, reason: str) -> None:
        """It will not move any more; it stays readable."""
        self.fault = reason
        self._lot.unpark_all()

    def stopped(self) -> None:
        """Nobody runs it any more."""
        self.running = False
        self._lot.unpark_all()

    async def wait_for(self, position: Position) -> None:
        """Return when the position has been reached."""
        if current_actor.get() == f"projection {self.name}":
            raise Misuse(f"projection {self.name!r} waits for itself and would wait for ever")
        await trio.lowlevel.checkpoint_if_cancelled()
        while self.position < position:
            self.check_moves()
            self.hurry()
            await self._lot.park()

    def check_moves(self) -> None:
        """Raise `ModelFaulted` if it stands still for good, `Closed` if it does because its runtime ends."""
        if self.fault is not None:
            raise ModelFaulted(self.name, self.fault)
        if not self.running and self.closing():
            raise Closed("the runtime")
        if not self.running:
            raise ModelFaulted(self.name, "it is not running here: add it to the App, or await nursery.start(rt.project, ...)")

    async def change(self, seen: Position) -> None:
        """Return when it has moved beyond *seen*."""
        await self.wait_for(Position(seen + 1))


@attrs.frozen
class Sources:
    """Where a model reads when no cell tells: the store, the codec and the limits."""

    backend: Backend
    codec: Codec
    limits: Limits


class Readable:
    """What both kinds of model share."""

    def __init__(self, cell: Cell, sources: Sources, where: Selector[Any]) -> None:
        self._cell = cell
        self._sources = sources
        self._where = where

    @property
    def name(self) -> str:
        """The projection's."""
        return self._cell.name

    @property
    def position(self) -> Position:
        """The model equals the fold of the log up to here."""
        return self._cell.position

    @property
    def fault(self) -> str | None:
        """Why it stands still for good; None while it does not."""
        return self._cell.fault

    @property
    def running(self) -> bool:
        """Whether this runtime runs the projection."""
        return self._cell.running

    async def save(self) -> Position:
        """Make durable now what has been folded so far; how far that is.

        Raises:
          Misuse: nobody here runs the projection, or its own step asks.
          AskTimeout: it did not get to it in time; it may do so later.
          Closed: it ended meanwhile.
        """
        mailbox = self._cell.mailbox
        if mailbox is None or not self._cell.running:
            raise Misuse(f"model {self.name!r} is not running here: there is nothing to save")
        return await mailbox.ask("save")

    async def wait_for(self, position: Position) -> None:
        """Return when the model has reached *position* (that of a commit, or `await rt.head()`).

        Woken, not polled. Where nobody here runs it and another process does, it follows what that one keeps.

        Raises:
          ModelFaulted: it stands still for good, or nobody runs it.
          Closed: its runtime ends before it is reached.
          Misuse: its own projection asks.
        """
        backend = self._sources.backend
        if not self._cell.running and (backend.capabilities.shared_writes or hastens(backend) is not None):
            await self._wait_elsewhere(position)
        await self._cell.wait_for(position)

    async def _wait_elsewhere(self, position: Position) -> None:
        """Return when it has been reached, when it is run here, or when nobody runs it."""
        backend = self._sources.backend
        owner, beyond = Owner(backend, lease_of(self.name)), Beyond(backend, self._where)
        while not self._cell.running:
            revision = await backend.revision()
            hastened = await self._hasten(position)
            await self._load()
            if self.fault is None and self.position < position:
                self._cell.reach(await beyond.reach(self.position))
            if self.position >= position or self.fault is not None or not (hastened or await owner.lives()):
                return
            await self._wait_kept(revision)

    async def _wait_kept(self, revision: int) -> None:
        """Return when something may have been kept since."""
        await trio.sleep(LOOK_EVERY_S)
        with trio.move_on_after(OWNER_EVERY_S):
            await self._sources.backend.wait_changed(revision)

    async def _hasten(self, position: Position) -> bool:
        """Tell whoever runs it behind the backend, where that can be told, that it is waited for; whether there is one."""
        told = hastens(self._sources.backend)
        return told is not None and await told.hasten(self.name, position)

    async def _load(self) -> None:
        """Read what is kept, where nobody here runs the projection."""
        await self.refresh()

    async def refresh(self) -> Any:
        raise NotImplementedError


class Model(Readable, Generic[S]):
    """The model of a `Projection`. See `Runtime.model`."""

    def __init__(self, projection: Projection[S, Any], cell: Cell, sources: Sources) -> None:
        super().__init__(cell, sources, projection.events)
        self._projection = projection

    def __repr__(self) -> str:
        return f"<model {self.name} at position {self.position}>"

    @property
    def state(self) -> S:
        """The state, as a value.

        Raises:
          Misuse: nobody here runs the projection and nothing was loaded: `await model.refresh()` first.
        """
        if not self._cell.loaded:
            raise Misuse(f"model {self.name!r} is not running here and nothing was loaded: await model.refresh() first")
        state: S = self._cell.state
        return state

    async def refresh(self) -> Model[S]:
        """Load the last snapshot, where nobody here runs the projection; else nothing. The model itself.

        Raises:
          ModelFaulted: what is kept was made by another version of the projection.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._cell.running:
            await self._hasten(START)
            await self._load()
        return self

    async def _load(self) -> None:
        if not self._cell.running:
            kept = await kept_of(self._sources, self._projection, self._cell)
            found = await newest_snapshot(self._sources, self._projection)
            state, position, at_us = (self._projection.initial, START, 0) if found is None else (found[0], found[1].position, found[1].at_us)
            if kept is not None and kept.durable == position:
                position = Position(kept.position)  # what came after the snapshot was not wanted
            self._cell.publish(state, position, at_us)

    def changes(self) -> AsyncIterator[S]:
        """The state now, then each newer one there is when asked for (conflated).

        Raises while iterating:
          ModelFaulted: it stands still for good.
          Closed: its runtime ends.
        """
        return _States(self, self._cell)

    async def as_of(self, *, position: Position | None = None, time: datetime | None = None) -> S:
        """The state as it was at a *position*, or at a *time* (of commits), from the nearest snapshot.

        Raises:
          Misuse: not exactly one of both is given. Rewound: the position is beyond the head.
          ProjectionFailed: the fold does not get there.
        """
        backend = self._sources.backend
        target = await position_of(backend, position, time)
        found = await newest_snapshot(self._sources, self._projection, at_most=target)
        state, after = (self._projection.initial, START) if found is None else (found[0], found[1].position)
        pages = LogPages(backend, self._sources.limits, self._projection.events, after, target)
        while (records := await pages.next()) is not None:
            state, stopped = fold_page(self._sources.codec, self._projection.step, state, records)
            if stopped is not None:
                raise failed(self.name, stopped) from stopped.error
        return state


class _States(Generic[S]):
    """A model's states, one after the other."""

    def __init__(self, model: Model[S], cell: Cell) -> None:
        self._model = model
        self._cell = cell
        self._seen: Position | None = None

    def __aiter__(self) -> _States[S]:
        return self

    async def __anext__(self) -> S:
        if self._seen is None:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await self._cell.change(self._seen)
        self._seen = self._cell.position
        return self._model.state


@attrs.frozen
class KeyedEntry(Generic[S]):
    """One key of a keyed model."""

    key: str
    state: S


@attrs.frozen
class AsOf(Generic[S]):
    """A key's state as it was, and how much was read to find out."""

    state: S | None
    examined: int


class KeyedModel(Readable, Generic[S]):
    """The model of a `Keyed`: its states are read where they are durable. See `Runtime.model`."""

    def __init__(self, projection: Keyed[S, Any], cell: Cell, sources: Sources) -> None:
        super().__init__(cell, sources, projection.events)
        self._projection = projection
        self._bucket = bucket_of(projection.name)
        self._decode = sources.codec.decoder(projection.state_type)

    def __repr__(self) -> str:
        return f"<keyed model {self.name} at position {self.position}>"

    async def refresh(self) -> KeyedModel[S]:
        """Read the durable position, where nobody here runs the projection; else nothing. The model itself."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._cell.running:
            await self._hasten(START)
            await self._load()
        return self

    async def _load(self) -> None:
        if not self._cell.running:
            kept = await kept_of(self._sources, self._projection, self._cell)
            self._cell.publish(None, START if kept is None else Position(kept.position))

    async def get(self, key: str) -> S | None:
        """The state of *key*; None if no event touched it."""
        entry = await self._sources.backend.get(self._bucket, key.encode())
        return None if entry is None else self._decode(entry.value)

    def scan(self, prefix: str = "", *, after: str | None = None, limit: int | None = None) -> AsyncIterator[KeyedEntry[S]]:
        """All keys with *prefix*, in order of their bytes, those beyond *after*."""
        return _Scan(self._sources, self._bucket, self._decode, prefix.encode(), None if after is None else after.encode(), limit)

    def changes(self) -> AsyncIterator[tuple[str, ...]]:
        """The keys touched since the last time it was asked (conflated), from now on.

        Raises while iterating:
          ModelFaulted: it stands still for good.
          Closed: its runtime ends.
        """
        return _Touched(self._cell)

    async def as_of(
        self, key: str, *, position: Position | None = None, time: datetime | None = None, limit: int = 1_000_000
    ) -> AsOf[S]:
        """The state of *key* as it was, folded from the log; `examined` says how many positions were read.

        Raises:
          TooLarge: more than *limit* positions would have to be read; the message says how many.
          Misuse: not exactly one of *position* and *time* is given. Rewound: the position is beyond the head.
          ProjectionFailed: the fold does not get there.
        """
        backend = self._sources.backend
        target = await position_of(backend, position, time)
        if target > limit:
            raise TooLarge("fold", f"key {key!r} of {self.name!r}", target, limit, "positions", "raise limit=, or narrow the projection's events")
        state: Any = None
        pages = LogPages(backend, self._sources.limits, self._projection.events, START, target)
        while (records := await pages.next()) is not None:
            state = self._fold(key, state, records)
        return AsOf(state, target)

    def _fold(self, key: str, state: Any, records: list[Record]) -> Any:
        projection = self._projection
        for event in self._sources.codec.events(records):
            try:
                if key in keys_of(projection, event):
                    state = stepper(projection)(projection.initial if state is None else state, event, key)
            except Exception as error:
                raise failed(self.name, Stopped(event.record, error)) from error
        return state


class _Scan(Generic[S]):
    """The entries of a keyed model, a page at a time."""

    def __init__(
        self, sources: Sources, bucket: str, decode: Callable[[bytes], S], prefix: bytes, after: bytes | None, limit: int | None
    ) -> None:
        self._sources = sources
        self._bucket = bucket
        self._decode = decode
        self._prefix = prefix
        self._after = after
        self._left = limit
        self._entries: list[Entry] = []
        self._ended = limit == 0

    def __aiter__(self) -> _Scan[S]:
        return self

    async def __anext__(self) -> KeyedEntry[S]:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._entries and not self._ended:
            await self._fetch()
        if not self._entries:
            raise StopAsyncIteration
        entry = self._entries.pop()
        return KeyedEntry(entry.key.decode(), self._decode(entry.value))

    async def _fetch(self) -> None:
        most = self._sources.limits.page_records
        page = most if self._left is None else min(most, self._left)
        found = await self._sources.backend.scan(self._bucket, prefix=self._prefix, after=self._after, limit=page)
        self._left = None if self._left is None else self._left - len(found)
        self._ended = len(found) < page or self._left == 0
        self._after = found[-1].key if found else self._after
        self._entries = found[::-1]


class _Touched:
    """The keys of a keyed model that changed, gathered while nobody asks."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._touched: dict[str, None] = {}
        cell.listeners.add(self)

    def __aiter__(self) -> _Touched:
        return self

    async def __anext__(self) -> tuple[str, ...]:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._touched:
            await self._cell.change(self._cell.position)
        touched = tuple(self._touched)
        self._touched.clear()
        return touched

    def note(self, keys: tuple[str, ...]) -> None:
        """*keys* have changed."""
        self._touched.update(dict.fromkeys(keys))


AnyModel = Model[Any] | KeyedModel[Any]


async def kept_of(sources: Sources, projection: Projection[Any, Any] | Keyed[Any, Any], cell: Cell) -> Checkpoint | None:
    """The checkpoint that is kept, its fault noted in *cell*.

    Raises:
      ModelFaulted: another version of the projection made it.
    """
    entry = await sources.backend.get(CHECKPOINTS, projection.name.encode())
    if entry is None:
        return None
    kept = cursor.unpack(projection.name, entry.value, sources.backend.id)
    if kept.fingerprint != fingerprint(projection, sources.codec):
        raise ModelFaulted(projection.name, other_version(kept))
    cell.fault = kept.fault or None
    return kept


def other_version(kept: Checkpoint) -> str:
    """Why what is kept cannot be used."""
    return (
        f"what is stored was made by another version of it (at position {kept.position}): raise its version and open with "
        'changed="rebuild", or undo the change'
    )


async def newest_snapshot(
    sources: Sources, projection: Projection[Any, Any], *, at_most: Position | None = None, warn: Callable[[str, str], None] | None = None
) -> tuple[Any, Snapshot] | None:
    """The state of the newest snapshot that this version of *projection* made and that verifies, not beyond *at_most*."""
    print_, decode = fingerprint(projection, sources.codec), sources.codec.decoder(projection.state_type)
    for position in reversed(await sources.backend.snapshots(projection.name)):
        if at_most is not None and position > at_most:
            continue
        try:
            snapshot = await sources.backend.read_snapshot(projection.name, at_most=position)
            if snapshot is not None and snapshot.position == position and snapshot.fingerprint == print_:
                return decode(snapshot.state), snapshot
        except (Corrupt, Unreadable) as error:
            (warn or _warn)(projection.name, f"its snapshot at position {position} does not verify, an older one is used: {error}")
    return None


def _warn(name: str, text: str) -> None:
    log.warning("%s: %s", name, text)


def lease_of(name: str) -> str:
    """The lease of a projection."""
    return f"projection {name}"


def bucket_of(name: str) -> str:
    """The reserved bucket of a keyed projection's states."""
    return f"{MODELS}{name}"


def failed(name: str, stopped: Stopped) -> ProjectionFailed:
    """The error that says where a fold stopped; raise it from the cause."""
    return ProjectionFailed(name, stopped.record.position, stopped.record.stream, stopped.record.seq)


class LogPages:
    """Selected records from beyond *after* up to *until*, in pages."""

    def __init__(self, backend: Reads, limits: Limits, where: Selector[Any], after: Position, until: Position) -> None:
        self._backend = backend
        self._limits = limits
        self._where = where
        self._after = after
        self._until = until

    async def next(self) -> list[Record] | None:
        """The next page, which may be empty; None at the end."""
        if self._after >= self._until:
            return None
        page = await self._backend.read_log(
            after=self._after, limit=self._limits.page_records, bytes_max=self._limits.page_bytes, where=self._where
        )
        self._after = page.examined if page.examined > self._after else self._until
        return [record for record in page.records if record.position <= self._until]


async def position_of(backend: Reads, position: Position | None, time: datetime | None) -> Position:
    """The position asked for: given, or that of the last commit at or before *time*.

    Raises:
      Misuse: not exactly one of both is given, or not rightly.
      Rewound: the position is beyond the head.
    """
    if (position is None) == (time is None):
        raise Misuse("as_of takes either position= or time=")
    if position is not None and (isinstance(position, bool) or not isinstance(position, int) or position < 0):
        raise Misuse(f"as_of(position=...) takes a position from 0, not {position!r}")
    head = await backend.head()
    if position is not None:
        if position > head:
            raise Rewound(head)
        return position
    assert time is not None
    if time.tzinfo is None:
        raise Misuse(f"as_of(time={time!r}) needs a time zone: use datetime(..., tzinfo=UTC)")
    return await _last_at(backend, to_us(time), head)


async def _last_at(backend: Reads, moment_us: int, head: Position) -> Position:
    """Time never goes back in the log: so halve it."""
    cut = max((bound.position for bound in await backend.cuts()), default=0)
    low = await _halved(backend, moment_us, cut, head)
    return Position(low if low > cut else await _halved(backend, moment_us, 0, Position(cut)))  # the latter from archives, or not at all


async def _halved(backend: Reads, moment_us: int, low: int, high: int) -> int:
    while low < high:
        middle = (low + high) // 2
        page = await backend.read_log(after=Position(middle), limit=1, bytes_max=1)
        if page.records and page.records[0].at_us <= moment_us:
            low = max(middle + 1, page.records[0].position)
        else:
            high = middle
    return low
