"""Records as what a client asked for: JSON, or CloudEvents. Another form is one more entry of `FORMS`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import attrs
import msgspec

from perdure.backends.errors import Misuse
from perdure.backends.event import Record, to_datetime, unpack_extra
from perdure.runtime.cli.values import plain
from perdure.runtime.cloudevents import to_line
from perdure.runtime.serve.shapes import StoredEvent

JSON: Final = "application/json"
CLOUDEVENT: Final = "application/cloudevents+json"
CLOUDEVENTS: Final = "application/cloudevents-batch+json"
EVENT_STREAM: Final = "text/event-stream"

_unpack = msgspec.msgpack.Decoder().decode
_to_json = msgspec.json.Encoder().encode


def as_json(value: Any) -> bytes:
    """*value* as JSON: what JSON has no word for as text."""
    try:
        return _to_json(value)
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        return _to_json(plain(msgspec.to_builtins(value, builtin_types=(bytes, bytearray), enc_hook=plain)))


def stored(record: Record) -> StoredEvent:
    """A record as an event."""
    extra = unpack_extra(record.extra)
    at = _time(record.at_us)
    return StoredEvent(
        stream=record.stream,
        seq=record.seq,
        position=record.position,
        type=record.type,
        version=record.version,
        at=at,
        occurred=at if extra.occurred_us is None else _time(extra.occurred_us),
        id=extra.id or f"{record.commit.hex()}-{record.ordinal}",
        tags=list(extra.tags),
        meta=_unpack(extra.meta),
        traceparent=extra.traceparent,
        data=plain_data(record.payload),
    )


def plain_data(raw: bytes) -> Any:
    """Stored bytes as JSON can say them."""
    return plain(_unpack(raw))


def _time(us: int) -> str:
    try:
        return to_datetime(us).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except OverflowError:
        return str(us)


def json_line(record: Record) -> bytes:
    """A record as one line of JSON."""
    return _to_json(stored(record))


def cloudevent_line(record: Record) -> bytes:
    """A record as a CloudEvent in one line."""
    try:
        return to_line(record)
    except Misuse:
        return _to_json({"specversion": "1.0", "type": record.type, "source": f"/{record.stream}", "id": f"{record.commit.hex()}-{record.ordinal}"})


@attrs.frozen
class Form:
    """How records are given: each as a line, many in a page."""

    media_type: str
    line: Callable[[Record], bytes]
    page: Callable[[Sequence[bytes], bytes], bytes]


def _wrapped(lines: Sequence[bytes], rest: bytes) -> bytes:
    return b'{"events":[' + b",".join(lines) + b"]," + rest[1:]


def _bare(lines: Sequence[bytes], rest: bytes) -> bytes:
    return b"[" + b",".join(lines) + b"]"


FORMS: Final = (Form(JSON, json_line, _wrapped), Form(CLOUDEVENTS, cloudevent_line, _bare))


def form_of(accept: str) -> Form:
    """The form that `Accept` asks for: CloudEvents, if they are named; else JSON."""
    return FORMS[1] if names(accept, (CLOUDEVENTS, CLOUDEVENT)) else FORMS[0]


def names(accept: str, kinds: Iterable[str]) -> bool:
    """Whether the header names one of these media types."""
    given = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return any(kind in given for kind in kinds)
