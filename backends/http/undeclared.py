"""What a store that a daemon has open cannot do from here: be read as rows, be loaded, be left for another place, be cut. Who opens the store itself can."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import NoReturn

import trio

from perdure.backends.carried import AgedPage, BucketEntry, EntryPage, Numbers, Rest, SnapshotHead, Traced, TracePage
from perdure.backends.errors import AT_HOME, Unsupported
from perdure.backends.event import Record
from perdure.backends.protocol import CutBound, Held, Moment, StreamInfo


class Undeclared:
    """See `Backend` and `Moves`: each is `Unsupported`."""

    url: str

    def moment(self) -> AbstractAsyncContextManager[Moment]:
        raise Unsupported("images", self.url, AT_HOME)

    async def load_rows(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        await self._refuse("images")

    async def begin_load(self, *, anew: bool = False) -> None:
        await self._refuse("loads")

    async def load(self, records: Sequence[Record]) -> None:
        await self._refuse("loads")

    async def load_cuts(self, streams: Sequence[StreamInfo], cuts: Sequence[CutBound]) -> None:
        await self._refuse("cuts")

    async def end_load(self) -> None:
        await self._refuse("loads")

    async def read_entries(self, *, beyond: int = 0, after: bytes = b"", limit: int, bytes_max: int) -> EntryPage:
        await self._refuse("moves")

    async def read_aged(self, *, since_us: int = 0, after: bytes = b"", limit: int) -> AgedPage:
        await self._refuse("moves")

    async def begin_trace(self) -> int:
        await self._refuse("moves")

    async def read_trace(self, *, after: bytes = b"", limit: int) -> TracePage:
        await self._refuse("moves")

    async def forget_trace(self, traced: Sequence[Traced]) -> None:
        await self._refuse("moves")

    async def end_trace(self) -> None:
        await self._refuse("moves")

    async def read_these(self, keys: Sequence[tuple[str, bytes]], *, bytes_max: int) -> tuple[list[BucketEntry], int]:
        await self._refuse("moves")

    async def snapshot_heads(self) -> list[SnapshotHead]:
        await self._refuse("moves")

    async def read_numbers(self) -> Numbers:
        await self._refuse("moves")

    async def load_rest(self, rest: Rest) -> None:
        await self._refuse("moves")

    async def moved_to(self) -> str:
        """It is here: should the daemon's store go elsewhere, the daemon goes with it, or says so."""
        await trio.lowlevel.checkpoint()
        return ""

    def hold_commits(self) -> AbstractAsyncContextManager[Held]:
        raise Unsupported("moves", self.url, AT_HOME)

    def claim_move(self) -> AbstractAsyncContextManager[None]:
        raise Unsupported("moves", self.url, AT_HOME)

    async def _refuse(self, capability: str) -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise Unsupported(capability, self.url, AT_HOME)
