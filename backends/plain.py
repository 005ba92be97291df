"""The closed list: which types msgspec may write and read by itself, and why it may not the others.

msgspec looks at an attrs object's slots, not at its fields: it drops private ones, writes cached
properties, skips converters. So a class is on the list only if slots and fields are the same thing.
"""

from __future__ import annotations

import enum
import inspect
import types
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, NewType, TypeGuard, Union, get_args, get_origin
from uuid import UUID

import attrs
import msgspec

from perdure.backends.errors import Misuse

LEAVES: Final = frozenset({bool, int, float, str, bytes, types.NoneType, datetime, date, time, timedelta, Decimal, UUID})
"""What msgpack and msgspec store natively, each as one value."""

Hooked = Callable[[Any], bool]


def why_not_plain(cls: Any, hooked: Hooked = lambda _: False) -> str | None:
    """None: msgspec may write and read *cls* directly. Else the field and the reason.

    *hooked* says of a type whether a user's converter hook handles it.

    Raises:
      Misuse: an annotation on the way cannot be resolved.
    """
    why = next(_reasons(cls, told(cls), set(), hooked), None)
    if why is None:
        try:
            msgspec.msgpack.Decoder(cls)
        except Exception as error:  # whatever msgspec cannot build, cattrs gets
            why = f"{told(cls)}: {error}"
    return why


def _reasons(cls: Any, at: str, seen: set[Any], hooked: Hooked) -> Iterator[str]:
    cls = types.NoneType if cls is None else cls
    if hooked(cls):
        yield f"{at}: the converter has a hook for {told(cls)}"
    elif isinstance(cls, NewType):
        yield from _reasons(cls.__supertype__, at, seen, hooked)
    elif is_enum(cls):
        if not _plain_values(cls):
            yield f"{at}: the values of {told(cls)} are not all texts or all numbers"
    elif isinstance(cls, type) and get_origin(cls) is None and attrs.has(cls):
        if cls not in seen:
            seen.add(cls)
            yield from _class_reasons(cls, seen, hooked)
    elif cls not in LEAVES:
        parts = parts_of(cls)
        if parts is None:
            yield f"{at}: {told(cls)} is not on the list of plain types"
        for part in parts or ():
            yield from _reasons(part, at, seen, hooked)


def parts_of(cls: Any) -> tuple[Any, ...] | None:
    """The types inside a container, union or literal of the list; None for any other."""
    origin, args = get_origin(cls), get_args(cls)
    if origin is Literal:
        return () if all(type(arg) in (int, str, types.NoneType) for arg in args) else None
    if origin in (Union, types.UnionType, list):
        return args
    if origin is tuple:
        return tuple(arg for arg in args if arg is not Ellipsis)
    if origin is dict and key_types(args[0]) <= {str, int}:
        return args
    return None


def key_types(cls: Any) -> set[Any]:
    """The types that a dict's keys may have, NewTypes and unions taken apart."""
    if isinstance(cls, NewType):
        return key_types(cls.__supertype__)
    if get_origin(cls) in (Union, types.UnionType):
        return set().union(*map(key_types, get_args(cls)))
    return {cls}


def is_enum(cls: Any) -> TypeGuard[type[enum.Enum]]:
    """Whether *cls* is an enumeration, flags included."""
    return isinstance(cls, type) and issubclass(cls, enum.Enum)


def _plain_values(cls: type[enum.Enum]) -> bool:
    kinds = {type(member.value) for member in cls}
    return not issubclass(cls, enum.Flag) and (kinds == {str} or kinds == {int})


# -- classes ---------------------------------------------------------------------------------


def _class_reasons(cls: type, seen: set[Any], hooked: Hooked) -> Iterator[str]:
    name = told(cls)
    if (why := _odd_class(cls)) is not None:
        yield f"{name}: {why}"
        return
    for field in fields_of(cls):
        at = f"{name}.{field.name}"
        if (why := _odd_field(cls, field)) is not None:
            yield f"{at}: {why}"
        yield from _reasons(field.type, at, seen, hooked)


def _odd_class(cls: Any) -> str | None:
    if "__attrs_attrs__" not in cls.__dict__:
        return "it inherits from an attrs class but is none itself"
    if "__init__" not in cls.__dict__ or hasattr(cls, "__attrs_init__") or cls.__new__ is not object.__new__:
        return "it has its own __init__ or __new__"
    if hasattr(cls, "__attrs_pre_init__") or hasattr(cls, "__attrs_post_init__"):
        return "it has a hook around __init__"
    if cls.__dictoffset__ != 0:
        return "its instances have a __dict__ (slots=False, or a base without slots)"
    if sorted(_slots(cls)) != sorted(field.name for field in attrs.fields(cls)):
        return "its slots are not its fields (a cached hash or property, a base with slots)"
    return None


def _odd_field(cls: type, field: attrs.Attribute[Any]) -> str | None:
    if not field.init:
        return "init=False"
    if field.name.startswith("_") or field.alias != field.name:
        return "the argument has another name than the field (private, or an alias)"
    if field.converter is not None:
        return "it has a converter"
    if getattr(field.default, "takes_self", False):
        return "its default takes self"
    if not any(field.name in inspect.get_annotations(base) for base in cls.__mro__):
        return "it has no annotation"
    return None


def fields_of(cls: type) -> tuple[attrs.Attribute[Any], ...]:
    """The fields of an attrs class, their types resolved.

    Raises:
      Misuse: an annotation cannot be resolved.
    """
    try:
        attrs.resolve_types(cls)
    except Exception as error:
        raise Misuse(
            f"the annotations of {cls.__module__}.{cls.__qualname__} cannot be resolved ({error}): "
            "import or define the names at the top of its module, not under TYPE_CHECKING"
        ) from error
    return tuple(attrs.fields(cls))


def _slots(cls: type) -> Iterator[str]:
    for base in cls.__mro__:
        slots = base.__dict__.get("__slots__", ())
        yield from sorted(name for name in ((slots,) if isinstance(slots, str) else slots) if name != "__weakref__")


def stored_order(cls: type) -> dict[str, int]:
    """The rank of each field in the stored form: msgspec's, which is CPython's order of slots.

    Derived classes first, in each the names sorted; fields without a slot come last, sorted.
    """
    names = sorted(field.name for field in attrs.fields(cls)) if attrs.has(cls) else []
    return {name: rank for rank, name in enumerate(dict.fromkeys([*(n for n in _slots(cls) if n in names), *names]))}


def told(cls: Any) -> str:
    """The name of a class or typing form, for people."""
    return cls.__qualname__ if isinstance(cls, type) and get_origin(cls) is None else str(cls)
