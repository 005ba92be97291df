"""When a snapshot is due, and which are kept. Pure.

The ladder: the last two, and beyond them one in each [2^k, 2^(k+1)) positions back: enough to fall back
when one does not verify, and to answer `as_of` without folding everything. It is the oldest of each
rung that stays: were it the newest, none would ever grow old enough for the next rung.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from perdure.backends.event import Position

EVENTS: Final = 10_000
"""A snapshot is due after so many events..."""
IDLE_S: Final = 5.0
"""...or when the projection has been idle so long with something to keep."""
LAST: Final = 2
"""So many of the newest are kept whatever their age."""


def due(*, events: int, folded_bytes: int, last_bytes: int) -> bool:
    """Whether a snapshot pays: enough events, and bytes folded at least the size of the last one."""
    return events >= EVENTS and folded_bytes >= last_bytes


def to_drop(kept: Sequence[Position], newest: Position) -> tuple[Position, ...]:
    """Which of the *kept* positions go when a snapshot at *newest* is added."""
    rungs: dict[int, Position] = {}
    older = sorted((position for position in kept if position < newest), reverse=True)
    keep = set(older[: LAST - 1])
    for position in older[LAST - 1 :]:
        rungs[(newest - position).bit_length()] = position
    keep.update(rungs.values())
    return tuple(sorted(position for position in kept if position not in keep and position != newest))
