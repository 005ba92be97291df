"""What keeps events from being cut: the places in the log that consumers have registered. Pure.

A checkpoint is one (of a projection, of a named subscription), and a *hold*: an entry of its own for a consumer whose place stands
elsewhere (in a SQL database, say), or for whoever wants events to stay. Both are msgpack maps with a `position`.
"""

from __future__ import annotations

import msgspec


class Hold(msgspec.Struct, frozen=True):
    """A place in the log: what is beyond *position* is not cut. *why* is for people."""

    position: int
    why: str = ""


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Hold).decode


def pack_hold(hold: Hold) -> bytes:
    """Its stored form."""
    return _pack(hold)


def held_at(value: bytes) -> int | None:
    """The place that an entry of the buckets of checkpoints or holds registers; None: it is neither, and registers none."""
    hold = read_hold(value)
    return None if hold is None else hold.position


def read_hold(value: bytes) -> Hold | None:
    """The same, whole."""
    try:
        return _unpack(value)
    except msgspec.MsgspecError:
        return None
