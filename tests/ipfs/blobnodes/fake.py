"""A fake IPFS node: Kubo's RPC as far as a blob store asks for it, on a real socket, its blocks in a folder. It can be told to misbehave.

Its answers were written down from Kubo's own (core/commands/block.go, pin/pin.go): names of parameters, JSON, error texts and their status 500.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import attrs
import h11
import trio

from perdure.backends.blobs.cid import DAG_PB, RAW, Cid
from perdure.backends.blobs.unixfs import read_node

Params = dict[str, str]
Send = Callable[[bytes], Awaitable[None]]


@attrs.define
class Faults:
    """What the node does wrong, by call (`block/get`) unless said otherwise."""

    silent: set[str] = attrs.field(factory=set)
    """It takes the question and never answers."""
    drops: set[str] = attrs.field(factory=set)
    """It hangs up within the answer."""
    answers: dict[str, tuple[int, bytes]] = attrs.field(factory=dict)
    """It answers this."""
    blocks: dict[str, Callable[[bytes], bytes]] = attrs.field(factory=dict)
    """Of a block it gives something else."""
    pins_nothing: bool = False
    forgets_key: bool = False
    """It names another block than the one it was given."""
    stalls_at: int | None = None
    """While pinning it says again and again that it has seen so many blocks."""
    trickles: float = 0.0
    """Seconds between two bytes of a block."""


@attrs.define
class Fake:
    """The node. *asked* is what it was asked, in order."""

    folder: Path
    pins: set[str] = attrs.field(factory=set)
    faults: Faults = attrs.field(factory=Faults)
    asked: list[str] = attrs.field(factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"ipfs://127.0.0.1:{self.port}"

    def path(self, cid: Cid) -> Path:
        """Blocks are found by their digest, whatever the codec, as in Kubo."""
        return self.folder / cid.digest.hex()

    def below(self, cid: Cid) -> list[Cid]:
        """The blocks that *cid* leads to, itself included; raises KeyError for one that is missing."""
        found = [cid]
        for one in found:
            if not self.path(one).exists():
                raise KeyError(str(one))
            if one.codec == DAG_PB:
                found += [link.cid for link in read_node(self.path(one).read_bytes())]
        return found

    def collect(self) -> None:
        """Garbage: what no pin leads to goes."""
        kept = {self.path(block) for pin in self.pins for block in self.below(Cid.parse(pin))}
        for path in self.folder.iterdir():
            if path not in kept:
                path.unlink()

    # -- the calls ---------------------------------------------------------------------------

    async def answer(self, call: str, params: Params, body: bytes, send: Send) -> None:
        """Answer by *send*, a piece at a time; an error is a Refusal."""
        match call:
            case "block/put":
                await send(self._block_put(params, body))
            case "block/get":
                await self._block_get(params, send)
            case "block/stat":
                await send(_json(Key=params["arg"], Size=self._block(params).stat().st_size))
            case "pin/add":
                await self._pin_add(params, send)
            case "pin/rm":
                await send(self._pin_rm(params))
            case "pin/ls":
                await self._pin_ls(params, send)
            case _:
                raise Refusal(404, "404 page not found")

    def _block_put(self, params: Params, body: bytes) -> bytes:
        codec = {"raw": RAW, "dag-pb": DAG_PB}[params.get("cid-codec", "raw")]
        if params.get("mhtype", "sha2-256") != "sha2-256":
            raise Refusal(500, "unrecognized multihash function")
        cid = Cid.of(codec, body)
        if len(body) > 1 << 20:
            raise Refusal(500, f"produced block is over 1MiB: big blocks can't be exchanged with other peers: {cid}")
        path = self.path(cid)
        path.with_suffix(".new").write_bytes(body)
        path.with_suffix(".new").replace(path)
        return _json(Key=str(Cid.of(codec, b"another") if self.faults.forgets_key else cid), Size=len(body))

    def _block(self, params: Params) -> Path:
        path = self.path(_cid(params))
        if not path.exists():
            raise Refusal(500, f"block was not found locally (offline): ipld: could not find {params['arg']}")
        return path

    async def _block_get(self, params: Params, send: Send) -> None:
        data = self._block(params).read_bytes()
        if (lie := self.faults.blocks.get(params["arg"])) is not None:
            data = lie(data)
        if self.faults.trickles:
            for at in range(len(data)):
                await send(data[at : at + 1])
                await trio.sleep(self.faults.trickles)
        else:
            await send(data)

    async def _pin_add(self, params: Params, send: Send) -> None:
        cid = _cid(params)
        try:
            blocks = self.below(cid)
        except KeyError as error:
            raise Refusal(500, f"block was not found locally (offline): ipld: could not find {error.args[0]}") from error
        while self.faults.stalls_at is not None:
            await send(_json(Progress=self.faults.stalls_at))
            await trio.sleep(0.1)
        if not self.faults.pins_nothing:
            self.pins.add(str(cid))
        if params.get("progress") == "true":
            await send(_json(Progress=len(blocks)))
        await send(_json(Pins=[] if self.faults.pins_nothing else [str(cid)]))

    def _pin_rm(self, params: Params) -> bytes:
        if params["arg"] not in self.pins:
            raise Refusal(500, "not pinned or pinned indirectly")
        self.pins.discard(params["arg"])
        return _json(Pins=[params["arg"]])

    async def _pin_ls(self, params: Params, send: Send) -> None:
        if "arg" in params:
            if params["arg"] not in self.pins:
                raise Refusal(500, f"path '/ipfs/{params['arg']}' is not pinned recursively")
            await send(_json(Keys={params["arg"]: {"Type": "recursive", "Name": ""}}))
        for pin in sorted(self.pins, reverse=True) if params.get("stream") == "true" else ():
            await send(_json(Cid=pin, Type="recursive"))

    # -- HTTP --------------------------------------------------------------------------------

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection."""
        connection = h11.Connection(h11.SERVER)
        try:
            while True:
                request, body = await _receive(stream, connection)
                if request is None or not await self._respond(stream, connection, request, body):
                    return
                connection.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            return
        finally:
            await trio.aclose_forcefully(stream)

    async def _respond(self, stream: trio.SocketStream, connection: h11.Connection, request: h11.Request, body: bytes) -> bool:
        parts = urlsplit(request.target.decode())
        call, params = parts.path.removeprefix("/api/v0/"), dict(parse_qsl(parts.query))
        self.asked.append(call)
        if call in self.faults.silent:
            await trio.sleep_forever()
        begun = False

        async def begin(status: int) -> None:
            nonlocal begun
            begun = True
            await stream.send_all(connection.send(h11.Response(status_code=status, headers=[("Transfer-Encoding", "chunked")])) or b"")

        async def send(data: bytes) -> None:
            if not begun:
                await begin(200)
            if data:
                await stream.send_all(connection.send(h11.Data(data=data)) or b"")

        if call in self.faults.answers:
            status, data = self.faults.answers[call]
            await begin(status)
            await send(data)
        else:
            try:
                await self.answer(call, params, body, send)
            except Refusal as error:
                await begin(error.status)
                await send(json.dumps({"Message": error.message, "Code": 0, "Type": "error"}).encode())
        if call in self.faults.drops:
            return False
        if not begun:
            await begin(200)
        await stream.send_all(connection.send(h11.EndOfMessage()) or b"")
        return True


class Refusal(Exception):
    """An error that the node answers with."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


async def _receive(stream: trio.SocketStream, connection: h11.Connection) -> tuple[h11.Request | None, bytes]:
    request, parts = None, []
    while True:
        event = connection.next_event()
        match event:
            case h11.NEED_DATA:
                connection.receive_data(await stream.receive_some())
            case h11.Request():
                assert event.method == b"POST", "Kubo answers nothing else"
                request = event
            case h11.Data(data=data):
                parts.append(bytes(data))
            case h11.EndOfMessage():
                assert request is not None
                return request, _file_of(request, b"".join(parts))
            case _:
                return None, b""


def _file_of(request: h11.Request, body: bytes) -> bytes:
    """The one file of a form."""
    kind = dict(request.headers).get(b"content-type", b"")
    if (found := re.fullmatch(rb"multipart/form-data; boundary=(\S+)", kind)) is None:
        return body
    before, rest = body.split(b"\r\n\r\n", 1)
    assert before.startswith(b"--" + found[1]) and b'name="data"' in before
    file, after = rest.rsplit(b"\r\n--" + found[1], 1)
    assert after == b"--\r\n"
    return file


def _cid(params: Params) -> Cid:
    return Cid.parse(params["arg"])


def _json(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


@asynccontextmanager
async def fake_node(folder: Path) -> AsyncIterator[Fake]:
    """A node that keeps its blocks in *folder*, while the body runs."""
    node = Fake(folder)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(lambda task_status: trio.serve_tcp(node.serve, 0, host="127.0.0.1", task_status=task_status))
        node.port = listeners[0].socket.getsockname()[1]
        yield node
        nursery.cancel_scope.cancel()


async def _main(folder: str) -> None:
    async with fake_node(Path(folder)) as node:
        print(node.port, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(_main, sys.argv[1])
