"""The envelope an event travels in, and the record it rests as.

`Record` and `Event` are msgspec structs, not attrs classes: a replay makes one of each per event,
and they are built four times as fast (see benchmarks/). Both are immutable.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Generic, NewType, TypeVar

import msgspec

D = TypeVar("D")

Position = NewType("Position", int)
"""A place in the log: compared, never calculated with."""

START = Position(0)
"""Before the first event."""

HEAD = Position(-1)
"""For a subscription: only what comes after it is opened."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_datetime(us: int) -> datetime:
    """Microseconds since the epoch as an aware datetime, exactly."""
    return _EPOCH + timedelta(microseconds=us)


def to_us(moment: datetime) -> int:
    """An aware datetime as microseconds since the epoch, exactly."""
    return (moment - _EPOCH) // _MICROSECOND


def category_of(stream: str) -> str:
    """The part of a stream's name before the first `-`; a name without one is its own."""
    return stream.partition("-")[0]


class Extra(msgspec.Struct, frozen=True, array_like=True, omit_defaults=False):
    """The rarer parts of an event, packed together; most events have none (`b""`)."""

    tags: tuple[str, ...] = ()
    occurred_us: int | None = None
    id: str | None = None
    meta: msgspec.Raw = msgspec.Raw(b"\x80")
    traceparent: str | None = None


NO_EXTRA = Extra()
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Extra).decode
_unpack_any = msgspec.msgpack.Decoder().decode


def pack_extra(extra: Extra) -> bytes:
    """The stored form of *extra*; `b""` when there is nothing to say."""
    return b"" if extra == NO_EXTRA else _pack(extra)


def unpack_extra(raw: bytes) -> Extra:
    """The inverse of `pack_extra`."""
    return _unpack(raw) if raw else NO_EXTRA


class Record(msgspec.Struct, frozen=True, gc=False):
    """An event as stored: payload and extra are bytes, not yet decoded.

    *at_us* is the commit's time; *commit* its 16-byte id and *ordinal* the event's place in it;
    *crc* is the checksum its appender made (see `frame.seed`).
    """

    stream: str
    seq: int
    position: Position
    type: str
    version: int
    at_us: int
    commit: bytes
    ordinal: int
    extra: bytes
    payload: bytes
    crc: int

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags it was appended with."""
        return unpack_extra(self.extra).tags if self.extra else ()


class Event(msgspec.Struct, Generic[D], frozen=True, gc=False):
    """An event as a program sees it: the envelope around *data*.

    *seq* is its place in *stream*, *position* its place in the log. `at` is when it was committed
    (it never goes back in the log), `occurred` when it happened in the world (`at`, unless given).
    """

    record: Record
    data: D

    # gc=False: an event is only in a cycle if its data were made to refer to it, and a replay makes a million of them

    @property
    def stream(self) -> str:
        return self.record.stream

    @property
    def seq(self) -> int:
        return self.record.seq

    @property
    def position(self) -> Position:
        return self.record.position

    @property
    def type(self) -> str:
        return self.record.type

    @property
    def version(self) -> int:
        return self.record.version

    @property
    def at(self) -> datetime:
        return to_datetime(self.record.at_us)

    @property
    def occurred(self) -> datetime:
        given = unpack_extra(self.record.extra).occurred_us
        return to_datetime(self.record.at_us if given is None else given)

    @property
    def id(self) -> str:
        return unpack_extra(self.record.extra).id or f"{self.record.commit.hex()}-{self.record.ordinal}"

    @property
    def tags(self) -> tuple[str, ...]:
        return self.record.tags

    @property
    def meta(self) -> dict[str, Any]:
        extra = unpack_extra(self.record.extra)
        meta: dict[str, Any] = _unpack_any(extra.meta)
        if extra.traceparent is not None:
            meta["traceparent"] = extra.traceparent
        return meta


class Unknown(msgspec.Struct, frozen=True):
    """The data of an event whose type has no class here: *value* is plain data."""

    type: str
    version: int
    value: Any
