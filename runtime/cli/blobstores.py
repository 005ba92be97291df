"""Opening the blob store with the archives that a command is about."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from perdure.backends.blobs.protocol import BlobStore
from perdure.backends.blobs.urls import open_blobs
from perdure.backends.undone import undone_blobs


@asynccontextmanager
async def archive_store(url: str | None, *, create: bool = False) -> AsyncIterator[BlobStore | None]:
    """The blob store that *url* names; None for none. It is made only where something is to be put: *create*; if the body fails it is not.

    Raises:
      Misuse: the URL names none.
    """
    if url is None:
        yield None
        return
    async with undone_blobs(url), open_blobs(url, create=create) as blobs:
        yield blobs
