"""`lmdb:DIR`: the embedded default. Acknowledges when the LMDB transaction is durable.

Options in the URL's query: `size=` (bytes, with KiB/MiB/GiB; without it the store may grow as the
disk allows), `verify=auto|full|tree|off`, `flush=auto|inline|thread` (see `place`), `insist=1` (a network file
system after all), `log=segments` (a commit log before LMDB: acknowledges when a batch of that is flushed, and one process
at a time has the store open; the store remembers it, `log=none` ends it) and `segment=` (bytes of a log file, 16MiB),
`mode=ro` (for reading only: see `readonly`).
"""

from __future__ import annotations

from pathlib import Path

import attrs
import trio

from perdure.backends.commit_log import CommitLog
from perdure.backends.denied import check_denied
from perdure.backends.environment import Environment
from perdure.backends.errors import Corrupt, Unavailable
from perdure.backends.limits import LIMITS, Limits
from perdure.backends.lmdb.files import readable
from perdure.backends.lmdb.map import LmdbMap
from perdure.backends.lmdb.opening import open_shared, share_open
from perdure.backends.lmdb.readonly import ReadOnlyMap, find_store, open_readonly
from perdure.backends.lmdb.shared import Options
from perdure.backends.logged import end_logged, has_ended_log, is_logged, open_logged, remove_ended
from perdure.backends.ordered import OrderedBackend
from perdure.backends.ordered_map import MapAway, MapDoubtful, OrderedMap
from perdure.backends.place import Place
from perdure.backends.protocol import Capabilities
from perdure.backends.tables import read_meta

__all__ = ["Options", "open_lmdb"]


async def open_lmdb(folder: str, options: Options, *, url: str, environment: Environment | None = None, limits: Limits = LIMITS) -> OrderedBackend:
    """Open the store in *folder*, making it if there is none.

    Raises:
      Misuse: the folder cannot hold a store, or this user has no right to it.
      Corrupt: damage was found while opening.
      TooNew: a newer perdure made it.
      Unavailable: another process has it open, and only one may; or the disk refuses.
    """
    environment = environment or Environment()
    if options.readonly:
        return await _open_readonly(folder, options, url, environment, limits)
    try:
        there = await environment.threads.run_sync(_has_log, folder)
        logged = options.log == "segments" or there
        base = await _open_map(folder, attrs.evolve(options, alone=logged), environment, limits)
        try:
            store, shared = await _with_log(base, folder, options, environment, logged)
            capabilities = Capabilities(durable=True, views=True, shared_reads=shared, shared_writes=shared, loads=True, images=True, moves=True, cuts=True)
            backend = OrderedBackend(store, url=url, capabilities=capabilities, environment=environment, limits=limits)
            await _check_rows(backend, base, folder, options)
        except BaseException:
            with trio.CancelScope(shield=True):
                await base.aclose()
            raise
    except (OSError, MapDoubtful, MapAway) as error:
        check_denied(error, folder, readable(Path(folder)))
        raise Unavailable(f"{folder} cannot be opened: {getattr(error, 'strerror', None) or error}", "see to the disk, then try again") from error
    return backend


async def _open_readonly(folder: str, options: Options, url: str, environment: Environment, limits: Limits) -> OrderedBackend:
    """The store for reading; by way of the environment that this process has open, if it has."""
    store: LmdbMap | ReadOnlyMap
    try:
        path = await environment.threads.run_sync(find_store, Path(folder))
        shared = await share_open(path)
        if shared is not None:
            store = LmdbMap(shared, environment=environment, gate_s=limits.gate_s, view_s=limits.view_s)
        else:
            store = await open_readonly(path, options, environment.threads, limits.gate_s)
    except OSError as error:
        check_denied(error, folder)
        raise Unavailable(f"{folder} cannot be opened: {error.strerror or error}") from error
    capabilities = Capabilities(durable=True, views=True, shared_reads=True, images=True, writes=False)
    backend = OrderedBackend(store, url=url, capabilities=capabilities, environment=environment, limits=limits)
    try:
        await _check_rows(backend, store, folder, options)
    except BaseException:
        with trio.CancelScope(shield=True):
            await backend.aclose()
        raise
    return backend


async def _check_rows(backend: OrderedBackend, store: LmdbMap | ReadOnlyMap, folder: str, options: Options) -> None:
    """Read all rows, where that is asked for, or owed and soon done.

    Raises:
      Corrupt: what is found.
    """
    if options.verify != "full" and (not store.rows_owed or store.read(lambda reader: read_meta(reader, "loading"))):
        return  # what is loaded half does not fit together yet
    if problems := await backend.verify():
        first, more = problems[0].partition("; keep the files")[0], f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise Corrupt(folder, f"{first}{more}; ?verify=tree opens what is left")
    store.rows_read()


def _has_log(folder: str) -> bool:
    return any((Path(folder) / "log").glob("*.log"))


async def _open_map(folder: str, options: Options, environment: Environment, limits: Limits) -> LmdbMap:
    shared = await open_shared(Path(folder), options, environment.ids(), environment.threads, limits.gate_s)
    return LmdbMap(shared, environment=environment, gate_s=limits.gate_s, view_s=limits.view_s)


async def _with_log(base: LmdbMap, folder: str, options: Options, environment: Environment, logged: bool) -> tuple[OrderedMap, bool]:
    """The map with its commit log before it, if it has one or shall have; and whether other processes may open it too."""
    if not logged:
        if is_logged(base):
            if await environment.threads.run_sync(_has_log, folder):
                raise Unavailable(f"another process has given {folder} a commit log just now: open it again")
            raise Corrupt(f"{folder}/log", "it is gone, and with it what was committed last: restore the store from a backup")
        return base, True
    place = Place(options.flush)

    def new_log() -> CommitLog:
        return CommitLog(environment.disk, f"{folder}/log", bytes.fromhex(base.id), place, options.segment)

    if has_ended_log(base) and options.log != "segments":
        await remove_ended(base, new_log())  # a crash came between
        return base, False
    store = await open_logged(base, new_log, base.stretch)
    if options.log == "none":
        await end_logged(store, base, new_log())
        return base, False  # to others from the next opening on
    return store, False
