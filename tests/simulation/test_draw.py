"""A payload can be drawn for whatever an event may hold."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from random import Random
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import attrs
import pytest

from perdure.backends.codec import Codec
from perdure.backends.errors import Misuse
from perdure.runtime import event
from perdure.runtime.simulation.draw import draw_instance, draw_value

Id = NewType("Id", int)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Inner:
    number: int
    below: Inner | None = None


@event("drawn-all")
@attrs.frozen
class All:
    flag: bool
    number: int
    part: float
    text: str
    raw: bytes
    at: datetime
    day: date
    hour: time
    span: timedelta
    price: Decimal
    uuid: UUID
    color: Color
    choice: Literal["x", "y"]
    id: Id
    noted: Annotated[int, "a note"]
    maybe: str | None
    either: int | str
    some: list[int]
    pair: tuple[int, str]
    many: tuple[int, ...]
    kinds: frozenset[str]
    prices: dict[str, Inner]
    inner: Inner
    row: Sequence[int]
    table: Mapping[str, int]
    private: int = attrs.field(default=0, alias="hidden")


@attrs.frozen
class Picky:
    number: int = attrs.field(validator=attrs.validators.gt(0))


@attrs.frozen
class Refusing:
    number: int = attrs.field(validator=attrs.validators.gt(1 << 60))


def test_every_kind_of_field_can_be_drawn_and_stored():
    random, codec = Random(1), Codec()

    for _ in range(50):
        codec.drafts([draw_instance(All, random)])


def test_what_a_validator_refuses_is_drawn_again():
    assert draw_instance(Picky, Random(1)).number > 0


@pytest.mark.parametrize("kind", [Refusing, object.__init__, type("Plain", (), {})])
def test_what_cannot_be_drawn_asks_for_a_workload(kind):
    with pytest.raises(Misuse, match="write a workload"):
        draw_value(kind, Random(1))


def test_the_same_numbers_draw_the_same():
    assert draw_instance(All, Random(3)) == draw_instance(All, Random(3))


def test_anything_is_something():
    assert isinstance(draw_value(Any, Random(1)), int | str | bool)
    assert draw_value(datetime, Random(1)).tzinfo is UTC
