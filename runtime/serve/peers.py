"""The daemons of a store: each holds a lease that names it, and so each knows the others. Who is gone is forgotten by whoever looks."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Final

import trio

from perdure.actors.lease import Owner, read_beat, read_lease
from perdure.backends.commit import LEASES
from perdure.backends.errors import Closed, LeaseLost, PerdureError
from perdure.backends.processes import told
from perdure.runtime.runtime import Runtime
from perdure.runtime.serve.service import Service
from perdure.runtime.serve.shapes import Daemon

LOOK_S: Final = 1.0
PREFIX: Final = "lease daemon "
DAEMONS_MAX: Final = 100
FORGET_S: Final = 5.0


def name_of(listening: Sequence[str]) -> str:
    """What a daemon is called: where it is, and where it listens."""
    return f"{os.getpid()}@{socket.gethostname()} {' '.join(listening)}"[:110]


async def stand(rt: Runtime, name: str) -> None:
    """Hold the lease that says that we are here, for ever."""
    while True:
        try:
            async with rt.lease(f"daemon {name}"):
                await trio.sleep_forever()
        except LeaseLost:
            continue  # this process was held up: it says so anew


async def look_out(service: Service, name: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Know the others, for ever."""
    owners: dict[str, Owner] = {}
    task_status.started()
    while True:
        try:
            service.peers = await _look(service, name, owners)
        except Closed:
            return
        except PerdureError:
            pass  # the store is away: who was there last counts
        await trio.sleep(LOOK_S)


async def _look(service: Service, name: str, owners: dict[str, Owner]) -> tuple[Daemon, ...]:
    backend = service.rt.backend
    found = []
    entries = await backend.scan(LEASES, prefix=PREFIX.encode(), limit=DAEMONS_MAX)
    for entry in entries:
        lease_name = entry.key.decode()
        short = lease_name.removeprefix(PREFIX)
        lease = await read_lease(backend, lease_name)
        beat = None if lease is None else await read_beat(backend, lease.owner)
        if short == name:
            found.append(Daemon(short, "" if beat is None else told(beat.process), here=True))
        elif beat is not None and await owners.setdefault(lease_name, Owner(backend, lease_name)).lives():
            found.append(Daemon(short, told(beat.process), here=False))
        else:
            owners.pop(lease_name, None)
            await _forget(service.rt, short)
    return tuple(found)


async def _forget(rt: Runtime, short: str) -> None:
    """Take the lease of a daemon that is gone, and give it back: then there is none."""
    with trio.move_on_after(FORGET_S):
        try:
            async with rt.lease(f"daemon {short}"):
                pass
        except LeaseLost:
            pass


