"""The stored form: what goes in comes out, on both paths alike, or is refused with the field's name."""

from __future__ import annotations

import enum
import functools
import math
import os
import subprocess
import sys
import types
import typing
from collections import Counter, deque
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Generic, Literal, NewType, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import cattrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.backends.codec import Codec, check_stable
from perdure.backends.errors import Misuse, Unreadable, UnstableState
from perdure.backends.event import Event, Position, Record, Unknown
from perdure.backends.form import direct, structured
from perdure.backends.plain import why_not_plain
from perdure.backends.schema import NewEvent, Registry, event
from perdure.backends.shape import shape_of
from perdure.backends.structuring import hooks_of, strict
from perdure.backends.tree import difference, normal

T = TypeVar("T")
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
pack = msgspec.msgpack.encode
unpack = msgspec.msgpack.decode


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Rank(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Bits(enum.Flag):
    A = 1
    B = 2


Cents = NewType("Cents", int)


@attrs.frozen
class Line:
    sku: str
    n: int
    price: float = 0.0


@attrs.frozen
class Base:
    z: int
    a: str = ""


@attrs.frozen
class Derived(Base):
    m: int = 0
    b: Line | None = None


@attrs.frozen
class Tree:
    name: str
    kids: list[Tree] = attrs.field(factory=list)
    by: dict[str, Tree] = attrs.field(factory=dict)


@event("all")
@attrs.frozen
class All:
    """Everything that the closed list has."""

    yes: bool
    count: int
    share: float
    text: str
    blob: bytes
    nothing: None
    moment: datetime
    day: date
    clock: time
    span: timedelta
    money: Decimal
    key: UUID
    colour: Colour
    rank: Rank
    choice: Literal["a", "b", 3]
    cents: Cents
    lines: list[Line]
    pair: tuple[int, str]
    row: tuple[datetime, ...]
    table: dict[str | int, list[Line]]
    maybe: Line | None
    number: int | float | None
    derived: Derived = attrs.field(kw_only=True)


@event("order-placed", tags=lambda e: [f"customer:{e.customer}", "order"])
@attrs.frozen
class OrderPlaced:
    order: int
    customer: str


@event("paid")
@attrs.frozen
class Paid:
    cents: int
    at: datetime | None = None


@attrs.frozen
class Loose:
    """Not on the closed list."""

    names: set[str]
    pairs: frozenset[tuple[int, ...]]
    lines: list[Line]
    _hidden: int
    anything: Any = None


# -- both paths ------------------------------------------------------------------------------

ints = st.integers(-(2**63), 2**64 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
zones = st.builds(lambda minutes: timezone(timedelta(minutes=minutes)), st.integers(-1439, 1439))
moments = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=zones)
lines = st.builds(Line, texts, ints, st.floats())
deriveds = st.builds(Derived, z=ints, a=texts, m=ints, b=st.none() | lines)
trees = st.recursive(
    st.builds(Tree, texts),
    lambda kids: st.builds(Tree, texts, st.lists(kids, max_size=3), st.dictionaries(texts, kids, max_size=2)),
    max_leaves=6,
)
# The leaves in the order in which `All` has them.
BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: ints,
    float: st.floats(),
    str: texts,
    bytes: st.binary(max_size=8),
    types.NoneType: st.none(),
    datetime: moments,
    date: st.dates(),
    time: st.times() | st.times(timezones=zones),
    timedelta: st.timedeltas(),
    Decimal: st.decimals(allow_nan=False),
    UUID: st.uuids(),
    Colour: st.sampled_from(Colour),
    Rank: st.sampled_from(Rank),
    Literal["a", "b", 3]: st.sampled_from(["a", "b", 3]),
    Cents: ints,
    Line: lines,
    Derived: deriveds,
    Tree: trees,
}


def both(cls: Any) -> tuple[Any, Any]:
    """The same type on the direct and on the cattrs path."""
    hooked = hooks_of(None)
    return direct(cls), structured(cls, strict(None, hooked), strict(None, hooked, detailed=True))


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


# -- the closed list -------------------------------------------------------------------------


@attrs.frozen
class Private:
    _a: int
    b: int


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


# -- hooks of the user -----------------------------------------------------------------------


class Money:
    """Neither attrs nor anything else that is known."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    __hash__ = None  # type: ignore[assignment]  # as Python does it


@attrs.frozen
class Priced:
    price: Money
    line: Line
    names: set[str]


def hooked_converter() -> cattrs.Converter:
    converter = cattrs.Converter()
    converter.register_unstructure_hook(Money, lambda money: f"{money.cents} ct")
    converter.register_structure_hook(Money, lambda text, _: Money(int(text.split()[0])))
    return converter


def test_a_hook_of_the_user_reads_and_writes_its_type():
    codec = Codec(converter=hooked_converter())
    value = Priced(Money(5), Line("a", 1), {"b", "a"})

    raw = codec.encoder(Priced)(value)

    assert unpack(raw)["price"] == "5 ct"
    assert unpack(raw)["names"] == ["a", "b"]
    assert codec.decoder(Priced)(raw) == value


def test_without_the_hook_the_type_is_misuse():
    with pytest.raises(Misuse, match="Money"):
        Codec().encoder(Priced)


def upper_hook(converter: cattrs.Converter) -> None:
    converter.register_unstructure_hook(Line, lambda line: line.sku)
    converter.register_structure_hook(Line, lambda sku, _: Line(sku, 0))


def predicate_hook(converter: cattrs.Converter) -> None:
    converter.register_unstructure_hook_func(lambda cls: cls is Line, lambda line: line.sku)
    converter.register_structure_hook_func(lambda cls: cls is Line, lambda sku, _: Line(sku, 0))


@pytest.mark.parametrize("register", [upper_hook, predicate_hook])
def test_a_hook_on_the_way_takes_the_class_off_the_list(register):
    converter = cattrs.Converter()
    register(converter)
    codec = Codec(converter=converter)

    raw = codec.encoder(list[Line])([Line("a", 0)])

    assert unpack(raw) == ["a"]
    assert codec.decoder(list[Line])(raw) == [Line("a", 0)]
    assert why_not_plain(list[Line], hooks_of(converter)) == "list[" + f"{Line.__module__}.Line]: the converter has a hook for Line"


def test_a_hook_for_a_native_type_is_used():
    converter = cattrs.Converter()
    converter.register_unstructure_hook(date, lambda day: day.toordinal())
    converter.register_structure_hook(date, lambda n, _: date.fromordinal(n))
    codec = Codec(converter=converter)

    raw = codec.encoder(dict[str, date])({"a": date(2020, 1, 2)})

    assert unpack(raw) == {"a": date(2020, 1, 2).toordinal()}
    assert codec.decoder(dict[str, date])(raw) == {"a": date(2020, 1, 2)}


def test_a_converter_without_hooks_changes_nothing():
    assert Codec(converter=cattrs.Converter()).form(All).surely(object()) is False
    assert not any(hooks_of(cattrs.Converter())(cls) for cls in (*BY_TYPE, list[int], set[int], Any, Base))


def test_a_converter_with_options_takes_classes():
    assert hooks_of(cattrs.Converter(omit_if_default=True))(Line)


# -- refused ---------------------------------------------------------------------------------


@attrs.frozen
class SubLine(Line):
    more: int = 1


@attrs.frozen
class Holder:
    line: Line
    when: datetime = NOON
    lines: list[Line] = attrs.field(factory=list)
    table: dict[str, int] = attrs.field(factory=dict)
    text: str = ""
    at: time | None = None


@attrs.frozen
class LooseHolder(Holder):
    names: set[str] = attrs.field(factory=set)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"when": datetime(2020, 1, 1)}, ".when: a datetime without a time zone"),
    ({"lines": [Line("a", 2**64)]}, ".lines[0].n"),
    ({"lines": [Line("a", 1), Line("\ud800", 1)]}, ".lines[1].sku"),
    ({"lines": (Line("a", 1),)}, ".lines"),
    ({"lines": "ab"}, ".lines"),
    ({"line": SubLine("a", 1)}, ".line"),
    ({"line": None}, ".line"),
    ({"line": Line("a", True)}, ".line.n"),
    ({"line": Line("a", "1")}, ".line.n"),  # type: ignore[arg-type]  # wrong on purpose
    ({"line": Line("a", 1, 2**60 + 1)}, ".line.price"),
    ({"table": {"k": object()}}, ".table['k']"),
    ({"table": {1: 1}}, ".table"),
    ({"text": b"a"}, ".text"),
    ({"text": lambda: None}, ".text"),
    ({"at": "12:00"}, ".at"),
]


@pytest.mark.parametrize("cls", [Holder, LooseHolder])
@pytest.mark.parametrize(("fields", "where"), BAD)
def test_what_would_not_come_back_is_misuse_naming_the_field(cls, fields, where):
    codec = Codec()
    value = cls(**({"line": Line("a", 1)} | fields))

    with pytest.raises(Misuse) as caught:
        codec.encoder(cls)(value)

    assert f"{cls.__name__}{where}" in str(caught.value)


def test_a_field_that_is_not_set_is_misuse():
    with pytest.raises(Misuse, match=r"Line\.sku"):
        Codec().encoder(Line)(Line.__new__(Line))


def test_an_int_in_a_float_field_is_taken():
    codec = Codec()

    raw = codec.encoder(Line)(Line("a", 1, 2))

    assert codec.decoder(Line)(raw) == Line("a", 1, 2.0)


def test_what_contains_itself_is_misuse():
    loop = Tree("a")
    loop.kids.append(loop)

    with pytest.raises(Misuse, match="contains itself"):
        Codec().encoder(Tree)(loop)


def test_nan_is_taken():
    codec = Codec()

    for cls, value in [(Line, Line("a", 1, math.nan)), (list[float], [math.nan]), (set[float], {math.nan, 1.0}), (Any, [math.nan])]:
        assert codec.encoder(cls)(value)


# -- plain data ------------------------------------------------------------------------------

plain = st.recursive(
    st.none() | st.booleans() | ints | st.floats() | texts | st.binary(max_size=5) | moments,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | ints, inner, max_size=3),
    max_leaves=10,
)


@given(plain)
def test_plain_data_round_trips(value):
    codec = Codec()

    back = codec.decode_plain(codec.encode_plain(value))

    assert difference(value, back) is None


@given(plain)
def test_plain_data_without_sets_is_written_as_it_is(value):
    assert pack(normal(value)) == pack(value)


@pytest.mark.parametrize("value", [object(), Line("a", 1), {"a": [datetime(2020, 1, 1)]}, 2**64, "\ud800", {frozenset({object()}): 1}, 1j])
def test_what_is_not_plain_is_misuse(value):
    with pytest.raises(Misuse):
        Codec().encode_plain(value)


def test_sets_in_plain_data_are_sorted_by_their_bytes():
    codec = Codec()

    assert codec.decode_plain(codec.encode_plain({"s": {"b", "a", frozenset({2, 1})}})) == {"s": [[1, 2], "a", "b"]}
    assert codec.encode_plain({3, 1, 2}) == pack([1, 2, 3])


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x91", b"\x01\x02"])
def test_broken_bytes_are_unreadable(raw):
    codec = Codec()

    for decode in (codec.decode_plain, codec.decoder(Line), codec.decoder(Loose)):
        with pytest.raises(Unreadable):
            decode(raw)


SEEDED = """
import sys
from perdure.backends.codec import Codec
from perdure.backends.shape import shape_of
words = [str(n) for n in range(50)]
codec = Codec()
print(codec.encode_plain({"s": set(words), "n": {frozenset(words[:3]), frozenset(words[5:9])}}).hex())
print(codec.encoder(set[frozenset[str]])({frozenset(words[:9]), frozenset(words[7:30])}).hex())
print(codec.encoder(dict[str, set[str]])({"a": set(words)}).hex())
print(shape_of(dict[str, int | None | str | set[bytes]]))
"""


def test_bytes_and_shapes_do_not_depend_on_the_hash_seed():
    def run(seed: str) -> str:
        env = os.environ | {"PYTHONHASHSEED": seed}
        return subprocess.run([sys.executable, "-P", "-c", SEEDED], env=env, capture_output=True, text=True, check=True).stdout

    assert len({run(seed) for seed in ("0", "1", "2")}) == 1


# -- drafts ----------------------------------------------------------------------------------


def record(type: str, payload: bytes, *, version: int = 1, position: int = 1, extra: bytes = b"") -> Record:
    return Record("s", position, Position(position), type, version, 1_000_000, bytes(16), 0, extra, payload, 0)


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
