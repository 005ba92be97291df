"""What a view stands on: a transaction that is held open."""

from __future__ import annotations

from contextlib import suppress

import trio

from perdure.backends.errors import Closed
from perdure.backends.postgres import session
from perdure.backends.postgres.session import ASK_S
from perdure.backends.postgres.wire import Lost, Question, Refused, Row, Wire

LEAVE_S = 1.0
"""A connection gets so long for its last word."""


class Held:
    """A transaction that shows one state of the store."""

    def __init__(self, wire: Wire, view_s: float, url: str) -> None:
        self._wire = wire
        self._view_s = view_s
        self._url = url
        self._one = trio.Lock()
        self._ended = False

    async def begin(self) -> None:
        """From here on it stands still."""
        idle = f"SET LOCAL idle_in_transaction_session_timeout = '{self._view_s + 5:g}s'"
        await self._wire.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", idle, "SELECT position FROM perdure.head", within_s=ASK_S)

    async def ask(self, *questions: Question) -> list[list[Row]]:
        """See `Wire.ask`, one task at a time."""
        async with self._one:
            if self._ended or self._wire.lost:
                raise Closed("the view")
            try:
                return await self._wire.ask(*questions, within_s=ASK_S)
            except Lost as error:
                raise Closed(f"the view (its connection was lost: {error})") from error
            except Refused as error:
                session.raise_refusal(error, self._url)

    async def end(self) -> None:
        """It is not needed any more."""
        self._ended = True
        if not self._wire.lost:
            with suppress(Lost, Refused), trio.CancelScope(shield=True):
                await self._wire.ask("ROLLBACK", within_s=LEAVE_S)
