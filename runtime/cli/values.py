"""Values as JSON and as text that is safe to show. Pure."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

import msgspec

from perdure.backends.errors import Conflict, Misuse
from perdure.backends.event import Event, Unknown


def plain(value: Any) -> Any:
    """*value* as JSON can say it: bytes in base64, times in ISO 8601, NaN and infinities as null, other keys as text."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case bytes() | bytearray() | memoryview():
            return b64encode(value).decode()
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if value.tzinfo else value.isoformat()
        case date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Mapping():
            return {_key(key): plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case msgspec.msgpack.Ext():
            return plain(value.data)
        case _:
            return str(value)


def _key(key: Any) -> str:
    ready = plain(key)
    return ready if isinstance(ready, str) else json.dumps(ready, ensure_ascii=False)


def as_json(value: Any, *, ascii: bool = False) -> str:
    """One line of JSON."""
    return json.dumps(plain(value), ensure_ascii=ascii, allow_nan=False)


def shown(text: str) -> str:
    """*text* with what would move a cursor or hide itself written as an escape."""
    return text if text.isprintable() else "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


QUOTES: Final = "; a text needs quotes of its own: '\"text\"'"


def from_json(text: str, what: str) -> Any:
    """What a JSON text says.

    Raises:
      Misuse: it is not JSON, or says what nobody could keep: NaN and numbers beyond all floats, half a character.
    """
    try:
        found = json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_once)
        json.dumps(found, ensure_ascii=False).encode()
    except RecursionError as error:
        raise Misuse(f"{what} is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise Misuse(f"{what} has half of a surrogate pair (\\u{ord(error.object[error.start]):04x}), which is no text") from error
    except ValueError as error:
        if text.startswith("\ufeff"):
            raise Misuse(f"{what} begins with a byte order mark: leave it out") from error
        bare = isinstance(error, json.JSONDecodeError) and error.pos == len(text) - len(text.lstrip())
        raise Misuse(f"{what} is not JSON: {error}{QUOTES if bare else ''}") from error
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    if not math.isfinite(found := float(text)):
        raise ValueError(f"{text} is beyond the largest number that can be kept")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return found


def event_document(event: Event[Any]) -> dict[str, Any]:
    """An event as a document."""
    return {
        "stream": event.stream,
        "seq": event.seq,
        "position": event.position,
        "type": event.type,
        "version": event.version,
        "at": event.at,
        "occurred": event.occurred,
        "id": event.id,
        "tags": event.tags,
        "meta": event.meta,
        "data": data_of(event),
    }


def data_of(event: Event[Any]) -> Any:
    """An event's payload as plain data."""
    return event.data.value if isinstance(event.data, Unknown) else event.data


def conflict_document(conflict: Conflict) -> dict[str, Any]:
    """The facts of a conflict."""
    what, subject, expected, actual = conflict.facts()[0]
    return {"conflict": {"what": what, "subject": subject, "expected": expected, "actual": actual}}
