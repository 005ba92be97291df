"""States of models are kept as they are, or named as unstable; their shapes tell when they changed."""

from __future__ import annotations

import math
import typing
from datetime import datetime
from typing import Any

import attrs
import pytest

from perdure.backends.codec import Codec, check_stable
from perdure.backends.errors import Misuse, UnstableState
from perdure.backends.shape import shape_of
from stored import Colour, Derived, Line, Paid, Tree

# -- states ----------------------------------------------------------------------------------


@attrs.frozen
class Totals:
    total: float = 0.0
    by_day: dict[str, float] = attrs.field(factory=dict)
    seen: frozenset[str] = frozenset()
    extra: Any = None


@pytest.mark.parametrize("cls", [Totals, Line])
def test_a_stable_state_gives_its_bytes(cls):
    codec = Codec()
    state = cls() if cls is Totals else Line("a", 1, math.nan)

    assert check_stable(codec, cls, state, name="t") == codec.encoder(cls)(state)


@pytest.mark.parametrize(
    ("state", "path"),
    [
        (Totals(0), "$.total"), (Totals(by_day={"a": 1}), "$.by_day['a']"), (Totals(extra=(1, 2)), "$.extra"), (Totals(extra={"a": {1}}), "$.extra"),
        (Line("a", 1, 3), "$.price"), (Line("a", True), "$.n"), (Line("a", 1.5), "$.n"),  # type: ignore[arg-type]  # wrong on purpose
    ],
)  # fmt: skip
def test_an_unstable_state_is_named(state, path):
    with pytest.raises(UnstableState) as caught:
        check_stable(Codec(), type(state), state, name="t")

    assert caught.value.name == "t"
    assert caught.value.path.startswith(path)


def test_a_naive_datetime_in_a_state_is_misuse():
    with pytest.raises(Misuse, match=r"Paid\.at"):
        check_stable(Codec(), Paid, Paid(1, datetime(2020, 1, 1)), name="t")


# -- shapes ----------------------------------------------------------------------------------


def test_a_shape_names_nested_classes_and_values():
    shape = shape_of(dict[str, Derived])

    assert "dict[str, Derived]" in shape
    assert "Line: n: int, price: float, sku: str" in shape
    assert "red" in shape_of(list[Colour])


def test_a_shape_does_not_depend_on_the_order_of_a_union():
    assert shape_of(int | Line | None) == shape_of(typing.Union[None, Line, int])  # noqa: UP007 - another order


def test_a_shape_changes_with_a_nested_field():
    first = attrs.make_class("Inner", {"a": attrs.field(type=int)})
    second = attrs.make_class("Inner", {"a": attrs.field(type=float)})

    assert shape_of(list[first]) != shape_of(list[second])


def test_a_class_that_holds_itself_has_a_shape():
    assert shape_of(Tree).count("Tree: ") == 1
