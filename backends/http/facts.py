"""Errors as names and facts, and back: what lets one travel and arrive as what it was. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import attrs

from perdure.backends import errors
from perdure.backends.errors import Conflict, PerdureError, Unavailable

FOREIGN: Final = "urn:perdure:problem:"
TEXT_MAX: Final = 2_000

_CLASSES: Final[dict[str, type[PerdureError]]] = {
    name: one for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, PerdureError) and one is not PerdureError
}


def facts_of(error: PerdureError) -> dict[str, Any]:
    """The fields of *error* as JSON knows them: bytes in hexadecimal digits."""
    kind: type = type(error)
    return {field.name: _plain(getattr(error, field.name)) for field in attrs.fields(kind)} if attrs.has(kind) else {}


def _plain(value: object) -> Any:
    match value:
        case None | bool() | int() | float():
            return value
        case bytes():
            return value.hex()
        case tuple():
            return [facts_of(one) if isinstance(one, Conflict) else _plain(one) for one in value]
        case _:
            return str(value)[:TEXT_MAX]


def error_of(name: str, facts: Mapping[str, Any]) -> PerdureError:
    """The error of that class name with these facts; `Unavailable` with what was told where it is not known here."""
    kind: Any = _CLASSES.get(name)
    try:
        if kind is None or not attrs.has(kind):
            raise TypeError(name)
        values = {field.name: _typed(str(field.type), facts[field.name]) for field in attrs.fields(kind) if field.name in facts}
        return cast(PerdureError, kind(**values))
    except (TypeError, ValueError):
        return Unavailable(f"the daemon failed: {name} {dict(facts)}"[:TEXT_MAX])


def _typed(kind: str, value: Any) -> Any:
    if "bytes" in kind and isinstance(value, str):
        return bytes.fromhex(value)
    if "Conflict" in kind:
        conflicts = [error_of("Conflict", one) for one in value]
        return tuple(conflicts)
    return value


def class_of(name: str) -> str | None:
    """The class of the situation that a problem's type names, in lower case with hyphens."""
    return _BY_SITUATION.get(name)


def situation_of(name: str) -> str:
    """The other way: `KeyReused` is `key-reused`."""
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).removeprefix("-")


_BY_SITUATION: Final = {situation_of(name): name for name in _CLASSES}
