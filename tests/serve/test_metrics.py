"""What /metrics tells: all that is documented and nothing else, with names and labels as Prometheus wants them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from daemons import running

ROOT = Path(__file__).resolve().parents[2]
DOC = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
PLACED = {"events": [{"type": "placed", "data": {"customer": "ada", "cents": 5}}]}
UNITS = ("_seconds", "_bytes", "_position", "_events", "_commits", "_questions")
WITHOUT_UNIT = re.compile(r"perdure_(about|ready|daemons|.*_state|.*_damages|.*_revision|.*_live|.*_waiting|.*_held|.*_connections|.*_followers)")


async def told(daemon, form=plain, **headers):
    """The families by name."""
    async with daemon.client(headers=headers) as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    return {family.name: family for family in form(answer.text)}


def documented():
    """Name, kind and labels of each line of the table."""
    return {name: (kind, labels) for name, kind, labels in re.findall(r"^\| `(perdure_\w+)` \| (\w+) \| (.*?) \|", DOC, re.MULTILINE)}


async def test_what_is_told_is_what_is_documented():
    async with running() as daemon, daemon.client() as client:
        await client.post("/v1/streams/order-1", json=PLACED)
        found = await told(daemon)

    ours = {name: family for name, family in found.items() if name.startswith("perdure_")}
    kinds = {f"{name}_total" if family.type == "counter" else name: family.type for name, family in ours.items()}
    assert {name: kind for name, (kind, _) in documented().items()} == kinds
    labels = {name: {key for sample in family.samples for key in sample.labels} - {"le"} for name, family in ours.items()}
    assert {name.removesuffix("_total"): set(re.findall(r"\w+", told)) for name, (_, told) in documented().items()} | {
        "perdure_subscription_lag_events": set()
    } == labels
    assert {"process_resident_memory_bytes", "process_cpu_seconds", "process_open_fds"} <= set(found)


@pytest.mark.parametrize("name", documented())
def test_names_end_in_what_is_counted(name):
    kind, _ = documented()[name]

    assert (kind == "counter") == name.endswith("_total")
    assert kind == "counter" or name.endswith(UNITS) or WITHOUT_UNIT.fullmatch(name)


async def test_openmetrics_is_told_where_it_is_asked_for():
    async with running() as daemon:
        found = await told(daemon, openmetrics, accept="application/openmetrics-text; version=1.0.0")

    assert found["perdure_ready"].samples[0].value == 1


async def test_no_name_of_a_user_becomes_a_series():
    async with running() as daemon, daemon.client() as client:
        await client.post("/v1/streams/order-0", json=PLACED)
        await client.get("/v1/streams/absent-0")
        await client.get("/nothing/0")
        await client.put("/v1/kv/bucket0/key", json=1)
        await told(daemon)
        before = await told(daemon)
        for number in range(1, 50):
            await client.post(f"/v1/streams/order-{number}", json=PLACED)
            await client.put(f"/v1/kv/bucket{number}/key", json=1)
            await client.get(f"/v1/streams/absent-{number}")
            await client.get(f"/nothing/{number}")
        after = await told(daemon)

    def series(families):
        return {(sample.name, *sorted(sample.labels.items())) for family in families.values() for sample in family.samples}

    assert series(after) == series(before)


async def test_numbers_are_those_of_what_was_done():
    position = 0
    async with running() as daemon, daemon.client() as client:
        for _ in range(5):
            position = (await client.post("/v1/streams/order-1", json=PLACED)).json()["position"]
        await client.get(f"/v1/models/revenue?wait_for={position}")
        await client.get("/v1/head", headers={"authorization": "Bearer wrong"})
        found = await told(daemon)

    def value(name, **labels):
        [sample] = [s for f in found.values() for s in f.samples if s.name == name and labels.items() <= s.labels.items()]
        return sample.value

    assert value("perdure_http_requests_total", operation="append", status="200") == 5
    assert value("perdure_http_answer_seconds_count", operation="append") == 5
    assert value("perdure_http_requests_total", operation="head", status="401") == 1
    assert value("perdure_http_token_failures_total") == 1
    assert value("perdure_log_head_position") == position
    assert value("perdure_model_position", model="revenue") == position
    assert value("perdure_model_lag_events", model="revenue") == 0
    assert value("perdure_model_state", model="revenue", state="running") == 1
    assert value("perdure_commits_total") >= 5
    assert value("perdure_flush_seconds_count") >= 5


async def test_it_needs_a_token_unless_told():
    async with running() as daemon, daemon.client(None) as client:
        closed = await client.get("/metrics")
        reader = await client.get("/metrics", headers={"authorization": f"Bearer {await daemon.make_token('read')}"})
    async with running(metrics_open=True) as daemon, daemon.client(None) as client:
        opened = await client.get("/metrics")

    assert [one.status_code for one in (closed, reader, opened)] == [401, 403, 200]


def test_the_dashboard_asks_for_what_there_is():
    """Every name in an expression of the dashboard is documented, or one of the process."""
    dashboard = json.loads((ROOT / "examples" / "deploy" / "grafana.json").read_text(encoding="utf-8"))
    asked = {name for panel in dashboard["panels"] for one in panel.get("targets", ()) for name in re.findall(r"\b(?:perdure|process)_\w+", one["expr"])}

    known = {f"{name}{suffix}" for name, (kind, _) in documented().items() for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))}
    assert asked - known - {"process_resident_memory_bytes", "process_cpu_seconds_total"} == set()
    assert len(asked) > 20
