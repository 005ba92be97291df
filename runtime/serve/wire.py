"""What a `Backend` over HTTP asks, as operations: a greeting, commits, questions, where the store is, views that are held open. The daemon decides."""

from __future__ import annotations

from typing import Any

import trio
from starlette.responses import Response

from perdure.backends.errors import PerdureError
from perdure.backends.event import Position
from perdure.backends.http import wire
from perdure.backends.protocol import Backend
from perdure.runtime.serve.live import HEADERS, Live
from perdure.runtime.serve.operation import Call, Operation
from perdure.runtime.serve.problems import answer_of
from perdure.runtime.serve.proposals import commit, resolve
from perdure.runtime.serve.questions import read
from perdure.runtime.serve.service import Service
from perdure.runtime.serve.target import target_of, wire_answer


async def hello(call: Call) -> Response:
    """What a client has to know first."""
    target, service = await target_of(call), call.service
    backend = target.backend
    capabilities, config = backend.capabilities, service.config
    numbers = (await backend.head(), await backend.revision(), await backend.now_us())
    return wire_answer(wire.Hello(wire.VERSION, backend.id, capabilities.durable, capabilities.writes, service.wire_bytes, config.alive_s, *numbers))


async def news(call: Call) -> Response:
    """Where the store is, whenever it moves: server-sent events."""
    backend, service = (await target_of(call)).backend, call.service
    told = (-1, -1)

    async def piece() -> bytes:
        nonlocal told
        now = (await backend.head(), await backend.revision())
        if now == told:
            with trio.move_on_after(service.config.alive_s):
                await _moved(backend, *now)
            now = (await backend.head(), await backend.revision())
        if now == told:
            return b": alive\n\n"
        told = now
        return b"data: %d %d\n\n" % now

    return Live(call, piece)


async def _moved(backend: Backend, head: Position, revision: int) -> None:
    """Return when the log or kv is beyond."""
    async with trio.open_nursery() as nursery:

        async def log() -> None:
            await backend.wait_beyond(head)
            nursery.cancel_scope.cancel()

        async def kv() -> None:
            await backend.wait_changed(revision)
            nursery.cancel_scope.cancel()

        nursery.start_soon(log)
        nursery.start_soon(kv)


class _Held(Response):
    """A view, for as long as its client listens: its name, and then nothing."""

    def __init__(self, service: Service, backend: Backend) -> None:
        super().__init__(headers={**HEADERS, "content-type": "text/plain"})
        del self.headers["content-length"]
        service.check_followers()
        service.views.check_room()
        self._service = service
        self._backend = backend

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        begun = False

        async def told(name: str) -> None:
            nonlocal begun
            begun = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": name.encode() + b"\n", "more_body": True})

        try:
            with self._service.follower():
                async with self._backend.view() as view:
                    await self._service.views.hold(view, told)
        except PerdureError as error:  # most often its time is over
            if not begun:
                await answer_of(error)(scope, receive, send)
                return
        if begun:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def view(call: Call) -> Response:
    """A view; questions about it name it. It ends with the connection, or after `limits.view_s`."""
    return _Held(call.service, (await target_of(call)).backend)


_SCRATCH = "Perdure-Scratch names a store of the client's own, for trying things out (scope scratch)."
OPERATIONS = (
    Operation(
        method="GET",
        path=wire.PATH,
        name="wire_hello",
        summary="What a client's backend has to know first. " + _SCRATCH,
        run=hello,
        need="any",
        wire=True,
        answers={200: wire.Hello},
        problems=(409, 503),
    ),
    Operation(
        method="POST",
        path=f"{wire.PATH}/commit",
        name="wire_commit",
        summary="Whole commits with their ids, decided in their order, each answered by itself.",
        run=commit,
        need="any",
        wire=True,
        body=wire.Proposals,
        answers={200: wire.Answers},
        problems=(409, 503),
    ),
    Operation(
        method="POST",
        path=f"{wire.PATH}/resolve",
        name="wire_resolve",
        summary="Bar a writer whose connection was lost, for good, and learn what became of its commits: null is not stored, and never will be.",
        run=resolve,
        need="any",
        wire=True,
        body=wire.Resolve,
        answers={200: list[wire.Done | None]},
        problems=(409, 416, 503, 504, 507),
    ),
    Operation(
        method="POST",
        path=f"{wire.PATH}/read",
        name="wire_read",
        summary="A question about the store, or about the view that Perdure-View names.",
        run=read,
        need="any",
        wire=True,
        body=wire.Question,  # type: ignore[arg-type]  # one of several
        answers={200: Any},
        problems=(409, 410, 416, 422, 503),
    ),
    Operation(
        method="GET",
        path=f"{wire.PATH}/news",
        name="wire_news",
        summary="Head and revision, whenever one of them moves: server-sent events.",
        run=news,
        need="any",
        live=True,
        problems=(409, 503),
    ),
    Operation(
        method="GET",
        path=f"{wire.PATH}/view",
        name="wire_view",
        summary="Hold a view open: the answer is its name, and ends with it.",
        run=view,
        need="any",
        answers={200: str},
        problems=(409, 503),
    ),
)
