"""Where a caller's trace is followed: a span around its write, whose `traceparent` the events carry on. Nothing is imported where there is no OpenTelemetry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from perdure.actors.journal import caller_span
from perdure.backends.environment import Environment
from perdure.runtime.encode import traceparent

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from perdure.actors.spans import Spans

UNTRACED: Final = nullcontext()


def spans_of(environment: Environment) -> Spans | None:
    """What makes spans, if they go anywhere."""
    provider = environment.tracers()
    if provider is None:
        return None
    from perdure.actors.spans import Spans

    return Spans(provider)


def following(spans: Spans, name: str, attributes: Mapping[str, Any]) -> AbstractContextManager[None]:
    """A span around the write in the body, if its caller is in a trace that is sampled: that of `traceparent` if it is set, else of the current span."""
    parent = spans.parent(traceparent.get())
    return UNTRACED if parent is None else _below(spans, parent, name, attributes)


@contextmanager
def _below(spans: Spans, parent: Context, name: str, attributes: Mapping[str, Any]) -> Iterator[None]:
    with spans.below(parent, name, attributes) as span:
        written, known = traceparent.set(spans.written(span)), caller_span.set(span)
        try:
            yield
        finally:
            traceparent.reset(written)
            caller_span.reset(known)
