"""A blob store in a folder, as small as one can be."""

from __future__ import annotations

import hashlib
import os

import attrs
import trio


@attrs.frozen
class Ref:
    cid: str
    size_bytes: int


class FolderBlobs:
    """See `BlobStore`: put, get and stat; a blob gets its name when it is whole."""

    def __init__(self, folder):
        self._folder = folder
        os.makedirs(folder, exist_ok=True)

    async def put(self, source, *, media_type=""):
        value = b"".join([piece async for piece in source])
        cid = "b" + hashlib.sha256(value).hexdigest()
        path = os.path.join(self._folder, cid)
        with open(path + ".new", "wb") as file:  # noqa: ASYNC230 - small, and of a test
            file.write(value)
            os.fsync(file.fileno())
        os.rename(path + ".new", path)
        return Ref(cid, len(value))

    async def get(self, what, *, start=0, end=None):
        await trio.lowlevel.checkpoint()
        with open(os.path.join(self._folder, what), "rb") as file:  # noqa: ASYNC230
            yield file.read()[start:end]

    async def stat(self, what):
        await trio.lowlevel.checkpoint()
        path = os.path.join(self._folder, what)
        return Ref(what, os.path.getsize(path)) if os.path.exists(path) else None
