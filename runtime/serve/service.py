"""What all requests share: the open runtime, what the daemon was told, and the counts of what is under way."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import attrs
import trio

from perdure.backends.codec import Codec
from perdure.backends.event import Record
from perdure.backends.http.wire import OVERHEAD_BYTES
from perdure.runtime.app import App
from perdure.runtime.runtime import Runtime
from perdure.runtime.serve.config import ServeConfig
from perdure.runtime.serve.counting import Counted
from perdure.runtime.serve.health import Health
from perdure.runtime.serve.problems import Refused
from perdure.runtime.serve.represent import Form
from perdure.runtime.serve.scratch import Scratch
from perdure.runtime.serve.shapes import Daemon
from perdure.runtime.serve.tokens import Tokens
from perdure.runtime.serve.views import Views

ROOM_WAIT_S: Final = 5
SMALL_BYTES: Final = 16 * 1024
"""A body that says to be no larger has room always: it does not wait behind large ones, and connections bound how many there are."""
LINES_BYTES: Final = 8 << 20
PAGES_AT_ONCE: Final = 4
"""So many pages are made at one time, whoever waits for them: a round of the loop stays short, and who appends is not behind all who read."""
FOLLOWER_S: Final = 0.001
"""So long a live stream rests after a piece for each that there is, """
REST_MAX_S: Final = 0.1
"""and no longer: many followers are told of several commits at once, a few of each at once."""
SLICE: Final = 32
"""Never are more events written out before other tasks have their turn."""


@attrs.define
class Room:
    """A bound on bytes that several have together; who finds no room waits a little."""

    used: int = 0
    _freed: trio.Event = attrs.field(factory=trio.Event)

    @asynccontextmanager
    async def taken(self, size: int, most: Callable[[], int]) -> AsyncIterator[None]:
        """Have *size* of it while the body runs.

        Raises:
          Refused: there was none in time.
        """
        with trio.move_on_after(ROOM_WAIT_S) as waiting:
            while size > SMALL_BYTES and self.used and self.used + size > most():
                await self._freed.wait()
        if waiting.cancelled_caught:
            raise Refused(503, "busy", "too many bodies are under way", "try again")
        self.used += size
        try:
            yield
        finally:
            self.used -= size
            self._freed.set()
            self._freed = trio.Event()


@attrs.define
class Lines:
    """Records as they were last written out, bounded: all followers are shown the same ones."""

    _kept: dict[tuple[int, str], tuple[int, bytes]] = attrs.field(factory=dict)
    _bytes: int = 0

    def of(self, record: Record, form: Form) -> bytes:
        """The record in that form."""
        key = (record.position, form.media_type)
        kept = self._kept.get(key)
        if kept is not None and kept[0] == record.crc:
            return kept[1]
        line = form.line(record)
        self._kept[key] = (record.crc, line)
        self._bytes += len(line)
        while self._bytes > LINES_BYTES:
            self._bytes -= len(self._kept.pop(next(iter(self._kept)))[1])
        return line


@attrs.define
class Failures:
    """Wrong tokens, counted by address over a minute; the number of addresses is bounded."""

    total: int = 0
    _minute: int = 0
    _counts: dict[str, int] = attrs.field(factory=dict)

    def note(self, address: str, most: int) -> bool:
        """One more; whether there were too many."""
        minute = int(trio.current_time() // 60)
        if minute != self._minute or len(self._counts) > 10_000:
            self._minute, self._counts = minute, {}
        self.total += 1
        self._counts[address] = count = self._counts.get(address, 0) + 1
        return count > most

    def first(self, address: str, most: int) -> bool:
        """Whether the limit was just passed: said once a minute, so that logs do not grow with it."""
        return self._counts.get(address) == most + 1


@attrs.define(eq=False)
class Service:
    """One daemon's HTTP side. *config* is replaced as a whole when it is reloaded; read it when it is needed."""

    rt: Runtime
    app: App
    config: ServeConfig
    url: str
    tokens: Tokens = attrs.field(factory=Tokens)
    room: Room = attrs.field(factory=Room)
    lines: Lines = attrs.field(factory=Lines)
    failures: Failures = attrs.field(factory=Failures)
    turns: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(PAGES_AT_ONCE))
    """One for each page that is being made."""
    _blobs: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))
    """One for each blob that goes in or out."""
    counted: Counted = attrs.field(factory=Counted)
    health: Health = attrs.field(factory=Health)
    log_lines_lost: Callable[[], int] = lambda: 0
    listening: tuple[str, ...] = ()
    """Hosts that are listened on."""
    urls: tuple[str, ...] = ()
    """Where it answers."""
    peers: tuple[Daemon, ...] = ()
    requests: int = 0
    connections: Callable[[], tuple[int, int]] = lambda: (0, 0)
    """How many there are, and how many were refused."""
    views: Views = attrs.field(factory=Views)
    scratch: Scratch = attrs.field(init=False)
    draining: bool = False
    _live: set[trio.CancelScope] = attrs.field(factory=set)
    _waits: set[trio.CancelScope] = attrs.field(factory=set)
    _began_s: float = attrs.field(factory=time.monotonic)
    codec: Codec = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.scratch = Scratch(self.url)
        self.codec = Codec()
        for cls in self.app.classes():
            self.codec.registry.register(cls)

    @property
    def up_s(self) -> float:
        return time.monotonic() - self._began_s

    @property
    def wire_bytes(self) -> int:
        """The largest body of the wire: the largest commit has room."""
        most = max(self.config.body_bytes, self.rt.limits.commit_bytes + OVERHEAD_BYTES)
        return min(most, self.config.bodies_bytes)

    @asynccontextmanager
    async def carrying(self) -> AsyncIterator[None]:
        """While the body runs one more blob goes in or out: each needs some MiB.

        Raises:
          Refused: there were too many, for too long.
        """
        self._blobs.total_tokens = self.config.blobs_max
        with trio.move_on_after(ROOM_WAIT_S) as waiting:
            await self._blobs.acquire_on_behalf_of(mine := object())
        if waiting.cancelled_caught:
            raise Refused(503, "busy", "too many blobs are under way", "try again")
        try:
            yield
        finally:
            self._blobs.release_on_behalf_of(mine)

    @property
    def followers(self) -> int:
        return len(self._live)

    @property
    def rest_s(self) -> float:
        """How long one that follows waits before it is told of more."""
        return min(REST_MAX_S, FOLLOWER_S * (len(self._live) - 1))

    @contextmanager
    def follower(self) -> Iterator[None]:
        """While the body runs one more follows; it is cancelled when the daemon drains.

        Raises:
          Refused: there are too many.
        """
        self.check_followers()
        with trio.CancelScope() as scope:
            self._live.add(scope)
            try:
                yield
            finally:
                self._live.discard(scope)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While the body runs a request waits for what may never come; it is cancelled when the daemon drains.

        Raises:
          Refused: the daemon ends.
        """
        with trio.CancelScope() as scope:
            if self.draining:
                scope.cancel()
            self._waits.add(scope)
            try:
                yield
            finally:
                self._waits.discard(scope)
        if scope.cancelled_caught:
            raise ending()

    def check_followers(self) -> None:
        """Whether there may be one more.

        Raises:
          Refused: there are too many, or the daemon ends.
        """
        if self.draining:
            raise ending()
        if len(self._live) >= self.config.followers_max:
            raise Refused(503, "busy", "there are too many live streams", "try again later (followers_max)")

    def drain(self) -> None:
        """Begin nothing new that lasts, and end what would last for ever."""
        self.draining = True
        for scope in [*self._live, *self._waits]:
            scope.cancel()


def ending() -> Refused:
    """What is told to who asks for what lasts."""
    return Refused(503, "closed", "the daemon ends", "ask again: another one may have taken over")
