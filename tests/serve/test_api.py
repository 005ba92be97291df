"""The API as a client meets it: what is written is read, what is believed wrongly is told with the facts, what is live resumes."""

from __future__ import annotations

from base64 import b64encode

import httpx2
import msgspec
import pytest
import trio

from daemons import running, sse
from perdure.runtime import of
from perdure.runtime.serve.openapi import document
from perdure.runtime.serve.web import OPERATIONS

PLACED = {"type": "placed", "data": {"customer": "ada", "cents": 5}}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def events(*payloads):
    return {"events": list(payloads)}


async def test_what_was_appended_is_read():
    async with running() as daemon, daemon.client() as client:
        answer = await client.post("/v1/streams/order-1", json=events(PLACED, {"type": "note", "data": None, "tags": ["a"], "meta": {"by": "me"}}))
        page = (await client.get("/v1/streams/order-1")).json()

    assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')
    assert answer.json()["first"] == 1
    assert [(one["seq"], one["type"], one["data"], one["tags"], one["meta"]) for one in page["events"]] == [
        (1, "placed", {"customer": "ada", "cents": 5}, [], {}),
        (2, "note", None, ["a"], {"by": "me"}),
    ]


@pytest.mark.parametrize("stream", ["a b", "ä-1", "a/b//c", "..", "a%2Fb", "a?b#c", "-", "a+b", "..%2f..", "x" * 255])
async def test_a_stream_may_have_any_printable_name(stream):
    path = httpx2.URL("http://h").copy_with(raw_path=b"/v1/streams/" + b"".join(b"%%%02x" % one for one in stream.encode())).raw_path

    async with running() as daemon, daemon.client() as client:
        await client.post(path.decode(), json=events(PLACED))
        found = (await client.get(path.decode())).json()

    assert [one["stream"] for one in found["events"]] == [stream]


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 200), ({"if-match": '"1"'}, 200), ({"if-match": "*"}, 200), ({"if-match": '"0"'}, 409), ({"if-none-match": "*"}, 409), ({"if-match": '"2"'}, 409)],
)
async def test_what_is_believed_is_checked(headers, status):
    async with running() as daemon, daemon.client() as client:
        await client.post("/v1/streams/order-1", json=events(PLACED))
        answer = await client.post("/v1/streams/order-1", json=events(PLACED), headers=headers)

    assert answer.status_code == status
    if status == 409:
        assert answer.headers["content-type"] == "application/problem+json"
        assert [(one["what"], one["subject"], one["actual"]) for one in answer.json()["conflict"]] == [("stream", "order-1", 1)]


async def test_a_key_makes_it_once():
    async with running() as daemon, daemon.client(headers={"idempotency-key": "k1"}) as client:
        answers = [(await client.post("/v1/streams/order-1", json=events(PLACED))).json() for _ in range(3)]
        other = await client.post("/v1/streams/order-1", json=events(PLACED, PLACED))

    assert [one["last"] for one in answers] == [1, 1, 1]
    assert other.status_code == 422


async def test_a_commit_is_whole():
    async with running() as daemon, daemon.client() as client:
        body = {
            "appends": [{"stream": "order-1", "expected": 0, "events": [PLACED]}, {"stream": "order-2", "events": [PLACED]}],
            "puts": [{"bucket": "stock", "key": "a", "value": {"n": 3}, "expected": 0}],
            "check_streams": [{"stream": "order-9", "expected": 0}],
            "unless": [{"items": [{"types": ["closed"]}], "after": 0}],
        }
        done = await client.post("/v1/commit", json=body)
        again = await client.post("/v1/commit", json=body)
        streams = (await client.get("/v1/streams")).json()["streams"]

    assert done.status_code == 200
    assert [one["stream"] for one in done.json()["appended"]] == ["order-1", "order-2"]
    assert {(one["what"], one["subject"]) for one in again.json()["conflict"]} == {("stream", "order-1"), ("entry", "stock/a")} or again.status_code == 409
    assert [(one["stream"], one["last"]) for one in streams if one["stream"][0] != "$"] == [("order-1", 1), ("order-2", 1)]


async def test_a_misspelt_name_is_refused():
    async with running() as daemon, daemon.client() as client:
        answers = [
            await client.post("/v1/commit", json={"appends": [{"stream": "a", "expcted": 0, "events": []}]}),
            await client.post("/v1/streams/a", json={"events": [{"type": "x", "tag": []}]}),
            await client.get("/v1/log?affter=1"),
        ]

    assert [one.status_code for one in answers] == [400, 400, 400]
    assert ["expcted" in answers[0].text, "tag" in answers[1].text, "affter" in answers[2].text] == [True, True, True]


async def test_an_entry_goes_by_its_revision():
    async with running() as daemon, daemon.client() as client:
        stored = await client.put("/v1/kv/stock/a%2Fb", json={"n": 1}, headers={"if-none-match": "*"})
        found = await client.get("/v1/kv/stock/a/b")
        same = await client.get("/v1/kv/stock/a/b", headers={"if-none-match": found.headers["etag"]})
        late = await client.put("/v1/kv/stock/a/b", json=2, headers={"if-none-match": "*"})
        gone = await client.delete("/v1/kv/stock/a/b", headers={"if-match": found.headers["etag"]})
        missing = await client.get("/v1/kv/stock/a/b")

    assert found.json() == {"key": "a/b", "value": {"n": 1}, "revision": stored.json()["revision"]}
    assert [same.status_code, late.status_code, gone.status_code, missing.status_code] == [304, 409, 200, 404]


async def test_entries_are_listed_and_followed_from_there():
    async with running() as daemon, daemon.client() as client:
        for key in ("a", "b", "c"):
            await client.put(f"/v1/kv/stock/{key}", json=key)
        listed = (await client.get("/v1/kv/stock?limit=2")).json()
        await client.delete("/v1/kv/stock/a")
        followed = await sse(daemon, f"/v1/follow/kv/stock?after={listed['revision']}", 1)

    assert [one["key"] for one in listed["entries"]] == ["a", "b"]
    assert listed["next"] == "b"
    assert [(one["key"], one["deleted"]) for _, one in followed] == [("a", True)]


async def test_a_model_waits_for_what_was_appended():
    async with running() as daemon, daemon.client() as client:
        position = (await client.post("/v1/streams/order-1", json=events(PLACED, PLACED))).json()["position"]
        revenue = await client.get(f"/v1/models/revenue?wait_for={position}")
        account = await client.get(f"/v1/models/accounts/keys/ada?wait_for={position}")
        before = await client.get(f"/v1/models/revenue?position={position - 1}")
        keys = await client.get(f"/v1/models/accounts/keys?wait_for={position}")
        late = await client.get(f"/v1/models/revenue?wait_for={position + 1}&wait_s=0.05")

    assert [revenue.json()["state"], account.json()["state"], before.json()["state"]] == [{"cents": 10}, {"cents": 10}, {"cents": 5}]
    assert [one["key"] for one in keys.json()["entries"]] == ["ada"]
    assert late.status_code == 412


async def test_a_follower_resumes_where_it_was():
    async with running() as daemon, daemon.client() as client:
        await client.post("/v1/streams/order-1", json=events(*[PLACED] * 10))
        first = await sse(daemon, "/v1/follow/log?after=0&stream=order-1", 4)
        rest = await sse(daemon, "/v1/follow/log?stream=order-1", 6, headers={"last-event-id": first[-1][0]})

    assert [one["seq"] for _, one in first + rest] == list(range(1, 11))


async def test_a_follower_is_told_of_what_comes():
    async with running() as daemon, daemon.client() as client:
        found = []

        async def follow():
            found.extend(await sse(daemon, "/v1/follow/log?category=order", 2))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            while not daemon.service.followers:
                await trio.sleep(0.01)
            await client.post("/v1/streams/other-1", json=events(PLACED))
            await client.post("/v1/streams/order-1", json=events(PLACED, PLACED))

    assert [one["seq"] for _, one in found] == [1, 2]


async def test_a_model_is_followed():
    async with running() as daemon, daemon.client() as client:
        await client.post("/v1/streams/order-1", json=events(PLACED))
        found = await sse(daemon, "/v1/follow/models/revenue", 1)

    assert found[0][1]["name"] == "revenue"


async def test_cloudevents_come_in_and_go_out():
    one = {"specversion": "1.0", "id": "7", "source": "/elsewhere", "type": "placed", "data": {"customer": "bob", "cents": 1}, "time": "2026-03-01T12:00:00Z"}

    async with running() as daemon, daemon.client() as client:
        first = await client.post("/v1/streams/order-1", json=one, headers={"content-type": "application/cloudevents+json"})
        both = await client.post("/v1/streams/order-1", json=[one, one], headers={"content-type": "application/cloudevents-batch+json"})
        page = await client.get("/v1/streams/order-1", headers={"accept": "application/cloudevents-batch+json"})

    assert [first.json()["last"], both.json()["last"]] == [1, 3]
    assert page.headers["content-type"] == "application/cloudevents-batch+json"
    out = page.json()[0]
    assert (out["specversion"], out["id"], out["time"], out["data"]) == ("1.0", "7", "2026-03-01T12:00:00.000000Z", {"customer": "bob", "cents": 1})


async def test_the_trace_of_the_caller_is_kept():
    async with running() as daemon, daemon.client() as client:
        await client.post("/v1/streams/order-1", json=events(PLACED), headers={"traceparent": TRACEPARENT})
        page = (await client.get("/v1/streams/order-1")).json()

    assert page["events"][0]["traceparent"] == TRACEPARENT


async def test_a_payload_that_does_not_fit_its_class_is_refused():
    async with running() as daemon, daemon.client() as client:
        answer = await client.post("/v1/streams/order-1", json=events({"type": "placed", "data": {"customer": 1}}))

    assert answer.status_code == 400
    assert "placed" in answer.json()["detail"]


async def test_pages_go_to_the_end():
    async with running(page_max=3) as daemon, daemon.client() as client:
        await client.post("/v1/streams/order-1", json=events(*[PLACED] * 10))
        seqs, after = [], 0
        while after is not None:
            page = (await client.get(f"/v1/streams/order-1?after={after}&limit=100")).json()
            seqs += [one["seq"] for one in page["events"]]
            after = page["next"]
        newest = (await client.get("/v1/streams/order-1?backward=true&limit=2")).json()

    assert seqs == list(range(1, 11))
    assert [one["seq"] for one in newest["events"]] == [10, 9]


async def test_status_and_health_say_how_it_is():
    async with running() as daemon, daemon.client() as client:
        status = (await client.get("/v1/status")).json()
        ready = await client.get("/health/ready")
        live = await client.get("/health/live")
        page = await client.get("/")

    assert [status["format"], status["state"], status["root"]["name"]] == [1, "running", "runtime"]
    assert [ready.json(), live.json()] == [{"status": "ok", "reasons": []}] * 2
    assert "it is ready" in page.text


async def test_a_model_that_stands_still_is_told():
    from shop import Placed

    from perdure.runtime import App, Projection

    def fails(state, event):
        raise ValueError(event.data.customer)

    broken = App(projections=[Projection("broken", version=1, initial=0, step=fails, events=of(Placed))])
    async with running(with_app=broken) as daemon, daemon.client() as client:
        position = (await client.post("/v1/streams/order-1", json=events(PLACED))).json()["position"]
        asked = await client.get(f"/v1/models/broken?wait_for={position}")
        ready = await client.get("/health/ready")

    assert (asked.status_code, asked.json()["type"]) == (409, "urn:perdure:problem:model-faulted")
    assert (ready.status_code, ready.json()["reasons"][0].partition(":")[0]) == (503, "model broken is faulted")


def test_every_operation_is_described():
    described = document(OPERATIONS)

    assert {(one.method.lower(), one.path.replace(":path", "")) for one in OPERATIONS} == {
        (method, path) for path, methods in described["paths"].items() for method in methods
    }
    assert described["components"]["schemas"]["CommitBody"]["additionalProperties"] is False


def packed(value):
    return b64encode(msgspec.msgpack.encode(value)).decode()


# What of a CloudEvent cannot be stored, beside its required attributes.
UNFIT = [
    {"x": 1 << 70},
    {"data": 1 << 70},
    {"meta": '{"a": 1180591620717411303424}'},
    {"meta": "[" * 20_000},
    {"extra": "AAAA"},
    {"extra": packed([[], 1 << 62])},
    {"extra": packed([[], None, None, 1])},
    {"datacontenttype": "application/msgpack", "data_base64": "wQ=="},
    {"time": "0001-01-01T00:00:00+14:00"},
    {"time": "9999-12-31T23:59:59-14:00"},
]


@pytest.mark.parametrize("more", UNFIT)
async def test_a_cloudevent_that_does_not_fit_is_the_senders_mistake(more):
    event = {"specversion": "1.0", "id": "a", "source": "b", "type": "t", **more}

    async with running() as daemon, daemon.client() as client:
        answer = await client.post("/v1/streams/a", json=event, headers={"content-type": "application/cloudevents+json"})

    assert (answer.status_code, answer.json()["type"]) == (400, "urn:perdure:problem:misuse")


@pytest.mark.parametrize("kind", ["memory:", "lmdb:"])
@pytest.mark.parametrize("name", ["", "x" * 400, "ä" * 400, "a\0b"])
@pytest.mark.parametrize("what", ["type", "stream", "category", "tag"])
async def test_what_no_event_can_have_selects_none(tmp_path, kind, name, what):
    async with running(kind if kind == "memory:" else f"{kind}{tmp_path}/store") as daemon, daemon.client() as client:
        await client.post("/v1/streams/a-1", json=events({**PLACED, "tags": ["t"]}))
        answer = await client.get("/v1/log", params={what: name})

    assert answer.status_code == 400 or (answer.status_code, answer.json()["events"]) == (200, [])
