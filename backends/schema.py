"""Event classes: the mark that names a payload class, the registry of those that a runtime knows.

The mark says nothing about bytes; how a class is stored is the codec's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

import attrs

from perdure.backends.errors import Misuse

T = TypeVar("T")
Tags = Callable[[Any], Iterable[str]]
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

_MARK: Final = "__perdure_event__"
_NAME_BYTES: Final = 128


@attrs.frozen
class EventType:
    """What `@event` says about *cls*. *upcasters* lead the plain data of version n to that of n + 1."""

    name: str
    version: int
    cls: type
    tags: Tags | None = None
    upcasters: Mapping[int, Upcaster] = attrs.field(factory=dict)


def event(
    name: str,
    *,
    version: int = 1,
    tags: Tags | None = None,
    upcasters: Mapping[int, Upcaster] | None = None,
) -> Callable[[type[T]], type[T]]:
    """Mark an attrs class as the payload of events *name*; it registers nothing.

    It may stand above or below `@attrs.frozen`. Raise *version* when old bytes no longer fit the class;
    the *upcasters* say how they are brought to it. *tags* draws an event's tags from its payload.

    Raises:
      Misuse: a bad name or version, an upcaster from no older version, or a class that is marked already.
    """
    _check_type_name(name)
    if type(version) is not int or not 1 <= version < 1 << 32:
        raise Misuse(f"the version of event {name!r} is a number from 1, not {version!r}")
    steps = dict(upcasters or {})
    for old in steps:
        if type(old) is not int or not 1 <= old < version:
            raise Misuse(f"event {name!r} has version {version}: an upcaster from {old!r} leads nowhere, use 1 to {version - 1}")

    def mark(cls: type[T]) -> type[T]:
        if _MARK in cls.__dict__:
            raise Misuse(f"{_told(cls)} is marked with @event already: one class is one event type")
        # In the class's own dict, so that the second class that slots=True makes has it too, and a subclass has not.
        setattr(cls, _MARK, (name, version, tags, steps))
        return cls

    return mark


def event_type(cls: type) -> EventType | None:
    """The mark of exactly this class; a subclass does not inherit its parent's."""
    marked = getattr(cls, "__dict__", {}).get(_MARK) if isinstance(cls, type) else None
    if marked is None:
        return None
    name, version, tags, upcasters = marked
    return EventType(name, version, cls, tags, upcasters)


def _check_type_name(name: object) -> None:
    if not isinstance(name, str) or not name or not name.isprintable():
        raise Misuse(f"an event's type is printable text of 1 to {_NAME_BYTES} bytes, not {name!r}")
    if len(name.encode()) > _NAME_BYTES:
        raise Misuse(f"the event type {name[:40]!r}... has {len(name.encode())} bytes, the limit is {_NAME_BYTES}: use a shorter name")
    if name[0] == "$":
        raise Misuse(f"names beginning with $ are perdure's own: name the event type {name!r} otherwise")


def _told(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


# -- an explicit envelope --------------------------------------------------------------------


def _tags(tags: Iterable[str]) -> tuple[str, ...]:
    return check_tags(tags)


def _optional_type(_: object, __: object, name: str | None) -> None:
    if name is not None:
        _check_type_name(name)


def _aware(_: object, __: object, moment: datetime | None) -> None:
    if moment is not None and (not isinstance(moment, datetime) or moment.utcoffset() is None):
        raise Misuse(f"occurred= takes a datetime with a time zone, not {moment!r}: datetime.now(UTC), for example")


def _given_id(_: object, __: object, id: str | None) -> None:
    if id is not None and (not isinstance(id, str) or not id):
        raise Misuse(f"an event's id is text, not {id!r}")


@attrs.frozen
class NewEvent:
    """An event to append, with its envelope: *data* is a payload, or plain data under the name *type*.

    Raises:
      Misuse: a bad type name, id or tag, or an *occurred* without a time zone.
    """

    data: Any
    type: str | None = attrs.field(default=None, validator=_optional_type)
    tags: tuple[str, ...] = attrs.field(default=(), converter=_tags)
    meta: Mapping[str, Any] | None = None
    occurred: datetime | None = attrs.field(default=None, validator=_aware)
    id: str | None = attrs.field(default=None, validator=_given_id)


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """*tags* without repetitions, in their order.

    Raises:
      Misuse: a text in place of a list, or a tag that is no text.
    """
    if isinstance(tags, (str, bytes)):
        raise Misuse(f"tags are a list of texts, not the text {tags!r}: write [{tags!r}]")
    distinct = tuple(dict.fromkeys(tags))
    for tag in distinct:
        if not isinstance(tag, str):
            raise Misuse(f"a tag is text, not {tag!r}")
    return distinct


# -- the registry ----------------------------------------------------------------------------


class Registry:
    """The event classes that a runtime knows. *revision* counts what was added."""

    def __init__(self) -> None:
        self.revision = 0
        self._by_class: dict[type, EventType] = {}
        self._by_version: dict[tuple[str, int], EventType] = {}
        self._newest: dict[str, EventType] = {}

    def register(self, cls: type) -> EventType:
        """Know *cls* from now on; asked again it answers the same.

        Raises:
          Misuse: it is not marked, is no attrs class, or another class has its name and version.
        """
        if (known := self._by_class.get(cls)) is not None:
            return known
        mark = event_type(cls)
        if mark is None:
            raise Misuse(f"{_told(cls) if isinstance(cls, type) else cls!r} is not an event class: mark it with @event(name)")
        if "__attrs_attrs__" not in cls.__dict__:
            raise Misuse(f"{_told(cls)} is not an attrs class: decorate it with @attrs.frozen")
        other = self._by_version.get((mark.name, mark.version))
        if other is not None:
            raise Misuse(f"{_told(other.cls)} and {_told(cls)} are both event {mark.name!r} version {mark.version}: rename one or raise its version")
        self._add(mark)
        return mark

    def _add(self, mark: EventType) -> None:
        self._by_class[mark.cls] = self._by_version[mark.name, mark.version] = mark
        newest = self._newest.get(mark.name)
        if newest is None or newest.version < mark.version:
            self._newest[mark.name] = mark
        self.revision += 1

    def of_class(self, cls: type) -> EventType | None:
        """The registered mark of exactly *cls*."""
        return self._by_class.get(cls)

    def of_name(self, name: str) -> EventType | None:
        """The newest registered version of *name*."""
        return self._newest.get(name)
