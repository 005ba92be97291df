"""Which events: the one value behind subscriptions, projections, reads and append conditions.

A selector is some items; an event matches an item when its type, stream and category are among
those named (an empty list names all) and it has *all* of the item's tags; it matches the selector
when any item matches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, overload

import attrs

from perdure.backends.errors import Misuse, TooLarge
from perdure.backends.event import category_of
from perdure.backends.limits import LIMITS
from perdure.backends.schema import event_type

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")


def _names(values: Iterable[str]) -> tuple[str, ...]:
    if isinstance(values, str):
        raise Misuse(f"a selector takes a list of names, not the text {values!r}: write [{values!r}]")
    return tuple(dict.fromkeys(values))


@attrs.frozen
class Item:
    """One alternative of a selector; an empty field restricts nothing."""

    types: tuple[str, ...] = attrs.field(default=(), converter=_names)
    streams: tuple[str, ...] = attrs.field(default=(), converter=_names)
    categories: tuple[str, ...] = attrs.field(default=(), converter=_names)
    tags: tuple[str, ...] = attrs.field(default=(), converter=_names)

    def wants_stream(self, stream: str) -> bool:
        """Whether events of *stream* can match."""
        return (not self.streams or stream in self.streams) and (not self.categories or category_of(stream) in self.categories)

    def matches(self, stream: str, type: str, tags: tuple[str, ...]) -> bool:
        """Whether such an event matches."""
        return (not self.types or type in self.types) and self.wants_stream(stream) and all(tag in tags for tag in self.tags)


@attrs.frozen
class Selector(Generic[D]):
    """At most eight items; `classes` are the event classes it was made of, for the codec to know.

    Raises:
      TooLarge: more than eight items.
      Misuse: no item.
    """

    items: tuple[Item, ...] = attrs.field()
    classes: tuple[type, ...] = attrs.field(default=(), eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if not self.items:
            raise Misuse("a selector without items matches nothing: use of(...), or EVERYTHING")
        if len(self.items) > LIMITS.selector_items:
            raise TooLarge("selector", "a query", len(self.items), LIMITS.selector_items, "items")

    def within(
        self,
        *,
        streams: Iterable[str] = (),
        categories: Iterable[str] = (),
        types: Iterable[str] = (),
        tags: Iterable[str] = (),
    ) -> Selector[D]:
        """The same, narrowed: each item takes on what is given (types and streams replace, tags add)."""
        items = tuple(
            Item(
                types=_names(types) or item.types,
                streams=_names(streams) or item.streams,
                categories=_names(categories) or item.categories,
                tags=(*item.tags, *_names(tags)),
            )
            for item in self.items
        )
        return Selector(items, self.classes)

    def __or__(self, other: Selector[E]) -> Selector[D | E]:
        return Selector((*self.items, *other.items), tuple(dict.fromkeys((*self.classes, *other.classes))))

    def matches(self, stream: str, type: str, tags: tuple[str, ...]) -> bool:
        """Whether an event of *type* with *tags* in *stream* is selected."""
        return any(item.matches(stream, type, tags) for item in self.items)

    def only_types(self) -> frozenset[str] | None:
        """The types it selects, if nothing else matters to it."""
        if any(not item.types or item.streams or item.categories or item.tags for item in self.items):
            return None
        return frozenset(type for item in self.items for type in item.types)

    @property
    def everything(self) -> bool:
        """Whether no event can fail to match."""
        return any(item == _ALL for item in self.items)

    def filter(self) -> Callable[[str], Callable[[str, Callable[[], tuple[str, ...]]], bool] | None]:
        """A two-step filter for scans: given a stream, None (nothing in it can match) or a test of (type, tags)."""

        def of_stream(stream: str) -> Callable[[str, Callable[[], tuple[str, ...]]], bool] | None:
            items = [item for item in self.items if item.wants_stream(stream)]
            if not items:
                return None
            if any(not item.tags and not item.types for item in items):
                return lambda type, tags: True
            if not any(item.tags for item in items):
                types = frozenset(type for item in items for type in item.types)
                return lambda type, tags: type in types
            return lambda type, tags: any((not i.types or type in i.types) and all(t in tags() for t in i.tags) for i in items)

        return of_stream


_ALL = Item()
EVERYTHING: Selector[Any] = Selector((_ALL,))
"""Every event of the store."""


# A type checker joins different classes to `object`; their union has to be spelled.
@overload
def of(a: type[A], /) -> Selector[A]: ...
@overload
def of(a: type[A], b: type[B], /) -> Selector[A | B]: ...
@overload
def of(a: type[A], b: type[B], c: type[C], /) -> Selector[A | B | C]: ...
@overload
def of(a: type[A], b: type[B], c: type[C], d: type[D], /) -> Selector[A | B | C | D]: ...
@overload
def of(a: type[A], b: type[B], c: type[C], d: type[D], e: type[E], /) -> Selector[A | B | C | D | E]: ...
@overload
def of(a: type[A], b: type[B], c: type[C], d: type[D], e: type[E], f: type[F], /) -> Selector[A | B | C | D | E | F]: ...
@overload
def of(*classes: type[Any]) -> Selector[Any]: ...
def of(*classes: type[Any]) -> Selector[Any]:
    """The events of *classes*, each marked with `@event`, as one item.

    Raises:
      Misuse: no class, or one that is not marked.
    """
    if not classes:
        raise Misuse("of() needs at least one event class: for all events use EVERYTHING")
    return Selector((Item(types=[_type_name(cls) for cls in classes]),), classes)


def _type_name(cls: type) -> str:
    mark = event_type(cls)
    if mark is None:
        raise Misuse(f"{getattr(cls, '__name__', cls)!s} is not an event class: mark it with @event(name)")
    return mark.name
