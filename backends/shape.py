"""The shape of a state's type as text: part of a projection's fingerprint.

The same for the same fields and types, whatever the hash seed, the order of definitions and of union
members; another as soon as a field, its type or a nested class changes.
"""

from __future__ import annotations

import types
import typing
from typing import Any, Literal, NewType, TypeVar, Union, get_args, get_origin

import attrs

from perdure.backends.plain import fields_of, is_enum


def shape_of(cls: Any) -> str:
    """A line for the type, then a line for each class and enumeration inside it, sorted."""
    seen: dict[Any, str] = {}
    first = _reference(cls, seen)
    return "\n".join([first, *sorted(seen.values())])


def _reference(cls: Any, seen: dict[Any, str]) -> str:
    origin, args = get_origin(cls), get_args(cls)
    if cls is None or cls is types.NoneType:
        return "None"
    if isinstance(cls, NewType):
        return _reference(cls.__supertype__, seen)
    if isinstance(cls, TypeVar):
        return f"~{cls.__name__}"
    if origin is Literal:
        return f"Literal[{', '.join(sorted(map(repr, args)))}]"
    if origin in (Union, types.UnionType):
        return " | ".join(sorted(_reference(arg, seen) for arg in args))
    if origin is typing.Annotated:
        return f"Annotated[{_reference(args[0], seen)}]"
    if origin is not None:
        return f"{_reference(origin, seen)}[{', '.join('...' if arg is Ellipsis else _reference(arg, seen) for arg in args)}]"
    if isinstance(cls, type):
        return _class(cls, seen)
    return str(cls)


def _class(cls: type, seen: dict[Any, str]) -> str:
    name = cls.__qualname__
    if cls in seen:
        return name
    if is_enum(cls):
        seen[cls] = f"{name}: " + ", ".join(sorted(f"{key}={member.value!r}" for key, member in cls.__members__.items()))
    elif attrs.has(cls):
        seen[cls] = name  # a class may hold itself
        seen[cls] = f"{name}: " + ", ".join(sorted(f"{field.name}: {_reference(field.type, seen)}" for field in fields_of(cls)))
    return name
