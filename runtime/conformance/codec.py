"""Laws of codec and schema, as a program meets them."""

from __future__ import annotations

import enum
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import attrs
import cattrs
import msgspec

from perdure.backends.codec import Codec
from perdure.backends.conformance.law import Stores, fails, holds, new_name, refused, same
from perdure.backends.errors import Misuse, Unreadable
from perdure.backends.plain import why_not_plain
from perdure.backends.schema import NewEvent, event
from perdure.backends.selector import of
from perdure.runtime.conformance.kit import Happened, RuntimePart, listed
from perdure.runtime.open import open_runtime
from perdure.runtime.runtime import Runtime

PART = RuntimePart("codec")


class Colour(enum.Enum):
    """A closed choice."""

    RED = "red"


@event("kit-all")
@attrs.frozen
class All:
    """Every type that the closed list knows."""

    yes: bool
    whole: int
    real: float
    text: str
    raw: bytes
    moment: datetime
    day: date
    hour: time
    span: timedelta
    money: Decimal
    id: UUID
    colour: Colour
    many: list[int]
    pair: tuple[int, str]
    by: dict[str, Happened]
    maybe: int | None = None


@event("kit-private")
@attrs.frozen
class Private:
    """What only cattrs may write: a private field, a set, a converter."""

    _secret: int
    tags: frozenset[str] = frozenset()
    size: int = attrs.field(default=0, converter=int)


EVERYTHING = All(
    True, -(2**63), 0.1, "ä\0", b"\xff", datetime(2020, 1, 2, 3, 4, 5, 6, UTC), date(1, 1, 1), time(1, 2, 3, 4), timedelta(microseconds=-1),
    Decimal("1.10"), UUID(int=5), Colour.RED, [2**64 - 1], (1, "x"), {"a": Happened(1)},
)  # fmt: skip


@PART.runtime("bytes, datetime, date, time, timedelta, Decimal, UUID and all of the closed list pass natively.")
async def the_closed_list_passes(rt: Runtime) -> None:
    holds(why_not_plain(All) is None, f"msgspec may not write it directly: {why_not_plain(All)}")
    await rt.append("a-1", [EVERYTHING])
    (found,) = await listed(rt.read("a-1"))
    same(found.data, EVERYTHING, "the payload")


@PART.runtime("All others take cattrs: private fields, converters and sets come back too; `why_not_plain(cls)` says why.")
async def the_others_take_cattrs(rt: Runtime) -> None:
    holds(why_not_plain(Private) is not None, "a class with a private field is written directly")
    value = Private(5, frozenset("cab"), 3)
    await rt.append("a-1", [value])
    (found,) = await listed(rt.read("a-1"))
    same(found.data, value, "the payload")


@PART.runtime("The stored form is msgpack, dicts in their order and sets sorted.")
async def the_stored_form_is_msgpack(rt: Runtime) -> None:
    await rt.append("a-1", [Happened(1, "x"), Private(5, frozenset("dcbae")), NewEvent({"z": {"b", "a"}, "a": (1, 2)}, type="plain")])
    one, two, three = [msgspec.msgpack.decode(found.record.payload) for found in await listed(rt.read("a-1"))]
    same(one, {"number": 1, "text": "x", "tag": ""}, "the first payload")
    same(two["tags"], ["a", "b", "c", "d", "e"], "the set")
    same(list(three.items()), [("z", ["a", "b"]), ("a", [1, 2])], "the plain data")


@PART.runtime("Both paths give equal values and bytes; a hook of the user's takes a class off the closed list.")
async def both_paths_are_equal(rt: Runtime) -> None:
    await rt.append("a-1", [EVERYTHING])
    (found,) = await listed(rt.read("a-1"))
    converter = cattrs.Converter()
    converter.register_structure_hook(Colour, lambda value, _: Colour(value))
    direct, structured = Codec(), Codec(converter=converter)
    raw = direct.encoder(All)(EVERYTHING)
    same(found.record.payload, raw, "what is stored")
    same(structured.encoder(All)(EVERYTHING), raw, "what cattrs writes")
    same(structured.decoder(All)(raw), EVERYTHING, "what cattrs reads")
    same(direct.decoder(All)(raw), EVERYTHING, "what msgspec reads")


@PART.runtime("A number in a text is an error on both paths.")
async def reading_is_strict(rt: Runtime) -> None:
    for number, (cls, tree) in enumerate(((Happened, {"number": "1"}), (Private, {"secret": "5"}), (Happened, {"number": 1.5}), (Happened, {}))):
        same(len(await listed(rt.read(f"s-{number}"))), 0, "the stream")
        await rt.append(f"s-{number}", [NewEvent(tree, type=f"strict-{number}")])
        late: Any = event(f"strict-{number}")(attrs.make_class("Late", [], bases=(cls,), frozen=True))
        await fails(Unreadable, listed(rt.read_all(of(late))), f"reading {tree} as {cls.__name__}")
    await fails(Misuse, rt.append("t-1", [Happened("1")]), "a text in a number's field")  # type: ignore[arg-type]  # wrong on purpose


@PART.runtime("Naive datetimes, ints beyond 64 bits, lone surrogates and what cannot be encoded are `Misuse`, naming the field.")
async def what_cannot_be_stored_is_misuse(rt: Runtime) -> None:
    naive = datetime(2020, 1, 1)  # noqa: DTZ001 - what is refused
    wrong: list[tuple[str, Any]] = [("moment", naive), ("whole", 2**64), ("text", "\ud800"), ("by", {"a": object()}), ("many", [2**70])]
    for field, value in wrong:
        error = await fails(Misuse, rt.append("a-1", [attrs.evolve(EVERYTHING, **{field: value})]), f"{field}={value!r}")
        holds(field in str(error), f"the error does not name the field {field}: {error}")
    for data in (naive, {"x": 2**64}, ["\ud800"], {"x": object()}):
        await fails(Misuse, rt.append("a-1", [NewEvent(data, type="plain")]), f"plain data {data!r}")
    same(await rt.head(), 0, "the head")


@PART.law("Version is raised by hand; upcasters are `dict -> dict` from n to n + 1.")
async def upcasters_lead_on(stores: Stores) -> None:
    async with stores.open(new_name()) as backend:
        old: Any = event("kit-up")(attrs.make_class("Old", {"name": attrs.field(type=str)}, frozen=True))
        async with open_runtime(backend) as rt:
            await rt.append("a-1", [old("Ada Lovelace")])
        steps = {1: lambda tree: {"names": tree["name"].split()}, 2: lambda tree: {**tree, "count": len(tree["names"])}}
        fields = {"names": attrs.field(type=list[str]), "count": attrs.field(type=int)}
        new: Any = event("kit-up", version=3, upcasters=steps)(attrs.make_class("New", fields, frozen=True))
        async with open_runtime(backend) as rt:
            await rt.append("a-1", [new(["Bo"], 1)])
            found = await listed(rt.read_all(of(new)))
            same([(one.version, one.data) for one in found], [(1, new(["Ada", "Lovelace"], 2)), (3, new(["Bo"], 1))], "the events")
        async with open_runtime(backend) as rt:
            newer = rt.read_all(of(old))
            same((await anext(newer)).data, old("Ada Lovelace"), "the old class of the old event")
            await fails(Unreadable, anext(newer), "an event of a newer version than its class")


@PART.runtime("Two classes for one (name, version) are `Misuse` naming both.")
async def two_classes_of_one_name_are_misuse(rt: Runtime) -> None:
    twin: Any = event("kit-happened")(attrs.make_class("Twin", {"number": attrs.field(type=int)}, frozen=True))
    await rt.append("a-1", [Happened(1)])
    error = await fails(Misuse, rt.append("a-1", [twin(1)]), "a second class of the name")
    holds("Happened" in str(error) and "Twin" in str(error), f"the error does not name both: {error}")
    refused(Misuse, lambda: rt.read_all(of(twin)), "a selector of the second class")


@PART.runtime("A record that no fold wants is never decoded.")
async def unwanted_is_never_decoded(rt: Runtime) -> None:
    await rt.append("a-1", [NewEvent({"x": "not a number"}, type="kit-bad"), Happened(1)])
    bad: Any = event("kit-bad")(attrs.make_class("Bad", {"x": attrs.field(type=int)}, frozen=True))
    await fails(Unreadable, listed(rt.read_all(of(bad))), "reading the broken one")
    same(len(await listed(rt.read_all(of(Happened)))), 1, "the number of the others")
