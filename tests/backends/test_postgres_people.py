"""What people see in the tables of a store: every event as a row of its own, and every payload that has one in its JSON form."""

from __future__ import annotations

import json
import struct
from decimal import Decimal
from random import Random
from typing import Any

import msgspec
import psycopg
import pytest

from perdure.backends.commit import Alike, Append
from perdure.backends.conformance.law import Desk, draft
from perdure.backends.urls import open_backend
from postgres_server import run

PACK = msgspec.msgpack.encode
EDGES: list[Any] = [
    *((1 << bits) + step for bits in (0, 5, 7, 8, 15, 16, 31, 32, 63) for step in (-1, 0, 1)),
    *(-(1 << bits) - step for bits in (0, 5, 7, 8, 15, 16, 31, 32) for step in (-1, 0, 1)),
    *((1 << 64) - 1, -(1 << 63)),
    *(0.0, 1.5, -2.25, 0.1, 1e300, -1e-300, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 123456789.123),
    *("", "x" * 31, "x" * 32, "x" * 255, "x" * 256, "x" * 70_000, "ünï\n\"\\\t\x01𝄞"),
    *(b"", b"\x00\xff" * 10, bytes(300), bytes(70_000)),
    *([], {}, [[]], [{}], {"a": []}, [1, [2, [3, []], {}], 4], {str(n): n for n in range(16)}, list(range(16)), list(range(70_000))),
    *(None, True, False, {1: 2, "a": {-7: None}}),
]


def a_value(draw: Random, depth: int = 0) -> Any:
    if depth < 4 and draw.random() < 0.5:
        inner = [a_value(draw, depth + 1) for _ in range(draw.choice([0, 1, 3, 17]))]
        return inner if draw.random() < 0.5 else {f"k{draw.randrange(99)}": one for one in inner}
    return draw.choice([None, True, draw.randrange(-(1 << 63), 1 << 64), draw.uniform(-1e9, 1e9), "".join(draw.choices('aä"\\\n𝄞', k=5)), draw.randbytes(4)])


def forms(database: str, payloads: list[bytes]) -> list[Any]:
    with psycopg.connect(database) as connection:
        return [row[0] for payload in payloads for row in connection.execute("SELECT perdure.json_of(%b)::text", (payload,))]


def exactly(text: str | bytes) -> Any:
    """A jsonb writes a large float out."""
    return json.loads(text, parse_int=Decimal, parse_float=Decimal)


async def test_the_form_for_people_is_the_payload_as_json(database):
    async with open_backend(database):
        pass
    draw = Random(7)
    values = [*EDGES, *(a_value(draw) for _ in range(300))]

    found = forms(database, [PACK(value) for value in values])

    for value, text in zip(values, found, strict=True):
        assert exactly(text) == exactly(msgspec.json.encode(value)), value


async def test_what_is_no_msgpack_has_no_form(database):
    async with open_backend(database):
        pass
    draw = Random(8)
    whole = [PACK(a_value(draw)) for _ in range(60)]
    broken = [one[: draw.randrange(len(one))] for one in whole] + [one + b"\x01" for one in whole]
    broken += [b"\xc1", b"\xa1\xff", b"\xa1\x00", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xffx", b"\x81\x90\x01", b"\xd4\x01\x02"]

    assert set(forms(database, broken)) == {None}


async def test_floats_of_four_bytes_have_a_form(database):
    async with open_backend(database):
        pass
    values = [struct.unpack(">f", struct.pack(">f", value))[0] for value in (0.0, 0.1, -1.5, 3.4e38, 1e-45)]

    found = forms(database, [b"\xca" + struct.pack(">f", value) for value in values])

    assert [float(exactly(text)) for text in found] == values
    assert forms(database, [PACK(float("nan")), PACK(float("inf"))]) == ["null", "null"]


@pytest.mark.parametrize("size", [0, 30, 3_000])
async def test_every_event_is_a_row_whatever_it_was_appended_with(database, size):
    async with open_backend(database) as backend:
        desk = Desk(backend)
        for count in (1, 3, 4, 256, 257, 600):
            payloads = [PACK({"n": number, "x": "x" * size}) for number in range(count)]
            await desk.done(Append("a", Alike([draft(payload) for payload in payloads])), Append("b", [draft(PACK(count), type="other", tags=["t"])]))
        records = await desk.log()

        rows = run(database, "SELECT position, stream, seq, type, commit, ordinal, payload, (data->>'n')::int, tags FROM perdure.events ORDER BY position")

        told = [(r.position, r.stream, r.seq, r.type, r.commit, r.ordinal, r.payload) for r in records]
        assert [row[:7] for row in rows] == told
        assert [row[7] for row in rows if row[1] == "a"] == [n for count in (1, 3, 4, 256, 257, 600) for n in range(count)]
        assert run(database, "SELECT * FROM perdure.streams ORDER BY name") == [("a", 1, 1_121, 1_126, 0, None), ("b", 1, 6, 1_127, 0, None)]
        assert run(database, "SELECT count(*) < 40 FROM perdure.runs") == [(True,)]
        assert await backend.verify() == []
