"""The stores that a run can stand on, by their URL's scheme."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from perdure.backends import file
from perdure.backends.commit_log import CommitLog
from perdure.backends.errors import Misuse, Unavailable
from perdure.backends.file import FileMap
from perdure.backends.limits import Limits
from perdure.backends.logged import LoggedMap
from perdure.backends.memory import open_memory
from perdure.backends.ordered import OrderedBackend
from perdure.backends.ordered_map import MapAway, MapDoubtful, MapFull
from perdure.backends.place import Place
from perdure.backends.tables import read_meta, write_meta
from perdure.runtime.simulation.faults import WHATS, What
from perdure.runtime.simulation.world import FOLDER, Life, World

_LOGGED = "logged"
_MEMORY = "/dev/shm"
"""A folder that needs no disk, where a machine has one: nothing is to be learnt from a real disk here."""


async def _close(backend: OrderedBackend) -> None:
    await backend.aclose()


def _nothing(world: World) -> None:
    pass


@attrs.frozen
class Kind:
    """A kind of store: how it is opened and closed, what may go wrong with it, and what is left to do after a run."""

    open: Callable[[World, Life, Limits], Awaitable[OrderedBackend]]
    faults: tuple[What, ...]
    on_disk: bool
    """Whether it stands on the simulated disk: then its calls are the points."""
    alone: bool
    """Whether one process at a time has it open."""
    close: Callable[[OrderedBackend], Awaitable[None]] = _close
    end: Callable[[World], None] = _nothing


# -- file: -----------------------------------------------------------------------------------


async def _open_file(world: World, life: Life, limits: Limits) -> OrderedBackend:
    options = file.Options(segment=world.segment_bytes, flush="inline")
    return await file.open_file(FOLDER, options, url=f"file:{FOLDER}", environment=life.environment, limits=limits)


# -- segments: a commit log before a map that is durable by itself -----------------------------


async def _open_segments(world: World, life: Life, limits: Limits) -> OrderedBackend:
    """As `lmdb:DIR?log=segments`, with a `file:` store in the place of LMDB, so that all of it stands on the simulated disk."""
    below = await _open_file(world, life, limits)
    base = below._store
    assert isinstance(base, FileMap)
    disk, folder, place = life.environment.disk, f"{FOLDER}/front", Place("inline")

    def new_log() -> CommitLog:
        return CommitLog(disk, folder, bytes.fromhex(base.id), place, world.segment_bytes)

    try:
        if not base.read(lambda reader: read_meta(reader, _LOGGED)):
            await new_log().create()
            await disk.sync_folder(FOLDER)
            await base.write(lambda writer: write_meta(writer, _LOGGED, 1), small=True)
        store = LoggedMap(base, new_log)
        await store.load()
    except BaseException as error:
        with trio.CancelScope(shield=True):
            await base.aclose()
        if not isinstance(error, OSError | MapDoubtful | MapAway | MapFull):
            raise
        raise Unavailable(f"{FOLDER} cannot be opened: {error}; see to the disk") from error  # noqa: ASYNC104 - it is no Cancelled
    return OrderedBackend(store, url=f"segments:{FOLDER}", capabilities=below.capabilities, environment=life.environment, limits=limits)


# -- memory: ---------------------------------------------------------------------------------


async def _open_memory(world: World, life: Life, limits: Limits) -> OrderedBackend:
    """The one store of the run: it outlives the runtimes that are opened on it."""
    await trio.lowlevel.checkpoint()
    if world.kept is None:
        world.kept = open_memory(environment=life.environment, limits=limits)
    kept: OrderedBackend = world.kept
    return kept


async def _leave_open(backend: OrderedBackend) -> None:
    await trio.lowlevel.checkpoint()


# -- lmdb: -----------------------------------------------------------------------------------


async def _open_lmdb(world: World, life: Life, limits: Limits) -> OrderedBackend:
    """In a real folder that lasts as long as the run: its disk fails in no way."""
    from perdure.backends.lmdb import Options, open_lmdb

    if world.kept is None:
        world.kept = tempfile.mkdtemp(prefix="perdure-simulation-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None)
    options = Options(flush="inline", verify="off", size=64 << 20)
    return await open_lmdb(f"{world.kept}/store", options, url="lmdb:simulated", environment=life.environment, limits=limits)


def _remove(world: World) -> None:
    if world.kept is not None:
        shutil.rmtree(world.kept, ignore_errors=True)


IN_MEMORY: Final[tuple[What, ...]] = ("restart", "cancel", "freeze", "flush", "slow", "wake")
"""What can happen to a runtime whose store has no disk that we could take away."""

KINDS: Final[dict[str, Kind]] = {
    "file": Kind(_open_file, WHATS, on_disk=True, alone=True),
    "segments": Kind(_open_segments, WHATS, on_disk=True, alone=True),
    "memory": Kind(_open_memory, IN_MEMORY, on_disk=False, alone=False, close=_leave_open),
    "lmdb": Kind(_open_lmdb, ("restart", "cancel", "freeze", "slow", "wake"), on_disk=False, alone=False, end=_remove),
}


def kind_of(url: str) -> Kind:
    """The kind of store that *url* names.

    Raises:
      Misuse: there is none to simulate.
    """
    scheme = url.partition(":")[0]
    if scheme not in KINDS:
        raise Misuse(f"{url!r} cannot be simulated: {', '.join(f'{name}:' for name in KINDS)} can")
    return KINDS[scheme]
