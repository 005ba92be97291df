"""Who keeps events from being cut: projections and named subscriptions by their checkpoints, and holds. Listed, put, and let go by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from perdure.backends.commit import ANY, CHECKPOINTS, HOLDS, Delete, Put, Write, check_name, propose
from perdure.backends.errors import Conflict, Misuse
from perdure.backends.event import Position
from perdure.backends.held import Hold, pack_hold, read_hold
from perdure.backends.protocol import Backend, Entry, Reads

NAME_BYTES: Final = 256
_STEP: Final = 1_000


@attrs.frozen
class Consumer:
    """Who has registered a place: nothing beyond *position* is cut. *name* is `projection NAME`, `subscription NAME`, or that of a hold."""

    name: str
    position: Position
    why: str
    bucket: str = attrs.field(repr=False)
    key: bytes = attrs.field(repr=False)
    revision: int = attrs.field(repr=False)

    def __str__(self) -> str:
        return f"{self.name} at position {self.position}" + (f" ({self.why})" if self.why else "")


async def consumers(reads: Reads) -> list[Consumer]:
    """All of them, the lowest place first."""
    found: list[Consumer] = []
    for bucket in (CHECKPOINTS, HOLDS):
        after: bytes | None = None
        while entries := await reads.scan(bucket, after=after, limit=_STEP):
            found += [_consumer(bucket, entry, hold) for entry in entries if (hold := read_hold(entry.value)) is not None]
            after = entries[-1].key
    return sorted(found, key=lambda one: (one.position, one.name))


def _consumer(bucket: str, entry: Entry, hold: Hold) -> Consumer:
    name = entry.key.decode(errors="replace")
    named = name if bucket == HOLDS or name.startswith("subscription ") else f"projection {name}"
    return Consumer(named, Position(hold.position), hold.why, bucket, entry.key, entry.revision)


async def put_hold(backend: Backend, name: str, position: Position, *, why: str = "", ids: Callable[[], bytes]) -> None:
    """Keep what is beyond *position* from being cut, under *name*, until it is moved or dropped.

    Raises:
      Misuse: the name is a projection's or a subscription's, or no name; or there is no such position yet.
    """
    check_name("hold", name, NAME_BYTES, own=False)
    if name.startswith(("projection ", "subscription ")):
        raise Misuse(f"{name!r} is how a follower of its own registers: name the hold otherwise")
    head = await backend.head()
    if not 0 <= position <= head:
        raise Misuse(f"there is no position {position}: the log ends at {head}")
    await _commit(backend, Put(HOLDS, name.encode(), pack_hold(Hold(position, why)), ANY), ids)


async def drop_consumer(backend: Backend, name: str, *, ids: Callable[[], bytes]) -> list[Consumer]:
    """Let go what the consumers of that name keep; those that there were. A projection begins anew if it comes back, a subscription where it is told to.

    Raises:
      Misuse: it has moved on just now, so somebody runs it.
    """
    found = [one for one in await consumers(backend) if one.name == name]
    for one in found:
        await _commit(backend, Delete(one.bucket, one.key, one.revision), ids)
    return found


async def _commit(backend: Backend, write: Write, ids: Callable[[], bytes]) -> None:
    group = await backend.commit([propose([write], id=ids(), at_us=await backend.now_us(), own=True)])
    answer = group.answers[0]
    if isinstance(answer, Conflict):
        raise Misuse(f"it has moved on just now, so a program runs it: end that first ({answer})")
    if isinstance(answer, Exception):
        raise answer
