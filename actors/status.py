"""The status tree and lifecycle events, as values."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import attrs
import trio


class What(enum.Enum):
    """What happened to an actor."""

    STARTED = "started"
    STOPPED = "stopped"
    FAILED = "failed"
    RESTARTED = "restarted"
    LEFT = "left"
    """It ended and is not started again."""
    GAVE_UP = "gave up"
    WARNED = "warned"
    NOTED = "noted"
    """It did what people may want to know of."""
    STANDING_BY = "standing by"
    """Another process runs it; this one shows what that one keeps, and takes over when it is gone."""


@attrs.frozen
class Lifecycle:
    """Something happened to an actor; *at* is `trio.current_time()`."""

    actor: str
    what: What
    error: str | None
    at: float


@attrs.frozen
class ActorStatus:
    """One actor: what it does, how full its mailbox is, how far it has got, what went wrong last."""

    name: str
    state: str
    mailbox: int = 0
    position: int | None = None
    lag_events: int | None = None
    lag_s: float | None = None
    restarts: int = 0
    restored_from: int | None = None
    """Of a projection: the position it began at this time; what lay beyond was folded again."""
    last_error: str | None = None
    owner: str | None = None
    """Of what runs in one process at a time: which one holds its lease, as far as is known."""
    children: tuple[ActorStatus, ...] = ()

    def walk(self, depth: int = 0) -> Iterator[tuple[int, ActorStatus]]:
        """This actor and all below it, with their depth."""
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)

    def find(self, name: str) -> ActorStatus | None:
        """The first actor of that name."""
        return next((actor for _, actor in self.walk() if actor.name == name), None)


class Hub:
    """Hands lifecycle events to whoever listens; a listener that is behind loses the oldest, and is told how many."""

    def __init__(self, size: int = 256) -> None:
        self._size = size
        self._listeners: list[Listener] = []

    def publish(self, event: Lifecycle) -> None:
        """Never waits."""
        for listener in self._listeners:
            listener.put(event)

    def close(self) -> None:
        """Nothing more will happen: listeners get what they have not fetched yet, then they end."""
        for listener in self._listeners:
            listener.close()

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Listener]:
        """What happens from now on."""
        listener = Listener(self._size)
        self._listeners.append(listener)
        try:
            yield listener
        finally:
            self._listeners.remove(listener)
            listener.close()


class Listener:
    """An iterator over lifecycle events."""

    def __init__(self, size: int) -> None:
        self._send, self._receive = trio.open_memory_channel[Lifecycle](size)
        self.lost = 0
        """Events dropped because they were not fetched in time."""

    def put(self, event: Lifecycle) -> None:
        """Add one, dropping the oldest if there is no room."""
        while True:
            try:
                self._send.send_nowait(event)
            except trio.WouldBlock:
                self._receive.receive_nowait()
                self.lost += 1
            else:
                return

    def close(self) -> None:
        """End the iteration after what has not been fetched yet."""
        self._send.close()

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> Lifecycle:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
