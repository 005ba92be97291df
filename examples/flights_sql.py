"""The flights demo's read model in SQL: one table that anybody may query, three questions, and their answers counted without either.

The handler changes the table and perdure moves its checkpoint in one transaction; so the table has each flight once, though the process
that fills it is killed on the way.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import attrs
from flights_csv import MISSING, Row, moment, tail_of
from flights_domain import FLIGHTS, Flight, FlightDeparted, aircraft_key, app
from flights_place import query

from perdure.runtime import App, Event, SqlProjection, Transaction

Answer = list[tuple[Any, ...]]


def make_table(tx: Transaction) -> None:
    """One row for each flight; `day` is the scheduled one in New York."""
    tx.execute(
        "CREATE TABLE flights (id INTEGER PRIMARY KEY, day TEXT NOT NULL, hour INTEGER NOT NULL, tail TEXT NOT NULL, carrier TEXT NOT NULL, "
        "flight INTEGER NOT NULL, origin TEXT NOT NULL, dest TEXT NOT NULL, miles INTEGER NOT NULL, departure_delay_min INTEGER, arrival_delay_min INTEGER)"
    )
    tx.execute("CREATE INDEX flights_by_carrier ON flights (carrier, day)")


def add_flight(event: Event[Flight], tx: Transaction, mark: str = "?") -> None:
    """A row; one that was cancelled has no delays. *mark* stands for a value in SQL."""
    flight, scheduled = event.data, event.occurred
    west = timedelta(hours=(scheduled.hour - flight.hour) % 24)
    delays = (flight.departure_delay_min, flight.arrival_delay_min) if isinstance(flight, FlightDeparted) else (None, None)
    where = (aircraft_key(event), flight.carrier, flight.flight, flight.origin, flight.dest, flight.miles)
    row = (event.position, f"{scheduled - west:%Y-%m-%d}", flight.hour, *where, *delays)
    tx.execute(f"INSERT INTO flights VALUES ({', '.join([mark] * len(row))})", row)


def add_flight_in_postgres(event: Event[Flight], tx: Transaction) -> None:
    """The same, in PostgreSQL's way."""
    add_flight(event, tx, "%s")


def in_sql(database: str) -> tuple[App, SqlProjection[Flight]]:
    """The app with its table, in the database at that URL; and the table alone."""
    handle = add_flight if database.startswith("sqlite:") else add_flight_in_postgres
    table = SqlProjection("flights-table", version=1, database=database, tables=make_table, handle=handle, events=FLIGHTS)
    return attrs.evolve(app, sql=[table]), table


# -- asking --------------------------------------------------------------------------------------

QUESTIONS = {
    "where United flew most often in January": (
        "SELECT dest, count(*) AS flights FROM flights WHERE carrier = 'UA' AND day LIKE '2013-01-%' GROUP BY dest ORDER BY flights DESC, dest LIMIT 3"
    ),
    "the days with the most cancellations": (
        "SELECT day, count(*) AS cancelled FROM flights WHERE departure_delay_min IS NULL GROUP BY day ORDER BY cancelled DESC, day LIMIT 3"
    ),
    "routes of 50 flights and more that made up most time in the air, in minutes over all": (
        "SELECT origin || '-' || dest AS route, sum(departure_delay_min - arrival_delay_min) AS made_up FROM flights WHERE arrival_delay_min IS NOT NULL "
        "GROUP BY route HAVING count(*) >= 50 ORDER BY made_up DESC, route LIMIT 3"
    ),
}


def ask(database: str) -> dict[str, Answer]:
    """The answers, by plain SQL."""
    return {question: query(database, sql) for question, sql in QUESTIONS.items()}


def count_answers(rows: Iterable[Row]) -> dict[str, Answer]:
    """What they must be, counted straight from the file."""
    united: Counter[str] = Counter()
    cancelled: Counter[str] = Counter()
    made_up: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        day = _day(moment(row.time_hour), int(row.hour))
        if row.carrier == "UA" and day.startswith("2013-01-"):
            united[row.dest] += 1
        if row.dep_time == MISSING:
            cancelled[day] += 1
        elif row.arr_delay != MISSING:
            made_up[f"{row.origin}-{row.dest}"].append(int(row.dep_delay) - int(row.arr_delay))
    often = {route: sum(minutes) for route, minutes in made_up.items() if len(minutes) >= 50}
    return dict(zip(QUESTIONS, map(_first_three, (united, cancelled, often)), strict=True))


def compare_table(database: str, rows: Iterable[Row]) -> list[str]:
    """One line if the table is not the file, row by row."""
    columns = "day, hour, tail, carrier, flight, origin, dest, miles, departure_delay_min, arrival_delay_min"
    found = Counter(query(database, f"SELECT {columns} FROM flights"))
    wanted = Counter(map(_line, rows))
    odd = (found - wanted) + (wanted - found)
    if not odd:
        return []
    return [f"the table has {found.total():,} rows, the file {wanted.total():,}; {odd.total():,} differ, for example {min(odd, key=repr)}"]


def _line(row: Row) -> tuple[Any, ...]:
    where = (tail_of(row), row.carrier, int(row.flight), row.origin, row.dest, int(row.distance))
    delays = [None if row.dep_time == MISSING or text == MISSING else int(text) for text in (row.dep_delay, row.arr_delay)]
    return (_day(moment(row.time_hour), int(row.hour)), int(row.hour), *where, *delays)


def _day(scheduled: datetime, hour: int) -> str:
    """The day in New York, which is behind."""
    return str(scheduled.date() if scheduled.hour >= hour else scheduled.date() - timedelta(days=1))


def _first_three(counts: dict[str, int]) -> Answer:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:3]
