# mypy: disable-error-code="arg-type"
# Positions may be None where nothing was appended.
"""Spans: one trace from a write through its group to each projection, nothing where nobody asks, and never more than the bounds."""

from __future__ import annotations

import subprocess
import sys
import time

import attrs
import pytest
import trio
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from perdure.actors.spans import AGE_S, LINKS_MAX, PAGE_SPANS_MAX
from perdure.backends.environment import Environment, wall_us
from perdure.runtime import App, Conflict, Event, Keyed, NewEvent, Projection, ProjectionFailed, Put, event, of, open_runtime, traceparent

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@event("spans-paid")
@attrs.frozen
class Paid:
    cents: int


def step(total: int, event: Event[Paid]) -> int:
    if event.data.cents < 0:
        raise ValueError("nobody pays less than nothing")
    return total + event.data.cents


TOTAL = Projection("total", version=1, initial=0, step=step, events=of(Paid))
EACH = Keyed("each", version=1, initial=0, step=step, events=of(Paid), key=lambda event: event.stream)


class Watched:
    """A provider that keeps what is told."""

    def __init__(self, **more):
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**more)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("a program")

    def environment(self, **more):
        return Environment(tracers=lambda: self.provider, **more)

    def spans(self, name=""):
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(name)]

    def one(self, name):
        [span] = self.spans(name)
        return span


@pytest.fixture
def watched():
    found = Watched()
    yield found
    found.provider.shutdown()


@pytest.fixture
def given():
    """What follows is in the trace `GIVEN`."""
    token = traceparent.set(GIVEN)
    yield
    traceparent.reset(token)


def written(span):
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"


def below(span, parent):
    """Whether *span* is a child of *parent*."""
    return (span.context.trace_id, span.parent.span_id) == (parent.context.trace_id, parent.context.span_id)


# -- one trace -------------------------------------------------------------------------------


async def test_an_append_its_group_and_each_projection_are_one_trace(watched, given):
    async with open_runtime("memory:", App(projections=[TOTAL, EACH]), environment=watched.environment()) as rt:
        answer = await rt.append("a-1", [Paid(5)])
        for one in (TOTAL, EACH):
            await rt.model(one).wait_for(answer.position)
        [stored] = [event async for event in rt.read("a-1")]

    append, group = watched.one("append"), watched.one("group commit")
    assert f"{append.context.trace_id:032x}-{append.parent.span_id:016x}" in GIVEN
    assert below(group, append)
    assert all(below(watched.one(f"project {name}"), append) for name in ("total", "each"))
    assert stored.meta["traceparent"] == written(append)
    assert append.attributes.items() >= {"perdure.stream": "a-1", "perdure.position": 1}.items()


async def test_a_group_of_several_is_in_the_first_trace_and_linked_with_all(watched):
    async def append(stream):
        with watched.tracer.start_as_current_span("a program's", context=Context()):
            await rt.append(stream, [Paid(1)])

    async with open_runtime("memory:", environment=watched.environment()) as rt:
        async with trio.open_nursery() as nursery:
            for name in ("a", "b", "c"):
                nursery.start_soon(append, name)

    group, appends = watched.one("group commit"), watched.spans("append")
    [first] = [span for span in appends if below(group, span)]
    others = [span for span in appends if span is not first]
    assert {link.context.span_id for link in group.links} == {span.context.span_id for span in others}
    assert [[link.context.span_id for link in span.links] for span in others] == [[group.context.span_id]] * 2
    assert group.attributes["perdure.commits"] == 3


async def test_the_current_span_of_the_program_is_followed(watched):
    async with open_runtime("memory:", environment=watched.environment()) as rt:
        with watched.tracer.start_as_current_span("a program's"):
            await rt.append("a", [Paid(1)])
            await rt.transact(Put("settings", "a", 1))
            await rt.kv("settings", int).put("a", 2)

    assert all(below(watched.one(name), watched.one("a program's")) for name in ("append", "transact", "kv"))


async def test_what_is_given_goes_before_the_current_span(watched, given):
    async with open_runtime("memory:", environment=watched.environment()) as rt:
        with watched.tracer.start_as_current_span("a program's"):
            await rt.append("a", [Paid(1)])

    assert f"{watched.one('append').context.trace_id:032x}" in GIVEN


async def test_a_conflict_is_told_and_is_no_error(watched, given):
    async with open_runtime("memory:", environment=watched.environment()) as rt:
        assert isinstance(await rt.append("a", [Paid(1)], expected=7), Conflict)

    span = watched.one("append")
    assert (span.attributes["perdure.conflict"], span.status.is_ok) == ("stream", True)


async def test_of_an_error_the_class_is_told_and_not_the_text(watched, given):
    async with open_runtime("memory:", environment=watched.environment()) as rt, trio.open_nursery() as nursery:
        with pytest.raises(ProjectionFailed):
            await rt.append("a", [Paid(-1)])
            await rt.project(TOTAL)
        nursery.cancel_scope.cancel()

    span = watched.one("project total")
    assert (span.attributes["error.type"], span.status.is_ok, span.events) == ("ProjectionFailed", False, ())


# -- nothing ---------------------------------------------------------------------------------


async def test_outside_of_a_trace_nothing_is_told(watched):
    async with open_runtime("memory:", App(projections=[TOTAL]), environment=watched.environment()) as rt:
        answer = await rt.append("a", [Paid(1)])
        await rt.model(TOTAL).wait_for(answer.position)
        [stored] = [event async for event in rt.read("a")]

    assert (watched.spans(), stored.meta) == ([], {})


@pytest.mark.parametrize("said", [GIVEN[:-2] + "00", "00-trace", "", GIVEN.replace("0a", "zz")])
async def test_a_trace_that_is_not_sampled_or_none_is_only_carried(watched, said):
    token = traceparent.set(said)
    try:
        async with open_runtime("memory:", App(projections=[TOTAL]), environment=watched.environment()) as rt:
            answer = await rt.append("a", [Paid(1)])
            await rt.model(TOTAL).wait_for(answer.position)
            [stored] = [event async for event in rt.read("a")]
    finally:
        traceparent.reset(token)

    assert (watched.spans(), stored.meta) == ([], {"traceparent": said})


async def test_a_sampler_that_takes_nothing_leaves_events_as_they_are():
    watched = Watched(sampler=ALWAYS_OFF)
    async with open_runtime("memory:", environment=watched.environment()) as rt:
        with watched.tracer.start_as_current_span("a program's"):
            await rt.append("a", [Paid(1)])
        [stored] = [event async for event in rt.read("a")]

    assert (watched.spans(), stored.meta) == ([], {})


def test_a_program_without_opentelemetry_never_imports_it():
    program = """
import sys, trio
from perdure.runtime import NewEvent, open_runtime, traceparent
async def main():
    traceparent.set("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    async with open_runtime("memory:") as rt:
        await rt.append("a", [NewEvent({}, type="t")])
        assert rt.spans is None
trio.run(main)
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_api_alone_is_no_reason_for_spans():
    program = """
import opentelemetry.trace
from perdure.backends.environment import process_tracers
assert process_tracers() is None
opentelemetry.trace.set_tracer_provider(opentelemetry.trace.NoOpTracerProvider())
assert process_tracers() is None
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_provider_of_the_process_is_found():
    program = """
import opentelemetry.trace
from opentelemetry.sdk.trace import TracerProvider
from perdure.backends.environment import process_tracers
opentelemetry.trace.set_tracer_provider(TracerProvider())
assert process_tracers() is opentelemetry.trace.get_tracer_provider()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# -- bounds ----------------------------------------------------------------------------------


def traced(count):
    """Imported before: events of so many traces."""
    return [f"00-{number:032x}-{number:016x}-01" for number in range(1, count + 1)]


async def append_each(rt, said):
    for one in said:
        token = traceparent.set(one)
        await rt.append("a", [Paid(1)])
        traceparent.reset(token)


async def test_a_page_is_told_in_so_many_traces_at_most(watched):
    async with open_runtime("memory:") as quiet:
        await append_each(quiet, traced(PAGE_SPANS_MAX + 9))
        async with open_runtime(quiet.backend, App(projections=[TOTAL]), environment=watched.environment()) as rt:
            await rt.model(TOTAL).wait_for(await rt.head())

    assert len(watched.spans("project total")) == PAGE_SPANS_MAX


async def test_events_of_one_trace_are_told_once_a_page(watched):
    async with open_runtime("memory:") as quiet:
        await append_each(quiet, traced(2) * 20)
        async with open_runtime(quiet.backend, App(projections=[TOTAL]), environment=watched.environment()) as rt:
            await rt.model(TOTAL).wait_for(await rt.head())

    assert len(watched.spans("project total")) == 2


async def test_what_was_committed_long_ago_is_not_told(watched):
    long_ago = wall_us() - int((AGE_S + 60) * 1e6)
    async with open_runtime("memory:", environment=Environment(clock=lambda: long_ago)) as quiet:
        await append_each(quiet, [GIVEN])
        async with open_runtime(quiet.backend, App(projections=[TOTAL]), environment=watched.environment()) as rt:
            await rt.model(TOTAL).wait_for(await rt.head())

    assert watched.spans("project") == []


async def test_a_group_has_so_many_links_at_most(watched):
    async def append(said, number):
        traceparent.set(said)
        await rt.append(f"a-{number}", [Paid(1)])

    async with open_runtime("memory:", environment=watched.environment()) as rt, trio.open_nursery() as nursery:
        for number, said in enumerate(traced(LINKS_MAX + 40)):
            nursery.start_soon(append, said, number)

    assert max(len(group.links) for group in watched.spans("group commit")) == LINKS_MAX


async def test_a_cancelled_append_ends_its_span(watched, given):
    async with open_runtime("memory:", environment=watched.environment()) as rt:
        with trio.CancelScope() as scope:
            scope.cancel()
            await rt.append("a", [NewEvent({}, type="t")])

    assert watched.one("append").attributes["error.type"] == "Cancelled"


async def test_spans_have_the_times_of_what_they_tell(watched, given):
    began_ns = time.time_ns()
    async with open_runtime("memory:", environment=watched.environment()) as rt:
        await rt.append("a", [Paid(1)])
    ended_ns = time.time_ns()

    append, group = watched.one("append"), watched.one("group commit")
    assert began_ns <= append.start_time <= append.end_time <= ended_ns
    assert began_ns <= group.start_time <= group.end_time <= ended_ns
