"""Subscriptions: an iterator over the selected events, for ever; a named one keeps its place in the store.

Asking for the next event says that the last one is done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

import trio

from perdure.actors import cursor
from perdure.actors.cursor import CHECKPOINTS, Checkpoint
from perdure.actors.follower import Follower
from perdure.backends.codec import Codec
from perdure.backends.commit import Commit, Committed, Put, Write
from perdure.backends.errors import AlreadyRunning, Closed, Conflict, Unreadable
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
    ) -> None:
        self._follower = follower
        self._codec = codec
        self._place = place
        self._commit = commit
        self._store = store
        self.name = name
        self._records: list[Record] = []
        self._events: list[Event[Any] | Unreadable] = []
        self._next = 0
        self._page_end = follower.cursor
        self.done = follower.cursor
        """The last commit of which all is done."""
        self._saved_at = trio.current_time()
        self._waiting: trio.CancelScope | None = None
        self._stopped = False

    def __aiter__(self) -> AsyncIterator[Event[D]]:
        return self

    async def __anext__(self) -> Event[D]:
        """The next event, awaited if need be.

        Raises:
          StopAsyncIteration: the runtime closes.
          Unreadable: the event's payload cannot be read; asking again gives the one after it.
          AlreadyRunning: another process moves the place of this name.
        """
        if self._next < len(self._events):
            await trio.lowlevel.checkpoint_if_cancelled()
            self._finished(self._records[self._next - 1], self._records[self._next])
            self._next += 1
            return self._given(self._events[self._next - 1])
        self.done = self._page_end
        while True:
            await self._maybe_save()
            records = await self._page_or_stop()
            if records:
                break
            self.done = self._page_end = self._follower.cursor
        self._records, self._events, self._next = records, self._decoded(records), 1
        self._page_end = self._follower.cursor
        return self._given(self._events[0])

    def _given(self, event: Event[Any] | Unreadable) -> Event[D]:
        if isinstance(event, Unreadable):
            raise event
        return event

    def _finished(self, last: Record, following: Record) -> None:
        if last.commit != following.commit:
            self.done = last.position

    async def _page_or_stop(self) -> list[Record]:
        """The follower's next page; ends the iteration when the runtime stops."""
        if not self._stopped:
            with trio.CancelScope() as self._waiting, suppress(Closed):
                return await self._follower.page()
        raise StopAsyncIteration

    def _decoded(self, records: list[Record]) -> list[Event[Any] | Unreadable]:
        """The page's events; in the place of one that cannot be read, why not."""
        try:
            return list(self._codec.events(records))
        except Unreadable:
            return [self._try(record) for record in records]

    def _try(self, record: Record) -> Event[Any] | Unreadable:
        try:
            return self._codec.event(record)
        except Unreadable as error:
            return error

    # -- its place ---------------------------------------------------------------------------

    async def _maybe_save(self) -> None:
        if self._place is not None and self._place.kept is not None and self.done <= self._place.kept.position:
            return
        if self._place is not None and trio.current_time() - self._saved_at >= cursor.CHECKPOINT_EVERY_S:
            await self.save()

    async def save(self) -> None:
        """Keep the place of a named subscription now: the last commit of which all is done.

        Raises:
          AlreadyRunning: another process moves it too.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        place = self._place
        if place is None or self._commit is None or (place.kept is not None and place.kept.position == self.done):
            return
        checkpoint = Checkpoint(self._store, self.done)
        match await self._commit([place.put(checkpoint)]):
            case Committed(parts=(stored,)):
                place.wrote(checkpoint, stored.revision)  # type: ignore[union-attr]
                self._saved_at = trio.current_time()
            case Conflict():
                raise AlreadyRunning(self.name)

    def stop(self) -> None:
        """End the iteration after the event in hand."""
        self._stopped = True
        if self._waiting is not None:
            self._waiting.cancel()


def start_position(after: Position, head: Position) -> Position:
    """Where a subscription begins that asked for *after* (-1: the head)."""
    return head if after == HEAD else after
