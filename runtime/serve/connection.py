"""One HTTP/1.1 connection: Hypercorn's protocol, driven so that nothing about it waits for ever.

Hypercorn's own driver shields its sends, so that a reader who stops reading holds a task until the machine goes down; lets a body that nobody
reads fill a queue that nobody empties; and ends the whole server by an error in one connection. So the protocol is Hypercorn's, and this
driver is ours. It speaks HTTP/1.1 only: what asks for HTTP/2 or a web socket is answered as if it had not.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain
from typing import Any

import h11
import msgspec
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import H11SendableEvent

from perdure.runtime.serve.rounds import Rounds

log = logging.getLogger("perdure.serve")

RECEIVE_BYTES = 1 << 16
LINGER_S = 1
INBOX = 8
"""Parts of a body that wait for the app to read them."""

App = Callable[[Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


class Inbox:
    """What the app has not received yet, bounded. Whoever has been answered is not listened to any more: the rest is thrown away."""

    def __init__(self) -> None:
        self._messages: deque[Any] = deque()
        self._moved = trio.lowlevel.ParkingLot()
        self._gone = False
        self._over = False

    async def put(self, message: Any) -> None:
        """Add one; waits while the app is behind, unless the client has gone or the app has answered."""
        if message["type"] == "http.disconnect":
            self._gone = True
            self._moved.unpark_all()
            return
        while len(self._messages) >= INBOX and not self._over:
            await self._moved.park()
        if not self._over:
            self._messages.append(message)
            self._moved.unpark_all()

    async def receive(self) -> Any:
        """The next message; `http.disconnect` once there is nothing more and the client has gone."""
        while not self._messages:
            if self._gone or self._over:
                await trio.lowlevel.checkpoint()
                return {"type": "http.disconnect"}
            await self._moved.park()
        message = self._messages.popleft()
        self._moved.unpark_all()
        return message

    def end(self) -> None:
        """The app has answered."""
        self._over = True
        self._messages.clear()
        self._moved.unpark_all()


class Protocol(H11Protocol):
    """HTTP/1.1 and nothing else; what cannot be parsed is answered with a problem, too."""

    _head = b""

    async def _check_protocol(self, event: h11.Request) -> None:
        """No change of protocol."""

    async def _create_stream(self, request: h11.Request) -> None:
        self.stream = HTTPStream(
            self.app, self.config, self.context, self.task_group, self.ssl, self.client, self.server, self.stream_send, STREAM_ID
        )
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        """The head of an answer waits for what comes behind it: one packet and one system call instead of three."""
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return
        if isinstance(event, h11.Response):
            self._head = data
        elif data or self._head:
            head, self._head = self._head, b""
            await self.send(RawData(data=head + data))

    async def _send_error_response(self, status_code: int) -> None:
        body = _NOT_HTTP[status_code] if status_code in _NOT_HTTP else _NOT_HTTP[400]
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=list(chain(headers, self.config.response_headers("h11")))))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


def _problem(status: int, title: str, detail: str) -> bytes:
    return msgspec.json.encode({"type": "urn:perdure:problem:not-http", "title": title, "status": status, "detail": detail})


_NOT_HTTP = {
    400: _problem(400, "what was sent is not HTTP/1.1", "look at the request's head; no HTTP/2, and no TLS where the URL is http://"),
    431: _problem(431, "the head of the request is too large", "send less (head_bytes)"),
    501: _problem(501, "this transfer encoding is not understood", "send the body with a Content-Length, or chunked"),
}


class Connection:
    """One client's connection, from its acceptance to its end. *idle* connections are closed as soon as serving ends."""

    def __init__(
        self,
        app: App,
        config: Config,
        context: WorkerContext,
        stream: Any,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
        rounds: Rounds,
        *,
        send_s: float,
    ) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._stream = stream
        self._client = client
        self._server = server
        self._rounds = rounds
        self._send_s = send_s
        self._sending = trio.Lock()
        self._reading = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._reader: trio.lowlevel.Task | None = None
        self._lingering = False
        self._read_all = trio.Event()
        self.idle = True

    def hang_up(self) -> None:
        """If nothing is asked on it now, close it."""
        if self.idle:
            self._reading.cancel()

    async def run(self) -> None:
        """Until the client leaves, is idle for too long, or does not take what it asked for."""
        ssl = isinstance(self._stream, trio.SSLStream)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                protocol = self._protocol = Protocol(
                    self._app, self._config, self._context, self, {}, ssl, self._client, self._server, self._send  # type: ignore[arg-type]  # spawning is ours
                )
                try:
                    await self._read(protocol)
                except trio.BrokenResourceError:
                    pass
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(1) as scope:
                scope.shield = True
                await self._stream.aclose()

    async def _read(self, protocol: Protocol) -> None:
        self._rest()
        self._reader = trio.lowlevel.current_task()
        with self._reading:
            while True:
                try:
                    data = await self._stream.receive_some(RECEIVE_BYTES)
                except (trio.ClosedResourceError, trio.BrokenResourceError):
                    break
                if not self._lingering:
                    await self._rounds.begin(data)
                    await protocol.handle(RawData(bytes(data)))
                if not data:
                    break
        self._read_all.set()
        await protocol.handle(Closed())

    def _rest(self) -> None:
        self.idle = True
        self._reading.deadline = trio.current_time() + self._config.keep_alive_timeout
        if self._context.terminated.is_set():
            self._reading.cancel()

    # -- what the protocol asks for ----------------------------------------------------------

    async def _send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._send_bytes(event.data)
        elif isinstance(event, Updated):
            if event.idle:
                self._rest()
            else:
                self.idle, self._reading.deadline = False, float("inf")
        elif isinstance(event, Closed):
            assert self._nursery is not None
            try:
                if self._protocol.connection.their_state not in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED):
                    await self._linger()
            finally:
                self._nursery.cancel_scope.cancel()

    async def _linger(self) -> None:
        """Let the last answer arrive: to close while the client still sends would tear it from its hands (RFC 9112, 9.6)."""
        self._lingering = True
        try:
            with trio.move_on_after(LINGER_S):
                if isinstance(self._stream, trio.SocketStream):
                    async with self._sending:
                        await self._stream.send_eof()
                if trio.lowlevel.current_task() is self._reader:
                    while await self._stream.receive_some(RECEIVE_BYTES):
                        pass
                else:
                    await self._read_all.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            pass

    async def _send_bytes(self, data: bytes) -> None:
        async with self._sending:
            try:
                with trio.fail_after(self._send_s):
                    await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                assert self._nursery is not None
                self._nursery.cancel_scope.cancel()
                await trio.lowlevel.checkpoint()

    async def spawn_app(self, app: App, config: Config, scope: Any, send: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
        """Begin to answer a request. (Hypercorn's word for it: this is its task group.)"""
        assert self._nursery is not None
        inbox = Inbox()
        self._nursery.start_soon(self._answer, app, scope, inbox, send)
        return inbox.put

    async def _answer(self, app: App, scope: Any, inbox: Inbox, send: Callable[[Any], Awaitable[None]]) -> None:
        async def answered(message: Any) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                inbox.end()
            await send(message)

        try:
            await app(scope, inbox.receive, answered)
        except Exception:
            log.exception("a fault while answering %s", scope["method"])
        inbox.end()
        await send(None)


def peer_of(address: Any) -> tuple[str, int] | None:
    """The host and port of a socket's address, if it has some."""
    if isinstance(address, Iterable) and not isinstance(address, str | bytes):
        host, port, *_ = address
        return str(host), int(port)
    return None
