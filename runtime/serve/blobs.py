"""Blobs over HTTP: streamed in and out, so that none is in memory whole. A CID is parsed before anything is looked for under it."""

from __future__ import annotations

import logging
import re
from typing import Any, Final

import trio
from starlette.responses import Response

from perdure.backends.blobs.cid import Cid
from perdure.backends.blobs.protocol import BlobStore
from perdure.backends.blobs.reader import BlobReader
from perdure.backends.blobs.ref import OCTETS
from perdure.backends.errors import PerdureError
from perdure.runtime.serve import shapes
from perdure.runtime.serve.incoming import Addressing, pieces_of
from perdure.runtime.serve.operation import Call, Header, Operation, json_answer
from perdure.runtime.serve.problems import Refused, answer_of
from perdure.runtime.serve.scopes import BLOB, READ
from perdure.runtime.serve.tokens import hidden

log = logging.getLogger("perdure.serve")

FOR_EVER: Final = "private, max-age=31536000, immutable"
RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def _store(call: Call) -> BlobStore:
    if not call.service.config.blobs:
        raise Refused(404, "no-blobs", "this daemon has no blob store", "blobs in its configuration names one")
    return call.service.rt.blobs


# -- in --------------------------------------------------------------------------------------


async def post(call: Call) -> Response:
    """Keep the body."""
    return await _put(call, None)


async def put(call: Call) -> Response:
    """Keep the body, if this is its address."""
    return await _put(call, Addressing(Cid.parse(call.path["cid"])))


async def _put(call: Call, address: Addressing | None) -> Response:
    store, media_type = _store(call), call.headers.get("content-type", OCTETS)
    async with call.service.carrying():
        ref = await store.put(pieces_of(call, address), media_type=media_type)
    return json_answer(shapes.Blob(ref.cid, ref.size_bytes, ref.media_type), 201, location=f"/v1/blobs/{ref.cid}", etag=f'"{ref.cid}"')


# -- out -------------------------------------------------------------------------------------


async def get(call: Call) -> Response:
    """Its bytes, or a range of them."""
    cid, store = Cid.parse(call.path["cid"]), _store(call)
    stat = await store.stat(str(cid))
    if stat is None:
        raise Refused(404, "not-found", "there is no such blob", "PUT the same bytes here, and there is")
    tag, known = f'"{cid}"', call.headers.get("if-none-match", "")
    told = {"etag": tag, "cache-control": FOR_EVER, "accept-ranges": "bytes"}
    if known.strip() == "*" or tag in [one.strip().removeprefix("W/") for one in known.split(",")]:
        return Response(status_code=304, headers=told)
    start, end, status = 0, stat.size_bytes, 200
    if call.headers.get("if-range", tag) == tag and (part := part_of(call.headers.get("range", ""), stat.size_bytes)) is not None:
        (start, end), status = part, 206
        told["content-range"] = f"bytes {start}-{end - 1}/{stat.size_bytes}"
    return Outgoing(call, store.get(str(cid), start=start, end=end), end - start, status, told)


def part_of(text: str, size_bytes: int) -> tuple[int, int] | None:
    """Where a Range begins and ends; None: all of it, for none is asked for, or in a way that is not understood (RFC 9110 has it ignored).

    Raises:
      Refused: nothing of the blob is in it.
    """
    found = RANGE.fullmatch(text.strip())
    if found is None or found[0] == "bytes=-" or (found[1] and found[2] and int(found[2]) < int(found[1])):
        return None
    if found[1]:
        start, end = int(found[1]), min(int(found[2]) + 1, size_bytes) if found[2] else size_bytes
    else:
        start, end = max(0, size_bytes - int(found[2])), size_bytes
    if start >= end:
        told = f"it has {size_bytes:,} bytes: ask for some of them"
        raise Refused(416, "range", "nothing of the blob is in this range", told, {"content-range": f"bytes */{size_bytes}"})
    return start, end


class Outgoing(Response):
    """So many bytes of a reader. What is found to be damaged at the beginning is a problem; later the answer is cut, which its length tells."""

    def __init__(self, call: Call, reader: BlobReader, size_bytes: int, status: int, headers: dict[str, str]) -> None:
        super().__init__(None, status, {**headers, "content-length": str(size_bytes)}, OCTETS)
        self._call = call
        self._reader = reader
        self._size_bytes = size_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "HEAD":
            await self._begin(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        try:
            async with self._call.service.carrying():
                with trio.fail_after(self._call.service.config.answer_s):
                    first = await anext(self._reader, b"")
                await self._send(first, send)
        except trio.TooSlowError:
            await answer_of(Refused(503, "slow", "the answer took too long", "try again"))(scope, receive, send)
        except (Refused, PerdureError) as error:
            answer = answer_of(error)
            if answer.status_code >= 500:
                log.warning("get_blob: %s", hidden(str(error)))
            await answer(scope, receive, send)

    async def _begin(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

    async def _send(self, piece: bytes, send: Any) -> None:
        """Without its last message an answer has no end: the connection is cut."""
        await self._begin(send)
        left = self._size_bytes
        try:
            while piece and len(piece) <= left and self._call.valid():
                left -= len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = await anext(self._reader, b"")
        except PerdureError as error:
            log.warning("get_blob, cut: %s", hidden(str(error)))
            return
        if piece or left:
            log.warning("get_blob, cut: blob %s is not as long as it was said to be, or the token has ended", self._reader.cid)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/blobs",
        name="post_blob",
        summary="Keep the body as a blob; the answer is its BlobRef, to append. Sent twice, it is there once.",
        run=post,
        need=BLOB,
        blob=True,
        answers={201: shapes.Blob},
        problems=(404, 503),
    ),
    Operation(
        method="PUT",
        path="/v1/blobs/{cid}",
        name="put_blob",
        summary="The same, of a body whose CID is known: 409 if it has another one, and nothing is kept. One that was damaged is whole again.",
        run=put,
        need=BLOB,
        blob=True,
        answers={201: shapes.Blob},
        problems=(404, 409, 503),
    ),
    Operation(
        method="GET",
        path="/v1/blobs/{cid}",
        name="get_blob",
        summary="Its bytes, each checked before it is sent; HEAD tells the size. Its ETag is its CID.",
        run=get,
        need=READ,
        headers=(
            Header("If-None-Match", "An ETag: 304 where the blob is there.", r'^"[a-z2-7]{59}"$'),
            Header("Range", "bytes=0-499, bytes=500- or bytes=-500; one range.", r"^bytes=([0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})$"),
            Header("If-Range", "An ETag: all of it where it is another one.", r'^"[a-z2-7]{59}"$'),
        ),
        media_type=OCTETS,
        answers={200: str, 206: str, 304: None},
        problems=(404, 416, 500, 503),
    ),
)
