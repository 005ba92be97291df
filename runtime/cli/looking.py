"""Where `top` looks: at a daemon over HTTP, or into a store that it opens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import trio

from perdure.actors.claim import Beat, Lease
from perdure.actors.cursor import Checkpoint, unpack_any
from perdure.backends.commit import BEATS, CHECKPOINTS, LEASES
from perdure.backends.errors import MissingExtra, Misuse, PerdureError, Unavailable
from perdure.backends.event import Position
from perdure.backends.processes import RealProcesses, told
from perdure.backends.protocol import Backend
from perdure.runtime.cli.glances import Actor, Glance, of_status
from perdure.runtime.cli.stores import reading

Look = Callable[[], Awaitable[Glance]]

ENTRIES_MAX: Final = 1_000
ANSWER_S: Final = 10.0
DAEMON: Final = "lease daemon "


@asynccontextmanager
async def looking(url: str, token: str) -> AsyncIterator[Look]:
    """What gives a glance at *url*, as often as it is asked.

    Raises:
      Unavailable: nobody answers there, or the store cannot be looked at now. Misuse: the token does not permit it.
    """
    if url.startswith(("http://", "https://")):
        async with _at_daemon(url, token) as look:
            yield look
    else:
        async with reading(url) as backend:
            yield lambda: of_store(url, backend)


# -- a daemon --------------------------------------------------------------------------------


@asynccontextmanager
async def _at_daemon(url: str, token: str) -> AsyncIterator[Look]:
    try:
        import httpx2
    except ModuleNotFoundError as error:
        raise MissingExtra("a look at a daemon over HTTP", "client") from error
    headers = {"authorization": f"Bearer {token}"} if token else {}
    shown = f"{urlsplit(url).scheme}://{urlsplit(url).netloc.rpartition('@')[2]}"
    daemon = f"the daemon at {shown}"

    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=ANSWER_S) as client:

        async def ask(path: str) -> Any:
            try:
                answer = await client.get(path)
                document = answer.json()
            except httpx2.HTTPError as error:
                raise Unavailable(f"it does not answer ({type(error).__name__})", "look whether it runs, and try again", daemon) from error
            except ValueError as error:
                raise Misuse(f"what answers at {shown} is no daemon of perdure") from error
            if answer.status_code in (401, 403):
                raise Misuse(f"{document.get('title')}: name a token with the scope operate by PERDURE_TOKEN or --token-file (`perdure token new`)")
            if answer.status_code != 200 and path != READY:
                raise Unavailable(f"it says {answer.status_code}: {document.get('title')}", document.get("detail") or "try again", daemon)
            return document

        async def look() -> Glance:
            status, ready = await ask("/v1/status"), await ask(READY)
            return of_status(shown, trio.current_time(), status, ready)

        yield look


READY: Final = "/health/ready"


# -- a store ---------------------------------------------------------------------------------


async def of_store(url: str, backend: Backend) -> Glance:
    """What the store tells of those who work on it."""
    status, processes = await backend.store_status(), RealProcesses()
    leases = [Lease.read(one.key.decode(), one.value, one.revision) for one in await backend.scan(LEASES, prefix=b"", limit=ENTRIES_MAX)]
    beats = {one.key.decode(): Beat.read(one.key.decode(), one.value, one.revision) for one in await backend.scan(BEATS, prefix=b"", limit=ENTRIES_MAX)}
    alive = {owner: told(beat.process) for owner, beat in beats.items() if not processes.gone(beat.process)}
    owners = {lease.name: alive[lease.owner] for lease in leases if lease.owner in alive}
    entries = await backend.scan(CHECKPOINTS, prefix=b"", limit=ENTRIES_MAX)
    models = [await _kept(backend, entry.key.decode(errors="replace"), entry.value, status.head, owners) for entry in entries]
    programs = [name for name in owners if name.startswith("lease ") and not name.startswith(DAEMON)]
    others = [Actor(depth=1, name=name, state="held", owner=owners[name]) for name in programs]
    return Glance(
        source=url,
        at_s=trio.current_time(),
        store=status.id,
        url=status.url,
        head=status.head,
        state=status.state.value,
        kept_only=True,
        reasons=status.damages,
        used_bytes=status.bytes_used,
        limit_bytes=status.bytes_limit,
        daemons=tuple(name.removeprefix(DAEMON) for name in owners if name.startswith(DAEMON)),
        actors=(*_group("kept models and subscriptions", models), *_group("leases", others)),
    )


def _group(name: str, below: list[Actor]) -> list[Actor]:
    return [Actor(depth=0, name=f"{name} ({len(below)})", state="open"), *below] if below else []


async def _kept(backend: Backend, name: str, value: bytes, head: Position, owners: dict[str, str]) -> Actor:
    try:
        kept: Checkpoint = unpack_any(value)
    except msgspec.MsgspecError as error:
        return Actor(depth=1, name=name, state="damaged", last_error=str(error))
    owner = owners.get(name if name.startswith("subscription ") else f"projection {name}")
    behind_s = await _age_s(backend, kept.position) if kept.position < head else 0.0
    state = "faulted" if kept.fault else "running" if owner else "nobody's"
    return Actor(
        depth=1,
        name=name,
        state=state,
        position=kept.position,
        lag_events=max(0, head - kept.position),
        lag_s=behind_s,
        owner=owner,
        last_error=kept.fault or None,
    )


async def _age_s(backend: Backend, position: int) -> float | None:
    """For how long there has been more than what is kept: the age of the first event beyond, by the store's clock."""
    try:
        page = await backend.read_log(after=Position(position), limit=1, bytes_max=1)
        now_us = await backend.now_us()
    except PerdureError:
        return None
    return max(0.0, (now_us - page.records[0].at_us) / 1e6) if page.records else None
