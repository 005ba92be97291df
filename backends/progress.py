"""How far an operation on a whole store is."""

from __future__ import annotations

from collections.abc import Callable

import attrs


@attrs.frozen
class Progress:
    """*done* of *total* (None: unknown) of what is being done."""

    what: str
    done: int
    total: int | None = None


Told = Callable[[Progress], object]
"""Who is told of it, from time to time."""


def nobody(_: Progress) -> None:
    """Tell nobody."""
