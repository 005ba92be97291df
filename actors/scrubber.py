"""The scrubber: reads everything that a store keeps, again and again, so that damage is found while a backup is young."""

from __future__ import annotations

from collections.abc import Callable

import trio

from perdure.backends.errors import Unavailable
from perdure.backends.protocol import Backend, StoreStatus
from perdure.backends.scrub import SLICE_BYTES

ROUND_S = 30 * 86_400.0
"""A round takes at most so long."""
SLICE_EVERY_S = (0.05, 60.0)
"""The least and the most between two slices; an unverified store is read without a pause."""
SLICES_A_LOOK = 64
"""So often what was found is looked at."""


def pause_s(status: StoreStatus) -> float:
    """How long to wait between two slices of a store that says this of itself."""
    if status.verified.startswith("not ") and not status.damages:
        return 0.0
    least, most = SLICE_EVERY_S
    return min(most, max(least, ROUND_S / 2 * SLICE_BYTES / max(1, status.bytes_used)))


async def scrub(backend: Backend, told: Callable[[str], object]) -> None:
    """Go round for ever; *told* gets each problem once. Between two slices every other task has its turn."""
    known: set[str] = set()
    while True:
        status = await backend.store_status()
        for problem in status.damages:
            if problem not in known:
                known.add(problem)
                told(problem)
        wait_s = pause_s(status)
        for _ in range(SLICES_A_LOOK):
            if wait_s:
                await trio.sleep(wait_s)
            try:
                if not await backend.scrub():
                    break
            except Unavailable:
                await trio.sleep(SLICE_EVERY_S[1])
