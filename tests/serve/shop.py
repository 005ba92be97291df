"""An app for a daemon: what a shop takes in, and from whom."""

import attrs

from perdure.runtime import App, Event, Keyed, Projection, event, of


@event("placed")
@attrs.frozen
class Placed:
    customer: str
    cents: int


@attrs.frozen
class Total:
    cents: int = 0


def step(total: Total, event: Event[Placed]) -> Total:
    return Total(total.cents + event.data.cents)


app = App(
    projections=[
        Projection("revenue", version=1, initial=Total(), step=step, events=of(Placed)),
        Keyed("accounts", version=1, initial=Total(), step=step, events=of(Placed), key=lambda event: event.data.customer),
    ]
)
