"""Migration: a store goes to another backend while it is in use, and stays the store that it is.

Id, positions, seqs, commits, idempotency keys with their answers, revisions, tombstones, fences, checkpoints and snapshots are
there as they were, so every follower goes on from where it stands. `migrate_store` does it beside the programs that use
the store: whoever writes to it afterwards is told `StoreMoved`. `migrate` does it under a live runtime, whose callers, subscriptions
and projections notice nothing but a pause; it is the only way for `memory:`, and for what one process alone has open.

What was cut off is gone on with by the same call: until the source is marked, the store is at the source; from then on it is at the target.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import attrs
import trio

from perdure.actors.seat import seat_of
from perdure.backends.environment import Environment
from perdure.backends.errors import AT_HOME, Full, Misuse, StoreMoved, Unavailable, Unsupported, WrongStore
from perdure.backends.limits import LIMITS, Limits
from perdure.backends.progress import Told, nobody
from perdure.backends.protocol import Backend, State
from perdure.backends.undone import refuse_filled
from perdure.backends.urls import open_backend, split_url
from perdure.runtime.carry import Carrier
from perdure.runtime.cutover import PAUSE_S, Pause, cut_over, end_cut_over, turn_back
from perdure.runtime.runtime import Runtime

IN_FOLDERS = ("lmdb", "file")
_ONLY_THAT_ONE = "One process at a time has it open, and only that one can migrate it: await perdure.runtime.migrate.migrate(rt, URL)"


@attrs.frozen
class Migrated:
    """What a migration did. *events* and *entries* were brought by it, what was there from an attempt before was compared."""

    store: str
    source: str
    target: str
    head: int
    revision: int
    events: int
    entries: int
    log_digest: str
    """Of all records, as they were read from the source and back from the target; '' if all had been done before."""
    paused_s: float
    """So long writers waited;"""
    longest_pause_s: float
    attempts: int


# -- beside the programs that use the store --------------------------------------------------


async def migrate_store(
    source: str,
    target: str,
    *,
    environment: Environment | None = None,
    limits: Limits = LIMITS,
    pause_s: float = PAUSE_S,
    progress: Told = nobody,
) -> Migrated:
    """Bring the store at the URL *source* to *target*, where there is none yet, or what an attempt before has left.

    Writers wait for *pause_s* at most. If cancelled or failed, the source is as it was, unless it says that it is at the target: then the same
    call ends it.

    Raises:
      Misuse: the target is not empty or is the same store; or the source can only be migrated by the process that has it open.
      StoreMoved: the source is elsewhere already.
      Full: there is too little room for the target.
      TooNew, Unavailable, Corrupt: one of the two cannot be opened; or another one migrates it.
    """
    _check_names(source, target)
    async with _opened_source(source, environment, limits) as here, here.claim_move():
        gone_to = await here.moved_to()
        if gone_to and gone_to != place_of_url(target):
            raise StoreMoved(place_of_url(source), gone_to)
        if gone_to:
            await _check_there(target, source, environment, limits)
        await check_room(here, target)
        async with _opened_target(target, here, environment, limits) as there:
            return await bring(here, there, pause_s=pause_s, progress=progress)


async def roll_back(source: str, target: str, *, environment: Environment | None = None, limits: Limits = LIMITS) -> None:
    """The store is at *source* again, as long as *target* has accepted nothing of its own.

    Raises:
      Misuse: it was not brought there; or it has accepted something.
      TooNew, Unavailable, Corrupt: one of the two cannot be opened.
    """
    async with _opened_source(source, environment, limits) as here, here.claim_move():
        if not await here.moved_to():
            raise Misuse(f"{source} is not elsewhere: there is nothing to take back")
        async with open_backend(target, environment=environment, limits=limits, create=False, loading=True) as there, there.claim_move():
            if there.id != here.id:
                raise Misuse(f"{target} is another store than {source}: name the place that it was brought to")
            if there.state is State.LOADING:
                raise Misuse(f"the migration to {target} was cut off after its last step but one: end it by the same migration, then roll back")
            await turn_back(here, there, back=await place_of(here), to=await place_of(there))


@asynccontextmanager
async def _opened_source(url: str, environment: Environment | None, limits: Limits) -> AsyncIterator[Backend]:
    try:
        async with open_backend(url, environment=environment, limits=limits, create=False) as backend:
            check_declared(backend, url)
            yield backend
    except Unavailable as error:
        if split_url(url)[0] in IN_FOLDERS and " open" in error.why:
            raise Unavailable(f"{error.why}. {_ONLY_THAT_ONE}") from error
        raise


async def _check_there(target: str, source: str, environment: Environment | None, limits: Limits) -> None:
    """Where the source says that it is at *target*, none is made there.

    Raises:
      Misuse: there is none.
    """
    try:
        async with open_backend(target, environment=environment, limits=limits, create=False, loading=True):
            pass
    except Misuse as error:
        raise Misuse(f"{source} says that the store is at {target}, and there it is not ({error}): put it back there, with what came in since") from error


@asynccontextmanager
async def _opened_target(url: str, source: Backend, environment: Environment | None, limits: Limits) -> AsyncIterator[Backend]:
    await refuse_filled(url, None if environment is None else environment.threads)
    try:
        async with open_backend(url, environment=environment, limits=limits, loading=True, id=source.id) as backend:
            check_declared(backend, url)
            yield backend
    except WrongStore as error:
        raise Misuse(f"{url} is a store already, another one ({error.actual}): name a place where there is none") from error


# -- under a live runtime --------------------------------------------------------------------


async def migrate(rt: Runtime, target: str, *, pause_s: float = PAUSE_S, progress: Told = nobody) -> Migrated:
    """Bring the store of *rt* to *target*, and *rt* with it: callers wait for *pause_s* at most and are answered there; all that follows goes on.

    The old place stays open until *rt* ends, and says where the store is now. Views are not brought along. If cancelled or failed, *rt* is where it
    was, unless the source says that it is at the target: then the same call ends it.

    Raises: as `migrate_store` does.
    """
    check_target(target)
    seat = seat_of(rt.backend)
    source = seat.inner
    back = await place_of(source)
    if back == place_of_url(target):
        raise Misuse(f"{target} is the source itself: name another place")
    check_declared(source, back)
    await check_room(source, target)
    with seat.moving():
        async with source.claim_move(), AsyncExitStack() as place:
            there = await place.enter_async_context(_opened_target(target, source, rt.environment, rt.limits))

            def arrive() -> None:
                seat.move(there)
                rt._keep_open(place.pop_all())

            done = await bring(source, there, pause_s=pause_s, progress=progress, then=arrive)
    rt._ask_leases()
    return done


async def move_back(rt: Runtime, *, pause_s: float = PAUSE_S, progress: Told = nobody) -> Migrated:
    """Bring the store of *rt* back to where `migrate` took it from, with all that has come since.

    Raises:
      Misuse: it was not brought here.
      Unavailable, Full, Corrupt: as `migrate`.
    """
    seat = seat_of(rt.backend)
    source, there = seat.inner, seat.left
    if there is None:
        raise Misuse("this runtime stands where it was opened: there is no way back")
    with seat.moving():
        async with source.claim_move():
            done = await bring(source, there, pause_s=pause_s, progress=progress, then=lambda: seat.move(there))
    rt._ask_leases()
    return done


# -- both ------------------------------------------------------------------------------------


async def bring(
    source: Backend, target: Backend, *, pause_s: float = PAUSE_S, progress: Told = nobody, then: Callable[[], object] = lambda: None
) -> Migrated:
    """Bring what the open store *source* holds to *target*, opened for loading, or end what an attempt before has begun.

    *then* is called when it is there, before the first commit may go on. The caller has claimed the source. Raises: as `migrate_store` does.
    """
    back, to = await place_of(source), await place_of(target)
    carrier, pause = Carrier(source, target, progress), Pause(0.0, 0.0, 0)
    if target.state is State.OPEN and not await source.moved_to() and (await target.head() or await target.revision()):
        raise Misuse(f"{to} holds data already: it is the source itself by another name, or a copy of it that is in use; name a place where there is none")
    async with target.claim_move(), aclosing(carrier):
        gone_to = await source.moved_to()
        if gone_to and gone_to != to:
            raise StoreMoved(back, gone_to)
        if not gone_to:
            await carrier.begin()
            pause = await cut_over(carrier, source, target, to, pause_s=pause_s, then=then)
        elif target.state is State.LOADING:
            await carrier.begin()
            await end_cut_over(carrier, source, target)
            then()
        else:
            await _check_arrived(target, to, back)
            then()
        with trio.CancelScope(shield=True):  # it is there: who cancels is too late
            head, revision = await target.head(), await target.revision()
    return Migrated(
        store=source.id,
        source=back,
        target=to,
        head=head,
        revision=revision,
        events=carrier.events,
        entries=carrier.entries,
        log_digest=carrier.digest if carrier.position else "",
        paused_s=pause.took_s,
        longest_pause_s=pause.longest_s,
        attempts=pause.attempts,
    )


async def _check_arrived(target: Backend, to: str, back: str) -> None:
    """The source says that the store is at *target*, and there it is.

    Raises:
      Misuse: that one says that it is at the source: a rollback was cut off.
      StoreMoved: it has gone on from there.
    """
    gone_to = await target.moved_to()
    if gone_to == back:
        raise Misuse(f"a rollback from {to} was cut off: end it with --rollback")
    if gone_to:
        raise StoreMoved(to, gone_to)


def check_declared(backend: Backend, url: str) -> None:
    """Whether a store can be read and loaded as it is.

    Raises:
      Unsupported: it cannot.
    """
    if not (backend.capabilities.moves and backend.capabilities.loads and backend.capabilities.writes):
        raise Unsupported("moves", url, *([AT_HOME] if split_url(url)[0] in ("http", "https") else []))


# -- places ----------------------------------------------------------------------------------


def _check_names(source: str, target: str) -> None:
    if split_url(source)[0] == "memory":
        raise Misuse("a memory: store is in its process alone: migrate it there, await perdure.runtime.migrate.migrate(rt, URL)")
    check_target(target)
    if place_of_url(source) == place_of_url(target):
        raise Misuse(f"{target} is the source itself: name another place")


def check_target(url: str) -> None:
    """Whether a store may be brought there at all.

    Raises:
      Misuse: it would be gone with this process.
    """
    if split_url(url)[0] == "memory":
        raise Misuse("a memory: store is gone with its process: name a place that lasts")


async def place_of(backend: Backend) -> str:
    """Where an open store is, as others may be told: nothing secret, and whatever the working directory."""
    return place_of_url((await backend.store_status()).url)


def place_of_url(url: str) -> str:
    """The same of a URL. Options of how it is opened are left out, for a store in a folder."""
    scheme, rest, _ = split_url(url)
    if scheme in IN_FOLDERS:
        return f"{scheme}:{os.path.realpath(rest)}"
    if scheme in ("postgresql", "postgres"):
        from perdure.backends.postgres.session import read_url

        return read_url(url)[1]
    return url


def _nearest(folder: Path) -> Path:
    """The folder itself, or the lowest one above it that is there; what may not be looked at counts as not there."""
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


async def check_room(source: Backend, target: str) -> None:
    """Whether the disk of *target* has room for what *source* holds, where that can be known; what is there already is left alone.

    Raises:
      Full: it has not.
    """
    scheme, rest, _ = split_url(target)
    folder = _nearest(Path(rest))
    if scheme not in IN_FOLDERS or folder == Path(rest):
        return
    wanted, disk = (await source.store_status()).bytes_used, shutil.disk_usage(folder)
    if disk.free < wanted:
        raise Full(f"the disk for {target}, which needs {wanted:,} bytes more,", disk.used, disk.total)
