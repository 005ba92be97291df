"""The mark of event classes, the registry, the explicit envelope."""

from __future__ import annotations

from datetime import datetime

import attrs
import pytest

from perdure.backends.errors import Misuse
from perdure.backends.schema import EventType, NewEvent, Registry, event, event_type


@event("above", version=2)
@attrs.frozen
class Above:
    n: int


@attrs.frozen
@event("below")
class Below:
    n: int


@attrs.frozen
class Child(Above):
    m: int = 0


@event("not-attrs")
class NotAttrs: ...


@event("above", version=2)
@attrs.frozen
class SameAgain:
    n: int


@event("above")
@attrs.frozen
class Older:
    n: int


def test_the_mark_stands_above_or_below_attrs():
    assert event_type(Above) == EventType("above", 2, Above)
    assert event_type(Below) == EventType("below", 1, Below)


def test_a_subclass_does_not_inherit_the_mark():
    assert event_type(Child) is None


def test_what_is_no_class_has_no_mark():
    assert event_type(Above(1)) is None  # type: ignore[arg-type]  # wrong on purpose
    assert event_type(list[int]) is None


@pytest.mark.parametrize("name", ["", "$own", "a\nb", "\ud800", "x" * 129, "ä" * 65, 7, None])
def test_a_bad_name_is_misuse(name):
    with pytest.raises(Misuse):
        event(name)


@pytest.mark.parametrize("name", ["x" * 128, "ä" * 64, "order placed"])
def test_a_name_up_to_the_limit_is_taken(name):
    assert event_type(event(name)(type("Made", (), {}))) is not None


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1"])
def test_a_bad_version_is_misuse(version):
    with pytest.raises(Misuse):
        event("e", version=version)


@pytest.mark.parametrize("old", [0, 2, 3])
def test_an_upcaster_leads_from_an_older_version(old):
    with pytest.raises(Misuse):
        event("e", version=2, upcasters={old: lambda data: data})


def test_one_class_is_one_event_type():
    with pytest.raises(Misuse, match="marked with @event already"):
        event("again")(Above)


def test_registering_twice_is_the_same():
    registry = Registry()

    assert registry.register(Above) is registry.register(Above)
    assert registry.revision == 1


def test_two_classes_of_one_name_and_version_are_misuse_naming_both():
    registry = Registry()
    registry.register(Above)

    with pytest.raises(Misuse, match=r"\.Above and .*\.SameAgain"):
        registry.register(SameAgain)

    assert registry.of_class(SameAgain) is None


@pytest.mark.parametrize("cls", [Child, NotAttrs, int, "Above"])
def test_an_unmarked_class_or_one_without_attrs_is_misuse(cls):
    with pytest.raises(Misuse):
        Registry().register(cls)


@pytest.mark.parametrize("order", [(Above, Older), (Older, Above)])
def test_a_name_stands_for_its_newest_version(order):
    registry = Registry()

    for cls in order:
        registry.register(cls)

    assert registry.of_name("above") == event_type(Above)
    assert registry.of_class(Older) == event_type(Older)
    assert registry.of_name("unheard-of") is None


def test_tags_of_an_envelope_are_distinct_and_keep_their_order():
    assert NewEvent(1, tags=["b", "a", "b"]).tags == ("b", "a")


@pytest.mark.parametrize(
    "given",
    [{"tags": "abc"}, {"tags": [1]}, {"type": "$own"}, {"type": ""}, {"id": ""}, {"id": 5}, {"occurred": datetime(2020, 1, 1)}, {"occurred": "now"}],
)
def test_a_bad_envelope_cannot_be_built(given):
    with pytest.raises(Misuse):
        NewEvent({}, **given)
