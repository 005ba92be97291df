"""A span for each request of the API, in its caller's trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from perdure.runtime.serve.openapi import plain_path
from perdure.runtime.serve.operation import Operation

if TYPE_CHECKING:
    from perdure.actors.spans import Spans


@contextmanager
def request_span(spans: Spans, operation: Operation, headers: dict[str, str]) -> Iterator[Callable[[int], None]]:
    """A span while the answer is made; tell it the answer's status. Where it is sampled, *headers* name it as the caller, as behind a proxy."""
    path = plain_path(operation.path)
    with spans.request(headers, f"{operation.method} {path}", {"http.request.method": operation.method, "http.route": path}) as span:
        if span.is_recording():
            headers["traceparent"] = spans.written(span)
        yield lambda status: spans.answered(span, status)
