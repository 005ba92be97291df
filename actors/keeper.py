"""The keeper: the actor that brings a store back whose flush failed.

It closes and reopens, ever more slowly, until the store is open; who waits for that is woken. A store
that is open again is not sound yet: only a flush that succeeds ends the trouble. When it has lasted
`limits.reopen_s`, or what is found cannot be cured by waiting, the keeper gives up with that one error.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from perdure.actors.restart import FORGIVEN_AFTER_DELAYS, delay_s
from perdure.actors.status import Lifecycle, What
from perdure.backends.errors import Closed, Full, InDoubt, PerdureError, StoreMoved, Unavailable
from perdure.backends.limits import Limits
from perdure.backends.protocol import Backend, State

NAME = "keeper"
LOOK_S = 1.0
"""How often it looks whether the store is doubtful, where nobody asks."""
_QUIET_S = 5.0
"""A store that has been open so long is forgiven its last trouble, even if nothing was flushed since."""
_CURABLE = (Unavailable, InDoubt, Full)


class Keeper:
    """See the module. `run` is its task; who meets a store that is not open awaits `reopened`."""

    def __init__(
        self,
        backend: Backend,
        limits: Limits,
        *,
        jitter: Callable[[], float] = lambda: 0.5,
        publish: Callable[[Lifecycle], None] = lambda _: None,
    ) -> None:
        self._backend = backend
        self._limits = limits
        self._jitter = jitter
        self._publish = publish
        self._wanted = trio.Event()
        self._lot = trio.lowlevel.ParkingLot()
        self._troubles = 0
        """Failed flushes and failed attempts in a row without a flush that succeeded."""
        self._since = 0.0
        self._opened_at = float("-inf")
        self._delay_s = 0.0
        self._running = True
        self.failure: PerdureError | None = None
        """What it gave up with."""
        self.reopenings = 0
        """How often the store was brought back."""

    async def run(self) -> None:
        """Watch until cancelled.

        Raises:
          PerdureError: the store does not come back.
          StoreMoved: it is elsewhere.
        """
        try:
            while True:
                with trio.move_on_after(LOOK_S):
                    await self._wanted.wait()
                if self._backend.state is State.CLOSED:
                    return
                if self._backend.state is State.MOVED:
                    raise StoreMoved(self._backend.id, await self._backend.moved_to())
                if self._wanted.is_set() or self._backend.state in (State.DOUBTFUL, State.REOPENING):
                    await self._bring_back()
                    self._wanted = trio.Event()
                    self._lot.unpark_all()
        except PerdureError as error:
            self.failure = error
            self._tell(What.GAVE_UP, error)
            raise
        finally:
            self._running = False
            self._lot.unpark_all()

    async def reopened(self) -> None:
        """Return when the store is open, as far as one can tell.

        Raises:
          Unavailable: the keeper has given up, or has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        before = self.reopenings
        while self.reopenings == before:
            if self.failure is not None or not self._running:
                raise Unavailable(f"the store was not brought back: {self.failure or 'the runtime has ended'}")
            self._wanted.set()
            await self._lot.park()

    def sound(self) -> None:
        """A flush has succeeded."""
        self._troubles = 0

    async def _bring_back(self) -> None:
        last: PerdureError | None = None
        if trio.current_time() - self._opened_at > max(min(_QUIET_S, self._limits.reopen_s), FORGIVEN_AFTER_DELAYS * self._delay_s):
            self._troubles = 0  # it has been open for long enough: this is another trouble
        while True:
            if not self._troubles:
                self._since = trio.current_time()
            elif trio.current_time() - self._since >= self._limits.reopen_s:
                raise Unavailable(f"it was not brought back within {self._limits.reopen_s:g} s of its first failed flush") from last
            else:
                self._delay_s = delay_s(self._troubles - 1, self._jitter())
                await trio.sleep(self._delay_s)
            self._troubles += 1
            try:
                await self._backend.reopen()
            except _CURABLE as error:
                last = error
                self._tell(What.FAILED, error)
            except Closed:
                return
            else:
                self.reopenings += 1
                self._opened_at = trio.current_time()
                self._tell(What.RESTARTED)
                return

    def _tell(self, what: What, error: BaseException | None = None) -> None:
        self._publish(Lifecycle(NAME, what, None if error is None else str(error), trio.current_time()))
