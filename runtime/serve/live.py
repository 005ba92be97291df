"""Answers that go on: server-sent events. They hold one page, wait for their reader, and end when the daemon drains."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio
from starlette.responses import Response

from perdure.backends.errors import PerdureError
from perdure.runtime.serve.operation import Call
from perdure.runtime.serve.problems import problem_of
from perdure.runtime.serve.represent import EVENT_STREAM, as_json

HEADERS = {"content-type": EVENT_STREAM, "cache-control": "no-store", "x-accel-buffering": "no"}


class Live(Response):
    """Sends what *piece* gives, again and again, for as long as there is someone who reads, and may; None is the end."""

    def __init__(self, call: Call, piece: Callable[[], Awaitable[bytes | None]]) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        call.service.check_followers()
        self._call = call
        self._piece = piece

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] != "HEAD":
            with self._call.service.follower():
                try:
                    await send({"type": "http.response.body", "body": b": perdure\nretry: 1000\n\n", "more_body": True})
                    while self._call.valid() and (piece := await self._piece()) is not None:
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                except PerdureError as error:  # its head has gone out as 200: tell it as an event
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                        told = as_json(problem_of(error))
                        await send({"type": "http.response.body", "body": b"event: problem\ndata: " + told + b"\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def event(id: int | None, data: bytes) -> bytes:
    """One event; *data* has no line ends."""
    return (b"" if id is None else b"id: %d\n" % id) + b"data: " + data + b"\n\n"


def mark(id: int) -> bytes:
    """Nothing but an id: whoever comes back goes on from there."""
    return b"id: %d\n\n" % id
