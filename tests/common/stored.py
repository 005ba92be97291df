"""Types that the codec stores, and values of them; the two paths by which it does."""

from __future__ import annotations

import enum
import types
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal, NewType
from uuid import UUID

import attrs
import msgspec
from hypothesis import strategies as st

from perdure.backends.event import Position, Record
from perdure.backends.form import direct, structured
from perdure.backends.schema import event
from perdure.backends.structuring import hooks_of, strict

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



@attrs.frozen
class Private:
    _a: int
    b: int



def record(type: str, payload: bytes, *, version: int = 1, position: int = 1, extra: bytes = b"") -> Record:
    return Record("s", position, Position(position), type, version, 1_000_000, bytes(16), 0, extra, payload, 0)

