"""Leases for programs: what must run in one process at a time, and is no projection. See `Runtime.lease`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from perdure.actors.lease import Leases
from perdure.backends.commit import Fence
from perdure.backends.errors import LeaseLost


@attrs.frozen
class Lease:
    """The right to run *name*, while the body of `Runtime.lease` runs. *fence* goes into each `transact` that is done by that right."""

    name: str
    fence: Fence


@asynccontextmanager
async def open_lease(leases: Leases, name: str, *, lease_s: float, release_s: float) -> AsyncIterator[Lease]:
    """See `Runtime.lease`."""
    scope = trio.CancelScope()
    number = 0

    def look() -> None:
        if number and not (claim.number == number and claim.fresh):
            scope.cancel()

    claim = leases.claim(f"lease {name}", look)
    try:
        await claim.wait_fresh()
        number = claim.number
        with scope:
            yield Lease(name, claim.fence)
        if scope.cancelled_caught:
            raise LeaseLost(name, f"there was no sign of life of this process for most of {lease_s:g} s, or another one has taken it")
    finally:
        number = 0
        with trio.CancelScope(shield=True, deadline=trio.current_time() + release_s):
            await leases.release(claim)
