"""A TCP proxy between a client and a daemon that cuts connections in the middle of a commit, when it is told to. `cutting` is no test."""

from __future__ import annotations

import enum
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

COMMIT = b"POST /v1/wire/commit "
LENGTH = re.compile(rb"content-length: (\d+)\r\n", re.IGNORECASE)
LATE_S = 0.3
SILENT_S = 3.0


class Cut(enum.StrEnum):
    """What happens to a commit."""

    BEFORE = "cut before it gets to the daemon"
    AFTER = "cut when the answer comes"
    LATE = "cut, and it gets to the daemon later"
    SILENT = "it gets there, and for a while no answer comes, neither to it nor to what is asked after it"


@attrs.define(eq=False)
class Cutter:
    """Runs in a nursery; *url* is what a client asks."""

    port: int
    """Of the daemon."""
    nursery: trio.Nursery
    url: str = ""
    next: list[Cut] = attrs.field(factory=list)
    """What becomes of the next commits."""
    struck: list[Cut] = attrs.field(factory=list)
    silent_until: float = 0.0

    async def serve(self, client: trio.SocketStream) -> None:
        """Carry one connection."""
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self.port)
        except OSError:
            await trio.aclose_forcefully(client)
            return
        handed: list[Cut] = []
        async with client:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._down, server, client, handed, nursery.cancel_scope)
                    await self._up(client, server, handed)
                    nursery.cancel_scope.cancel()
            finally:
                if Cut.LATE not in handed:
                    await trio.aclose_forcefully(server)

    async def _up(self, client: trio.SocketStream, server: trio.SocketStream, handed: list[Cut]) -> None:
        try:
            async for data in client:
                if not (self.next and data.startswith(COMMIT)):
                    await server.send_all(data)
                    continue
                cut = self.next.pop(0)
                request = await _whole(client, bytes(data))
                self.struck.append(cut)
                handed.append(cut)
                if cut is Cut.BEFORE:
                    return
                if cut is Cut.LATE:
                    await self.nursery.start(_deliver, server, request)
                    return
                if cut is Cut.SILENT:
                    self.silent_until = trio.current_time() + SILENT_S
                await server.send_all(request)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _down(self, server: trio.SocketStream, client: trio.SocketStream, handed: list[Cut], over: trio.CancelScope) -> None:
        try:
            async for data in server:
                if trio.current_time() < self.silent_until:
                    await trio.sleep_until(self.silent_until)
                    break
                if handed:
                    break
                await client.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        if Cut.LATE not in handed:
            over.cancel()


async def _whole(client: trio.SocketStream, data: bytes) -> bytes:
    """The request that begins with *data*, to its end."""
    while True:
        head, blank, body = data.partition(b"\r\n\r\n")
        found = LENGTH.search(head + b"\r\n")
        if blank and found and len(body) >= int(found[1]):
            return data
        data += await client.receive_some()


async def _deliver(server: trio.SocketStream, request: bytes, *, task_status: trio.TaskStatus[None]) -> None:
    async with server:
        task_status.started()
        await trio.sleep(LATE_S)
        await server.send_all(request)
        await server.receive_some()


@asynccontextmanager
async def cutter(url: str) -> AsyncIterator[Cutter]:
    """One before the daemon at *url*."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        found = Cutter(int(url.rpartition(":")[2]), nursery)
        found.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.start_soon(trio.serve_listeners, found.serve, [listener])
        yield found
        nursery.cancel_scope.cancel()
