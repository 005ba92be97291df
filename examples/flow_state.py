"""What happens to a flow, and how it stands after that: the pure half of `flow`."""

from __future__ import annotations

from datetime import datetime

import attrs

from perdure.runtime import Event, Fold, event, of


@event("flow-started")
@attrs.frozen
class Started:
    """A flow of that kind began."""

    kind: str


@event("flow-told")
@attrs.frozen
class Told:
    """Somebody told the flow something: its first word on *signal* counts."""

    signal: str
    value: str


@event("flow-waiting")
@attrs.frozen
class Waiting:
    """The step *name* has time until then."""

    name: str
    until: datetime


@event("flow-done")
@attrs.frozen
class Done:
    """What came of the step *name*; None: its time was over."""

    name: str
    value: str | None


@event("flow-ended")
@attrs.frozen
class Ended:
    """What came of all of it."""

    outcome: str


Happening = Started | Told | Waiting | Done | Ended


@attrs.frozen
class State:
    """A flow as it stands."""

    kind: str = ""
    told: dict[str, str] = attrs.field(factory=dict)
    waiting: dict[str, datetime] = attrs.field(factory=dict)
    done: dict[str, str | None] = attrs.field(factory=dict)
    outcome: str | None = None


def after(state: State, happening: Happening) -> State:
    """The state after it."""
    match happening:
        case Started(kind=kind):
            return attrs.evolve(state, kind=kind)
        case Told(signal=signal, value=value):
            return attrs.evolve(state, told={signal: value, **state.told})
        case Waiting(name=name, until=until):
            return attrs.evolve(state, waiting={**state.waiting, name: until})
        case Done(name=name, value=said):
            return attrs.evolve(state, done={**state.done, name: said})
        case Ended(outcome=outcome):
            return attrs.evolve(state, outcome=outcome)


def step(state: State, event: Event[Happening]) -> State:
    """One more event."""
    return after(state, event.data)


FLOW: Fold[State, Happening] = Fold(initial=State(), step=step)
HAPPENINGS = of(Started, Told, Waiting, Done, Ended)
