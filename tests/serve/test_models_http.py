"""Models over HTTP: as they were at a time or a position, in the forms and within the bounds of the command line."""

from __future__ import annotations

import pytest

from daemons import SHOP, perdure, running
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


async def test_what_is_beyond_the_head_is_refused():
    """As `GET /v1/log` and `tail --after` do."""
    async with running() as daemon, daemon.client() as client:
        await client.post("/v1/streams/order-1", json={"events": [PLACED]})
        head = (await client.get("/v1/head")).json()["head"]
        paths = ("/v1/models/revenue", "/v1/models/accounts/keys/ada")
        at = [await client.get(path, params={"position": head}) for path in paths]
        beyond = [await client.get(path, params={"position": head + 1}) for path in paths]

    assert [one.json()["state"] for one in at] == [{"cents": 5}] * 2
    assert [one.status_code for one in beyond] == [416] * 2
    assert [f"the log ends at position {head}" in one.json()["detail"] for one in beyond] == [True] * 2


def test_model_at_beyond_the_head_is_refused(tmp_path):
    (tmp_path / "shop.py").write_text(SHOP.read_text())
    perdure("append", "lmdb:store", "order-1", "placed", '{"customer": "ada", "cents": 5}', folder=tmp_path)
    at = [perdure("model", "at", "lmdb:store", "revenue", "--app", "shop:app", "--position", str(one), folder=tmp_path) for one in (1, 2)]

    assert [(one.returncode, one.stdout) for one in at] == [(0, '{"cents": 5}\n'), (2, "")]
    assert "the log ends at position 1" in at[1].stderr


async def test_an_append_without_events_is_a_check():
    async with running() as daemon, daemon.client() as client:
        await client.post("/v1/streams/order-1", json={"events": [PLACED, PLACED]})
        held = await client.post("/v1/streams/order-1", json={"events": []}, headers={"if-match": '"2"'})
        failed = await client.post("/v1/streams/order-1", json={"events": []}, headers={"if-match": '"1"'})

    assert (held.status_code, held.json()) == (200, {"stream": "order-1", "first": 3, "last": 2, "position": None})
    assert failed.status_code == 409
