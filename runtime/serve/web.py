"""The web application: the guard, then the operation, then the answer. `make_app` is the one factory; its routes are `OPERATIONS`."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from perdure.backends.errors import PerdureError
from perdure.backends.http.wire import MEDIA_TYPE
from perdure.runtime.serve import blobs, entries, logs, metrics, modelling, operating, wire, writing
from perdure.runtime.serve.guard import check_head, check_host, check_origin, check_scope, check_token, headers_of, still_valid
from perdure.runtime.serve.openapi import document, plain_path
from perdure.runtime.serve.operation import Call, Operation
from perdure.runtime.serve.problems import Refused, answer_of
from perdure.runtime.serve.reading import json_of, length_of, path_of, query_of, read_body
from perdure.runtime.serve.represent import CLOUDEVENT, CLOUDEVENTS, JSON, as_json
from perdure.runtime.serve.scopes import EVERYTHING
from perdure.runtime.serve.service import Service
from perdure.runtime.serve.tokens import hidden
from perdure.runtime.serve.tracing import answering, begun

log = logging.getLogger("perdure.serve")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# What is more specific comes first: `:path` takes all there is.
PARTS: Final = (writing, logs, entries, modelling, blobs, wire, operating, metrics)
OPERATIONS: Final[tuple[Operation, ...]] = tuple([one for part in PARTS for one in part.OPERATIONS])

UNKNOWN: Final = "(none)"
"""What requests count as that reach no operation."""
ALWAYS: Final = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"), (b"referrer-policy", b"no-referrer"))


def make_app(service: Service) -> Starlette:
    """The application for *service*, as any ASGI server runs it."""
    by_path: dict[str, dict[str, Operation]] = {}
    for one in OPERATIONS:
        by_path.setdefault(one.path, {})[one.method] = one
    described = as_json(document(OPERATIONS))

    async def describe(request: Request) -> Response:  # noqa: ASYNC124 - Starlette would run a plain function in a thread
        return Response(described, media_type=JSON)

    routes = [Route(path, _Endpoint(service, path, methods), methods=[*methods]) for path, methods in by_path.items()]
    app = Starlette(
        routes=[*routes, Route("/openapi.json", describe)],
        exception_handlers={HTTPException: _not_found},
    )
    app.router.redirect_slashes = False
    app.add_middleware(Guard, service=service)
    return app


async def _not_found(request: Request, error: Exception) -> Response:  # noqa: ASYNC124 - the same
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return answer_of(Refused(404, "not-found", "there is nothing at this path", "GET /openapi.json lists the paths there are"))
    methods = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
    return answer_of(Refused(405, "no-method", "this path has no such method", f"it has {methods}", {"allow": methods}))


class Guard:
    """The outermost: no request is looked at before its host and origin are known to be right; each answer carries what keeps browsers careful."""

    def __init__(self, app: Any, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            return
        service, began_s, status = self._service, time.perf_counter(), 0
        service.requests += 1
        allowed: str | None = None

        async def guarded(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                service.counted.note(scope.get("operation", UNKNOWN), status, time.perf_counter() - began_s)
                present = {name for name, _ in message["headers"]}
                more = [*((name, value) for name, value in ALWAYS if name not in present)]
                if allowed is not None:
                    more += [(b"access-control-allow-origin", allowed.encode("latin-1")), (b"vary", b"origin"), (b"access-control-expose-headers", b"etag")]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        try:
            try:
                check_head(service, scope)
                scope["headers_read"] = headers = headers_of(scope["headers"])
                check_host(service, headers.get("host"))
                allowed = check_origin(service, headers, scope["scheme"])
                scope["path"] = path_of(scope["raw_path"])
                if allowed is not None and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                    await _preflight()(scope, receive, guarded)
                else:
                    await self._app(scope, receive, guarded)
            except (Refused, PerdureError) as error:
                await answer_of(error)(scope, receive, guarded)
        finally:
            if log.isEnabledFor(logging.DEBUG):
                log.debug("%s %s %d %.1f ms", scope["method"], hidden(scope["raw_path"].decode("latin-1")), status, (time.perf_counter() - began_s) * 1e3)


def _preflight() -> Response:
    """What a page of `origins` may send."""
    return Response(
        status_code=204,
        headers={
            "access-control-allow-methods": "GET, POST, PUT, DELETE",
            "access-control-allow-headers": "authorization, content-type, if-match, if-none-match, idempotency-key, last-event-id, traceparent",
            "access-control-max-age": "600",
        },
    )


class _Endpoint:
    """What is at one path: an operation for each method."""

    def __init__(self, service: Service, path: str, methods: dict[str, Operation]) -> None:
        self._service = service
        self._methods = methods
        self.__name__ = plain_path(path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, method = self._service, scope["method"]
        operation = self._methods["GET" if method == "HEAD" else method]
        scope["operation"] = operation.name
        if (span := begun(service, operation, scope["headers_read"])) is None:
            answer = await self._answer_or_problem(operation, scope, receive)
        else:
            with answering(span) as answered:
                answer = await self._answer_or_problem(operation, scope, receive)
                answered(answer.status_code)
        if service.draining:
            answer.headers["connection"] = "close"
        await answer(scope, receive, send)

    async def _answer_or_problem(self, operation: Operation, scope: Scope, receive: Receive) -> Response:
        try:
            return await self._answer(operation, scope, receive)
        except (Refused, PerdureError) as error:
            answer = answer_of(error)
            if answer.status_code >= 500:
                log.warning("%s: %s", operation.name, hidden(str(error)))
            return answer
        except Exception as error:
            log.error("%s failed: %s", operation.name, hidden(repr(error)), exc_info=error)
            return answer_of(error)

    async def _answer(self, operation: Operation, scope: Scope, receive: Receive) -> Response:
        service, headers, path = self._service, scope["headers_read"], dict(scope["path_params"])
        scopes, token = EVERYTHING, None
        need, address, now_us = operation.needs(service.config), scope["client"][0] if scope.get("client") else "", _now_us()
        if need:
            scopes, token = check_token(service, headers, address, now_us)
            check_scope(need, scopes, path)
        query = query_of(scope["query_string"], operation.query)
        call = Call(service, headers, path, query, None, scopes, lambda: not need or still_valid(service, token, _now_us()), address, now_us, receive)
        if operation.blob:
            return await _run(operation, call)  # its body has bounds of its own
        with trio.move_on_after(service.config.answer_s):
            if operation.body is None and not operation.any_body:
                return await _run(operation, call)
            _check_media_type(operation, headers)
            most = service.wire_bytes if operation.wire else service.config.body_bytes
            async with service.room.taken(length_of(headers, most), lambda: service.config.bodies_bytes):
                call.body = _understood(operation, headers, await read_body(receive, most, service.config.body_s))
                return await _run(operation, call)
        raise Refused(503, "slow", "the answer took too long", "nothing was stored: try again")


async def _run(operation: Operation, call: Call) -> Response:
    answer = operation.run(call)
    return answer if isinstance(answer, Response) else await answer


def _now_us() -> int:
    return time.time_ns() // 1_000


def _media_type(headers: dict[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_media_type(operation: Operation, headers: dict[str, str]) -> None:
    given = _media_type(headers)
    taken = (MEDIA_TYPE,) if operation.wire else (JSON, CLOUDEVENT, CLOUDEVENTS) if operation.cloudevents else (JSON,)
    if given not in taken:
        raise Refused(415, "media-type", "the body is of another media type", f"send it as {' or '.join(taken)}")


def _understood(operation: Operation, headers: dict[str, str], raw: bytes) -> Any:
    if operation.wire or (operation.cloudevents and _media_type(headers) != JSON):
        return raw
    return json_of(raw, operation.body)
