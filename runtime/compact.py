"""Compacting a store: what may be forgotten is, small frames are merged, and room that is not used goes back to the disk."""

from __future__ import annotations

from typing import Final

import attrs
import trio

from perdure.backends.errors import Unavailable
from perdure.backends.event import Position
from perdure.backends.limits import LIMITS
from perdure.backends.progress import Progress, Told, nobody
from perdure.backends.protocol import Backend, StoreStatus
from perdure.backends.upkeep import DOUBTS

PATIENCE_S: Final = 5.0
"""Upkeep gives way to whoever writes; it is tried for so long."""


@attrs.frozen
class CompactReport:
    """Bytes in use and of the files, before and after; *kept* says why no room was given back ('': it was)."""

    used_before: int
    used_after: int
    file_before: int
    file_after: int
    steps: int
    """Slices of upkeep that were done."""
    kept: str
    young_s: float = 0.0
    """Something was cut, and events younger than that are left where they are, cut or not; 0: there are none."""


async def compact(backend: Backend, *, progress: Told = nobody) -> CompactReport:
    """Do all upkeep that is due, then give room back to the disk, if nobody else has the store open.

    Others may write meanwhile; they wait for moments, and at the end for as long as copying takes. If cancelled, some of it is done.

    Raises:
      Unavailable: others write all the time; or the store has to be reopened.
    """
    before = await backend.store_status()
    steps = 0
    while await _maintain(backend):
        steps += 1
        progress(Progress("slices of upkeep", steps))
    progress(Progress("giving room back", 0))
    kept = await backend.shrink()
    after = await backend.store_status()
    return CompactReport(before.bytes_used, after.bytes_used, _file_bytes(before), _file_bytes(after), steps, kept, await _young_s(backend))


async def _young_s(backend: Backend) -> float:
    """How old events must be to be swept, if the newest is younger and some have been cut; else 0."""
    wait_s = DOUBTS * LIMITS.commit_s
    if not await backend.cuts():
        return 0.0
    page = await backend.read_log(after=Position(await backend.head() - 1), limit=1, bytes_max=1, over_cuts=True)
    before_us = await backend.now_us() - wait_s * 1e6
    return wait_s if any(record.at_us > before_us for record in page.records) else 0.0


async def _maintain(backend: Backend) -> bool:
    deadline = trio.current_time() + PATIENCE_S
    while True:
        await trio.lowlevel.checkpoint()
        try:
            return await backend.maintain()
        except Unavailable:
            if trio.current_time() >= deadline:
                raise
        await trio.sleep(0.005)


def _file_bytes(status: StoreStatus) -> int:
    return int(status.details.get("file_bytes", status.bytes_used))
