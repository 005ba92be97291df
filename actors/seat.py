"""The backend that a runtime stands on, which may become another one under it.

Everything in a runtime asks the seat. While the store is brought elsewhere, commits and waits that the old place turns away
(`StoreMoved`: nothing was stored) stay here, and are asked again at the new one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import trio

from perdure.backends.commit import Commit, Group
from perdure.backends.errors import Misuse, StoreMoved
from perdure.backends.event import Position
from perdure.backends.protocol import Backend, Capabilities, State

_SAME = (
    *("read_stream", "read_log", "head", "revision", "answer", "get", "scan", "read_changes", "read_snapshot", "snapshots", "stream", "streams", "cuts"),
    *("reopen", "view", "moment", "now_us", "maintain", "shrink", "verify", "scrub", "store_status", "moved_to"),
)
"""Methods that are the inner backend's own, so that a call costs no more."""


class Seat:
    """See the module. *inner* is the backend as it is now."""

    def __init__(self, inner: Backend) -> None:
        self._left: Backend | None = None
        self._moving: trio.Event | None = None
        self._sit(inner)

    def __repr__(self) -> str:
        return repr(self.inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def _sit(self, backend: Backend) -> None:
        self.inner = backend
        for name in _SAME:
            setattr(self, name, getattr(backend, name))

    # -- moving ------------------------------------------------------------------------------

    @contextmanager
    def moving(self) -> Iterator[None]:
        """While the body runs, what the old place turns away waits for `move`. If there was none, it is turned away after all.

        Raises:
          Misuse: it is under way already.
        """
        if self._moving is not None:
            raise Misuse("this runtime is being brought elsewhere already: wait for that")
        self._moving = trio.Event()
        try:
            yield
        finally:
            self._moving.set()
            self._moving = None

    def move(self, to: Backend) -> None:
        """Stand on *to* from here on, which holds the same."""
        self._left = self.inner
        self._sit(to)
        if self._moving is not None:
            self._moving.set()

    @property
    def left(self) -> Backend | None:
        """Where it stood before, still open."""
        return self._left

    async def _moved(self, before: Backend, error: StoreMoved) -> None:
        """Return when there is another place than *before*.

        Raises:
          StoreMoved: nobody here brings it elsewhere.
        """
        if self.inner is before and self._moving is not None:
            await self._moving.wait()
        if self.inner is before:
            raise error

    # -- what is asked again -----------------------------------------------------------------

    async def commit(self, commits: Sequence[Commit]) -> Group:
        """See `Backend.commit`."""
        while True:
            inner = self.inner
            try:
                return await inner.commit(commits)
            except StoreMoved as error:
                await self._moved(inner, error)

    async def wait_beyond(self, position: Position) -> None:
        """See `Backend.wait_beyond`."""
        while True:
            inner = self.inner
            try:
                return await inner.wait_beyond(position)
            except StoreMoved as error:
                await self._moved(inner, error)

    async def wait_changed(self, revision: int) -> None:
        """See `Backend.wait_changed`."""
        while True:
            inner = self.inner
            try:
                return await inner.wait_changed(revision)
            except StoreMoved as error:
                await self._moved(inner, error)

    # -- what it is --------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """See `Backend.id`."""
        return self.inner.id

    @property
    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`."""
        return self.inner.capabilities

    @property
    def state(self) -> State:
        """See `Backend.state`: to who brings it elsewhere it is open."""
        state = self.inner.state
        return State.OPEN if state is State.MOVED and self._moving is not None else state


def seated(backend: Backend) -> Backend:
    """A seat on *backend*, which is one."""
    return cast(Backend, Seat(backend))


def seat_of(backend: Backend) -> Seat:
    """The seat that `seated` made."""
    return cast(Seat, backend)
