"""Compacting a store: what may be forgotten is, small frames are merged, and room that is not used goes back to the disk."""

from __future__ import annotations

from typing import Final

import attrs
import trio

from perdure.backends.errors import Unavailable
from perdure.backends.progress import Progress, Told, nobody
from perdure.backends.protocol import Backend, StoreStatus

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
    return CompactReport(before.bytes_used, after.bytes_used, _file_bytes(before), _file_bytes(after), steps, kept)


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
