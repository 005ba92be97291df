"""How many requests begin in one round of the loop: few, so that rounds stay short and who is asked how it is answers soon, however many append."""

from __future__ import annotations

from typing import Final

import trio

BEGUN_MAX: Final = 8
FIRST: Final = (b"GET /health/",)
"""What begins so waits for nobody."""


class Rounds:
    """See the module. `run` turns for as long as somebody waits."""

    def __init__(self, most: int = BEGUN_MAX) -> None:
        self._most = most
        self._begun = 0
        self._waiting = trio.lowlevel.ParkingLot()
        self._rest = trio.lowlevel.ParkingLot()

    async def begin(self, data: bytes) -> None:
        """Return when *data*, the first part of a request or more of it, may be looked at: in the order asked, or at once where few do. If cancelled, it
        has its place no more."""
        if data.startswith(FIRST):
            return
        self._rest.unpark()
        if self._begun < self._most and not self._waiting:
            self._begun += 1
        else:
            await self._waiting.park()

    async def run(self) -> None:
        """Let the next ones begin in each round; until cancelled."""
        while True:
            if not (self._begun or self._waiting):
                await self._rest.park()
            await trio.lowlevel.checkpoint()
            self._begun = len(self._waiting.unpark(count=self._most))
