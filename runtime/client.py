"""A runtime over the store of a daemon: what it does for a program it does as one over a store of its own.

    async with open_client("https://store.example:8467") as rt:
        await rt.append("order-17", [OrderPlaced("ada", 500)])

`open_runtime("https://...")` and most commands that take a URL (docs/client.md) do the same, with the token of `PERDURE_TOKEN`, or of the file that
the URL names (`?token_file=PATH`). Here a program may give each its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import cattrs
import trio

from perdure.actors.projection import Changed
from perdure.backends.environment import Environment
from perdure.backends.http import open_http
from perdure.backends.limits import LIMITS, Limits
from perdure.runtime.app import App
from perdure.runtime.open import open_runtime
from perdure.runtime.runtime import Runtime


@asynccontextmanager
async def open_client(
    url: str,
    app: App | None = None,
    *,
    token: str | None = None,
    environment: Environment | None = None,
    limits: Limits = LIMITS,
    changed: Changed = "refuse",
    converter: cattrs.Converter | None = None,
) -> AsyncIterator[Runtime]:
    """A runtime over the store that the daemon at *url* has open, asked with *token* (default: that in the URL's
    `?token_file=PATH`, else `PERDURE_TOKEN` in the environment).

    The rest is as of `open_runtime`. An *app*'s projections run here, beside those of the daemon, under leases; without one
    `rt.model` reads what the daemon's projections have.

    Raises:
      Misuse: the URL names no daemon.
      Forbidden: the daemon refuses the token.
      Unavailable: it cannot be reached.
      MissingExtra: the client is not installed.
    """
    backend = await open_http(url, token=token, environment=environment, limits=limits)
    try:
        async with open_runtime(backend, app, environment=environment, limits=limits, changed=changed, converter=converter) as rt:
            yield rt
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + limits.close_s):
            await backend.aclose()
