"""A blob's body as it comes in: bounded as a whole and in time for each part, and its address as its bytes pass."""

from __future__ import annotations

from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any, Final

import trio

from perdure.backends.blobs.cid import Cid
from perdure.backends.blobs.unixfs import CHUNK_BYTES, Builder, leaf
from perdure.runtime.serve.operation import Call
from perdure.runtime.serve.problems import Refused
from perdure.runtime.serve.reading import blob_too_large, digits_of

PART_BYTES: Final = 1 << 20
"""So much has to come within `body_s`."""


class Addressing:
    """The CID of what passes, against the one that it is said to have."""

    def __init__(self, said: Cid) -> None:
        self.said = said
        self._builder = Builder()
        self._chunk = sha256()
        self._bytes = 0
        self._cut_any = False

    def take(self, piece: bytes) -> None:
        """The next bytes."""
        view = memoryview(piece)
        while view:
            part = view[: CHUNK_BYTES - self._bytes]
            view = view[len(part) :]
            self._chunk.update(part)
            self._bytes += len(part)
            if self._bytes == CHUNK_BYTES:
                self._cut()

    def check(self) -> None:
        """That they were all.

        Raises:
          Refused: they have another address.
        """
        if self._bytes or not self._cut_any:
            self._cut()
        root, _ = self._builder.finish()
        if root.cid != self.said:
            raise Refused(409, "other-blob", "the body has another CID", f"it is {root.cid}: nothing was kept; POST to /v1/blobs keeps whatever it is")

    def _cut(self) -> None:
        for _ in self._builder.add(leaf(self._chunk.digest(), self._bytes)):
            pass  # the nodes: nobody keeps them here
        self._chunk, self._bytes, self._cut_any = sha256(), 0, True


async def pieces_of(call: Call, address: Addressing | None) -> AsyncIterator[bytes]:  # noqa: ASYNC900 - it holds nothing that would have to be let go
    """The body of *call*, as a source to put from: what raises here leaves no blob.

    Raises:
      Refused: it is too large, comes too slowly, has no end, or is not what *address* says.
    """
    config, size_bytes = call.service.config, 0
    most, said = config.blob_bytes, call.headers.get("content-length")
    if said is not None and digits_of(said, "Content-Length") > most:
        raise blob_too_large(most)
    left_s, part_bytes, more = config.body_s, 0, True
    while more:
        began_s = trio.current_time()
        message: Any = None
        with trio.move_on_after(left_s):
            message = await call.receive()
        if message is None:
            raise Refused(408, "slow", "the body did not arrive in time", f"each MiB of it has {config.body_s:g} s (body_s)", {"connection": "close"})
        if message["type"] == "http.disconnect":
            raise Refused(400, "gone", "the body has no end", "nothing was kept: send it whole")
        piece, more = message.get("body", b""), message.get("more_body", False)
        size_bytes, part_bytes, left_s = size_bytes + len(piece), part_bytes + len(piece), max(0.0, left_s - (trio.current_time() - began_s))
        if size_bytes > most:
            raise blob_too_large(most)
        if part_bytes >= PART_BYTES:
            part_bytes, left_s = 0, config.body_s
        if address is not None:
            address.take(piece)
        if not more and address is not None:
            address.check()
        if piece:
            yield piece
