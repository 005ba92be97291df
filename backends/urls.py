"""From a URL to an open backend. No concrete backend is imported before one is opened."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

import attrs
import trio

from perdure.backends.environment import Environment
from perdure.backends.errors import Misuse, Unavailable, WrongStore
from perdure.backends.limits import LIMITS, Limits
from perdure.backends.loading import refusal
from perdure.backends.protocol import Backend, State

SEGMENT_BYTES_MAX = 1 << 30
LATER = {"jetstream": "jetstream"}
"""Schemes that have their place and no backend yet."""


@asynccontextmanager
async def open_backend(
    url: str, *, environment: Environment | None = None, limits: Limits = LIMITS, create: bool = True, loading: bool = False, id: str | None = None
) -> AsyncIterator[Backend]:
    """Open the store that *url* names: `memory:`, `file:DIR`, `lmdb:DIR` or `postgresql://...`; it is made if there is none, unless *create* is false.

    `http://...` and `https://...` name the store that a daemon has open. *loading*: also one that is being loaded, or whose loading was cut off.
    *id*: the one that a new store gets, and that one which is there has to have.

    Raises:
      Misuse: the URL names no store.
      WrongStore: the store there has another id than *id*.
      Corrupt, TooNew, Unavailable: the store cannot be opened; the message says why.
    """
    backend = await _open(url, environment=environment if id is None else _drawing(id, environment or Environment()), limits=limits, create=create)
    try:
        if id is not None and backend.id != id:
            raise WrongStore(id, backend.id)
        if not loading:
            refuse_loading(backend, url)
        yield backend
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + limits.close_s):
            await backend.aclose()


def _drawing(id: str, environment: Environment) -> Environment:
    """The environment whose first id, that of a store which is made, is *id*."""
    first = [bytes.fromhex(id)]
    return attrs.evolve(environment, ids=lambda: first.pop() if first else environment.ids())


def refuse_loading(backend: Backend, url: str) -> None:
    """A store that is being loaded is not used.

    Raises:
      Unavailable: it is.
    """
    if backend.state is State.LOADING:
        raise Unavailable(refusal(url))


async def _open(url: str, *, environment: Environment | None, limits: Limits, create: bool) -> Backend:
    scheme, rest, query = split_url(url)
    match scheme:
        case "memory":
            _refuse_unknown(url, query, ())
            from perdure.backends.memory import open_memory

            return open_memory(environment=environment, limits=limits)
        case "lmdb":
            if not rest:
                raise Misuse("an LMDB store is a folder: write lmdb:DIR")
            _refuse_unknown(url, query, ("size", "verify", "flush", "insist", "create", "log", "segment", "mode"))
            from perdure.backends.commit_log import SEGMENT_BYTES
            from perdure.backends.lmdb import Options, open_lmdb

            options = Options(
                size=_size(query["size"]) if "size" in query else None,
                verify=_choice(query, "verify", ("auto", "full", "tree", "off")),
                flush=_choice(query, "flush", ("auto", "inline", "thread")),  # type: ignore[arg-type]  # one of these
                create=create and query.get("create", "1") != "0",
                insist=query.get("insist") == "1",
                log=_choice(query, "log", ("segments", "none")) if "log" in query else None,  # type: ignore[arg-type]  # one of these
                segment=_segment(query, SEGMENT_BYTES),
                readonly=_choice(query, "mode", ("rw", "ro")) == "ro",
            )
            return await open_lmdb(rest, options, url=url, environment=environment, limits=limits)
        case "file":
            if not rest:
                raise Misuse("a file store is a folder: write file:DIR")
            _refuse_unknown(url, query, ("size", "segment", "flush", "create"))
            from perdure.backends import file
            from perdure.backends.commit_log import SEGMENT_BYTES

            return await file.open_file(
                rest,
                file.Options(
                    size=_size(query["size"]) if "size" in query else None,
                    segment=_segment(query, SEGMENT_BYTES),
                    flush=_choice(query, "flush", ("auto", "inline", "thread")),  # type: ignore[arg-type]  # one of these
                    create=create and query.get("create", "1") != "0",
                ),
                url=url,
                environment=environment,
                limits=limits,
            )
        case "postgresql" | "postgres":
            from perdure.backends import postgres

            postgres_options = postgres.Options(
                schema=query.get("schema", postgres.SCHEMA),
                create=create,
                readonly=_choice(query, "mode", ("rw", "ro")) == "ro",
                insist=query.get("insist") == "1",
            )
            return await postgres.open_postgres(url, postgres_options, environment=environment, limits=limits)
        case "http" | "https":
            from perdure.backends.http import open_http

            return await open_http(url, environment=environment, limits=limits)
        case _:
            raise Misuse(f"{url!r} names no store: {_why(scheme)}")


def _why(scheme: str) -> str:
    if scheme in LATER:
        return f"the {scheme}: backend is not part of this version; memory:, file:DIR, lmdb:DIR, postgresql://USER@HOST/DATABASE and http://HOST:PORT are"
    return "a store is memory:, file:DIR, lmdb:DIR, postgresql://USER@HOST/DATABASE or http://HOST:PORT"


def split_url(url: str) -> tuple[str, str, dict[str, str]]:
    """Scheme, what follows it, and the query."""
    scheme, colon, rest = url.partition(":")
    if not colon:
        raise Misuse(f"{url!r} is no URL of a store: write memory:, file:DIR, lmdb:DIR, postgresql://USER@HOST/DATABASE or http://HOST:PORT")
    rest, _, query = rest.partition("?")
    return scheme, rest.removeprefix("//") if scheme in ("lmdb", "file") else rest, dict(parse_qsl(query, keep_blank_values=True))


def _refuse_unknown(url: str, query: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in query:
        if name not in known:
            raise Misuse(f"{url!r}: there is no option {name!r}" + (f": known are {', '.join(known)}" if known else ""))


def _choice(query: Mapping[str, str], name: str, values: tuple[str, ...]) -> str:
    value = query.get(name, values[0])
    if value not in values:
        raise Misuse(f"{name}={value}: it is one of {', '.join(values)}")
    return value


def _segment(query: Mapping[str, str], default: int) -> int:
    size = _size(query["segment"]) if "segment" in query else default
    if size > SEGMENT_BYTES_MAX:
        raise Misuse(f"segment={query['segment']}: a log file is filled with zeros before it is used, at most 1GiB")
    return size


_UNITS = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMGT]iB)?", text, re.IGNORECASE)
    if match is None or not int(match[1]):
        raise Misuse(f"size={text}: write a number of bytes, or 512MiB, 20GiB")
    return int(match[1]) * _UNITS[(match[2] or "").lower()]
