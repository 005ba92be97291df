"""The calls to a Kubo node's RPC that a blob store needs: each bounded in time and in bytes, each answer believed in nothing.

Names and answers are those of Kubo's `/api/v0`; js-ipfs has the same ones, with the differences that are noted.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import httpx2 as httpx
import trio

from perdure.backends.blobs.cid import DAG_PB, Cid
from perdure.backends.blobs.unixfs import BLOCK_BYTES_MAX, Block
from perdure.backends.errors import BlobsUnavailable, Corrupt, Misuse

ANSWER_BYTES_MAX: Final = 64 << 10
LINE_BYTES_MAX: Final = 64 << 10
_NOT_THERE: Final = re.compile(r"not found|could not find|no such block", re.IGNORECASE)
_NOT_PINNED: Final = re.compile(r"not pinned", re.IGNORECASE)


class Refused(Exception):
    """The node answered with an error of its own."""


class Rpc:
    """One node. *timeout_s* bounds each call; of a long one, the time without progress. Unless *network*, it is to answer from what it has."""

    def __init__(self, client: httpx.AsyncClient, where: str, timeout_s: float, *, network: bool) -> None:
        self.where = where
        self._client = client
        self._timeout_s = timeout_s
        self._always = {} if network else {"offline": "true"}  # js-ipfs does not know it: there a block that is missing is waited for

    # -- calls -------------------------------------------------------------------------------

    async def block_put(self, block: Block) -> None:
        """Give the node a block; it is kept until its next garbage collection, unless something pinned leads to it."""
        codec = "dag-pb" if block.cid.codec == DAG_PB else "raw"
        # `version` is for js-ipfs, which knows no `cid-codec` and would give a CIDv0 (and then takes everything for dag-pb: the digest is what counts).
        answer = await self._ask("block/put", {"cid-codec": codec, "mhtype": "sha2-256", "version": "1"}, block=block)
        told = None if answer is None else answer.get("Key")
        try:
            digest = Cid.parse(told).digest  # type: ignore[arg-type]  # of what is no text neither
        except Misuse:
            digest = b""
        if digest != block.cid.digest:
            raise self._lie(f"it was given block {block.cid} and says that it stored {told!r:.80}")

    async def block_get(self, cid: Cid) -> bytes | None:
        """The bytes that the node has under *cid*, unchecked; None: it says that it has none."""
        try:
            return await self._bytes("block/get", {"arg": str(cid)}, BLOCK_BYTES_MAX)
        except Refused as error:
            if _NOT_THERE.search(str(error)):
                return None
            raise self._refused("block/get", error) from error

    async def block_size(self, cid: Cid) -> int | None:
        """How large the node says the block is; None: it has none."""
        answer = await self._ask("block/stat", {"arg": str(cid)}, no=_NOT_THERE)
        if answer is None:
            return None
        size = answer.get("Size")
        if not isinstance(size, int) or not 0 <= size <= BLOCK_BYTES_MAX:
            raise self._lie(f"its answer to block/stat says {size!r:.80} for a size")
        return size

    async def pin(self, root: Cid) -> None:
        """Keep all that *root* leads to. The node looks at each of its blocks, and says how many it has seen (js-ipfs does not)."""
        done, seen = False, -1

        def see(line: dict[str, Any]) -> bool:
            nonlocal done, seen
            done = done or line.get("Pins") == [str(root)]
            before, seen = seen, line.get("Progress", seen)
            return bool(seen != before)

        await self._each("pin/add", {"arg": str(root), "recursive": "true", "progress": "true", "cid-base": "base32"}, see)
        if not done:
            raise self._lie("it does not say that it pinned what it was asked to pin")

    async def unpin(self, root: Cid) -> bool:
        """Keep it no longer; false: it was not pinned."""
        return await self._ask("pin/rm", {"arg": str(root), "recursive": "true", "cid-base": "base32"}, no=_NOT_PINNED) is not None

    async def pinned(self, root: Cid) -> bool:
        """Whether the node says that it keeps all of it."""
        answer = await self._ask("pin/ls", {"arg": str(root), "type": "recursive", "cid-base": "base32"}, no=_NOT_PINNED)
        keys = None if answer is None else answer.get("Keys")
        return isinstance(keys, dict) and str(root) in keys

    async def pins(self, see: Callable[[str], object]) -> None:
        """Show everything that the node keeps on somebody's behalf, in no order."""

        def each(line: dict[str, Any]) -> bool:
            if isinstance(cid := line.get("Cid"), str):
                see(cid)
            return True

        await self._each("pin/ls", {"type": "recursive", "stream": "true", "cid-base": "base32"}, each)

    # -- asking ------------------------------------------------------------------------------

    async def _ask(self, call: str, params: Mapping[str, str], *, block: Block | None = None, no: re.Pattern[str] | None = None) -> dict[str, Any] | None:
        """The answer, a JSON object; None: an error that reads like *no*."""
        try:
            return self._parsed(await self._bytes(call, params, ANSWER_BYTES_MAX, block=block), call)
        except Refused as error:
            if no is not None and no.search(str(error)):
                return None
            raise self._refused(call, error) from error

    async def _bytes(self, call: str, params: Mapping[str, str], bytes_max: int, *, block: Block | None = None) -> bytes:
        """The whole answer, within the time for one call."""
        with trio.move_on_after(self._timeout_s):
            async with self._answer(call, params, block) as response:
                answer = await _read(response, bytes_max)
            if answer is None:
                raise self._lie(f"its answer to {call} has more than {bytes_max:,} bytes")
            return answer
        raise self._slow(call)

    async def _each(self, call: str, params: Mapping[str, str], see: Callable[[dict[str, Any]], bool]) -> None:
        """Show the answer, a JSON object at a time as they come; *see* says whether it is progress, which gives the call more time."""
        held, failed = b"", None

        def take(part: bytes) -> None:
            nonlocal held, failed
            *lines, held = (held + part).split(b"\n")
            try:
                for line in filter(bytes.strip, lines):
                    if see(self._parsed(line, call)):
                        scope.deadline = trio.current_time() + self._timeout_s
                if len(held) > LINE_BYTES_MAX:
                    raise self._lie(f"a line of its answer to {call} has more than {LINE_BYTES_MAX:,} bytes")
            except (Refused, Corrupt) as error:
                failed = error
                scope.cancel()  # see `_read`

        with trio.CancelScope(deadline=trio.current_time() + self._timeout_s) as scope:
            try:
                async with self._answer(call, params, None) as response:
                    async for part in response.aiter_raw():
                        if failed is None:
                            take(part)
                if failed is None:
                    take(b"\n")
            except Refused as error:
                failed = error
        if isinstance(failed, Refused):
            raise self._refused(call, failed) from failed
        if failed is not None:
            raise failed
        if scope.cancelled_caught:
            raise self._slow(call)

    @asynccontextmanager
    async def _answer(self, call: str, params: Mapping[str, str], block: Block | None) -> AsyncIterator[httpx.Response]:
        headers, content = (None, None) if block is None else _form(block)
        try:
            async with self._client.stream("POST", f"/api/v0/{call}", params={**params, **self._always}, headers=headers, content=content) as response:
                if response.status_code != 200:
                    raise await self._told(call, response)
                yield response
        except httpx.TimeoutException as error:
            raise self._slow(call) from error
        except httpx.ConnectError as error:
            raise BlobsUnavailable(self.where, f"nothing answers there ({error})", "start the node (`ipfs daemon`), or correct the address") from error
        except httpx.HTTPError as error:
            raise BlobsUnavailable(self.where, f"the connection broke during {call} ({str(error) or type(error).__name__})") from error

    async def _told(self, call: str, response: httpx.Response) -> Exception:
        """What an answer that is not 200 means."""
        try:
            message = json.loads(await _read(response, ANSWER_BYTES_MAX) or b"")["Message"]
        except (ValueError, KeyError, TypeError, RecursionError):
            message = None
        if response.status_code in (401, 403):
            remedy = "give ipfs://USER:PASSWORD@HOST:PORT, or allow it in the node's API.Authorizations"
            return BlobsUnavailable(self.where, f"it refuses {call} ({response.status_code})", remedy)
        if not isinstance(message, str):
            why = f"its answer to {call} is {response.status_code}, not that of Kubo's RPC"
            return BlobsUnavailable(self.where, why, "give the address of the RPC API, which is port 5001 unless set")
        return Refused(message)

    def _parsed(self, raw: bytes, call: str) -> dict[str, Any]:
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self._lie(f"its answer to {call} is no JSON object")
        if found.get("Type") == "error":  # within a stream that began well
            raise Refused(str(found.get("Message")))
        return found

    # -- what goes wrong ---------------------------------------------------------------------

    def _refused(self, call: str, error: Refused) -> BlobsUnavailable:
        return BlobsUnavailable(self.where, f"it refuses {call}: {error!s:.300}")

    def _slow(self, call: str) -> BlobsUnavailable:
        return BlobsUnavailable(self.where, f"no answer to {call} within {self._timeout_s:g} s", "try again, or give it longer: ?timeout=120")

    def _lie(self, what: str) -> Corrupt:
        return Corrupt(self.where, what, "nothing that it says can be relied on: look at that node")


def _form(block: Block) -> tuple[dict[str, str], _Pieces]:
    """A block as a form of one file, sent without its length as Kubo's own clients do: js-ipfs would count the form, and refuse a block of 1 MiB."""
    boundary = block.cid.digest.hex()  # no block has its own digest inside
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="data"; filename="block"\r\nContent-Type: application/octet-stream\r\n\r\n'
    return {"Content-Type": f"multipart/form-data; boundary={boundary}"}, _Pieces([head.encode(), block.data, f"\r\n--{boundary}--\r\n".encode()])


class _Pieces:
    """Bytes to be sent, one after the other."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._left = iter(pieces)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._left:
            return piece
        raise StopAsyncIteration


async def _read(response: httpx.Response, bytes_max: int) -> bytes | None:
    """All of it; None: it is more than *bytes_max*."""
    parts, size = [], 0
    with trio.CancelScope() as scope:
        async for part in response.aiter_raw():
            size += len(part)
            if size > bytes_max:
                scope.cancel()  # and on, until it is felt: whoever leaves httpx's generators half-way leaves them to the garbage collector
            else:
                parts.append(part)
    return b"".join(parts) if size <= bytes_max else None
