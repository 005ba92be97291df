"""The listener: sockets, TLS, how many connections there are, and how serving ends."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from typing import Any

import attrs
import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import EventWrapper, WorkerContext

from perdure.backends.errors import Misuse, Unavailable
from perdure.runtime.serve.config import ServeConfig
from perdure.runtime.serve.connection import App, Connection, peer_of
from perdure.runtime.serve.rounds import Rounds

log = logging.getLogger("perdure.serve")

_BUSY = b'{"type":"urn:perdure:problem:busy","title":"there are too many connections","status":503,"detail":"try again later (connections_max)"}'
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
) % (len(_BUSY), _BUSY)


def open_sockets(config: ServeConfig) -> list[socket.socket]:
    """Sockets that listen on each address of `config.listen`.

    Raises:
      Misuse: an address is not one of this machine.
      Unavailable: it is in use.
    """
    opened: list[socket.socket] = []
    try:
        for host, port in config.addresses():
            opened.append(_open(host, port))
    except BaseException:
        for one in opened:
            one.close()
        raise
    return opened


def _open(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise Misuse(f"listen: {host!r} is no address: {error}") from error
    listening = socket.socket(family, kind, proto)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(1024)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise Unavailable("another program listens there", "end it, or give another address (listen)", f"{host}:{port}") from error
        raise Misuse(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listening


@attrs.define(eq=False)
class Listener:
    """Accepts connections and answers them with *app*, until `stop`."""

    app: App
    config: ServeConfig
    sockets: list[socket.socket]
    tls: ssl.SSLContext | None = None
    connections: set[Connection] = attrs.field(factory=set)
    refused: int = 0
    _context: WorkerContext = attrs.field(factory=lambda: WorkerContext(None))
    _rounds: Rounds = attrs.field(factory=Rounds)
    _accepting: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _ended: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    @property
    def urls(self) -> list[str]:
        """Where it listens."""
        scheme = "http" if self.tls is None else "https"
        return [f"{scheme}://{_told(one.getsockname())}" for one in self.sockets]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until stopped; then return when the last connection has ended, or at once when cancelled."""
        hypercorn = self._hypercorn()
        listeners: list[Any] = []
        for one in self.sockets:
            plain = trio.SocketListener(trio.socket.from_stdlib_socket(one))
            listeners.append(plain if self.tls is None else trio.SSLListener(plain, self.tls, https_compatible=True))

        async def handle(stream: Any) -> None:
            await self._handle(stream, hypercorn)

        async with trio.open_nursery() as turning:
            turning.start_soon(self._rounds.run)
            async with trio.open_nursery() as handlers:
                with self._accepting:
                    task_status.started()
                    await trio.serve_listeners(handle, listeners, handler_nursery=handlers)
                for listener in listeners:
                    await listener.aclose()
            turning.cancel_scope.cancel()

    def stop(self) -> None:
        """Accept nothing more, close what is idle, let the rest finish."""
        self._context.terminated = _over()
        self._accepting.cancel()
        for connection in list(self.connections):
            connection.hang_up()

    async def wait_empty(self) -> None:
        """Return when nobody is connected any more."""
        while self.connections:
            await self._ended.park()

    def _hypercorn(self) -> Config:
        hypercorn = Config()
        hypercorn.accesslog = hypercorn.errorlog = None
        hypercorn.include_server_header = False
        hypercorn.h11_max_incomplete_size = self.config.head_bytes
        hypercorn.keep_alive_timeout = self.config.idle_s
        hypercorn.keep_alive_max_requests = 1 << 30
        return hypercorn

    async def _handle(self, stream: Any, hypercorn: Config) -> None:
        if len(self.connections) >= self.config.connections_max:
            self.refused += 1
            await _refuse(stream)
            return
        try:
            plain = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client, server = peer_of(plain.socket.getpeername()), peer_of(plain.socket.getsockname())
        except OSError:  # it has gone already
            await trio.aclose_forcefully(stream)
            return
        connection = Connection(self.app, hypercorn, self._context, stream, client, server, self._rounds, send_s=self.config.send_s)
        self.connections.add(connection)
        try:
            if isinstance(stream, trio.SSLStream):
                with trio.fail_after(self.config.idle_s):
                    await stream.do_handshake()
            await connection.run()
        except (OSError, trio.BrokenResourceError, trio.TooSlowError):
            await trio.aclose_forcefully(stream)
        except Exception:  # of one connection: the others go on
            log.exception("a connection was given up")
            await trio.aclose_forcefully(stream)
        finally:
            self.connections.discard(connection)
            self._ended.unpark_all()


def _over() -> EventWrapper:
    """What tells Hypercorn's protocol that connections are not kept any more. (Its own `set` is a coroutine.)"""
    over = EventWrapper()
    over._event.set()
    return over


async def _refuse(stream: Any) -> None:
    """One answer, if it fits into the socket's buffer, and good-bye."""
    with trio.move_on_after(0.1):
        try:
            if isinstance(stream, trio.SocketStream):
                await stream.send_all(BUSY)
        except trio.BrokenResourceError:
            pass
    await trio.aclose_forcefully(stream)


def _told(address: Any) -> str:
    host, port, *_ = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
