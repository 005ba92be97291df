"""What the flights demo keeps: two kinds of event and four read models, as one `App`.

An aircraft is a stream (`aircraft-N14228`), a row of the data one event in it. Ask any of the models from this folder:
`perdure model list lmdb:../build/flights --app flights_domain:app`.
"""

from __future__ import annotations

from datetime import datetime

import attrs

from perdure.runtime import App, Event, Keyed, Projection, event, of

CATEGORY = "aircraft"
UNKNOWN = "unknown"
"""The tail number of rows that have none."""
LATE_MIN = 15
"""Who leaves so many minutes after the scheduled time is late (as the airlines count it)."""


# -- events; `occurred` is the scheduled hour ----------------------------------------------------


@event("flight-departed")
@attrs.frozen
class FlightDeparted:
    """It left. What happened on the way is None where nobody wrote it down (a flight that was diverted, for example)."""

    carrier: str
    flight: int
    origin: str
    dest: str
    hour: int
    """The scheduled hour of the day, local time."""
    miles: int
    departure_delay_min: int
    arrival_delay_min: int | None
    air_min: int | None


@event("flight-cancelled")
@attrs.frozen
class FlightCancelled:
    """It never left."""

    carrier: str
    flight: int
    origin: str
    dest: str
    hour: int
    miles: int


Flight = FlightDeparted | FlightCancelled
FLIGHTS = of(FlightDeparted, FlightCancelled)


# -- delays: per carrier, and per hour of the day ------------------------------------------------


@attrs.frozen
class Delays:
    """Counts of flights, and sums of minutes (who is early counts below zero)."""

    departed: int = 0
    cancelled: int = 0
    late: int = 0
    departure_delay_min: int = 0
    arrived: int = 0
    arrival_delay_min: int = 0
    worst_min: int = 0


def delayed(before: Delays, flight: Flight) -> Delays:
    """*before* and one more flight."""
    if isinstance(flight, FlightCancelled):
        return attrs.evolve(before, cancelled=before.cancelled + 1)
    delay_min, arrival_min = flight.departure_delay_min, flight.arrival_delay_min
    return Delays(  # said field by field: attrs.evolve takes three times as long, and this runs for every flight
        departed=before.departed + 1,
        cancelled=before.cancelled,
        late=before.late + (delay_min >= LATE_MIN),
        departure_delay_min=before.departure_delay_min + delay_min,
        arrived=before.arrived + (arrival_min is not None),
        arrival_delay_min=before.arrival_delay_min + (arrival_min or 0),
        worst_min=max(before.worst_min, delay_min),
    )


def carrier_step(delays: dict[str, Delays], event: Event[Flight]) -> dict[str, Delays]:
    """One carrier's delays have changed."""
    carrier = event.data.carrier
    return {**delays, carrier: delayed(delays.get(carrier) or Delays(), event.data)}


def hour_step(delays: dict[int, Delays], event: Event[Flight]) -> dict[int, Delays]:
    """One hour's delays have changed."""
    hour = event.data.hour
    return {**delays, hour: delayed(delays.get(hour) or Delays(), event.data)}


CARRIERS: Projection[dict[str, Delays], Flight] = Projection("carriers", version=1, initial={}, step=carrier_step, events=FLIGHTS, type=dict[str, Delays])
HOURS: Projection[dict[int, Delays], Flight] = Projection("hours", version=1, initial={}, step=hour_step, events=FLIGHTS, type=dict[int, Delays])


# -- a board per destination ---------------------------------------------------------------------


@attrs.frozen
class Board:
    """What hangs at a destination: how many came from where, the worst delay, and the last hour for which one was scheduled.

    It says nothing of which came last: aircraft are written down side by side, so between them there is no order.
    """

    departed: int = 0
    cancelled: int = 0
    origins: dict[str, int] = attrs.field(factory=dict)
    """Flights that left, by the airport they left from."""
    worst_min: int = 0
    last_scheduled: datetime | None = None


def board_step(board: Board, event: Event[Flight]) -> Board:
    """One more line on the board."""
    flight, scheduled = event.data, event.occurred
    last = scheduled if board.last_scheduled is None else max(board.last_scheduled, scheduled)
    if isinstance(flight, FlightCancelled):
        return attrs.evolve(board, cancelled=board.cancelled + 1, last_scheduled=last)
    return Board(
        departed=board.departed + 1,
        cancelled=board.cancelled,
        origins={**board.origins, flight.origin: board.origins.get(flight.origin, 0) + 1},
        worst_min=max(board.worst_min, flight.departure_delay_min),
        last_scheduled=last,
    )


BOARDS = Keyed("boards", version=1, initial=Board(), step=board_step, events=FLIGHTS, key=lambda event: event.data.dest)


# -- the use of each aircraft --------------------------------------------------------------------


@attrs.frozen
class Use:
    """What an aircraft did in the year; *first* and *last* are the scheduled hours of what is first and last in its stream."""

    departed: int = 0
    cancelled: int = 0
    miles: int = 0
    air_min: int = 0
    longest_miles: int = 0
    carrier: str = ""
    """Who flew it last."""
    first: datetime | None = None
    last: datetime | None = None


def use_step(use: Use, event: Event[Flight]) -> Use:
    """One more flight of this aircraft."""
    flight, scheduled = event.data, event.occurred
    left = isinstance(flight, FlightDeparted)
    return Use(
        departed=use.departed + left,
        cancelled=use.cancelled + (not left),
        miles=use.miles + (flight.miles if left else 0),
        air_min=use.air_min + ((flight.air_min or 0) if isinstance(flight, FlightDeparted) else 0),
        longest_miles=max(use.longest_miles, flight.miles) if left else use.longest_miles,
        carrier=flight.carrier,
        first=use.first or scheduled,
        last=scheduled,
    )


def aircraft_key(event: Event[Flight]) -> str:
    """The tail number."""
    return event.stream.partition("-")[2]


AIRCRAFT = Keyed("aircraft", version=1, initial=Use(), step=use_step, events=FLIGHTS, key=aircraft_key)

app = App(projections=[CARRIERS, BOARDS, AIRCRAFT, HOURS])
