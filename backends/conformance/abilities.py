"""What stores may be able to do besides opening: each is a method that a law names in its `needs`, and is left out without.

A law whose parameter is of such a class may use the method. Nobody has to derive from any of them.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol

import trio

from perdure.backends.conformance.law import Stores
from perdure.backends.protocol import Backend


class OpensSmall(Stores, Protocol):
    def open_small(self, name: str) -> AbstractAsyncContextManager[Backend]:
        """Open a store with room for some MiB."""


class MovesClock(Stores, Protocol):
    def advance(self, seconds: float) -> None:
        """Move the wall clock of all its stores."""


class FailsFlush(Stores, Protocol):
    def fail_flush(self, backend: Backend, *, stored: bool) -> None:
        """Let the next flush of that open store fail: what it wrote is there afterwards (*stored*), or it is not.

        The store is doubtful then, as after a true failure.
        """


class HoldsFlush(Stores, Protocol):
    def hold_flush(self, backend: Backend) -> AbstractContextManager[trio.Event]:
        """Keep the next group of that open store on its way: judged, written and not committed. The event is set when the group is."""


class HoldsOpen(Stores, Protocol):
    def hold_open(self, name: str) -> AbstractContextManager[None]:
        """Keep transactions of strangers open beside that store, idle ones and such that have written."""


class HoldsElsewhere(Stores, Protocol):
    def hold_elsewhere(self) -> AbstractContextManager[None]:
        """The same in another database of the same server."""


class HoldsTurn(Stores, Protocol):
    def hold_turn(self, name: str) -> AbstractContextManager[None]:
        """Keep the right to write to that store, as another process would that is frozen, under the pid of this one."""
