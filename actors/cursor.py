"""Cursors: how far a follower has looked, and when that is worth keeping. Pure."""

from __future__ import annotations

from typing import Final

import attrs
import msgspec

from perdure.backends.errors import Corrupt, WrongStore
from perdure.backends.event import Position

EXAMINED_MAX: Final = 100_000
"""A cursor moved only by events that were not wanted is written after so many."""
CHECKPOINT_EVERY_S: Final = 1.0
"""A named subscription writes its checkpoint at most so often."""


class Checkpoint(msgspec.Struct, frozen=True):
    """A cursor as kept: in which store, up to where, and (of a projection) what it is the checkpoint of.

    *fault* says why it stands still, *step* is the fingerprint of the code that got it here.
    """

    store: str
    position: int
    fingerprint: str = ""
    step: str = ""
    fault: str = ""
    durable: int = 0
    """Of a single-value projection: the position of its newest snapshot."""


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Checkpoint).decode


def pack(checkpoint: Checkpoint) -> bytes:
    """Its stored form."""
    return _pack(checkpoint)


def unpack_any(raw: bytes) -> Checkpoint:
    """The inverse of `pack`, of whatever store.

    Raises:
      msgspec.MsgspecError: it is no checkpoint.
    """
    return _unpack(raw)


def unpack(name: str, raw: bytes, store: str) -> Checkpoint:
    """The inverse of `pack`.

    Raises:
      WrongStore: it is a cursor of another store.
      Corrupt: it is no checkpoint.
    """
    try:
        checkpoint = _unpack(raw)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"checkpoint {name!r}", str(error)) from error
    if checkpoint.store != store:
        raise WrongStore(checkpoint.store, store)
    return checkpoint


@attrs.define
class Progress:
    """What a follower has done since its last checkpoint."""

    position: Position
    written: Position
    events: int = 0
    bytes: int = 0
    unwanted: int = 0

    def looked(self, examined: Position, events: int, size_bytes: int) -> None:
        """A page has been dealt with, up to *examined*."""
        if not events:
            self.unwanted += examined - self.position
        self.position = examined
        self.events += events
        self.bytes += size_bytes

    def wrote(self) -> None:
        """All of it is durable now."""
        self.written = self.position
        self.events = self.bytes = self.unwanted = 0

    @property
    def worth_writing(self) -> bool:
        """Whether the cursor has moved over so much that was not wanted that it should be kept."""
        return self.unwanted >= EXAMINED_MAX
