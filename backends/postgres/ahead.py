"""The next page of a stream that is being read on, asked for before it is wanted: the server works while we decode. One at a time.

Only a page that is full is taken: what it holds does not change any more. A page that is not says nothing of what has
come since it was asked for, and is asked for again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from perdure.backends.event import Record
from perdure.backends.postgres.pool import Pool
from perdure.backends.postgres.reads import read_stream_page, stream_page
from perdure.backends.postgres.session import ASK_S
from perdure.backends.postgres.wire import Lost, Question, Refused, Row, Wire

RECORDS_MIN: Final = 256
"""Who reads smaller pages does not read on."""
STALE_S: Final = 0.25
"""What has not been taken by then is not wanted: another reader may have its place."""

Key = tuple[str, int, int, int]
"""Stream, after, limit, bytes at most."""


class Ahead:
    """See the module. Its connection is lent by *pool*, for as long as an answer is to come."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._wire: Wire | None = None
        self._key: Key | None = None
        self._asked_at = 0.0

    async def read(self, stream: str, after: int, limit: int, bytes_max: int, ask: Callable[..., Awaitable[list[Record]]]) -> list[Record]:
        """A page of a stream: the one that was asked for before, or what *ask* gives; if it is full, the next one is asked for."""
        if limit < RECORDS_MIN:
            return await ask(after=after)
        answers = await self._take((stream, after, limit, bytes_max))
        records = [] if answers is None else read_stream_page(stream, after, limit, bytes_max, *answers)
        if len(records) < limit:
            records = await ask(after=after)
        if len(records) == limit:
            last = records[-1].seq
            self._ask_nowait((stream, last, limit, bytes_max), *stream_page(stream, last, limit, bytes_max))
        return records

    def _ask_nowait(self, key: Key, *questions: Question) -> None:
        """Ask, if there is a connection for it."""
        if self._wire is not None and trio.current_time() < self._asked_at + STALE_S:
            return
        self.drop()
        wire = self._pool.lend_nowait()
        if wire is None:
            return
        if wire.send_nowait(*questions):
            self._wire, self._key, self._asked_at = wire, key, trio.current_time()
        else:
            self._pool.take_back(wire)

    async def _take(self, key: Key) -> list[list[Row]] | None:
        """The answers to what was asked under *key*; None: nothing was."""
        if self._wire is None or self._key != key or trio.current_time() > self._asked_at + STALE_S:
            return None
        wire, self._wire, self._key = self._wire, None, None
        try:
            return await wire.owed(within_s=ASK_S)
        except (Lost, Refused):
            return None
        finally:
            self._pool.take_back(wire)

    def drop(self) -> None:
        """What was asked is not wanted any more."""
        if self._wire is not None:
            self._wire.disown()
            self._pool.take_back(self._wire)
        self._wire, self._key = None, None
