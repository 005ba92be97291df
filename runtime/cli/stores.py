"""Opening the store that a command is about."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from perdure.backends.codec import Codec
from perdure.backends.environment import Environment, wall_us
from perdure.backends.errors import Misuse
from perdure.backends.limits import LIMITS
from perdure.backends.protocol import Backend
from perdure.backends.urls import open_backend
from perdure.runtime.cli import out
from perdure.runtime.cli.values import from_json
from perdure.runtime.encode import AnyWrite, Encoder
from perdure.runtime.open import open_runtime
from perdure.runtime.runtime import Runtime


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[Backend]:
    """The store for reading: never made here, and without a runtime, whose upkeep would take the writer's lock."""
    async with AsyncExitStack() as stack:
        with out.busy(f"opening {url}"):
            backend = await stack.enter_async_context(open_backend(url, create=False))
        yield backend


@asynccontextmanager
async def writing(url: str, *, create: bool) -> AsyncIterator[Runtime]:
    """The store for writing, *create* if there is none; waits a while for another writer to end."""
    async with AsyncExitStack() as stack:
        with out.busy(f"writing to {url}"):
            yield await stack.enter_async_context(open_runtime(url, create=create))


def check_writes(*writes: AnyWrite, key: bytes | None = None) -> None:
    """Refuse before a store is made for them what it would refuse.

    Raises:
      Misuse, TooLarge: a name, an event or a value cannot be stored.
    """
    Encoder(Codec(), Environment(), LIMITS, wall_us()).transact(writes, key)


def given_json(text: str, what: str) -> Any:
    """The value of a JSON argument; `-` is what stands on stdin.

    Raises:
      Misuse: it is not JSON, or stdin is no text.
    """
    try:
        return from_json(sys.stdin.read() if text == "-" else text, what)
    except UnicodeDecodeError as error:
        raise Misuse(f"{what} on standard input is not text in UTF-8: {error}") from error
