"""Values of a type, drawn from random numbers: payloads for a workload that knows nothing of the app. Pure.

Small pools, so that what is drawn meets again: the same customer, the same number. (Hypothesis would draw better ones, and
shrink them; but a run must not need it installed.)
"""

from __future__ import annotations

import enum
import types
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from random import Random
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import attrs

from perdure.backends.errors import Misuse

_WORDS: Final = ("a", "b", "c", "ab", "é")
_TRIES: Final = 20
_DEPTH_MAX: Final = 4

_LEAVES: Final[dict[Any, Callable[[Random], Any]]] = {
    bool: lambda random: random.random() < 0.5,
    int: lambda random: random.choice((random.randrange(4), random.randrange(4), random.randrange(1_000), -random.randrange(10))),
    float: lambda random: random.choice((0.0, 0.5, 1.0, random.randrange(1_000) / 4)),
    str: lambda random: random.choice(_WORDS),
    bytes: lambda random: random.choice(_WORDS).encode(),
    types.NoneType: lambda _: None,
    datetime: lambda random: datetime(2026, 1, random.randint(1, 28), random.randrange(24), tzinfo=UTC),
    date: lambda random: date(2026, 1, random.randint(1, 28)),
    time: lambda random: time(random.randrange(24)),
    timedelta: lambda random: timedelta(seconds=random.randrange(100)),
    Decimal: lambda random: Decimal(random.randrange(1_000)) / 100,
    UUID: lambda random: UUID(int=random.randrange(4)),
}


def draw_value(kind: Any, random: Random, depth: int = 0) -> Any:
    """A value of the type *kind*.

    Raises:
      Misuse: no value of it can be drawn: write a workload that makes them.
    """
    if kind in _LEAVES:
        return _LEAVES[kind](random)
    if kind in (Any, object):
        return draw_value(random.choice((int, str, bool)), random)
    origin, args = get_origin(kind), get_args(kind)
    if hasattr(kind, "__supertype__"):
        return draw_value(kind.__supertype__, random, depth)
    if origin is Annotated:
        return draw_value(args[0], random, depth)
    if origin is Literal:
        return random.choice(args)
    if origin in (Union, types.UnionType):
        usable = [arg for arg in args if arg is not types.NoneType] if depth < _DEPTH_MAX and random.random() < 0.8 else list(args)
        return draw_value(types.NoneType if depth >= _DEPTH_MAX and types.NoneType in args else random.choice(usable), random, depth)
    if origin is not None or kind in (list, tuple, dict, set, frozenset):
        return _draw_collection(kind, origin or kind, args, random, depth + 1)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return random.choice(list(kind))
    if isinstance(kind, type) and attrs.has(kind):
        return draw_instance(kind, random, depth + 1)
    raise Misuse(f"no value of {kind!r} can be drawn: write a workload that makes your events")


def _draw_collection(kind: Any, origin: Any, args: tuple[Any, ...], random: Random, depth: int) -> Any:
    count = random.randrange(4) if depth < _DEPTH_MAX else 0
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key, value = args or (str, int)
        return {draw_value(key, random, depth): draw_value(value, random, depth) for _ in range(count)}
    if origin is tuple and args[1:] != (Ellipsis,):
        return tuple(draw_value(arg, random, depth) for arg in args)
    items = [draw_value(args[0] if args else int, random, depth) for _ in range(count)]
    if origin is tuple:
        return tuple(items)
    if origin in (set, frozenset):
        return origin(items)
    try:
        return origin(items) if isinstance(origin, type) and not getattr(origin, "__abstractmethods__", None) else items
    except TypeError:
        raise Misuse(f"no value of {kind!r} can be drawn: write a workload that makes your events") from None


def draw_instance(cls: type, random: Random, depth: int = 0) -> Any:
    """An instance of an attrs class; drawn again where its validators refuse it.

    Raises:
      Misuse: its fields have no types, or whatever is drawn is refused.
    """
    hints = get_type_hints(cls, include_extras=True)
    refused: Exception | None = None
    for _ in range(_TRIES):
        arguments = {}
        for field in attrs.fields(cls):
            if not field.init or (field.default is not attrs.NOTHING and random.random() < 0.3):
                continue
            if field.name not in hints:
                raise Misuse(f"{cls.__qualname__}.{field.name} has no type: write a workload that makes your events")
            arguments[field.alias] = draw_value(hints[field.name], random, depth)
        try:
            return cls(**arguments)
        except (ValueError, TypeError) as error:
            refused = error
    raise Misuse(f"{cls.__qualname__} refuses what is drawn for it ({refused}): write a workload that makes your events")
