"""The closed list: what is on it is stored directly, what is off it says why, and both round-trip."""

from __future__ import annotations

import functools
from collections import Counter, deque
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import pytest

from perdure.backends.codec import Codec
from perdure.backends.errors import Misuse
from perdure.backends.plain import why_not_plain
from perdure.backends.tree import difference
from stored import NOON, All, Base, Bits, Cents, Colour, Derived, Line, Loose, Paid, Private, Tree, both, pack, unpack

T = TypeVar("T")


@attrs.frozen
class Aliased:
    a: int = attrs.field(alias="other")


@attrs.frozen
class Converted:
    a: int = attrs.field(converter=int)


@attrs.frozen
class TakesSelf:
    a: int
    b: int = attrs.field(default=attrs.Factory(lambda self: self.a + 1, takes_self=True))


@attrs.frozen
class NotInit:
    a: int
    b: int = attrs.field(init=False, default=3)


@attrs.frozen(cache_hash=True)
class CachedHash:
    a: int


@attrs.frozen
class OwnInit:
    a: int

    def __init__(self, a: int) -> None:
        self.__attrs_init__(a)  # type: ignore[attr-defined]  # attrs makes it


@attrs.frozen
class PostInit:
    a: int

    def __attrs_post_init__(self) -> None:
        pass


@attrs.frozen
class PreInit:
    a: int

    def __attrs_pre_init__(self) -> None:
        pass


@attrs.frozen(slots=False)
class WithDict:
    a: int

    @functools.cached_property
    def double(self) -> int:
        return self.a * 2


@attrs.frozen
class CachedProperty:
    a: int

    @functools.cached_property
    def double(self) -> int:
        return self.a * 2


class Plainly(Base):
    """A subclass that attrs does not know."""


@attrs.frozen
class Box(Generic[T]):
    value: T


@attrs.frozen
class Nested:
    inner: list[Private]


@attrs.frozen
class Flagged:
    bits: Bits


@attrs.define
class NoType:
    a = attrs.field()


ODD = [
    (Private(1, 2), "_a"), (Aliased(1), "Aliased.a"), (Converted(1), "converter"), (TakesSelf(1), "takes self"), (NotInit(1), "init=False"),
    (CachedHash(1), "slots"), (OwnInit(1), "own __init__"), (PostInit(1), "hook around"), (PreInit(1), "hook around"), (WithDict(1), "__dict__"),
    (CachedProperty(1), "slots"), (Nested([Private(1, 2)]), "Private._a"), (Flagged(Bits.A | Bits.B), "Bits"), (NoType(1), "NoType.a"),
    (Loose({"b", "a"}, frozenset({(2, 1), (1,)}), [Line("a", 1)], 4, {"k": [1]}), "names"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "why"), ODD)
def test_a_class_off_the_list_says_why_and_round_trips(value, why):
    reason = why_not_plain(type(value))
    codec = Codec()
    getattr(value, "double", None)  # a cached property that has been used is not stored

    raw = codec.encoder(type(value))(value)

    assert reason is not None
    assert why in reason
    assert difference(codec.decoder(type(value))(raw), value) is None
    assert "double" not in unpack(raw)


def test_a_class_that_does_not_belong_on_the_list_is_caught():
    """The liars: msgspec alone would drop one's field, store the other's cache."""
    cached = CachedProperty(1)
    assert cached.double == 2

    for value in (Private(1, 2), cached):
        fast, slow = both(type(value))
        assert fast.write(value) != slow.write(value)


@pytest.mark.parametrize(
    "cls", [All, Line, Derived, Tree, list[Line], dict[str, int], int, int | None, Line | None, tuple[int, ...], Colour, Literal["a"], Cents]
)
def test_the_closed_list(cls):
    assert why_not_plain(cls) is None


@pytest.mark.parametrize("cls", [set[int], Any, object, Bits, Box[int], Plainly, dict[UUID, int], list, dict, Sequence[int], str | date, Line | Base])
def test_not_on_the_closed_list(cls):
    assert why_not_plain(cls) is not None


@pytest.mark.parametrize(
    ("cls", "value"),
    [
        (set[int], {3, 1, 2}), (frozenset[Line], frozenset({Line("a", 1), Line("b", 2)})), (dict[UUID, int], {UUID(int=1): 1}), (Box[int], Box(1)),
        (dict[tuple[int, int], str], {(1, 2): "a"}), (deque[int], deque([1, 2])), (Line | Paid, Paid(3)), (Line | Paid | None, None),
        (object, {"a": [1]}), (list[datetime], [datetime(2024, 11, 3, 1, 30, fold=1, tzinfo=ZoneInfo("America/New_York"))]),
        (set[frozenset[int]], {frozenset({1, 2}), frozenset({3})}), (Any, {"a": [1, None, 2.5]}), (dict[Colour, set[str]], {Colour.RED: {"a"}}),
        (Counter[str], Counter({"a": 2})), (Bits, Bits.A | Bits.B), (tuple[set[int], Line], ({1}, Line("a", 1))), (bytearray, bytearray(b"a")),
        (list[datetime] | None, [NOON]), (set[bytes], {b"b", b"a"}),
    ],
)  # fmt: skip
def test_types_off_the_list_round_trip(cls, value):
    codec = Codec()

    raw = codec.encoder(cls)(value)

    assert difference(codec.decoder(cls)(raw), value) is None


def test_a_validator_runs_on_both_paths():
    @attrs.frozen
    class Small:
        n: int = attrs.field(validator=attrs.validators.lt(10))

    Small.__annotations__["n"] = int
    assert why_not_plain(Small) is None

    for form in both(Small):
        with pytest.raises(ValueError):
            form.read(pack({"n": 11}))


def test_annotations_that_cannot_be_resolved_are_misuse():
    @attrs.frozen
    class Local:
        n: Unheard  # type: ignore[name-defined]  # noqa: F821 - that is the point

    with pytest.raises(Misuse, match=r"Local cannot be resolved.*Unheard"):
        why_not_plain(Local)


def test_a_union_that_cannot_be_told_apart_is_misuse():
    with pytest.raises(Misuse, match="cannot be stored"):
        Codec().encoder(str | date)
