"""What Prometheus may ask: every metric as one entry of `METRICS`, read from the status when it is asked for, so that nothing is paid before.

Labels are bounded: models are those of the app, operations those of the API; what users may name (streams, keys, tokens, addresses) is none.
Only what happened to requests is counted as it happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import attrs
import trio
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

from perdure.actors.status import ActorStatus
from perdure.backends.errors import PerdureError
from perdure.backends.protocol import State, StoreStatus
from perdure.backends.timing import Timings
from perdure.runtime.serve.operating import not_ready
from perdure.runtime.serve.operation import Call, Operation
from perdure.runtime.serve.service import Service
from perdure.runtime.tree import Status

STORE_S: Final = 1.0
"""So long the store may take to say how large it is; what it does not say is left out."""
FLUSH_BOUNDS: Final = tuple(2.0**power for power in range(-13, 4))
MODEL_STATES: Final = ("running", "standing by", "waiting", "faulted", "gave up", "failed", "stopped", "left")
SUBSCRIPTIONS_MAX: Final = 100

Row = tuple[tuple[str, ...], float]


@attrs.frozen
class Facts:
    """A moment, as it is told."""

    service: Service
    status: Status
    store: StoreStatus | None
    reasons: tuple[str, ...]

    def node(self, name: str) -> ActorStatus:
        """The actor of that name."""
        return self.status.find(name) or ActorStatus(name, "new")

    def children(self, name: str) -> tuple[ActorStatus, ...]:
        """The actors below the one of that name."""
        found = self.status.find(name)
        return () if found is None else found.children


@attrs.frozen
class Told:
    """A metric: its name (without `_total`), what it says, its labels and where its values come from."""

    name: str
    kind: str
    help: str
    rows: Callable[[Facts], Iterable[Row]]
    labels: tuple[str, ...] = ()


def _one(read: Callable[[Facts], float]) -> Callable[[Facts], Iterable[Row]]:
    return lambda facts: [((), read(facts))]


def _stored(read: Callable[[StoreStatus], float]) -> Callable[[Facts], Iterable[Row]]:
    return lambda facts: [] if facts.store is None else [((), read(facts.store))]


def _models(read: Callable[[ActorStatus], float | None]) -> Callable[[Facts], Iterable[Row]]:
    return lambda facts: [((one.name,), value) for one in facts.children("projections") if (value := read(one)) is not None]


def _states(facts: Facts) -> Iterator[Row]:
    for one in facts.children("projections"):
        for state in MODEL_STATES:
            yield (one.name, state.replace(" ", "_")), float(one.state == state)


def _subscriptions(facts: Facts) -> Iterator[Row]:
    for one in [one for one in facts.children("subscriptions") if one.name != "(unnamed)"][:SUBSCRIPTIONS_MAX]:
        yield (one.name,), float(one.lag_events or 0)


def _version() -> str:
    try:
        return version("perdure")
    except PackageNotFoundError:
        return "unknown"


def _about(facts: Facts) -> list[Row]:
    return [((_version(), facts.status.store, facts.service.url.partition(":")[0]), 1.0)]


def _store_state(facts: Facts) -> list[Row]:
    return [((state.value,), float(facts.service.rt.backend.state is state)) for state in State]


METRICS: Final = (
    Told("perdure_about", "gauge", "Always 1; labels say which perdure serves which store.", _about, ("version", "store", "kind")),
    Told("perdure_ready", "gauge", "Whether /health/ready says so.", _one(lambda f: float(not f.reasons))),
    Told("perdure_up_seconds", "gauge", "Since the daemon was started.", _one(lambda f: f.service.up_s)),
    Told("perdure_loop_stall_max_seconds", "gauge", "The longest time for which the loop did not turn.", _one(lambda f: f.status.loop_stall_max_s)),
    Told("perdure_daemons", "gauge", "Daemons on this store, this one included.", _one(lambda f: len(f.service.peers))),
    Told("perdure_log_lines_lost", "counter", "Log lines that nobody read in time.", _one(lambda f: f.service.log_lines_lost())),
    # -- the store -----------------------------------------------------------------------------
    Told("perdure_store_state", "gauge", "1 for the state the store is in.", _store_state, ("state",)),
    Told("perdure_store_reopenings", "counter", "How often it was brought back after a flush that failed.", _one(lambda f: f.node("keeper").restarts)),
    Told("perdure_store_used_bytes", "gauge", "What it holds.", _stored(lambda s: s.bytes_used)),
    Told("perdure_store_limit_bytes", "gauge", "What it may hold; 0: no limit of its own.", _stored(lambda s: s.bytes_limit)),
    Told("perdure_store_damages", "gauge", "What the scrubber has found damaged since the store was opened.", _stored(lambda s: len(s.damages))),
    Told("perdure_log_head_position", "gauge", "The position of the last event; its rate is that of all appends.", _one(lambda f: f.status.head)),
    Told("perdure_kv_revision", "gauge", "The newest revision of kv; its rate is that of the changes.", _stored(lambda s: s.revision)),
    Told("perdure_ring_bytes", "gauge", "Fresh events kept in memory for followers.", _one(lambda f: f.status.ring_bytes)),
    # -- the journal ---------------------------------------------------------------------------
    Told("perdure_commits", "counter", "Commits of this daemon that were answered, its own included.", _one(lambda f: f.status.journal.commits)),
    Told("perdure_commits_refused", "counter", "Commits that the store did not take.", _one(lambda f: f.status.journal.refused)),
    Told("perdure_commit_doubts", "counter", "Groups of commits whose flush failed.", _one(lambda f: f.status.journal.doubts)),
    Told("perdure_journal_waiting_commits", "gauge", "Commits that wait for a group.", _one(lambda f: f.status.journal.waiting)),
    Told("perdure_journal_waiting_bytes", "gauge", "Their size.", _one(lambda f: f.status.journal.waiting_bytes)),
    Told("perdure_streams_live", "gauge", "Streams with an actor.", _one(lambda f: f.status.streams_live)),
    Told("perdure_streams_waiting", "gauge", "Appends in the mailboxes of streams.", _one(lambda f: f.node("streams").mailbox)),
    Told("perdure_leases_held", "gauge", "Leases that this daemon holds.", _one(lambda f: len(f.children("leases")))),
    # -- models --------------------------------------------------------------------------------
    Told("perdure_model_state", "gauge", "1 for the state the model is in here.", _states, ("model", "state")),
    Told("perdure_model_position", "gauge", "The position up to which it has folded.", _models(lambda m: m.position), ("model",)),
    Told("perdure_model_lag_events", "gauge", "Events of the log beyond that.", _models(lambda m: m.lag_events), ("model",)),
    Told("perdure_model_lag_seconds", "gauge", "The age of its last event, while there are more.", _models(lambda m: m.lag_s), ("model",)),
    Told("perdure_model_stuck_seconds", "gauge", "For how long it has not got on, though there is more to fold.", lambda f: _stuck(f), ("model",)),
    Told("perdure_model_mailbox_questions", "gauge", "Questions that wait for its actor.", _models(lambda m: m.mailbox), ("model",)),
    Told("perdure_model_restarts", "counter", "How often its actor was started again.", _models(lambda m: m.restarts), ("model",)),
    Told("perdure_subscription_lag_events", "gauge", "Events that a named subscription has not done; at most 100 of them.", _subscriptions, ("name",)),
    # -- HTTP ----------------------------------------------------------------------------------
    Told("perdure_http_connections", "gauge", "Connections now.", _one(lambda f: f.service.connections()[0])),
    Told("perdure_http_connections_refused", "counter", "Connections that were one too many.", _one(lambda f: f.service.connections()[1])),
    Told("perdure_http_followers", "gauge", "Live streams now.", _one(lambda f: f.service.followers)),
    Told("perdure_http_token_failures", "counter", "Requests with a wrong token.", _one(lambda f: f.service.failures.total)),
    Told("perdure_http_bodies_bytes", "gauge", "Bodies in memory now.", _one(lambda f: f.service.room.used)),
)
FLUSH: Final = ("perdure_flush_seconds", "How long the store took for a group of commits.")


def _stuck(facts: Facts) -> list[Row]:
    return [((name,), seen.stuck_s) for name, seen in facts.service.health.models.items()]


# -- how it is told --------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Moment:
    """A collector, as prometheus_client asks them, of one moment."""

    facts: Facts

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        facts = self.facts
        for one in METRICS:
            told = (CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily)(one.name, one.help, labels=one.labels)
            for labels, value in one.rows(facts):
                told.add_metric(labels, float(value))
            yield told
        yield _flushes(facts.service.rt.flushes)
        for family in facts.service.counted.registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]  # twice the series, and nobody asks
            yield family


def _flushes(flushes: Timings) -> HistogramMetricFamily:
    family = HistogramMetricFamily(*FLUSH)
    buckets = [(str(bound), float(count)) for bound, count in flushes.reached() if bound in FLUSH_BOUNDS]
    family.add_metric([], [*buckets, ("+Inf", float(flushes.count))], flushes.total_s)
    return family


async def metrics(call: Call) -> Response:
    """All metrics, now."""
    service = call.service
    store = None
    with trio.move_on_after(STORE_S), suppress(PerdureError):  # that it is away is told by its state
        store = await service.rt.backend.store_status()
    facts = Facts(service, service.rt.status(), store, tuple(not_ready(service)))
    registry = CollectorRegistry()
    registry.register(Moment(facts))
    encode, media_type = choose_encoder(call.headers.get("accept", ""))
    return Response(encode(registry), 200, {"content-type": media_type})


OPERATIONS = (
    Operation(
        method="GET",
        path="/metrics",
        name="metrics",
        summary="For Prometheus. The setting metrics_open does without a token.",
        run=metrics,
        need="operate",
        open_if="metrics_open",
        media_type="text/plain",
        answers={200: str},
        problems=(503,),
    ),
)
