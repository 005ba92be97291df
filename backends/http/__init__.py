"""`http://HOST:PORT` and `https://HOST:PORT`: a store that a daemon has open (`perdure serve`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from perdure.backends.environment import Environment
from perdure.backends.errors import MissingExtra, Unavailable
from perdure.backends.http import wire
from perdure.backends.limits import LIMITS, Limits

try:
    from perdure.backends.http.backend import HttpBackend
    from perdure.backends.http.session import Lost, Session
except ModuleNotFoundError as error:
    if error.name != "httpx2":
        raise
    raise MissingExtra("http://", "client") from error
from perdure.backends.http.address import read_url

if TYPE_CHECKING:
    import httpx2

__all__ = ["HttpBackend", "open_http"]


async def open_http(
    url: str,
    *,
    token: str | None = None,
    environment: Environment | None = None,
    limits: Limits = LIMITS,
    transport: httpx2.AsyncBaseTransport | None = None,
    scratch: str = "",
) -> HttpBackend:
    """Open the store of the daemon at *url*, with *token* (default: that in the URL's `?token_file=PATH`, else `PERDURE_TOKEN` in the environment).

    *transport* carries its requests; *scratch* names a store of our own, made if there is none, for trying things out.

    Raises:
      Misuse: the URL names no daemon.
      Forbidden: the daemon refuses the token.
      Unavailable: it cannot be reached.
      TooNew: it speaks what this perdure does not.
    """
    environment = environment or Environment()
    session = Session(read_url(url, token, os.environ, _read_text), jitter=environment.jitter, transport=transport)
    opened: HttpBackend | None = None
    try:
        hello: wire.Hello = await session.ask("GET", "", None, wire.Hello, headers={wire.SCRATCH: scratch} if scratch else None)
        opened = HttpBackend(session, hello, environment=environment, limits=limits, scratch=scratch)
    except Lost as error:
        raise Unavailable(f"{session.url} cannot be reached ({error})", "look whether a daemon runs there, and try again") from error
    finally:
        if opened is None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await session.aclose()
    return opened


def _read_text(path: str) -> str:
    return Path(path).expanduser().read_text(encoding="utf-8")
