"""The laws that every backend keeps, for holding against any of them, also one written elsewhere.

    scoreboard = await run_checks(stores)       # stores: your `Stores`, or `stores_of("lmdb:DIR")`
    print(scoreboard.render())

No pytest is needed. Every law shows the sentence of the design that it holds a backend to. `History` and
`refusal_of` judge what your own program noted of its operations: whether it is linearizable.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from perdure.backends.conformance import (
    board,
    changes,
    commits,
    concurrency,
    conditions,
    conflicts,
    cuts,
    doubt,
    durability,
    errors,
    ids_and_keys,
    images,
    kv,
    leases,
    limits,
    loading,
    moving,
    pages,
    reads,
    resolved,
    sharing,
    snapshots,
    strangers,
    turns,
    views,
    waits,
)
from perdure.backends.conformance.board import Score, Scoreboard
from perdure.backends.conformance.histories import History, refusal_of
from perdure.backends.conformance.law import Broken, Law, Stores
from perdure.backends.conformance.linearize import Undecided
from perdure.backends.conformance.operation import Found, Get, Operation, Outcome, Read, Seen
from perdure.backends.conformance.stores import stores_of

__all__ = [
    "CHECKS",
    "Broken",
    "Found",
    "Get",
    "History",
    "Law",
    "Operation",
    "Outcome",
    "Read",
    "Score",
    "Scoreboard",
    "Seen",
    "Stores",
    "Undecided",
    "refusal_of",
    "run_checks",
    "stores_of",
]

_MODULES = (
    *(commits, conflicts, ids_and_keys, conditions, reads, pages, waits, kv, changes, snapshots, views, limits, cuts),
    *(durability, loading, images, moving, sharing, strangers, leases, turns, doubt, resolved, concurrency, errors),
)
CHECKS: Final[tuple[Law, ...]] = tuple(law for module in _MODULES for law in module.PART.laws)
"""All laws, by part."""


async def run_checks(stores: Stores, laws: Sequence[Law] = CHECKS, only: Collection[str] = (), progress: Callable[[Score], None] | None = None) -> Scoreboard:
    """Hold *laws* against the backend behind *stores*; *only* names laws or parts. See `board.run_checks`."""
    return await board.run_checks(stores, laws, only, progress)
