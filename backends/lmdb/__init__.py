"""`lmdb:DIR`: the embedded default. Acknowledges when the LMDB transaction is durable.

Options in the URL's query: `size=` (bytes, with KiB/MiB/GiB; without it the store may grow as the
disk allows), `verify=auto|full|tree|off`, `flush=auto|inline|thread` (see `place`), `insist=1` (a network file
system after all), `mode=ro` (for reading only: see `readonly`).
"""

from __future__ import annotations

from pathlib import Path

import trio

from perdure.backends.environment import Environment
from perdure.backends.errors import Corrupt, Unavailable
from perdure.backends.limits import LIMITS, Limits
from perdure.backends.lmdb.map import LmdbMap
from perdure.backends.lmdb.opening import open_shared, share_open
from perdure.backends.lmdb.readonly import find_store, open_readonly
from perdure.backends.lmdb.shared import Options
from perdure.backends.ordered import OrderedBackend
from perdure.backends.ordered_map import OrderedMap
from perdure.backends.protocol import Capabilities

__all__ = ["Options", "open_lmdb"]


async def open_lmdb(folder: str, options: Options, *, url: str, environment: Environment | None = None, limits: Limits = LIMITS) -> OrderedBackend:
    """Open the store in *folder*, making it if there is none.

    Raises:
      Misuse: the folder cannot hold a store.
      Corrupt: damage was found while opening.
      TooNew: a newer perdure made it.
    """
    environment = environment or Environment()
    if options.readonly:
        return await _open_readonly(folder, options, url, environment, limits)
    try:
        shared = await open_shared(Path(folder), options, environment.ids(), environment.threads, limits.gate_s)
    except OSError as error:
        raise Unavailable(f"{folder} cannot be opened: {error.strerror or error}") from error
    store = LmdbMap(shared, environment=environment, gate_s=limits.gate_s, view_s=limits.view_s)
    capabilities = Capabilities(durable=True, views=True, shared_reads=True, shared_writes=True, loads=True, images=True)
    return await _checked(OrderedBackend(store, url=url, capabilities=capabilities, environment=environment, limits=limits), folder, options)


async def _open_readonly(folder: str, options: Options, url: str, environment: Environment, limits: Limits) -> OrderedBackend:
    """The store for reading; by way of the environment that this process has open, if it has."""
    store: OrderedMap
    try:
        path = await environment.threads.run_sync(find_store, Path(folder))
        shared = await share_open(path)
        if shared is not None:
            store = LmdbMap(shared, environment=environment, gate_s=limits.gate_s, view_s=limits.view_s)
        else:
            store = await open_readonly(path, options, environment.threads, limits.gate_s)
    except OSError as error:
        raise Unavailable(f"{folder} cannot be opened: {error.strerror or error}") from error
    capabilities = Capabilities(durable=True, views=True, shared_reads=True, images=True, writes=False)
    return await _checked(OrderedBackend(store, url=url, capabilities=capabilities, environment=environment, limits=limits), folder, options)


async def _checked(backend: OrderedBackend, folder: str, options: Options) -> OrderedBackend:
    """The backend, verified if that was asked for; else it is closed."""
    try:
        if options.verify == "full" and (problems := await backend.verify()):
            raise Corrupt(folder, problems[0])
    except BaseException:
        with trio.CancelScope(shield=True):
            await backend.aclose()
        raise
    return backend
