"""`ipfs://HOST:PORT`: blobs in an IPFS node, through the RPC of Kubo (extra `ipfs`).

A blob is put block by block and then pinned: pinned is what "there" means, so a put that was cut off leaves blocks that the node's next garbage
collection takes. Addresses are ours; the node's are compared with them, and what it gives is checked against them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import attrs
import trio
from sortedcontainers import SortedSet

from perdure.backends.blobs.cid import RAW, Cid
from perdure.backends.blobs.putting import Chunk, put_tree
from perdure.backends.blobs.reader import BlobReader, read_through
from perdure.backends.blobs.ref import OCTETS, BlobRef, BlobStat, address_of, is_address
from perdure.backends.blobs.source import WINDOW_CHUNKS, Source, Window, reading
from perdure.backends.blobs.unixfs import Block, Part
from perdure.backends.environment import Environment
from perdure.backends.errors import Closed, MissingExtra, Misuse

try:
    import httpx2 as httpx

    from perdure.backends.blobs.rpc import Rpc
except ImportError as error:
    if (error.name or "").partition(".")[0] != "httpx2":
        raise
    raise MissingExtra("ipfs://", "ipfs") from error

T = TypeVar("T")
R = TypeVar("R")

CONNECT_S = 5.0


@attrs.frozen
class Options:
    """*timeout_s* bounds each call, and in a long one the time without progress; *tls*: the node is behind HTTPS; *network*: what the node has not, it
    may look for at other nodes, and what it has not pinned is read too."""

    timeout_s: float = 30.0
    tls: bool = False
    network: bool = False


def open_ipfs(url: str, options: Options, *, environment: Environment | None = None) -> IpfsBlobs:
    """The node that *url* names. Nothing is asked of it yet.

    Raises:
      Misuse: the URL names none.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 5001
    except ValueError as error:
        raise Misuse(f"{url!r} names no IPFS node ({error}): write ipfs://HOST:PORT") from error
    if not host or parts.path not in ("", "/"):
        raise Misuse(f"{url.partition('@')[2] or url!r} names no IPFS node: write ipfs://HOST:PORT, as in ipfs://127.0.0.1:5001")
    netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    client = httpx.AsyncClient(
        base_url=f"{'https' if options.tls else 'http'}://{netloc}",
        auth=(parts.username, parts.password or "") if parts.username else None,
        timeout=httpx.Timeout(options.timeout_s, connect=min(CONNECT_S, options.timeout_s)),
        limits=httpx.Limits(max_connections=2 * WINDOW_CHUNKS, max_keepalive_connections=WINDOW_CHUNKS),
        headers={"Accept-Encoding": "identity"},
        follow_redirects=False,
        trust_env=False,  # no proxy of the environment stands between a program and its own node
    )
    return IpfsBlobs(client, f"ipfs://{netloc}", options, environment or Environment())


class IpfsBlobs:
    """See `BlobStore`."""

    def __init__(self, client: httpx.AsyncClient, url: str, options: Options, environment: Environment) -> None:
        self.url = url
        self._client = client
        self._rpc = Rpc(client, f"the IPFS node at {url}", options.timeout_s, network=options.network)
        self._network = options.network
        self._threads = environment.threads

    def __repr__(self) -> str:
        return f"<blobs in {self.url}>"

    async def put(self, source: Source, *, media_type: str = OCTETS) -> BlobRef:
        self._check_open()
        BlobRef(str(Cid.of(RAW, b"")), 0, media_type)  # a media type that is none is told before anything is read
        async with reading(source) as read:
            root = await put_tree(read, self._threads, put_window=self._put_window, put_node=self._rpc.block_put)
        await self._rpc.pin(root.cid)
        return BlobRef(str(root.cid), root.size_bytes, media_type)

    async def _put_window(self, _: Window, chunks: Sequence[Chunk]) -> None:
        await _all(self._rpc.block_put, [Block(chunk.link.cid, bytes(chunk.data)) for chunk in chunks])

    def get(self, what: BlobRef | str, *, start: int = 0, end: int | None = None) -> BlobReader:
        self._check_open()
        return BlobReader(_Blocks(self._rpc, None if self._network else address_of(what)), self._threads, what, start, end)

    async def stat(self, what: BlobRef | str) -> BlobStat | None:
        self._check_open()
        cid = address_of(what)
        if not await self._rpc.pinned(cid):
            return None
        if cid.codec != RAW:
            return await self.get(str(cid)).stat()
        size_bytes = await self._rpc.block_size(cid)
        return None if size_bytes is None else BlobStat(str(cid), size_bytes)

    async def has(self, what: BlobRef | str) -> bool:
        self._check_open()
        return await self._rpc.pinned(address_of(what))

    async def delete(self, what: BlobRef | str) -> bool:
        self._check_open()
        return await self._rpc.unpin(address_of(what))

    async def verify(self, what: BlobRef | str) -> BlobStat:
        return await read_through(self.get(what))

    async def cids(self, *, after: str | None = None, limit: int = 1_000) -> list[str]:
        self._check_open()
        least: Any = SortedSet()  # the node has no order, and no pages: it tells all of them each time

        def see(cid: str) -> None:
            if (after is None or cid > after) and is_address(cid):
                least.add(cid)
                if len(least) > limit:
                    least.pop()

        await self._rpc.pins(see)
        return list(least)

    async def aclose(self) -> None:
        await self._client.aclose()

    def _check_open(self) -> None:
        if self._client.is_closed:
            raise Closed(f"the blob store {self.url}")


class _Blocks:
    """See `Blocks`: the node's, several at once. Of a *root* that is not pinned there are none."""

    def __init__(self, rpc: Rpc, root: Cid | None) -> None:
        self.where = rpc.where
        self._rpc = rpc
        self._root = root

    async def whole(self, cid: Cid) -> bytes | None:
        return await self.node(cid)

    async def node(self, cid: Cid) -> bytes | None:
        if cid == self._root and not await self._rpc.pinned(cid):
            return None
        return await self._rpc.block_get(cid)

    async def leaves(self, parts: Sequence[Part]) -> list[bytes | None]:
        return await _all(self._rpc.block_get, [part.link.cid for part in parts])


async def _all(call: Callable[[T], Awaitable[R]], items: Sequence[T]) -> list[R]:
    """The answers to *call* of each item, asked for at once; the first failure ends the others and leaves as it is."""
    answers: dict[int, R] = {}
    failed: list[Exception] = []

    async def one(index: int, item: T) -> None:
        try:
            answers[index] = await call(item)
        except Exception as error:
            failed.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for index, item in enumerate(items):
            nursery.start_soon(one, index, item)
    if failed:
        raise failed[0]
    return [answers[index] for index in range(len(items))]
