"""A quick test that a value is what its type says, made once per type as one Python expression.

It answers "surely" or "perhaps not". Only the second costs: then the codec reads back what it wrote.
msgspec itself looks at no annotation when it writes, so without this a wrong field would be found
only by the reader, when the event can no longer be changed.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from datetime import datetime, time, timezone
from typing import Any, Literal, NewType, Union, get_args, get_origin
from zoneinfo import ZoneInfo

from perdure.backends.plain import LEAVES, fields_of, is_enum

Surely = Callable[[Any], bool]


def surely(cls: Any) -> Surely:
    """A test for a type of the closed list: True only if the value comes back equal from its bytes."""
    return _Tests().of(cls)


class _Tests:
    """The tests of a type and of those inside it: functions that know each other by name."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {"zones": frozenset({timezone, ZoneInfo})}
        self._names: dict[Any, str] = {}

    def of(self, cls: Any) -> Surely:
        test: Surely = self._known[self._function(cls)]
        return test

    def _function(self, cls: Any) -> str:
        if (name := self._names.get(cls)) is None:
            name = self._names[cls] = f"surely_{len(self._names)}"
            test = self._class(cls) if _is_class(cls) else self._test(cls, "v")
            exec(f"def {name}(v): return {test}", self._known)  # noqa: S102 - of names that Python itself accepted as identifiers
        return name

    def _say(self, value: object) -> str:
        name = f"known_{len(self._known)}"
        self._known[name] = value
        return name

    def _class(self, cls: type) -> str:
        fields = [self._test(field.type, f"v.{field.name}") for field in fields_of(cls)]
        return " and ".join([f"type(v) is {self._say(cls)}", *fields])

    def _test(self, cls: Any, v: str) -> str:
        """An expression of *v*, itself an expression, in brackets where it needs them."""
        if isinstance(cls, NewType):
            return self._test(cls.__supertype__, v)
        if (kinds := _kinds(cls)) is not None:
            return self._one_of(kinds, f"type({v})")
        if cls is datetime:
            return f"(type({v}) is {self._say(datetime)} and type({v}.tzinfo) in zones)"
        if cls is time:
            return f"(type({v}) is {self._say(time)} and {v}.tzinfo is None)"
        if _is_class(cls):
            return f"{self._function(cls)}({v})"
        return self._form(cls, get_origin(cls), get_args(cls), v)

    def _form(self, cls: Any, origin: Any, args: tuple[Any, ...], v: str) -> str:
        if origin is Literal:
            return f"(type({v}) in {self._say({type(arg) for arg in args})} and {v} in {self._say(set(args))})"
        if origin in (Union, types.UnionType):
            return "(" + " or ".join(self._test(arg, v) for arg in sorted(args, key=lambda arg: arg is not types.NoneType)) + ")"
        if origin is dict:
            return f"(type({v}) is dict and {self._all(args[0], v)} and {self._all(args[1], f'{v}.values()')})"
        if origin is list:
            return f"(type({v}) is list and {self._all(args[0], v)})"
        if args[1:] == (Ellipsis,):
            return f"(type({v}) is tuple and {self._all(args[0], v)})"
        each = [self._test(arg, f"{v}[{index}]") for index, arg in enumerate(args)]
        return "(" + " and ".join([f"type({v}) is tuple and len({v}) == {len(args)}", *each]) + ")"

    def _all(self, cls: Any, values: str) -> str:
        if (kinds := _kinds(cls)) is not None:
            return f"{self._say(kinds)}.issuperset(map(type, {values}))"
        return f"all(map({self._function(cls)}, {values}))"

    def _one_of(self, kinds: frozenset[type], kind: str) -> str:
        if len(kinds) == 1:
            return f"{kind} is {self._say(next(iter(kinds)))}"
        return f"{kind} in {self._say(kinds)}"


def _is_class(cls: Any) -> bool:
    return isinstance(cls, type) and get_origin(cls) is None and cls not in LEAVES and not is_enum(cls)


def _kinds(cls: Any) -> frozenset[type] | None:
    """The exact types that say all, if they do."""
    if isinstance(cls, NewType):
        return _kinds(cls.__supertype__)
    if cls is None:
        return frozenset({types.NoneType})
    if is_enum(cls) or (cls in LEAVES and cls not in (datetime, time)):
        return frozenset({cls})
    if get_origin(cls) in (Union, types.UnionType):
        parts = [_kinds(arg) for arg in get_args(cls)]
        known = [part for part in parts if part is not None]
        return frozenset().union(*known) if len(known) == len(parts) else None
    return None
