"""From a request to what it says: path, query, headers and body, each bounded and checked before an operation sees it."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import cache
from typing import Any, Final, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl, unquote_to_bytes

import attrs
import msgspec
import trio

from perdure.backends.commit import ANY, EXISTS
from perdure.backends.commit import Expected as ExpectedValue
from perdure.backends.errors import Misuse
from perdure.runtime.moments import moment_of
from perdure.runtime.serve.problems import Refused
from perdure.runtime.serve.shapes import MOST

_from_json = msgspec.json.Decoder().decode
QUERY_FIELDS: Final = 64
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def path_of(raw: bytes) -> str:
    """A path, its percent-encoding undone.

    Raises:
      Misuse: it is not UTF-8, or has control characters, which no name has.
    """
    try:
        path = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise Misuse("the path is not UTF-8, percent-encoded") from error
    if CONTROL.search(path):
        raise Misuse("the path has control characters: no name has any")
    return path


# -- the query -------------------------------------------------------------------------------


def query_of(raw: bytes, kind: type | None) -> Any:
    """The query as *kind* says it; a name may be repeated where that is a list.

    Raises:
      Misuse: a name that there is not, a value that does not fit, or one twice.
    """
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, strict_parsing=bool(raw), errors="strict", max_num_fields=QUERY_FIELDS)
    except ValueError as error:
        raise Misuse(f"the query cannot be read: {error}") from error
    known = {} if kind is None else _fields(kind)
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name not in known:
            raise Misuse(f"there is no {name[:40]!r} in the query; there is: {', '.join(known) or 'nothing'}")
        if known[name] is list:
            found.setdefault(name, []).append(value)
        elif name in found:
            raise Misuse(f"{name!r} occurs twice in the query")
        elif known[name] is datetime:
            found[name] = _moment_of(value, name)
        else:
            found[name] = value
    if kind is None:
        return None
    try:
        return msgspec.convert(found, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Misuse(f"the query: {error}") from error


@cache
def _fields(kind: type) -> dict[str, type | None]:
    """The names of a query: a list may be repeated, a time is read as people write it."""
    return {name: list if get_origin(hint) is list else _time(hint) for name, hint in get_type_hints(kind).items()}


def _time(hint: Any) -> type | None:
    return datetime if hint is datetime or datetime in get_args(hint) else None


def _moment_of(text: str, name: str) -> datetime:
    try:
        return moment_of(text, f"the query: {name}")
    except Misuse as error:
        if " " not in text:
            raise
        raise Misuse(f"{error} (in a URL a + is written %2B)") from error

# -- headers ---------------------------------------------------------------------------------


def expected_of(headers: Mapping[str, str]) -> ExpectedValue:
    """What `If-Match` and `If-None-Match` expect.

    Raises:
      Misuse: they cannot be read, or say two things.
    """
    match, none_match = headers.get("if-match"), headers.get("if-none-match")
    if match is not None and none_match is not None:
        raise Misuse("If-Match and If-None-Match say two things: give one")
    if none_match is not None:
        if none_match.strip() != "*":
            raise Misuse("If-None-Match of a write is *, which means: only where nothing is yet")
        return 0
    if match is None:
        return ANY
    return EXISTS if match.strip() == "*" else number_of(match, "If-Match")


def number_of(text: str, name: str) -> int:
    """The number in an ETag.

    Raises:
      Misuse: it is none of ours.
    """
    inner = text.strip()
    if len(inner) > 2 and inner[0] == inner[-1] == '"':
        return digits_of(inner[1:-1], name)
    raise Misuse(f'{name} is * or an ETag that was received, as "17", not {text[:40]!r}')


def digits_of(text: str, name: str) -> int:
    """A number from 0 in decimal digits.

    Raises:
      Misuse: it is none, or too large.
    """
    if text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= MOST:
        return int(text)
    raise Misuse(f"{name} is a number from 0, not {text[:40]!r}")


def key_of(headers: Mapping[str, str]) -> bytes | None:
    """The idempotency key.

    Raises:
      Misuse: it is empty, or longer than 255 characters.
    """
    text = headers.get("idempotency-key")
    if text is None:
        return None
    if not (0 < len(text) <= 255 and text.isascii() and text.isprintable()):
        raise Misuse("Idempotency-Key is 1 to 255 printable characters of ASCII")
    return text.encode()


# -- the body --------------------------------------------------------------------------------


def length_of(headers: Mapping[str, str], most: int) -> int:
    """How much a body may need: what it says, or (in chunks) as much as one may.

    Raises:
      Refused: more than *most*.
    """
    said = headers.get("content-length")
    size = digits_of(said, "Content-Length") if said is not None else most if "transfer-encoding" in headers else 0
    if size > most:
        raise too_large(most)
    return size


def too_large(most: int) -> Refused:
    """The refusal of a large body."""
    return Refused(413, "too-large", "the body is too large", f"a body has at most {most:,} bytes here (body_bytes): send several")


def blob_too_large(most: int) -> Refused:
    """The refusal of a large blob."""
    return Refused(413, "too-large", "the blob is too large", f"a blob has at most {most:,} bytes here (blob_bytes): nothing was kept")


async def read_body(receive: Callable[[], Awaitable[Any]], most: int, body_s: float) -> bytes:
    """The whole body.

    Raises:
      Refused: it is larger than *most*, comes too slowly, or its sender has gone.
    """
    parts, size = [], 0
    with trio.move_on_after(body_s):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "gone", "the body has no end", "nothing was done: send it whole")
            part = message.get("body", b"")
            size += len(part)
            if size > most:
                raise too_large(most)
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)
    raise Refused(408, "slow", "the body did not arrive in time", f"it has {body_s:g} s (body_s)", {"connection": "close"})


def json_of(raw: bytes, kind: type | None) -> Any:
    """The body as *kind*, or as any JSON.

    Raises:
      Misuse: it is not JSON, does not fit, or has a name that there is not.
    """
    try:
        value = _from_json(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Misuse(f"the body is not JSON: {why_not_json(raw, error)}") from error
    if kind is None:
        return value
    _read_inside(value, kind, "$")
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise Misuse(f"the body: {why_not_json(raw, error)}") from error


def why_not_json(raw: bytes, error: Exception) -> str:
    """What is told of *error*: not what a decoder says of itself."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return "it begins with a byte order mark: leave that out" if raw.startswith(BOM_UTF8) else str(error)


def _read_inside(value: Any, kind: type, path: str) -> None:
    """Times become times. A name that is not known is a name that was misspelt: what it was to say must not go unheard."""
    if not isinstance(value, dict):
        return
    known = _inner(kind)
    if not value.keys() <= known.keys():
        unknown = next(name for name in value if name not in known)
        raise Misuse(f"the body: there is no {str(unknown)[:40]!r} at {path}; there is: {', '.join(known)}")
    for name, below in known.items():
        if below is None:
            continue
        inside = value.get(name)
        if below is datetime and isinstance(inside, str):
            value[name] = moment_of(inside, f"the body: {path}.{name}")
        elif isinstance(inside, list):
            for one in inside:
                _read_inside(one, below, f"{path}.{name}[...]")


@cache
def _inner(kind: type) -> dict[str, type | None]:
    """The fields of a class, each with the class that a list there is of, or that of a time."""
    return {name: _listed(hint) for name, hint in get_type_hints(kind).items()}


def _listed(hint: Any) -> type | None:
    if get_origin(hint) is list:
        [inner] = get_args(hint)
        return inner if attrs.has(inner) else None
    return _time(hint)
