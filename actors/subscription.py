"""Subscriptions: an iterator over the selected events, for ever; a named one keeps its place in the store.

Asking for the next event says that the last one is done. Where several processes share the store a named one has a lease: while
another process holds it nothing comes here, and then it goes on from the kept place.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Generic, TypeVar

import trio

from perdure.actors import cursor
from perdure.actors.cursor import Checkpoint
from perdure.actors.follower import Follower
from perdure.actors.lease import Claim
from perdure.actors.pace import SLICE
from perdure.backends.codec import Codec
from perdure.backends.commit import CHECKPOINTS, Commit, Committed, Put, Stored, Write
from perdure.backends.errors import AlreadyRunning, Closed, Full, InDoubt, Misuse, Unavailable, Unreadable
from perdure.backends.event import HEAD, Event, Position, Record
from perdure.backends.protocol import Backend

D = TypeVar("D")

Propose = Callable[[list[Write]], Commit]


class Place:
    """The durable cursor of a named follower: a compare-and-set in the bucket of checkpoints."""

    def __init__(self, name: str, backend: Backend) -> None:
        self.name = name
        self._backend = backend
        self._key = name.encode()
        self.revision = 0
        self.kept: Checkpoint | None = None

    async def read(self) -> Checkpoint | None:
        """What is kept, and its revision for the next write.

        Raises:
          WrongStore: it belongs to another store.
        """
        entry = await self._backend.get(CHECKPOINTS, self._key)
        self.revision = 0 if entry is None else entry.revision
        self.kept = None if entry is None else cursor.unpack(self.name, entry.value, self._backend.id)
        return self.kept

    def put(self, checkpoint: Checkpoint) -> Put[bytes]:
        """The write that keeps *checkpoint*, if nobody else has written since."""
        return Put(CHECKPOINTS, self._key, cursor.pack(checkpoint), self.revision)

    def wrote(self, checkpoint: Checkpoint, revision: int) -> None:
        """The write was committed at *revision*."""
        self.kept, self.revision = checkpoint, revision


class Subscription(Generic[D]):
    """See `Runtime.subscribe`. Iterate it in one task; `save` keeps a named one's place."""

    def __init__(
        self,
        follower: Follower,
        codec: Codec,
        *,
        place: Place | None = None,
        commit: Callable[[list[Write]], Any] | None = None,
        store: str = "",
        name: str = "",
        claim: Claim | None = None,
    ) -> None:
        self._follower = follower
        self._codec = codec
        self._place = place
        self._commit = commit
        self._store = store
        self.name = name
        self.claim = claim
        """Of its lease, where it needs one."""
        self._fence = 0
        """Under which the place was read."""
        self._records: list[Record] = []
        self._events: list[Event[Any] | Unreadable] = []
        self._next = 0
        self._start = self._page_end = follower.cursor
        self.done = follower.cursor
        """The last commit of which all is done."""
        self._saved_at = trio.current_time()
        self._saving = trio.Lock()
        self._moved = False
        """Whether an event is done that the kept place does not know of."""
        self._lost = False
        """Whether another process moves the place: nothing is kept from here any more."""
        self._doubted: Checkpoint | None = None
        """What we asked to be kept when the store went away: it may be kept yet, and is ours then."""
        self._waiting: trio.CancelScope | None = None
        self._stopped = False

    def __aiter__(self) -> AsyncIterator[Event[D]]:
        return self

    @property
    def owns(self) -> bool:
        """Whether no other process hands on its events."""
        return self.claim is None or (self.claim.number == self._fence and self.claim.fresh)

    async def __anext__(self) -> Event[D]:
        """The next event, awaited if need be.

        Raises:
          StopAsyncIteration: the runtime closes.
          Unreadable: the event's payload cannot be read; asking again gives the one after it.
          AlreadyRunning: another runtime moves the place of this name, where there are no leases.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._finished()
        if self._place is not None and self._due_s <= 0:
            await self._keep()
        if self.claim is not None and not self.owns:
            await self._own()
        if self._stopped:
            raise StopAsyncIteration
        if self._next == len(self._events):
            if self._next == len(self._records):
                await self._fetch()
            else:
                await trio.lowlevel.checkpoint()
                self._events += decoded(self._codec, self._records[self._next : self._next + SLICE])
        event = self._events[self._next]
        self._next += 1
        if isinstance(event, Unreadable):
            raise event
        return event

    def _finished(self) -> None:
        """The event in hand is done, and so is its commit if it was the last of it."""
        last, records = self._next - 1, self._records
        if self._next == len(records):
            self._moved = self._moved or (last >= 0 and self.done != self._page_end)
            self.done = self._page_end
        elif last >= 0 and records[last].commit != records[self._next].commit:
            self._moved, self.done = True, records[last].position

    async def _fetch(self) -> None:
        """The next page with events in it; ends the iteration when the runtime stops. Meanwhile the place is kept when it is time."""
        while True:
            fence, records = self._fence, await self._page()
            if self.claim is not None and not self.owns:
                await self._own()
            if self._stopped and (records is None or not self.owns):
                raise StopAsyncIteration
            if self._fence != fence:
                continue  # what was read was another's
            if records is not None:
                self._page_end = self._follower.cursor
                if records:
                    self._records, self._events, self._next = records, decoded(self._codec, records[:SLICE]), 0
                    return
                self.done = self._page_end
            if self._due_s <= 0:
                await self._keep()

    async def _page(self) -> list[Record] | None:
        """The follower's next page; None when the place should be kept first, or the runtime stops."""
        with trio.move_on_after(max(0.0, self._due_s)) as self._waiting:
            try:
                return None if self._stopped else await self._follower.page()
            except Closed:
                self._stopped = True
        return None

    # -- its lease ---------------------------------------------------------------------------

    async def _own(self) -> None:
        """Return when no other process hands on these events; under a new lease it goes on from the kept place. Or when the runtime stops."""
        assert self.claim is not None
        while not (self._stopped or self.owns):
            with trio.CancelScope() as self._waiting:
                try:
                    await self.claim.wait_fresh()
                except Closed:
                    self._stopped = True
            if self.claim.fresh and self.claim.number != self._fence:
                await self._go_on_from_kept(self.claim.number)

    async def _go_on_from_kept(self, fence: int) -> None:
        assert self._place is not None
        kept = await self._place.read()
        start = self._start if kept is None else Position(kept.position)
        self._records, self._events, self._next, self._moved, self._doubted = [], [], 0, False, None
        self._follower.cursor = self._page_end = self.done = start
        self._fence = fence
        if kept is None and start:  # whoever comes after us begins here too
            self._moved = True
            await self._keep()

    # -- its place ---------------------------------------------------------------------------

    @property
    def _due_s(self) -> float:
        """How long until the place should be kept; for ever while there is nothing new to keep."""
        if self._place is None or self._lost:
            return math.inf
        kept = 0 if self._place.kept is None else self._place.kept.position
        if not self._moved and self.done - kept < cursor.EXAMINED_MAX:
            return math.inf
        return self._saved_at + cursor.CHECKPOINT_EVERY_S - trio.current_time()

    async def _keep(self) -> None:
        """Keep the place; while the store cannot, the iteration goes on, and it is tried again in a second."""
        try:
            await self.save()
        except (Unavailable, InDoubt, Full):
            self._saved_at = trio.current_time()
        except Closed:
            self._stopped = True

    async def save(self) -> None:
        """Keep the place of a named subscription now: the last commit of which all is done.

        Raises:
          AlreadyRunning: another runtime moves it too, where there are no leases.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        async with self._saving:
            place = self._place
            disowned = self.claim is not None and (not self.claim.held or self.claim.number != self._fence)
            if place is None or self._commit is None or self._lost or disowned or (place.kept is not None and place.kept.position == self.done):
                self._moved = False
                return
            checkpoint = Checkpoint(self._store, self.done)
            while True:
                try:
                    answer = await self._commit([place.put(checkpoint), *([] if self.claim is None else [self.claim.fence])])
                except InDoubt:
                    self._doubted = checkpoint
                    raise
                if isinstance(answer, Committed) and isinstance(stored := answer.parts[0], Stored):
                    place.wrote(checkpoint, stored.revision)
                    break
                found = await place.read()
                if found == checkpoint:
                    break
                if self.claim is not None and found != self._doubted:
                    self.claim.lose()
                    self._fence, self._moved = 0, False
                    return
                if found is None or found != self._doubted:
                    self._lost = True
                    raise AlreadyRunning(self.name)
                self._doubted = None
            self._saved_at = trio.current_time()
            self._moved = self._moved and self.done != checkpoint.position

    def stop(self) -> None:
        """End the iteration after the event in hand."""
        self._stopped = True
        if self._waiting is not None:
            self._waiting.cancel()


def start_position(after: Position, head: Position) -> Position:
    """Where a subscription begins that asked for *after* (-1: the head)."""
    if isinstance(after, bool) or not isinstance(after, int) or after < HEAD:
        raise Misuse(f"subscribe(after=...) takes a position, START or HEAD, not {after!r}")
    return head if after == HEAD else after


def decoded(codec: Codec, records: Sequence[Record]) -> list[Event[Any] | Unreadable]:
    """The events of *records*; in the place of one that cannot be read, why not."""
    try:
        return list(codec.events(records))
    except Unreadable:
        return [_try(codec, record) for record in records]


def _try(codec: Codec, record: Record) -> Event[Any] | Unreadable:
    try:
        return codec.event(record)
    except Unreadable as error:
        return error
