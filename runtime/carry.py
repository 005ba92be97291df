"""Bringing what one store holds to another that is being loaded, while the first one is in use.

The log is followed by position: each page is loaded, read back and compared, and goes into a running digest. The rest
is brought and followed by `Beside`. So under the pause only what came last is left to bring and to verify.

Cuts come first, and none is made meanwhile (see `Moves.claim_move`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import attrs
import msgspec
import trio

from perdure.backends.errors import Corrupt, Misuse
from perdure.backends.event import START, Record
from perdure.backends.progress import Progress, Told, nobody
from perdure.backends.protocol import Backend
from perdure.runtime import pages
from perdure.runtime.beside import Beside
from perdure.runtime.carry_cuts import bring_cuts, cut_away
from perdure.runtime.pages import aged_pages, entry_pages

ROUND_S: Final = 0.05
"""Who catches up in less is as near as one comes to a store in use."""
ROUNDS_MAX: Final = 20
_encode = msgspec.msgpack.Encoder().encode


class Carrier:
    """See the module. `begin`, `catch_up`; then, while nobody commits to the source, `finish`."""

    def __init__(self, source: Backend, target: Backend, progress: Told = nobody) -> None:
        self.position = START
        """So far the log is there, and equal."""
        self.events = 0
        """How many were brought: not those that were there already."""
        self._source = source
        self._target = target
        self._progress = progress
        self._digest = hashlib.blake2b(digest_size=16)
        self._loaded = START
        self._over_cuts = False
        """Whether something of the log was cut."""
        self._beside = Beside(source, target, progress)

    @property
    def entries(self) -> int:
        """How many entries were brought."""
        return self._beside.entries

    @property
    def digest(self) -> str:
        """Of all records up to `position`."""
        return self._digest.hexdigest()

    async def begin(self) -> None:
        """Begin to load the target, or go on with what was loaded before.

        Raises:
          Misuse: it holds something that was not loaded.
        """
        await self._target.begin_load()
        self._over_cuts = await bring_cuts(self._source, self._target)
        self._loaded = await self._target.head()

    async def catch_up(self) -> None:
        """Bring all that there is, until what comes meanwhile is little.

        Raises:
          Misuse: what was loaded before is not what the source holds.
          Corrupt: something is damaged; what was brought before it is there.
          Full: the target has no room.
        """
        for _ in range(ROUNDS_MAX):
            began = trio.current_time()
            await self._bring_log()
            await self._beside.bring()
            if trio.current_time() - began < ROUND_S:
                return

    async def finish(self) -> bool:
        """Bring what is missing while nobody commits to the source: whether the target holds the same now. If not, `catch_up` once more before.

        Raises:
          Corrupt: what is read back is not what was brought.
        """
        await self._bring_log()
        return await self._beside.finish()

    async def aclose(self) -> None:
        """The source need not be followed any more."""
        await self._beside.aclose()

    # -- the log -----------------------------------------------------------------------------

    async def _bring_log(self) -> None:
        while True:
            page = await self._source.read_log(after=self.position, limit=pages.PAGE_EVENTS, bytes_max=pages.PAGE_BYTES, over_cuts=self._over_cuts)
            new = [record for record in page.records if record.position > self._loaded]
            if new:
                await self._target.load(new)
                self._loaded = new[-1].position
            await self._check_page(page.records, known=len(page.records) - len(new))
            self.events += len(new)
            self.position = page.examined
            self._progress(Progress("events", self.position, page.head))
            if self.position >= page.head:
                return

    async def _check_page(self, records: Sequence[Record], *, known: int) -> None:
        """Read *records* back; the first *known* of them were there before."""
        there: list[Record] = []
        after = self.position
        while len(there) < len(records):
            page = await self._target.read_log(after=after, limit=len(records) - len(there), bytes_max=pages.PAGE_BYTES, over_cuts=True)
            there += page.records
            after = page.examined
            if page.examined >= page.head:
                break
        if there != records:
            place = next((number for number, (one, other) in enumerate(zip(records, there, strict=False)) if one != other), len(there))
            where = records[place].position if place < len(records) else there[place].position
            if place < known or place >= len(records):
                raise Misuse(f"the target has another event at position {where} than the source: it is no earlier state of the same store; name a new place")
            raise Corrupt(f"the target at position {where}", "what is read back is not what was loaded")
        self._digest.update(b"".join(map(_encode, records)))


# -- digests ---------------------------------------------------------------------------------


@attrs.frozen
class Digests:
    """What a store holds, as two short texts: equal ones, equal stores."""

    log: str
    rest: str


async def digest_of(backend: Backend) -> Digests:
    """Read all of a store; nobody is to write meanwhile."""
    log, rest = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    cursor = START
    while True:
        page = await backend.read_log(after=cursor, limit=pages.PAGE_EVENTS, bytes_max=pages.PAGE_BYTES, over_cuts=True)
        log.update(b"".join(map(_encode, page.records)))
        cursor = page.examined
        if cursor >= page.head:
            break
    for one in [*await entry_pages(backend).all(), *await aged_pages(backend).all(), *await backend.snapshot_heads(), await backend.read_numbers()]:
        rest.update(repr(one).encode())
    for told in (await cut_away(backend)).told():
        rest.update(repr(told).encode())
    for head in await backend.snapshot_heads():
        rest.update(repr(await backend.read_snapshot(head.name, at_most=head.position)).encode())
    return Digests(log.hexdigest(), rest.hexdigest())
