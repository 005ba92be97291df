"""What an ordered map is: tables of ordered keys, a batch of writes whole or not at all, and a state."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import attrs
import trio

from perdure.backends.news import LocalNews, News
from perdure.backends.protocol import State
from perdure.backends.recovery import Recovery
from perdure.backends.tables import Reader, Writer

T = TypeVar("T")


class MapFull(Exception):
    """A batch does not fit; nothing of it was written. *disk*: it is the disk that is full, of which so many bytes are used, of so many."""

    def __init__(self, disk: tuple[int, int] | None = None) -> None:
        super().__init__(disk)
        self.disk = disk


class MapDoubtful(Exception):
    """A flush failed: nobody knows whether the batch is stored. The map is doubtful from here on."""


class MapAway(Exception):
    """The map cannot be read until it has been reopened."""


@attrs.frozen
class MapStatus:
    """Numbers about a map."""

    bytes_used: int = 0
    bytes_limit: int = 0
    verified: str = "all"
    recovery: Recovery = attrs.field(factory=Recovery)
    details: dict[str, Any] = attrs.field(factory=dict)


class OrderedMap(Protocol):
    """Tables of ordered keys. Calls do not await: a transaction begins, works and ends in one of them."""

    @property
    def id(self) -> str: ...

    @property
    def state(self) -> State: ...

    @property
    def news(self) -> News: ...

    def read(self, fn: Callable[[Reader], T]) -> T:
        """What *fn* says of the state as it is now.

        Raises:
          MapAway: it has to be reopened first.
        """
        ...

    def hold(self, *, busy: bool = False) -> AbstractContextManager[Reader]:
        """A reader of the state as it is now, for longer. A reopening ends it, unless (*busy*) a thread reads with it: then it waits.

        Ended, it raises `MapAway`.
        """
        ...

    async def take_turn(self, *, patient: bool = True) -> None:
        """Get the right to write, until `end_turn`; not *patient*: now or not at all. If cancelled, it was not got.

        Raises:
          Unavailable: another process has it and keeps it, or the map is not open.
        """
        ...

    def end_turn(self) -> None:
        """Give it back."""
        ...

    async def write(self, fn: Callable[[Writer], T], *, small: bool = False, size_bytes: int = 0) -> T:
        """Do *fn* as one batch, durable on return, unless it raises. *small*: it frees room, and may use the reserve; *size_bytes*: about.

        It may run in a thread, and once more if the map has grown. Not cancelled once begun.

        Raises:
          MapFull: it does not fit.
          MapDoubtful: its flush failed.
        """
        ...

    async def reopen(self) -> None:
        """See `Backend.reopen`; its readers have been asked to end."""
        ...

    async def wait_back(self) -> None:
        """Return when it may be read again, or was closed."""
        ...

    async def tidy(self) -> bool:
        """Do one bounded slice of upkeep below the tables; whether more is due. The caller has the turn.

        Raises:
          MapDoubtful: a flush of it failed.
        """
        ...

    def claim_move(self) -> AbstractContextManager[None]:
        """The right to bring the store elsewhere, among the processes that have it open.

        Raises:
          Unavailable: another one has it.
        """
        ...

    async def shrink(self) -> str:
        """Give room that is not used back to the disk; '' when done, else why not. Readers wait meanwhile, those that are held are ended.

        Raises:
          Unavailable: somebody writes or reads, and does not end; nothing was done.
        """
        ...

    def end_waits(self) -> None:
        """Who waits for a turn gets `Closed`: it is going to be closed."""
        ...

    def status(self) -> MapStatus: ...

    def found_sound(self) -> None:
        """All rows have been read since it was opened, without a finding."""
        ...

    async def check_files(self) -> list[str]:
        """Problems of the files below the tables, each a sentence."""
        ...

    async def aclose(self) -> None: ...


class Alone:
    """What a map need not say that no other process writes to and whose flushes do not fail."""

    state = State.OPEN

    def __init__(self) -> None:
        self.news: News = LocalNews()

    async def take_turn(self, *, patient: bool = True) -> None:
        """Nobody else writes."""

    def end_turn(self) -> None:
        """Likewise."""

    def claim_move(self) -> AbstractContextManager[None]:
        return nullcontext()

    async def shrink(self) -> str:
        return "it has no file"

    def end_waits(self) -> None:
        """Nobody waits."""

    def found_sound(self) -> None:
        """That was never in doubt."""

    async def tidy(self) -> bool:
        return False

    async def reopen(self) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_back(self) -> None:
        await trio.lowlevel.checkpoint()
