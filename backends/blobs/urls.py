"""From a URL to an open blob store. No concrete one is imported before it is opened."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl

import trio

from perdure.backends.blobs.protocol import BlobStore
from perdure.backends.environment import Environment
from perdure.backends.errors import Misuse

CLOSE_S = 10.0
_KNOWN = "a blob store is directory:DIR or ipfs://HOST:PORT"


@asynccontextmanager
async def open_blobs(url: str, *, environment: Environment | None = None, create: bool = True) -> AsyncIterator[BlobStore]:
    """Open the blob store that *url* names: `directory:DIR`, or `ipfs://HOST:PORT` (extra `ipfs`; `ipfs+https://` behind TLS).

    A folder is made if it is not there, unless *create* is false. `?timeout=30` is how long an IPFS node may take for a block; with `?network=1` it
    may look for it at other nodes.

    Raises:
      Misuse: the URL names no blob store.
      BlobsUnavailable, TooNew, Corrupt: it cannot be opened; the message says why. (A node is not asked before it is needed.)
      MissingExtra: what it needs is not installed.
    """
    blobs = await _open(url, environment, create)
    try:
        yield blobs
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
            await blobs.aclose()


async def _open(url: str, environment: Environment | None, create: bool) -> BlobStore:
    scheme, colon, rest = url.partition(":")
    address, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    match scheme:
        case "directory" if colon:
            if not (folder := address.removeprefix("//")):
                raise Misuse("a blob store in a folder needs its name: write directory:DIR")
            _refuse(url, options, ())
            from perdure.backends.blobs.directory import open_directory

            return await open_directory(folder, url=url, create=create, environment=environment)
        case "ipfs" | "ipfs+https" if colon:
            _refuse(_shown(url), options, ("timeout", "network"))
            from perdure.backends.blobs.ipfs import Options, open_ipfs

            given = Options(
                timeout_s=_seconds(options.get("timeout", "30")),
                tls=scheme == "ipfs+https",
                network=_switch(options.get("network", "0")),
            )
            return open_ipfs(f"ipfs:{address}", given, environment=environment)
        case _:
            raise Misuse(f"{_shown(url)!r} names no blob store: {_KNOWN}")


def _shown(url: str) -> str:
    """The URL without what may be a password."""
    before, at, after = url.rpartition("@")
    return f"{before.partition(':')[0]}://***@{after}" if at else url


def _refuse(url: str, options: dict[str, str], known: tuple[str, ...]) -> None:
    for name in options:
        if name not in known:
            raise Misuse(f"{url!r}: there is no option {name!r}" + (f": known are {', '.join(known)}" if known else ""))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        raise Misuse(f"timeout={text}: write seconds, more than 0 and at most 86400")
    return seconds


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise Misuse(f"network={text}: it is 0 or 1")
    return text == "1"
