"""What the tests of migration share: a store with everything in it, and a writer that goes on meanwhile."""

from __future__ import annotations

import random

import trio

from perdure.backends.commit import BEATS, CHECKPOINTS, LEASES, MODELS, NEW_FENCE, Append, Delete, Put, PutAll, SaveSnapshot, Write
from perdure.backends.conformance.law import Desk, draft
from perdure.backends.errors import Conflict, StoreMoved
from perdure.backends.event import Position


class Writes:
    """Commits of every kind, drawn from a seed. *done* counts those that were acknowledged; *appended* names their events."""

    def __init__(self, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.done = 0
        self.appended: list[bytes] = []

    async def one(self, desk: Desk) -> None:
        """One commit."""
        number = self.done + 1
        payload = b"event %d" % number
        answer = await desk.ask(*self._writes(number, payload, await desk.backend.head()), key=b"key %d" % number if self.random.random() < 0.3 else None)
        if isinstance(answer, Conflict):
            raise answer
        self.done = number
        self.appended.append(payload)

    async def many(self, desk: Desk, count: int) -> None:
        """So many."""
        for _ in range(count):
            await self.one(desk)

    async def go_on(self, desk: Desk, every_s: float = 0.002) -> StoreMoved:
        """Until it is told that the store is elsewhere."""
        while True:
            try:
                await self.one(desk)
            except StoreMoved as error:
                return error
            await trio.sleep(every_s)

    def _writes(self, number: int, payload: bytes, head: Position) -> list[Write]:
        draw = self.random
        key = b"%d" % draw.randrange(20)
        writes: list[Write] = [Append(f"s-{draw.randrange(6)}", [draft(payload, tags=["t"] if number % 3 else ())])]
        match draw.randrange(8):
            case 0 | 1:
                writes.append(Put("users", key, b"value %d" % number))
            case 2:
                writes.append(Delete("users", key))
            case 3:
                writes += [PutAll(f"{MODELS}m", [(b"%d" % draw.randrange(30), payload) for _ in range(3)][:1]), Put(CHECKPOINTS, b"m", payload)]
            case 4:
                writes += [Delete(f"{MODELS}m", b"%d" % draw.randrange(30)), Put(BEATS, b"owner %d" % (number % 3), payload)]
            case 5:
                writes += [Delete(BEATS, b"owner %d" % (number % 3)), Put(LEASES, b"projection m", NEW_FENCE + payload)]
            case 6:
                drop = (Position(head - 40),) if head > 40 else ()
                writes.append(SaveSnapshot("m", head, f"print {number}", payload, drop=drop))
        return writes
