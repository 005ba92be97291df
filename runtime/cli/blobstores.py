"""Opening the blob store with the archives that a command is about."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from perdure.backends.errors import Misuse
from perdure.runtime.archives import Blobs


@asynccontextmanager
async def archive_store(url: str | None) -> AsyncIterator[Blobs | None]:
    """The blob store that *url* names; None for none.

    Raises:
      Misuse: there are no blob stores here, or the URL names none.
    """
    if url is None:
        yield None
        return
    try:
        urls = importlib.import_module("perdure.backends.blobs.urls")
    except ImportError as error:
        raise Misuse(f"this perdure has no blob stores, so there is nothing at {url}: install a newer one") from error
    async with urls.open_blobs(url) as blobs:
        yield blobs
