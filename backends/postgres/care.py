"""Looking after a store in a database by way of its backend: old rows go, events are read and checked, its status is told."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import trio

from perdure.backends.errors import Unavailable
from perdure.backends.event import Position
from perdure.backends.limits import Limits
from perdure.backends.postgres import checking, session, tracing, upkeep
from perdure.backends.postgres.news import PostgresNews
from perdure.backends.postgres.pool import Pool
from perdure.backends.postgres.reads import PostgresReads
from perdure.backends.postgres.wire import EPOCH_US, Lost, Question, Refused, Row, Wire
from perdure.backends.progress import Told, nobody
from perdure.backends.protocol import Capabilities, State, StoreStatus

Ask = Callable[..., Awaitable[list[list[Row]]]]


class PostgresCare(PostgresReads):
    """The part of `PostgresBackend` that is about keeping it well."""

    id: str
    url: str
    limits: Limits
    capabilities: Capabilities
    reconnects: int
    _server: session.Server
    _pool: Pool
    _views: Pool
    _news: PostgresNews
    _writer: Wire | None
    _scrub: checking.Scrub | None
    _scrubbed: str
    _damages: list[str]

    @property
    @abstractmethod
    def state(self) -> State: ...

    @abstractmethod
    def _step(self, *, within_s: float = ...) -> AbstractAsyncContextManager[tuple[Row, Ask]]: ...

    @abstractmethod
    def _check_open(self) -> None: ...

    async def now_us(self) -> int:
        """See `Backend.now_us`: the server's clock."""
        ((row,),) = await self._ask(checking.CLOCK)
        return int(row[0]) + EPOCH_US

    async def maintain(self) -> bool:
        """See `Backend.maintain`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        if not self.capabilities.writes:
            return False
        async with self._step() as (_, ask):
            await tracing.sweep(ask)
            return await upkeep.forget(ask, self.limits)

    async def shrink(self) -> str:
        """See `Backend.shrink`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        return "PostgreSQL gives room back by itself (see autovacuum), to the disk by VACUUM FULL"

    async def verify(self, progress: Told = nobody) -> list[str]:
        """See `Backend.verify`."""
        return await checking.verify(self._ask_long, progress)

    async def _ask_long(self, *questions: Question) -> list[list[Row]]:
        """Ask what may take its time."""
        self._check_open()
        try:
            async with self._pool.wire() as wire:
                answers = await wire.ask("BEGIN READ ONLY", "SET LOCAL statement_timeout = 0", *questions, "COMMIT", within_s=3_600)
                return answers[2:-1]
        except Lost as error:
            self._check_open()
            raise Unavailable(f"the connection to {self.url} was lost ({error})") from error
        except Refused as error:
            session.raise_refusal(error, self.url)

    async def scrub(self) -> bool:
        """See `Backend.scrub`."""
        scrub = self._scrub or checking.Scrub()
        found = await scrub.slice(self._ask)
        self._damages += [problem for problem in found if problem not in self._damages][: checking.PROBLEMS_MAX - len(self._damages)]
        self._scrub = None if scrub.done else scrub
        if scrub.done:
            self._scrubbed = "all events" if not self._damages else f"all events, {len(self._damages)} damaged"
        return not scrub.done

    async def store_status(self) -> StoreStatus:
        """See `Backend.store_status`."""
        self._check_open()
        ((row,),) = await self._ask(checking.SIZES)
        return StoreStatus(
            url=self.url,
            id=self.id,
            head=Position(row[0]),
            revision=row[1],
            bytes_used=row[2],
            bytes_limit=0,
            verified=self._scrubbed or ("by the server's page checksums" if self._server.checksums else "not since it was opened"),
            scrubbed_rows=0 if self._scrub is None else self._scrub.rows,
            damages=tuple(self._damages),
            state=self.state,
            details={
                "server": self._server.version,
                "pooled": self._server.pooled,
                "told by": "LISTEN" if self._news.hears else "polling",
                "synchronous_commit": self._server.synchronous,
                "connections": self._pool.size + self._views.size + (self._writer is not None) + self._news.hears,
                "reconnects": self.reconnects,
            },
        )
