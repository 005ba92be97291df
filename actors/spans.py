"""Spans of OpenTelemetry: of a write, of the group that it was committed in, of a projection's page. Imported only where the program has set that up.

Traces are followed, not begun: who is in one that is sampled gets spans in it, nobody else does. What serves several at once is in the trace
of the first and linked with the others. All of it is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

from opentelemetry.context import Context, get_current
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    StatusCode,
    TracerProvider,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
    use_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from perdure.backends.commit import Answer, Committed
from perdure.backends.errors import Conflict
from perdure.backends.event import Record, unpack_extra

LINKS_MAX: Final = 128
"""Links of one group, also what OpenTelemetry keeps of a span unless told."""
PAGE_SPANS_MAX: Final = 16
"""Traces that one page is told in."""
AGE_S: Final = 300.0
"""What was committed longer ago is not told any more: a model built anew would write into traces that nobody waits for."""

_NOTHING: Final = (b"\xc0", b"-00")
"""How the extra of an event ends without a `traceparent`, or with one that is not sampled."""
_format = TraceContextTextMapPropagator()


class Traced(Protocol):
    """A request, with the span of its caller if there is one."""

    span: Any


class Spans:
    """Makes spans with a tracer of *provider*."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("perdure")

    def parent(self, traceparent: str | None) -> Context | None:
        """What a span of this task would be below: *traceparent*, else the current span. None: it is not sampled."""
        if traceparent is not None:
            return context_of(traceparent)
        return get_current() if get_current_span().get_span_context().trace_flags.sampled else None

    @contextmanager
    def below(self, parent: Context, name: str, attributes: Mapping[str, Any]) -> Iterator[Span]:
        """A span around the body. Of an error its class is told, never its text: that may quote what is nobody's business."""
        span = self._tracer.start_span(name, parent, attributes=attributes)
        try:
            yield span
        except BaseException as error:
            _fail(span, error)
            raise
        finally:
            span.end()

    def written(self, span: Span) -> str:
        """Its context as `traceparent` says it."""
        context = span.get_span_context()
        return f"00-{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}-{context.trace_flags:02x}"

    # -- a request ---------------------------------------------------------------------------

    def request(self, headers: Mapping[str, str], name: str, attributes: Mapping[str, Any]) -> Span | None:
        """A span for a request, in the trace that its headers name, or the first of a new one; None: it is not sampled."""
        parent = Context()
        if (given := headers.get("traceparent")) is not None:
            if given.endswith("-00"):
                return None
            parent = _format.extract(headers, parent)
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes)
        return span if span.is_recording() else None

    # -- a group -----------------------------------------------------------------------------

    def group(self, requests: Sequence[Traced], answers: Sequence[Answer], took_s: float) -> None:
        """Tell of a group that was just committed, in the traces of those who asked for it."""
        traced = [(request.span, answer) for request, answer in zip(requests, answers, strict=True) if request.span is not None]
        if not traced:
            return
        end_ns, (first, _) = time.time_ns(), traced[0]
        links = [Link(span.get_span_context()) for span, _ in traced[1 : LINKS_MAX + 1]]
        begun_ns, attributes = end_ns - int(took_s * 1e9), {"perdure.commits": len(requests)}
        group = self._tracer.start_span("group commit", set_span_in_context(first, Context()), links=links, start_time=begun_ns, attributes=attributes)
        group.end(end_ns)
        for span, answer in traced:
            _note(span, answer)
            if span is not first:
                span.add_link(group.get_span_context())

    # -- a projection ------------------------------------------------------------------------

    @contextmanager
    def page(self, projection: str, records: Sequence[Record]) -> Iterator[None]:
        """Tell of a page that is folded in the body, in the traces of its events."""
        spans = [self._of_page(projection, record, parent, len(records)) for record, parent in fresh(records, time.time_ns() // 1_000)]
        if not spans:
            yield
            return
        try:
            with use_span(spans[0], record_exception=False, set_status_on_exception=False):
                yield
        except BaseException as error:
            for span in spans:
                _fail(span, error)
            raise
        finally:
            for span in spans:
                span.end()

    def _of_page(self, projection: str, record: Record, parent: Context, events: int) -> Span:
        place: dict[str, str | int] = {"perdure.stream": record.stream, "perdure.position": record.position}
        attributes = {"perdure.projection": projection, "perdure.events": events, **place}
        return self._tracer.start_span(f"project {projection}", parent, SpanKind.CONSUMER, attributes)


def fresh(records: Sequence[Record], now_us: int) -> list[tuple[Record, Context]]:
    """The first events of sampled traces, one for each, with what a span is below."""
    since_us = now_us - AGE_S * 1e6
    found: dict[str, tuple[Record, Context]] = {}
    for record in records:
        extra = record.extra
        if not extra or record.at_us < since_us or extra.endswith(_NOTHING):
            continue
        traceparent = unpack_extra(extra).traceparent
        if traceparent is not None and traceparent not in found and (context := context_of(traceparent)) is not None:
            found[traceparent] = (record, context)
            if len(found) == PAGE_SPANS_MAX:
                break
    return list(found.values())


def context_of(traceparent: str) -> Context | None:
    """The trace context that is written so; None if it is none, or not sampled."""
    context = _format.extract({"traceparent": traceparent}, Context())
    return context if get_current_span(context).get_span_context().trace_flags.sampled else None


def _note(span: Span, answer: Answer) -> None:
    if isinstance(answer, Committed) and answer.position is not None:
        span.set_attribute("perdure.position", answer.position)
    elif isinstance(answer, Conflict):
        span.set_attribute("perdure.conflict", answer.what)


def _fail(span: Span, error: BaseException) -> None:
    span.set_attribute("error.type", type(error).__qualname__)
    if isinstance(error, Exception):
        span.set_status(StatusCode.ERROR)
