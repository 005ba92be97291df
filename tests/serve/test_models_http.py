"""Models over HTTP: as they were at a time or a position, in the forms and within the bounds of the command line."""

from __future__ import annotations

import pytest

from daemons import running
from perdure.backends.errors import Misuse
from perdure.runtime.cli.options import moment_of

PLACED = {"type": "placed", "data": {"customer": "ada", "cents": 5}}
TIMES = [
    "2001-01-01T00:00Z",
    "2001-01-01T00:00:00Z",
    "2001-01-01T00:00:00.123456Z",
    "2001-01-01t00:00z",
    "2001-01-01 00:00Z",
    "2001-01-01T00:00+02:00",
    "20010101T0000Z",
]
NO_TIMES = [
    ("yesterday", "'yesterday' is not ISO 8601: write 2026-03-01T12:00Z"),
    ("2001-01-01T00:00", "has no zone: write 2001-01-01T00:00:00Z for UTC"),
    ("2001-01-01", "has no zone: write 2001-01-01T00:00:00Z for UTC"),
    ("0001-01-01T00:00+23:00", "is not ISO 8601: write 2026-03-01T12:00Z"),
]


@pytest.mark.parametrize("text", TIMES)
async def test_a_time_is_written_as_on_the_command_line(text):
    async with running() as daemon, daemon.client() as client:
        asked = await client.get("/v1/models/revenue", params={"time": text})
        appended = await client.post("/v1/streams/order-1", json={"events": [{**PLACED, "occurred": text}]})
        stored = (await client.get("/v1/streams/order-1")).json()["events"][0]

    moment = moment_of(text)
    assert (asked.status_code, asked.json()["state"]) == (200, {"cents": 0})
    assert appended.status_code == 200
    assert moment_of(stored["occurred"]) == moment


@pytest.mark.parametrize(("text", "told"), NO_TIMES)
async def test_what_is_no_time_is_told_how_to_write_it(text, told):
    async with running() as daemon, daemon.client() as client:
        asked = await client.get("/v1/models/revenue", params={"time": text})
        key = await client.get("/v1/models/accounts/keys/ada", params={"time": text})
        appended = await client.post("/v1/streams/order-1", json={"events": [{**PLACED, "occurred": text}]})
        commit = await client.post("/v1/commit", json={"appends": [{"stream": "order-1", "events": [{**PLACED, "occurred": text}]}]})

    with pytest.raises(Misuse, match=told):
        moment_of(text)
    assert [one.status_code for one in (asked, key, appended, commit)] == [400] * 4
    assert [told in one.json()["detail"] for one in (asked, key, appended, commit)] == [True] * 4
    assert "$.appends[...].events[...].occurred" in commit.json()["detail"]


async def test_a_zone_whose_plus_became_a_blank_is_told_how_to_write_it():
    async with running() as daemon, daemon.client() as client:
        answer = await client.get("/v1/models/revenue?time=2001-01-01T00:00+02:00")

    assert answer.status_code == 400
    assert "a + is written %2B" in answer.json()["detail"]
