"""A follower of the soak: reads a live stream by its own socket, and comes back with the last id after every break."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import suppress

import attrs
import msgspec
import trio

AGAIN_S = 0.2
_decode = msgspec.json.Decoder().decode


@attrs.define
class Follower:
    """What one follower has seen. A fault is kept as a sentence."""

    number: int
    token: str
    where: Callable[[], int]
    """The port of the daemon, now."""
    last_id: int = 0
    last_position: int = 0
    events: int = 0
    digest: int = 0
    connections: int = 0
    faults: list[str] = attrs.field(factory=list)
    _seqs: dict[str, int] = attrs.field(factory=dict)

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            with suppress(OSError, trio.BrokenResourceError):  # the daemon is away: it is killed now and then
                await self._follow()
            await trio.sleep(AGAIN_S)

    async def _follow(self) -> None:
        port, sent = self.where(), self.last_id
        lines = [
            "GET /v1/follow/log?after=0&type=moved HTTP/1.0",
            f"Host: 127.0.0.1:{port}",
            f"Authorization: Bearer {self.token}",
            f"Last-Event-ID: {sent}",
        ]
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            self.connections += 1
            await stream.send_all("\r\n".join([*lines, "", ""]).encode())
            rest = b""
            async for part in stream:
                *blocks, rest = (rest + part).split(b"\n\n")
                for block in blocks:
                    self._take(block, sent)

    def _take(self, block: bytes, sent: int) -> None:
        """One event: an id, or an id with data."""
        id, data = None, None
        for line in block.split(b"\n"):
            if line.startswith(b"id: "):
                id = int(line[4:])
            elif line.startswith(b"data: "):
                data = line[6:]
        if data is not None and id is not None:
            self._see(id, _decode(data), sent)
        if id is not None:
            self.last_id = id

    def _see(self, id: int, event: dict[str, object], sent: int) -> None:
        if id <= sent:
            self._fault(f"after it had sent id {sent} it was given {id}")
        if id <= self.last_position:
            self._fault(f"position {id} came after {self.last_position}")
        stream, seq = str(event["stream"]), int(str(event["seq"]))
        if seq != self._seqs.get(stream, 0) + 1:
            self._fault(f"{stream}: seq {seq} came after {self._seqs.get(stream, 0)}")
        self._seqs[stream] = seq
        self.last_position, self.events = id, self.events + 1
        self.digest = zlib.crc32(b"%d %d" % (id, seq), self.digest)

    def _fault(self, text: str) -> None:
        if len(self.faults) < 5:
            self.faults.append(f"follower {self.number}: {text}")
