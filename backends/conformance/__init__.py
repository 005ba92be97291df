"""The laws that every backend keeps, for holding against any of them, also one written elsewhere.

    scoreboard = await run_checks(stores)       # stores: your `Stores`, or `stores_of("lmdb:DIR")`
    print(scoreboard.render())

No pytest is needed. Every law shows the sentence of the design that it holds a backend to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from perdure.backends.conformance import (
    board,
    changes,
    commits,
    conditions,
    conflicts,
    doubt,
    durability,
    errors,
    ids_and_keys,
    images,
    kv,
    limits,
    loading,
    pages,
    reads,
    resolved,
    sharing,
    snapshots,
    turns,
    views,
    waits,
)
from perdure.backends.conformance.board import Score, Scoreboard
from perdure.backends.conformance.law import Broken, Law, Stores
from perdure.backends.conformance.stores import stores_of

__all__ = ["CHECKS", "Broken", "Law", "Score", "Scoreboard", "Stores", "run_checks", "stores_of"]

_MODULES = (
    *(commits, conflicts, ids_and_keys, conditions, reads, pages, waits, kv, changes, snapshots, views, limits),
    *(durability, loading, images, sharing, turns, doubt, resolved, errors),
)
CHECKS: Final[tuple[Law, ...]] = tuple(law for module in _MODULES for law in module.PART.laws)
"""All laws, by part."""


async def run_checks(
    stores: Stores, laws: Sequence[Law] = CHECKS, only: Collection[str] = (), progress: Callable[[Score], None] | None = None
) -> Scoreboard:
    """Hold *laws* against the backend behind *stores*; *only* names laws or parts. See `board.run_checks`."""
    return await board.run_checks(stores, laws, only, progress)
