"""Plain data: what msgpack holds, made ready to be written; and where two values differ, or one is unfit.

Paths are written as msgspec writes them: `$.lines[0].cents`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from types import NoneType
from typing import Any, Final
from uuid import UUID

import attrs
import msgspec

write: Final = msgspec.msgpack.Encoder().encode
read: Final = msgspec.msgpack.Decoder().decode

_ATOMS: Final = frozenset({bool, int, float, str, bytes, NoneType, date, time, timedelta, Decimal, UUID})


class Unfit(Exception):
    """A value that cannot be stored or read, and where in it the reason lies."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why


# -- to be written ---------------------------------------------------------------------------


def normal(value: Any) -> Any:
    """*value* with its sets as sorted lists, everywhere.

    Raises:
      Unfit: it is not plain data; see `blame` for the place.
    """
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is dict:
        return {key if type(key) in _ATOMS else _normal_key(key): normal(item) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [normal(item) for item in value]
    if kind is datetime and value.utcoffset() is not None:
        return value
    return _rarer(value)


def _rarer(value: Any) -> Any:
    match value:
        case set() | frozenset():
            return in_order(map(normal, value))
        case enum.Enum():
            return normal(value.value)
        case str() | int() | float() | bytes() | bytearray():
            return value
        case Mapping():
            return normal(dict(value))
        case Sequence():
            return normal(list(value))
    raise Unfit("", unfit(value) or "")


def _normal_key(key: Any) -> Any:
    ready = normal(key)
    return tuple(ready) if type(ready) is list else ready


def in_order(values: Any) -> list[Any]:
    """Ready values, sorted by their bytes: the one order of a set that no hash seed changes."""
    return sorted(values, key=write)


# -- where the fault is ----------------------------------------------------------------------


def unfit(leaf: Any) -> str | None:
    """Why a value without parts cannot be stored, if it cannot."""
    if isinstance(leaf, datetime) and leaf.utcoffset() is None:
        return "a datetime without a time zone: give it one, for example datetime.now(UTC)"
    if type(leaf) in _ATOMS or isinstance(leaf, (str, int, float, bytes, bytearray, datetime, enum.Enum)):
        try:
            write(leaf)
        except UnicodeEncodeError as error:
            return f"{error.object[error.start]!r} is half of a surrogate pair, which is no text in UTF-8: leave it out"
        except Exception as error:  # overflow, a date out of range
            return str(error)
        return None
    return f"a {type(leaf).__qualname__} cannot be stored as plain data"


def blame(value: Any) -> Unfit | None:
    """The first part of *value* that cannot be stored."""
    try:
        return _blame(value, "$")
    except RecursionError:
        return Unfit("$", "it is nested too deeply, or contains itself")


def _blame(value: Any, path: str) -> Unfit | None:
    if (parts := _parts(value, path)) is None:
        why = unfit(value)
        return Unfit(path, why) if why is not None else None
    for at, part in parts:
        if (found := part if isinstance(part, Unfit) else _blame(part, at)) is not None:
            return found
    return None


def _parts(value: Any, path: str) -> Iterator[tuple[str, Any]] | None:
    if isinstance(value, Mapping):
        return ((f"{path}[{key!r:.40}]", part) for key, item in value.items() for part in (key, item))
    if isinstance(value, (Sequence, Set)) and not isinstance(value, (str, bytes, bytearray)):
        return ((f"{path}[{index}]", item) for index, item in enumerate(value))
    if attrs.has(type(value)):
        return ((f"{path}.{a.name}", getattr(value, a.name, Unfit(f"{path}.{a.name}", "it is not set"))) for a in attrs.fields(type(value)))
    return None


# -- where two values differ -----------------------------------------------------------------


def difference(a: Any, b: Any, path: str = "$", *, exact: bool = False) -> str | None:
    """The path of the first difference; NaN is NaN. *exact*: 0, 0.0 and False differ."""
    if type(a) is type(b):
        if not exact and _same(a, b):
            return None
        pairs = _pairs(a, b, path)
        if pairs is not None:
            return next((found for x, y, at in pairs if (found := difference(x, y, at, exact=exact)) is not None), None)
    elif exact or attrs.has(type(a)) or attrs.has(type(b)):
        return path
    return None if _same(a, b) else path


def _same(a: Any, b: Any) -> bool:
    if type(a) is type(b) and _by_identity(type(a)):
        return not attrs.has(type(a))  # opaque: its hooks vouch for it
    if isinstance(a, datetime) and isinstance(b, datetime) and a.tzinfo and b.tzinfo:
        a, b = a.astimezone(UTC), b.astimezone(UTC)  # between zones, Python calls times in a repeated hour unequal (PEP 495)
    try:
        return bool(a == b or (a != a and b != b))
    except ArithmeticError:  # a signalling NaN
        return str(a) == str(b)


def _by_identity(cls: Any) -> bool:
    return cls.__eq__ is object.__eq__ and not issubclass(cls, enum.Enum)


def _pairs(a: Any, b: Any, path: str) -> Iterator[tuple[Any, Any, str]] | None:
    match a:
        case Mapping() if len(a) == len(b):
            items = zip(a.items(), b.items(), strict=True)
            return (pair for (i, x), (j, y) in items for pair in ((i, j, f"{path}[{i!r:.40}]"), (x, y, f"{path}[{i!r:.40}]")))
        case list() | tuple() if len(a) == len(b):
            return ((x, y, f"{path}[{index}]") for index, (x, y) in enumerate(zip(a, b, strict=True)))
        case set() | frozenset() if len(a) == len(b):
            return iter([({x for x in a if x == x}, {y for y in b if y == y}, path)]) if any(x != x for x in a) else None
    if not attrs.has(type(a)):
        return None
    names = [field.name for field in attrs.fields(type(a)) if field.eq]
    return ((getattr(a, name), getattr(b, name), f"{path}.{name}") for name in names)
