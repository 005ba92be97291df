"""What the daemon serves where the cost of watching it is measured: one model, and what WATCHED says is watched.

WATCHED is `no`: not even requests are counted; `metrics`; or `traces`: spans are written out as JSON, to nowhere.
"""

import os

import attrs

from perdure.runtime import App, Event, Projection, event, of
from perdure.runtime.serve.counting import Counted


@event("paid")
@attrs.frozen
class Paid:
    account: int
    cents: int
    currency: str
    reference: str


def step(total: int, event: Event[Paid]) -> int:
    return total + event.data.cents


app = App(projections=[Projection("total", version=1, initial=0, step=step, events=of(Paid))])


def unwatched() -> None:
    """Count nothing."""
    Counted.note = lambda self, operation, status, took_s: None  # type: ignore[method-assign]  # that is the point


def traced() -> None:
    """Have spans."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(out=open(os.devnull, "w"))))  # noqa: SIM115 - for the life of the process
    trace.set_tracer_provider(provider)


match os.environ.get("WATCHED"):
    case "no":
        unwatched()
    case "traces":
        traced()
