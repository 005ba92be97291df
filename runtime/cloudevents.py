"""A record as a CloudEvent 1.0 in structured mode: one line of JSON that holds all of it, and back. Pure.

What JSON cannot give back byte for byte goes as it is stored, in base64: a payload as `data_base64` with
`datacontenttype: application/msgpack`, the rest of an envelope as `extra`. Extensions are named as the specification wants it,
in lower-case letters; numbers that may exceed 32 bits are texts.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as NoBase64
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, unquote

import attrs
import msgspec

from perdure.backends.errors import Misuse
from perdure.backends.event import Extra, Position, Record, pack_extra, to_datetime, to_us, unpack_extra
from perdure.backends.frame import with_checksum

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"
_PLAIN: Final = ":@!$&'()*+,;="
"""What a path of a URI may hold besides letters, digits and -._~."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode
_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder().decode


class _Line(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The attributes in the order in which they are written."""

    specversion: str
    id: str
    source: str
    type: str
    time: str
    recordedtime: str
    position: str
    seq: str
    version: int
    commit: str
    ordinal: int
    tags: str | None = None
    meta: str | None = None
    traceparent: str | None = None
    extra: str | None = None
    datacontenttype: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | None = None


OURS: Final = frozenset(_Line.__struct_fields__)


# -- out -------------------------------------------------------------------------------------


def to_line(record: Record) -> bytes:
    """The record as a line, without its end.

    Raises:
      Misuse: its time is one that ISO 8601 has no four digits for.
    """
    extra = unpack_extra(record.extra)
    line = _Line(
        specversion="1.0",
        id=extra.id or _own_id(record.commit, record.ordinal),
        source=f"/{quote(record.stream, safe=_PLAIN)}",
        type=record.type,
        time=_time(record.at_us if extra.occurred_us is None else extra.occurred_us),
        recordedtime=_time(record.at_us),
        position=str(record.position),
        seq=str(record.seq),
        version=record.version,
        commit=record.commit.hex(),
        ordinal=record.ordinal,
        tags=json.dumps(extra.tags) if extra.tags else None,
        meta=_meta_text(extra.meta),
        traceparent=extra.traceparent,
        datacontenttype=JSON,
    )
    if record.extra and _extra_of(line, record.at_us, record.commit, record.ordinal) != record.extra:
        line.extra = b64encode(record.extra).decode()
    data = _exact_json(record.payload)
    if data is None:
        line.datacontenttype, line.data_base64 = MSGPACK, b64encode(record.payload).decode()
    else:
        line.data = msgspec.Raw(data)
    return _to_json(line)


def _own_id(commit: bytes, ordinal: int) -> str:
    return f"{commit.hex()}-{ordinal}"


def _time(us: int) -> str:
    try:
        return to_datetime(us).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except OverflowError as error:
        raise Misuse(f"a time {us:,} microseconds from 1970 cannot be written as a CloudEvent's") from error


def _exact_json(payload: bytes) -> bytes | None:
    """The payload as JSON, if the same bytes can be made from that again."""
    try:
        text = _to_json(_unpack(payload))
        return text if _pack(_from_json(text)) == payload else None
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
        return None


def _meta_text(meta: msgspec.Raw) -> str | None:
    """Its JSON, in ASCII, for an attribute holds no control characters."""
    if bytes(meta) == b"\x80":
        return None
    text = _exact_json(bytes(meta))
    return None if text is None else json.dumps(_from_json(text))


def _extra_of(line: _Line | _Fields, at_us: int, commit: bytes, ordinal: int) -> bytes:
    """The stored form of what the attributes say."""
    try:
        occurred_us = _us(line.time)
        return pack_extra(
            Extra(
                tags=tuple(_from_json(line.tags)) if line.tags else (),
                occurred_us=None if occurred_us == at_us else occurred_us,
                id=None if line.id == _own_id(commit, ordinal) else line.id,
                meta=msgspec.Raw(_pack(_from_json(line.meta)) if line.meta else b"\x80"),
                traceparent=line.traceparent,
            )
        )
    except (msgspec.MsgspecError, TypeError):
        return b""


def _us(text: str) -> int:
    return to_us(datetime.fromisoformat(text))


# -- in --------------------------------------------------------------------------------------


@attrs.frozen
class _Fields:
    """What the attributes of a line say of its envelope."""

    id: str
    time: str
    tags: str | None
    meta: str | None
    traceparent: str | None


@attrs.frozen
class Foreign:
    """An event that was not exported by perdure, or whose place does not count: what it is, and what names it."""

    stream: str
    type: str
    version: int
    payload: bytes
    extra: Extra
    commit: bytes | None
    """That of its commit, if it has one."""
    name: bytes
    """Its source and id: no two events have the same."""


def from_line(raw: bytes) -> Record:
    """The inverse of `to_line`.

    Raises:
      Misuse: it is no CloudEvent, or not one that perdure exported; the message says what is wrong with it.
    """
    found = _read(raw)
    for name in found:
        if name not in OURS:
            raise Misuse(f"it has an attribute {name!r} that perdure does not export: append it as a new event (--append)")
    if missing := [name for name in ("position", "seq", "version", "commit", "ordinal", "recordedtime") if name not in found]:
        raise Misuse(f"it has no {missing[0]!r}, so it was not exported by perdure: append it as a new event (--append)")
    commit, ordinal = _commit(found), _int(found, "ordinal", 0, 1 << 16)
    at_us = _moment(found, "recordedtime")
    fields = _Fields(_text(found, "id"), _text(found, "time"), _text_or_none(found, "tags"), _text_or_none(found, "meta"), _text_or_none(found, "traceparent"))
    record = Record(
        stream=_stream(found),
        seq=_decimal(found, "seq"),
        position=Position(_decimal(found, "position")),
        type=_text(found, "type"),
        version=_int(found, "version", 0, 1 << 32),
        at_us=at_us,
        commit=commit,
        ordinal=ordinal,
        extra=_base64(found, "extra") if "extra" in found else _checked_extra(fields, at_us, commit, ordinal),
        payload=_payload(found),
        crc=0,
    )
    return with_checksum(record)


def foreign_of(raw: bytes) -> Foreign:
    """The event of a line, whoever wrote it. Attributes that perdure does not know go into its meta.

    Raises:
      Misuse: it is no CloudEvent.
    """
    found = _read(raw)
    id, source = _text(found, "id"), _text(found, "source")
    extra = _given_extra(found) if "extra" in found else _foreign_extra(found)
    return Foreign(
        stream=_stream(found),
        type=_text(found, "type"),
        version=_int(found, "version", 0, 1 << 32) if "version" in found else 1,
        payload=_payload(found),
        extra=msgspec.structs.replace(extra, id=id, occurred_us=_moment(found, "time") if "time" in found else extra.occurred_us),
        commit=_commit(found) if "commit" in found else None,
        name=f"{source} {id}".encode(),
    )


def _given_extra(found: dict[str, Any]) -> Extra:
    try:
        return unpack_extra(_base64(found, "extra"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Misuse(f"its 'extra' is none that perdure wrote: {error}") from error


def _packed(value: Any) -> bytes:
    try:
        return _pack(value)
    except (OverflowError, RecursionError) as error:
        raise Misuse(f"it holds a number beyond 64 bits, or is nested too deeply: {error}") from error


def _foreign_extra(found: dict[str, Any]) -> Extra:
    meta = dict(_json_text(found, "meta", dict) if "meta" in found else {})
    meta |= {name: value for name, value in found.items() if name not in OURS or (name == "datacontenttype" and value not in (JSON, MSGPACK))}
    tags = _json_text(found, "tags", list) if "tags" in found else []
    return Extra(tags=tuple(map(str, tags)), meta=msgspec.Raw(_packed(meta)), traceparent=_text_or_none(found, "traceparent"))


def _read(raw: bytes) -> dict[str, Any]:
    try:
        found = _from_json(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Misuse(f"it is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise Misuse("it is not a JSON object")
    if found.get("specversion") != "1.0":
        raise Misuse(f"it is not a CloudEvent of version 1.0: its specversion is {found.get('specversion')!r}")
    return found


def _text(found: dict[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value:
        raise Misuse(f"its {name!r} is a text, not {value!r}")
    return value


def _text_or_none(found: dict[str, Any], name: str) -> str | None:
    return _text(found, name) if name in found else None


def _int(found: dict[str, Any], name: str, least: int, beyond: int) -> int:
    value = found.get(name)
    if type(value) is not int or not least <= value < beyond:
        raise Misuse(f"its {name!r} is a number from {least} to {beyond - 1}, not {value!r}")
    return value


def _decimal(found: dict[str, Any], name: str) -> int:
    value = _text(found, name)
    if not (value.isascii() and value.isdecimal() and 0 < int(value) < 1 << 63):
        raise Misuse(f"its {name!r} is a number from 1 as text, not {value!r}")
    return int(value)


def _moment(found: dict[str, Any], name: str) -> int:
    value = _text(found, name)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise Misuse(f"its {name!r} is a time, not {value!r}: {error}") from error
    if moment.tzinfo is None:
        raise Misuse(f"its {name!r} has no time zone: {value!r}")
    try:
        return to_us(moment.astimezone(UTC))
    except OverflowError as error:
        raise Misuse(f"its {name!r} is no time from the year 1 to 9999: {value!r}") from error


def _stream(found: dict[str, Any]) -> str:
    source = _text(found, "source").removeprefix("/")
    try:
        return unquote(source, errors="strict") if "%" in source else source
    except UnicodeDecodeError as error:
        raise Misuse(f"its 'source' is not a stream's name: {error}") from error


def _commit(found: dict[str, Any]) -> bytes:
    try:
        commit = bytes.fromhex(_text(found, "commit"))
    except ValueError:
        commit = b""
    if len(commit) != 16:
        raise Misuse(f"its 'commit' has 32 hexadecimal digits, not {found['commit']!r}")
    return commit


def _base64(found: dict[str, Any], name: str) -> bytes:
    value = found[name]
    try:
        return b64decode(value.encode() if isinstance(value, str) else b"?", validate=True)
    except NoBase64 as error:
        raise Misuse(f"its {name!r} is not base64: {error}") from error


def _json_text(found: dict[str, Any], name: str, kind: type) -> Any:
    try:
        value = _from_json(_text(found, name))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Misuse(f"its {name!r} is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise Misuse(f"its {name!r} holds a {kind.__name__}, not {value!r}")
    return value


def _checked_extra(fields: _Fields, at_us: int, commit: bytes, ordinal: int) -> bytes:
    found = {"tags": fields.tags, "meta": fields.meta, "time": fields.time}
    if fields.tags is not None and not all(isinstance(tag, str) for tag in _json_text(found, "tags", list)):
        raise Misuse(f"its 'tags' are texts, not {fields.tags}")
    if fields.meta is not None:
        _json_text(found, "meta", dict)
    _moment(found, "time")
    return _extra_of(fields, at_us, commit, ordinal)


def _payload(found: dict[str, Any]) -> bytes:
    if "data_base64" in found:
        if "data" in found:
            raise Misuse("it has 'data' and 'data_base64': one of them")
        if found.get("datacontenttype") == MSGPACK:
            return _base64(found, "data_base64")
        return _pack(_base64(found, "data_base64"))  # bytes of a kind that we do not know
    return _packed(found.get("data"))
