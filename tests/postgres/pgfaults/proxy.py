"""A TCP proxy before a PostgreSQL server that cuts, swallows and delays what goes through it, when it is told to."""

from __future__ import annotations

import enum
from pathlib import Path

import attrs
import trio

COMMIT = (b"COMMIT\0", b"\0commit-")
"""What the bytes of a COMMIT hold, or of a statement that is a transaction of its own: its text, or its name once it is prepared."""


class Fault(enum.StrEnum):
    """What happens to connections."""

    CUT = "all connections are cut"
    BEFORE = "cut before the COMMIT gets to the server"
    AFTER = "cut after the COMMIT, before its answer gets back"
    LATE = "cut towards us, and the COMMIT gets to the server a second later"
    SWALLOW = "half open: nothing goes through any more, and nobody is told"
    DELAY = "all that goes through is late"


@attrs.define(eq=False)
class _Line:
    """One connection through the proxy."""

    client: trio.SocketStream
    server: trio.SocketStream
    swallows: bool = False
    cut_at_answer: bool = False

    async def close(self) -> None:
        for end in (self.client, self.server):
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(end)


class Proxy:
    """Runs in a nursery; *port* is where it listens."""

    def __init__(self, server: Path) -> None:
        self._server = server
        self._lines: set[_Line] = set()
        self._at_commit: Fault | None = None
        self._nursery: trio.Nursery | None = None
        self.struck = trio.Event()
        """Set when a fault that waits for a COMMIT has met one."""
        self.delay_s = 0.0
        self.port = 0

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Listen until cancelled."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.serve_listeners(self._serve, [listener])

    async def strike(self, fault: Fault) -> None:
        """Let it happen: at once, or to the next COMMIT."""
        self.struck = trio.Event()
        match fault:
            case Fault.CUT:
                for line in list(self._lines):
                    await line.close()
                self.struck.set()
            case Fault.SWALLOW:
                for line in self._lines:
                    line.swallows = True
                self.struck.set()
            case Fault.DELAY:
                self.delay_s = 0.4
                self.struck.set()
            case _:
                self._at_commit = fault

    def heal(self) -> None:
        """No more faults. Who was swallowed stays so."""
        self.delay_s, self._at_commit = 0.0, None

    async def _serve(self, client: trio.SocketStream) -> None:
        try:
            server = await trio.open_unix_socket(str(self._server))
        except OSError:
            await trio.aclose_forcefully(client)
            return
        line = _Line(client, server)
        self._lines.add(line)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, line, client, server, nursery.cancel_scope)
                nursery.start_soon(self._pump, line, server, client, nursery.cancel_scope)
        finally:
            self._lines.discard(line)
            await line.close()

    async def _pump(self, line: _Line, source: trio.SocketStream, target: trio.SocketStream, over: trio.CancelScope) -> None:
        upward = source is line.client
        try:
            async for data in source:
                if line.swallows:
                    await trio.sleep_forever()
                if self.delay_s:
                    await trio.sleep(self.delay_s)
                if upward and self._at_commit is not None and any(mark in data for mark in COMMIT):
                    if not await self._commit_comes(line, bytes(data)):
                        break
                elif not upward and line.cut_at_answer:
                    break
                else:
                    await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        over.cancel()

    async def _commit_comes(self, line: _Line, data: bytes) -> bool:
        """What becomes of a COMMIT; whether the line goes on."""
        fault, self._at_commit = self._at_commit, None
        self.struck.set()
        if fault is Fault.AFTER:
            line.cut_at_answer = True
            await line.server.send_all(data)
            return True
        if fault is Fault.LATE:
            assert self._nursery is not None
            duplicate = trio.SocketStream(trio.socket.from_stdlib_socket(line.server.socket._sock.dup()))  # type: ignore[attr-defined]  # closing the line must not close this end
            self._nursery.start_soon(_deliver_late, duplicate, data)
        return False


async def _deliver_late(server: trio.SocketStream, data: bytes) -> None:
    await trio.sleep(1)
    try:
        await server.send_all(data)
        await trio.sleep(1)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        await trio.aclose_forcefully(server)
