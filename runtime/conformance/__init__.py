"""The laws of the runtime (events, kv, codec, subscriptions, trouble), for holding against any backend below it.

    scoreboard = await run_checks(stores)       # the same stores as of `perdure.backends.conformance`

No pytest is needed. Every law shows the sentence of the design that it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from perdure.backends.conformance import board
from perdure.backends.conformance.board import Score, Scoreboard
from perdure.backends.conformance.law import Broken, Law, Stores
from perdure.backends.conformance.stores import stores_of
from perdure.runtime.conformance import codec as codec
from perdure.runtime.conformance import events, kv, leases, limits, readers, writes
from perdure.runtime.conformance import states as states
from perdure.runtime.conformance import subscriptions as subscriptions
from perdure.runtime.conformance import trouble as trouble

__all__ = ["CHECKS", "Broken", "Law", "Score", "Scoreboard", "Stores", "run_checks", "stores_of"]

CHECKS: Final[tuple[Law, ...]] = tuple(
    law for module in (events, writes, readers, limits, kv, codec, states, subscriptions, leases, trouble) for law in module.PART.laws
)
"""All laws, by part."""


async def run_checks(stores: Stores, laws: Sequence[Law] = CHECKS, only: Collection[str] = (), progress: Callable[[Score], None] | None = None) -> Scoreboard:
    """Hold *laws* against the runtime over *stores*; *only* names laws or parts."""
    return await board.run_checks(stores, laws, only, progress)
