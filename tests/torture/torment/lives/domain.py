"""What a life writes and folds. Every content follows from its place, so that it can be checked without a copy of it."""

from __future__ import annotations

import attrs

from perdure.runtime import App, Event, Fold, Keyed, Projection, event, of

SUBSCRIPTION, SHARED = "audit", "shared-1"
VALUES, PAIRS = "values", "pairs"
DELETED_EVERY = 5
"""So many changes of a value, then it is deleted."""
BATCH_MAX = 4


@event("life-counted")
@attrs.frozen
class Counted:
    """The *number*th event of its stream, by *by*; the *nth* of the *of* that one commit put there."""

    by: str
    number: int
    nth: int = 1
    of: int = 1
    more: str = ""
    """Text that follows from *number*, so that events differ in length."""


def filler(number: int) -> str:
    """What `Counted.more` must be."""
    return f"{number} " * (number * 7919 % 23)


def batch(by: str, first: int, count: int) -> list[Counted]:
    """*count* events from number *first* on, for one commit."""
    return [Counted(by, first + n, n + 1, count, filler(first + n)) for n in range(count)]


def total(state: int, event: Event[Counted]) -> int:
    return state + event.data.number


def last(state: tuple[int, ...], event: Event[Counted]) -> tuple[int, ...]:
    return (*state, event.data.number)[-5:]


NONE: tuple[int, ...] = ()
COUNT: Fold[int, Counted] = Fold(0, lambda state, event: state + 1)
TOTAL = Projection("total", version=1, initial=0, step=total, events=of(Counted))
LAST = Keyed("last", version=1, initial=NONE, step=last, events=of(Counted), key=lambda event: event.stream, type=tuple[int, ...])
APP = App(projections=[TOTAL, LAST])
