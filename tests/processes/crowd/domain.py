"""What the crowd writes and folds."""

from __future__ import annotations

import attrs

from perdure.runtime import Event, Fold, Keyed, Projection, event, of

VALUES = "values"
"""The bucket that is put to and watched."""


@event("done", version=1)
@attrs.frozen
class Done:
    """*by* is one life of one process, *number* counts from 1 in it: together they never come twice."""

    by: str
    number: int


@attrs.frozen
class Tally:
    """A state that tells how many events were folded, and in which order."""

    events: int = 0
    digest: int = 0


def tally(state: Tally, event: Event[Done]) -> Tally:
    return stepped(state, event.position, event.data.number)


def stepped(state: Tally, position: int, number: int) -> Tally:
    """The step, without the envelope: for the reference fold."""
    return Tally(state.events + 1, (state.digest * 31 + position * 7 + number) % (1 << 61))


def who(by: str) -> str:
    """The process of a life: `w1` of `w1.3`."""
    return by.partition(".")[0]


COUNT: Fold[int, Done] = Fold(0, lambda state, event: state + 1)


def all_of(suffix: str) -> Projection[Tally, Done]:
    """One state for all."""
    return Projection(f"all{suffix}", version=1, initial=Tally(), step=tally, events=of(Done))


def each_of(suffix: str) -> Keyed[Tally, Done]:
    """One state for each writing process."""
    return Keyed(f"each{suffix}", version=1, initial=Tally(), step=tally, events=of(Done), key=lambda event: who(event.data.by))
