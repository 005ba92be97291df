"""What an operator asks: health, status, the page at `/`, the API's own description."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import Final

import attrs
import msgspec
from starlette.responses import Response

from perdure.actors.status import ActorStatus
from perdure.backends.protocol import State
from perdure.runtime.serve import shapes
from perdure.runtime.serve.config import ServeConfig
from perdure.runtime.serve.guard import check_token
from perdure.runtime.serve.operation import Call, Operation, json_answer
from perdure.runtime.serve.service import Service
from perdure.runtime.serve.tokens import hidden

FORMAT: Final = 1
STOPPED: Final = {"faulted": "is faulted", "gave up": "is out of restarts", "failed": "has failed", "left": "has ended"}


def live(call: Call) -> Response:
    """The loop turns: else nobody would answer."""
    return json_answer(shapes.Health("ok"))


def ready(call: Call) -> Response:
    """Whether it can be worked with, and if not, why not; errors are quoted to who may operate."""
    service = call.service
    why = not service.config.tokens
    if not why and "authorization" in call.headers:
        why = check_token(service, dict(call.headers), call.address, call.now_us)[0].may_operate()
    reasons = not_ready(service, why=why)
    return json_answer(shapes.Health("not ready" if reasons else "ok", reasons), 503 if reasons else 200)


def not_ready(service: Service, *, why: bool = False) -> list[str]:
    """What is against giving this daemon work now; nothing if it should have some. Without waiting for anything."""
    backend = service.rt.backend
    reasons = ["it is draining"] if service.draining else []
    if backend.state is not State.OPEN:
        reasons.append(f"the store is {backend.state.value}")
    if not backend.capabilities.writes:
        reasons.append("the store is open for reading only")
    reasons += service.health.reasons(service.config.ready_stuck_s, why=why)
    return [hidden(reason) for reason in (*reasons, *behind(service.config, service.rt.models_status(), why=why))]


def behind(config: ServeConfig, projections: Iterable[ActorStatus], *, why: bool = False) -> Iterator[str]:
    """What the policy has against these projections. What another process runs is that one's business."""
    for one in projections:
        if one.state in STOPPED and config.ready_faulted == "refuse":
            yield f"model {one.name} {STOPPED[one.state]}" + (f": {one.last_error}" if why and one.last_error else "")
        elif one.state == "running" and (one.lag_events or 0) > config.ready_lag_events:
            yield f"model {one.name} is {one.lag_events:,} events behind"
        elif one.state == "running" and (one.lag_s or 0) > config.ready_lag_s:
            yield f"model {one.name} is {one.lag_s:,.0f} s behind"


def status(call: Call) -> Response:
    """The status document."""
    return json_answer(status_of(call.service))


def status_of(service: Service) -> shapes.Status:
    """All that this daemon says of itself."""
    now = service.rt.status()
    connections, refused = service.connections()
    return shapes.Status(
        format=FORMAT,
        state="draining" if service.draining else "running",
        store=now.store,
        url=hidden(service.url),
        head=now.head,
        store_state=service.rt.backend.state.value,
        up_s=service.up_s,
        loop_stall_max_s=now.loop_stall_max_s,
        streams_live=now.streams_live,
        journal=msgspec.to_builtins(attrs.asdict(now.journal), enc_hook=str),
        http=shapes.Http(connections, refused, service.followers, service.requests, service.failures.total, service.room.used),
        daemons=list(service.peers),
        root=_actor(now.root),
    )


def _actor(one: ActorStatus) -> shapes.Actor:
    error = None if one.last_error is None else hidden(one.last_error)
    children = [_actor(child) for child in one.children]
    return shapes.Actor(one.name, one.state, one.mailbox, one.position, one.lag_events, one.lag_s, one.restarts, error, one.owner, children)


def page(call: Call) -> Response:
    """The plain status page: what anybody may know. A dashboard takes its place."""
    reasons = not_ready(call.service)
    told = "".join(f"<li>{escape(reason)}</li>" for reason in reasons) or "<li>it is ready</li>"
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>perdure</title><h1>perdure</h1><ul>{told}</ul>'
        '<p>For programs: <a href="/openapi.json">the API</a>, <a href="/health/ready">readiness</a>; with a token /v1/status.</p></html>'
    )
    return Response(text, 200, {"content-security-policy": "default-src 'none'; frame-ancestors 'none'"}, "text/html")


OPERATIONS = (
    Operation(method="GET", path="/", name="page", summary="A page for people.", run=page, answers={200: str}),
    Operation(method="GET", path="/health/live", name="live", summary="The process works.", run=live, answers={200: shapes.Health}),
    Operation(
        method="GET",
        path="/health/ready",
        name="ready",
        summary="It may get work; else 503 with the reasons. They quote errors to who has a token that may operate.",
        run=ready,
        answers={200: shapes.Health, 503: shapes.Health},
        problems=(401, 429),
    ),
    Operation(
        method="GET", path="/v1/status", name="status", summary="The tree of actors, and all numbers.", run=status, need="operate", answers={200: shapes.Status}
    ),
)
