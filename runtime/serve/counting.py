"""What is counted as it happens: requests, and how long their answers took. All else is read from the status when somebody asks."""

from __future__ import annotations

from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
REQUESTS: Final = ("perdure_http_requests", "Requests that were answered, by operation and status.", ("operation", "status"))
ANSWERS: Final = ("perdure_http_answer_seconds", "From a request to the head of its answer.", ("operation",))


class Counted:
    """Requests, and this process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(*REQUESTS, registry=self.registry)
        self._answers = Histogram(*ANSWERS, registry=self.registry, buckets=BOUNDS)
        self._known: dict[tuple[str, int], tuple[Any, Any]] = {}

    def note(self, operation: str, status: int, took_s: float) -> None:
        """One was answered after *took_s*."""
        known = self._known.get((operation, status))
        if known is None:
            known = self._known[operation, status] = (self._requests.labels(operation, str(status)), self._answers.labels(operation))
        known[0].inc()
        known[1].observe(took_s)
