"""The direct path and the one by cattrs: equal bytes and equal values, and neither takes what does not fit."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.backends.codec import Codec
from perdure.backends.errors import Unreadable
from perdure.backends.plain import why_not_plain
from perdure.backends.tree import difference
from stored import BY_TYPE, All, Colour, Derived, Line, Rank, Tree, both, deriveds, ints, lines, moments, pack, texts, unpack


@st.composite
def typed(draw: st.DrawFn, depth: int = 2) -> tuple[Any, Any]:
    """A type of the closed list, with a value of it."""
    if depth == 0 or draw(st.booleans()):
        cls = draw(st.sampled_from(list(BY_TYPE)))
        return cls, draw(BY_TYPE[cls])
    inner, value = draw(typed(depth=depth - 1))
    other, second = draw(typed(depth=depth - 1))
    key = draw(texts)
    forms: list[tuple[Any, Any]] = [  # by __class_getitem__: types that are only known at run time
        (list.__class_getitem__(inner), [value, value]),
        (tuple.__class_getitem__((inner, ...)), (value, value)),
        (tuple.__class_getitem__((inner, other)), (value, second)),
        (dict.__class_getitem__((str, inner)), {key: value, key + "x": value}),
        (dict.__class_getitem__((int, inner)), {2: value, 1: value}),
        (inner | None, value),
        (inner | None, None),
    ]
    return forms[draw(st.integers(0, len(forms) - 1))]


@given(st.lists(typed(), min_size=1, max_size=5))
def test_both_paths_agree_for_generated_classes(fields):
    """Equal bytes, equal values, whatever the fields."""
    names = ["zeta", "b", "alpha", "Upper", "c1"]
    cls = attrs.make_class("Made", {name: attrs.field(type=kind) for name, (kind, _) in zip(names, fields, strict=False)}, frozen=True, slots=True)
    value = cls(*(value for _, value in fields))
    assert why_not_plain(cls) is None
    fast, slow = both(cls)

    raw = fast.encode(value)

    assert slow.encode(value) == raw
    assert difference(fast.read(raw), value) is None
    assert difference(slow.read(raw), value) is None
    assert fast.build(unpack(raw)) is not None


@given(
    st.builds(
        All,
        *(strategy for cls, strategy in BY_TYPE.items() if cls not in (Line, Derived, Tree)),
        lines=st.lists(lines, max_size=3),
        pair=st.tuples(ints, texts),
        row=st.lists(moments, max_size=3).map(tuple),
        table=st.dictionaries(texts | ints, st.lists(lines, max_size=2), max_size=3),
        maybe=st.none() | lines,
        number=ints | st.floats() | st.none(),
        derived=deriveds,
    )
)
def test_both_paths_agree_for_the_whole_list(value):
    assert why_not_plain(All) is None
    fast, slow = both(All)

    raw = fast.encode(value)

    assert slow.encode(value) == raw
    assert difference(fast.read(raw), value) is None
    assert difference(slow.read(raw), value) is None


WRONG = [
    (int, "1"), (int, 1.0), (int, True), (float, "1.5"), (float, True), (bool, 1), (str, 1), (str, b"a"), (bytes, "aGk="), (Rank, True), (Rank, 1.0),
    (Colour, "green"), (list[int], "12"), (list[Line], "ab"), (list[Line], {}), (tuple[int, ...], "12"), (tuple[int, str], [1]), (dict[int, str], {"1": "a"}),
    (Line, "sku"), (Line, ["sku", "n"]), (Line, {"sku": "a"}), (Tree, {"name": "a", "kids": "bc"}), (date, 5), (datetime, 1.0), (timedelta, 1),
    (Literal["a"], "b"), (Literal[1], True), (Decimal, "x"), (UUID, "x"), (int | None, "1"), (Line | None, "1"),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "stored"), WRONG)
def test_both_paths_are_strict(cls, stored):
    """A number in a text, a text for a list, a bool for an int: an error on either."""
    for form in both(cls):
        with pytest.raises(Exception):  # noqa: B017 - each library has its own; the next test sees what becomes of them
            form.read(pack(stored))


@pytest.mark.parametrize(("cls", "stored"), WRONG)
def test_what_does_not_fit_is_unreadable(cls, stored):
    with pytest.raises(Unreadable):
        Codec().decoder(cls)(pack(stored))


def test_an_int_in_a_float_field_is_read_as_float_on_both_paths():
    for form in both(Line):
        back = form.read(pack({"sku": "a", "n": 1, "price": 2}))
        assert type(back.price) is float


@pytest.mark.parametrize("cls", [set[str], frozenset[str], deque[Line], Sequence[Line], set[int]])
def test_a_text_is_no_collection(cls):
    with pytest.raises(Unreadable):
        Codec().decoder(cls)(pack("ab"))
