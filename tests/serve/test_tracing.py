"""One trace from a request through append and group to each projection; the log names it; nothing of it is a secret."""

from __future__ import annotations

import json
import logging
import re
import signal

import httpx2
import pytest
import trio.testing
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from daemons import Kept, process, running
from perdure.runtime.serve.telling import formatter

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
BODY = {"events": [{"type": "placed", "data": {"customer": "ada", "cents": 5}}]}


async def append(daemon, **headers):
    async with daemon.client() as client:
        answer = await client.post("/v1/streams/order-1", json=BODY, headers=headers)
        for name in ("revenue", "accounts"):
            await client.get(f"/v1/models/{name}/keys/ada" if name == "accounts" else f"/v1/models/{name}", params={"wait_for": 1})
        return answer, (await client.get("/v1/streams/order-1")).json()["events"][0]["traceparent"]


async def test_a_request_its_append_its_group_and_each_projection_are_one_trace():
    kept = Kept()
    async with running(environment=kept.environment, trace_share=1) as daemon:
        answer, carried = await append(daemon, traceparent=TRACEPARENT)
    spans = kept.named()

    way = ["POST /v1/streams/{stream}", "append", "group commit"]
    parents = [CALLER, *(f"{spans[name].context.span_id:016x}" for name in way[:2])]
    assert answer.status_code == 200
    assert [f"{spans[name].parent.span_id:016x}" for name in way] == parents
    assert {f"{spans[name].context.trace_id:032x}" for name in (*way, "project revenue", "project accounts")} == {TRACE}
    assert [f"{spans[f'project {name}'].parent.span_id:016x}" for name in ("revenue", "accounts")] == [parents[-1]] * 2
    assert carried == f"00-{TRACE}-{parents[-1]}-01"


async def test_a_request_without_a_trace_begins_one():
    kept = Kept()
    async with running(environment=kept.environment, trace_share=1) as daemon:
        _, carried = await append(daemon)
    spans = kept.named()

    assert spans["POST /v1/streams/{stream}"].parent is None
    assert spans["append"].context.trace_id == spans["POST /v1/streams/{stream}"].context.trace_id
    assert carried is not None


async def test_a_share_of_requests_begins_a_trace_and_what_is_brought_is_followed():
    kept = Kept()
    async with running(environment=kept.environment, trace_share=0) as daemon:
        _, carried = await append(daemon)
        async with daemon.client() as client:
            await client.get("/v1/head", headers={"traceparent": TRACEPARENT})

    assert (list(kept.named()), carried) == (["GET /v1/head"], None)


async def test_where_the_sampler_takes_nothing_what_is_given_is_carried_on():
    kept = Kept(ParentBased(ALWAYS_OFF))
    async with running(environment=kept.environment, trace_share=1) as daemon:
        _, carried = await append(daemon, traceparent=TRACEPARENT[:-2] + "00")

    assert (kept.named(), carried) == ({}, TRACEPARENT[:-2] + "00")


async def test_a_request_says_what_it_was_answered_with():
    kept = Kept()
    async with running(environment=kept.environment, trace_share=1) as daemon, daemon.client() as client:
        refused = await client.post("/v1/streams/order-1", json=BODY, headers={"if-match": '"7"'})
        await client.get("/health/live")
    span = kept.named()["POST /v1/streams/{stream}"]

    assert (refused.status_code, span.attributes["http.response.status_code"], span.status.is_ok) == (409, 409, True)
    assert not [name for name in kept.named() if "health" in name]


async def test_a_request_that_fails_is_an_error():
    kept = Kept()
    async with running(environment=kept.environment, trace_share=1, answer_s=0.0) as daemon, daemon.client() as client:
        answer = await client.get("/v1/streams")
        await trio.testing.wait_all_tasks_blocked()

    assert (answer.status_code, kept.named()["GET /v1/streams"].status.is_ok) == (503, False)


async def test_no_span_has_a_secret():
    kept = Kept()
    async with running(environment=kept.environment, trace_share=1) as daemon:
        await append(daemon)
        async with daemon.client("perdure_0123456789abcdef_" + "s" * 43) as client:
            await client.get("/v1/kv/settings/secret")
        told = "".join(span.to_json() for span in kept.exporter.get_finished_spans())

    assert daemon.token not in told
    assert "s" * 43 not in told


def test_the_module_that_is_shown_traces_a_daemon(root, tmp_path):
    """Its spans go to standard output."""
    [block] = re.findall(r"```python\n# traced_shop.py\n(.*?)```", (root / "docs" / "metrics.md").read_text(), re.DOTALL)
    (tmp_path / "traced_shop.py").write_text(block)
    with process(tmp_path, "--store", "lmdb:store", "--listen", "127.0.0.1:0", "--set", "tokens=false", app="traced_shop:app") as daemon:
        httpx2.post(f"{daemon.url}/v1/streams/order-1", json=BODY, headers={"traceparent": TRACEPARENT}).raise_for_status()
        httpx2.get(f"{daemon.url}/v1/models/revenue?wait_for=1").raise_for_status()
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 0
        assert daemon.process.stdout is not None
        told = daemon.process.stdout.read()

    assert set(re.findall(r'"name": "(.*?)"', told)) >= {"POST /v1/streams/{stream}", "append", "group commit", "project revenue", "project accounts"}
    assert told.count(f'"trace_id": "0x{TRACE}"') >= 5


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_line_names_the_span_that_it_was_said_in(form):
    kept = Kept()
    with kept.provider.get_tracer("a program").start_as_current_span("a program's") as span:
        line = formatter(form).format(logging.LogRecord("perdure.serve", logging.INFO, "x.py", 1, "hello", (), None))
    ids = f"{span.get_span_context().trace_id:032x}", f"{span.get_span_context().span_id:016x}"

    assert all(one in line for one in ids)
    assert form == "console" or [json.loads(line)[name] for name in ("trace_id", "span_id")] == list(ids)
