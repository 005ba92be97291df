"""Payloads become drafts, and records become events, of whatever version they are."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.backends.codec import Codec
from perdure.backends.errors import Misuse, Unreadable
from perdure.backends.event import Event, Unknown
from perdure.backends.schema import NewEvent, Registry, event
from stored import Line, OrderPlaced, Paid, Private, ints, pack, record, texts

# -- drafts ----------------------------------------------------------------------------------


def stored(codec: Codec, item: object) -> Event[Any]:
    """What is read of *item* after it was appended."""
    draft = codec.draft(item)
    return codec.event(record(draft.type, draft.payload, version=draft.version, extra=draft.extra))


def test_a_payload_becomes_a_draft_and_an_event():
    codec = Codec()

    back = stored(codec, OrderPlaced(7, "ann"))

    assert (back.type, back.version, back.data) == ("order-placed", 1, OrderPlaced(7, "ann"))
    assert back.tags == ("customer:ann", "order")
    assert codec.registry.of_class(OrderPlaced) is not None


def test_an_event_without_tags_or_meta_has_no_extra():
    assert Codec().draft(Paid(1)).extra == b""
    assert Codec().draft(NewEvent(Paid(1))).extra == b""


def test_the_envelope_is_kept():
    occurred = datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=2)))
    given = NewEvent(OrderPlaced(7, "ann"), tags=["x", "order"], meta={"by": "me", "n": [1]}, occurred=occurred, id="mine")

    back = stored(Codec(), given)

    assert back.tags == ("customer:ann", "order", "x")
    assert (back.meta, back.occurred, back.id) == ({"by": "me", "n": [1]}, occurred, "mine")


def test_a_traceparent_is_in_the_meta():
    draft = Codec().draft(Paid(1), traceparent="00-ab-cd-01")

    assert Codec().event(record("paid", draft.payload, extra=draft.extra)).meta == {"traceparent": "00-ab-cd-01"}


def test_plain_data_needs_a_type():
    back = stored(Codec(), NewEvent({"a": {2, 1}}, type="noted"))

    assert back.data == Unknown("noted", 1, {"a": [1, 2]})


def test_plain_data_of_a_known_type_must_fit_its_class():
    codec = Codec()
    codec.registry.register(Paid)

    assert stored(codec, NewEvent({"cents": 5}, type="paid")).data == Paid(5)
    with pytest.raises(Misuse, match=r"Paid.*\$\.cents"):
        codec.draft(NewEvent({"cents": "5"}, type="paid"))


@pytest.mark.parametrize(
    "item",
    [
        "text", b"bytes", None, 5, {"a": 1}, Line("a", 1), NewEvent({"a": 1}), NewEvent(Line("a", 1), type="line"), NewEvent(Paid(1), type="other"),
        Event(record("paid", b""), Paid(1)), NewEvent(NewEvent(Paid(1))), NewEvent(Paid(1), meta={1: 2}),  # type: ignore[dict-item]  # wrong on purpose
        NewEvent(Paid(1), meta={"a": object()}),
        NewEvent(Paid(1), tags=["\ud800"]), Paid("1"), Paid,  # type: ignore[arg-type]  # wrong on purpose
    ],
)  # fmt: skip
def test_what_is_no_event_is_misuse(item):
    codec = Codec()

    with pytest.raises(Misuse):
        codec.draft(item)
    with pytest.raises(Misuse):
        codec.drafts([Paid(1), item])


@given(st.lists(st.builds(Paid, st.integers(0, 9)) | st.builds(OrderPlaced, ints, texts) | st.just(NewEvent(1, type="n")), max_size=6), st.none() | texts)
def test_drafts_are_each_draft(items, traceparent):
    codec = Codec()

    assert codec.drafts(items, traceparent=traceparent) == [codec.draft(item, traceparent=traceparent) for item in items]


def test_one_bad_payload_among_many_is_named():
    with pytest.raises(Misuse, match=r"Paid\.at"):
        Codec().drafts([Paid(1), Paid(2, datetime(2020, 1, 1)), Paid(3)])


# -- events ----------------------------------------------------------------------------------


@event("moved", version=3, upcasters={1: lambda d: {"to": d["target"]}, 2: lambda d: d | {"speed": 1.0}})
@attrs.frozen
class Moved:
    to: str
    speed: float


@event("gap", version=3, upcasters={2: lambda d: d})
@attrs.frozen
class Gap:
    n: int


@event("loose")
@attrs.frozen
class LooseEvent:
    names: set[str]
    lines: list[Line]
    by: dict[str, Private] = attrs.field(factory=dict)


def knowing(*classes: type) -> Codec:
    registry = Registry()
    for cls in classes:
        registry.register(cls)
    return Codec(registry)


@pytest.mark.parametrize(("version", "data"), [(1, {"target": "x"}), (2, {"to": "x"}), (3, {"to": "x", "speed": 1.0})])
def test_old_versions_are_upcast_step_by_step(version, data):
    codec = knowing(Moved)

    assert codec.events([record("moved", pack(data), version=version)])[0].data == Moved("x", 1.0)


@pytest.mark.parametrize(
    ("type", "version", "data", "path"),
    [
        ("moved", 4, {"to": "x", "speed": 1.0}, ""), ("moved", 1, {"to": "x"}, ""), ("moved", 2, {"to": 5}, "$.to"),
        ("gap", 1, {"n": 1}, ""), ("gap", 3, {}, "$"),
        ("loose", 1, {"names": ["a"], "lines": [{"sku": "a", "n": 1}, {"sku": "a", "n": "1"}]}, "$.lines[1].n"),
        ("loose", 1, {"names": ["a"], "lines": [], "by": {"k": {"_a": 1, "b": "2"}}}, "$.by['k'].b"),
        ("loose", 1, {"names": [1], "lines": []}, "$.names[0]"), ("loose", 1, {"lines": []}, "$.names"), ("loose", 1, [], "$"),
    ],
)  # fmt: skip
def test_the_right_record_is_unreadable_with_its_path(type, version, data, path):
    codec = knowing(Moved, Gap, LooseEvent)
    good = record("moved", pack({"to": "x", "speed": 1.0}), version=3)
    bad = record(type, pack(data), version=version, position=42)

    with pytest.raises(Unreadable) as caught:
        codec.events([good, bad, good])

    found = caught.value
    assert (found.type, found.version, found.position) == (type, version, 42)
    assert found.path == path


def test_an_event_without_a_class_is_unknown_until_it_has_one():
    codec = Codec()
    paid = record("paid", pack({"cents": 5}))
    assert codec.events([paid])[0].data == Unknown("paid", 1, {"cents": 5})

    codec.registry.register(Paid)

    assert codec.events([paid])[0].data == Paid(5)


def test_broken_bytes_of_an_unknown_type_are_unreadable():
    with pytest.raises(Unreadable):
        Codec().event(record("unheard", b"\xc1"))
