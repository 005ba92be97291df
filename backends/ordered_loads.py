"""Filling a store that rests in ordered tables with what another one held, and leaving one for another place."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

from perdure.backends import loading, tables, trace
from perdure.backends.apply import TooManyTypes
from perdure.backends.carried import Rest, Traced
from perdure.backends.environment import Environment
from perdure.backends.errors import Corrupt, Full, TooLarge, Unavailable
from perdure.backends.event import Record
from perdure.backends.moment import hold_moment
from perdure.backends.news import Moved
from perdure.backends.ordered_map import MapAway, MapDoubtful, MapFull, OrderedMap
from perdure.backends.ordered_reads import OrderedReads
from perdure.backends.protocol import CutBound, Moment, StreamInfo
from perdure.backends.rest import load_rest
from perdure.backends.tables import Cache, Writer

T = TypeVar("T")


class OrderedHeld:
    """See `Held`."""

    def __init__(self, mark: Callable[[str, int], Awaitable[None]]) -> None:
        self._mark = mark

    async def mark(self, to: str, *, revision: int = 0) -> None:
        """See `Held.mark`."""
        await self._mark(to, revision)


class OrderedLoads(OrderedReads):
    """The part of `OrderedBackend` that is about stores as a whole."""

    url: str
    environment: Environment
    _store: OrderedMap
    _cache: Cache
    _loading: bool | None
    _gone_to: str
    _claimed: bool

    @abstractmethod
    async def _take_turn(self, *, patient: bool = True) -> None: ...

    @abstractmethod
    def _end_turn(self) -> None: ...

    @abstractmethod
    def _refresh(self, writer: Writer, *, again: bool) -> None: ...

    @abstractmethod
    def _forget(self) -> None: ...

    @abstractmethod
    def _check_open(self) -> None: ...

    @abstractmethod
    def _check_declared(self, capability: str) -> None: ...

    @abstractmethod
    def _full(self, error: MapFull) -> Full: ...

    @abstractmethod
    def _too_many_types(self, error: TooManyTypes) -> TooLarge: ...

    @abstractmethod
    def _damaged(self, error: Exception) -> Corrupt: ...

    # -- whole stores ------------------------------------------------------------------------

    def moment(self) -> AbstractAsyncContextManager[Moment]:
        """See `Backend.moment`."""
        self._check_open()
        self._check_declared("images")
        return hold_moment(self._store, self.environment.threads, self.url)

    async def begin_load(self, *, anew: bool = False) -> None:
        """See `Backend.begin_load`."""
        while await self._load(lambda writer: loading.begin(writer, self._cache, self.url, anew=anew)):
            pass
        self._forget()  # of what was cleared

    async def load(self, records: Sequence[Record]) -> None:
        """See `Backend.load`."""
        try:
            await self._load(lambda writer: loading.load_records(writer, self._cache, records), size_bytes=tables.bytes_of(records), loads=True)
        except TooManyTypes as error:
            raise self._too_many_types(error) from error

    async def load_cuts(self, streams: Sequence[StreamInfo], cuts: Sequence[CutBound]) -> None:
        """See `Backend.load_cuts`."""
        self._check_declared("cuts")
        try:
            await self._load(lambda writer: loading.load_cuts(writer, self._cache, streams, cuts), loads=True)
        except TooManyTypes as error:
            raise self._too_many_types(error) from error

    async def load_rows(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """See `Backend.load_rows`."""
        self._check_declared("images")
        size = sum([len(key) + len(value) for key, value in rows])
        await self._load(lambda writer: loading.load_rows(writer, table, rows), size_bytes=size, loads=True)
        self._forget()

    async def load_rest(self, rest: Rest) -> None:
        """See `Moves.load_rest`."""
        self._check_declared("moves")
        size = sum([len(one.value) for one in rest.entries]) + sum([len(one.state) for one in rest.snapshots])
        await self._load(lambda writer: load_rest(writer, self._cache, rest), size_bytes=size, loads=True)

    async def end_load(self) -> None:
        """See `Backend.end_load`."""
        await self._load(lambda writer: loading.end(writer, self._cache))
        self._store.news.tell(Moved.LOG | Moved.KV, self._cache.head, self._cache.revision)

    async def _load(self, fn: Callable[[Writer], T], *, size_bytes: int = 0, loads: bool = False) -> T:
        """One durable step of loading; *loads*: only while the store is being loaded."""
        self._check_open()
        self._check_declared("loads")
        await self._take_turn()
        runs: list[Writer] = []

        def step(writer: Writer) -> T:
            self._refresh(writer, again=bool(runs))
            runs.append(writer)
            if loads:
                loading.check_loading(self._cache, self.url)
            return fn(writer)

        done = False
        try:
            result = await self._store.write(step, size_bytes=size_bytes)
            done, self._loading, self._gone_to = True, self._cache.loading, self._cache.moved
            return result
        except (MapDoubtful, MapAway) as error:
            raise Unavailable(f"a flush of {self.url} failed while it was being loaded") from error
        except MapFull as error:
            raise self._full(error) from error
        except tables.DAMAGE as error:
            raise self._damaged(error) from error
        finally:
            if not done:
                self._forget()
            self._end_turn()

    # -- following ---------------------------------------------------------------------------

    async def begin_trace(self) -> int:
        """See `Moves.begin_trace`."""
        self._check_declared("moves")
        now_us = self.environment.clock()
        while await self._load(lambda writer: trace.begin(writer, self._cache, now_us)):
            pass
        return self._cache.trace

    async def forget_trace(self, traced: Sequence[Traced]) -> None:
        """See `Moves.forget_trace`."""
        self._check_declared("moves")
        await self._load(lambda writer: trace.forget(writer, traced))

    async def end_trace(self) -> None:
        """See `Moves.end_trace`."""
        self._check_declared("moves")
        while await self._load(lambda writer: trace.end(writer, self._cache)):
            pass

    # -- leaving -----------------------------------------------------------------------------

    @asynccontextmanager
    async def hold_commits(self) -> AsyncIterator[OrderedHeld]:
        """See `Moves.hold_commits`."""
        self._check_open()
        self._check_declared("moves")
        await self._take_turn()
        try:
            yield OrderedHeld(self._mark)
        finally:
            self._end_turn()

    async def _mark(self, to: str, revision: int) -> None:
        runs: list[Writer] = []

        def step(writer: Writer) -> None:
            self._refresh(writer, again=bool(runs))
            runs.append(writer)
            loading.write_moved(writer, self._cache, to, revision=revision)

        done = False
        try:
            await self._store.write(step, small=True)
            done, self._gone_to = True, to
        except (MapDoubtful, MapAway) as error:
            raise Unavailable(f"a flush of {self.url} failed while it was told where it is") from error
        except MapFull as error:
            raise self._full(error) from error
        finally:
            if not done:
                self._forget()
        self._store.news.wake_all()

    @asynccontextmanager
    async def claim_move(self) -> AsyncIterator[None]:
        """See `Moves.claim_move`."""
        self._check_open()
        self._check_declared("moves")
        if self._claimed:
            raise Unavailable(f"{self.url} is being brought elsewhere already, in this process")
        self._claimed = True
        try:
            with self._store.claim_move():
                yield
        finally:
            self._claimed = False
