"""A span for a request of the API, in its caller's trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from perdure.runtime.serve.openapi import plain_path
from perdure.runtime.serve.operation import Operation
from perdure.runtime.serve.service import Service

if TYPE_CHECKING:
    from opentelemetry.trace import Span

API: Final = "/v1/"
"""Below it are the operations that have spans: not health, not metrics."""


def begun(service: Service, operation: Operation, headers: dict[str, str]) -> Span | None:
    """The span of a request: in the trace that its headers name, or, of a share of the others, the first of a new one. None: it has none.

    Where it has one, *headers* name the caller no more: what the request does is below this span.
    """
    spans = service.rt.spans
    if spans is None or not operation.path.startswith(API):
        return None
    if "traceparent" not in headers and service.rt.environment.jitter() >= service.config.trace_share:
        return None  # decided here, for to ask a sampler costs a tenth of a request
    path = plain_path(operation.path)
    span = spans.request(headers, f"{operation.method} {path}", {"http.request.method": operation.method, "http.route": path})
    if span is not None:
        headers.pop("traceparent", None)
    return span


@contextmanager
def answering(span: Span) -> Iterator[Callable[[int], None]]:
    """*span* is the current one in the body, and ends with it; tell it the answer's status."""
    from opentelemetry.trace import StatusCode, use_span

    def answered(status: int) -> None:
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_status(StatusCode.ERROR)

    with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        yield answered
