"""A year of flights through perdure, checked value by value: `make demo`, on a server `make demo STORE=postgresql://...`.

Every flight that left New York City in 2013 becomes an event in the stream of its aircraft, appended by many concurrent
writers while four supervised projections keep their models, and a fifth one a table in SQL. At one third an actor fails, at two thirds the whole process
is killed; at the end every event and every model is compared with what the file says, counted without perdure.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn

import attrs
import trio
from flights_csv import ROWS, NoData, Row, Values, compare, expected_event, find_csv, read_rows, recompute, tail_of
from flights_domain import AIRCRAFT, BOARDS, CARRIERS, FLIGHTS, HOURS, FlightCancelled, FlightDeparted, app
from flights_place import NoPlace, Place, place_of
from flights_show import Bar, show_table
from flights_sql import Answer, ask, compare_table, count_answers

from perdure.runtime import PerdureError, Runtime, open_runtime

FOLDER = Path(__file__).resolve().parent
LEAST_ROWS = 100
DIFFERENCES_SHOWN = 20


@attrs.define
class Story:
    """What the workers said, and what is wrong with it."""

    rows: int
    moment: dict[str, Any] = attrs.field(factory=dict)
    acknowledged: int = 0
    found: int = 0
    stored: int = 0
    appending_s: float = 0.0
    behind_s: float = 0.0
    actor_restarts: int = 0
    kills: int = 0
    problems: list[str] = attrs.field(factory=list)
    answers: dict[str, Answer] = attrs.field(factory=dict)


# -- the workers ---------------------------------------------------------------------------------


def feed(place: Place, story: Story, bar: Bar, *, crash_at: int = 0, kill_at: int = 0) -> int:
    """Run a worker to its end, which may be a violent one; its exit code."""
    numbers = [f"--rows={story.rows}", f"--crash-at={crash_at}", f"--kill-at={kill_at}"]
    command = [sys.executable, str(FOLDER / "flights_feed.py"), place.url, place.table, *numbers]
    started_from, seconds = 0, 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        try:
            for said in messages(worker):
                if said["what"] == "found":
                    started_from = said["events"]
                if said["what"] == "stored":
                    seconds = said["seconds"]
                note(said, story, bar)
        except BaseException:
            worker.kill()
            raise
    story.appending_s += seconds if story.stored > started_from else 0.0
    return worker.returncode


def messages(worker: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """What the worker says; a last line that the kill cut short is nothing said."""
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.endswith("\n"):
            yield json.loads(line)


def note(said: dict[str, Any], story: Story, bar: Bar) -> None:
    """Keep one thing that a worker said, and show it."""
    match said:
        case {"what": "found", "events": events, "streams": streams, "seconds": seconds}:
            story.found = story.stored = events
            if events:
                bar.say(f"opened a store with {events:,} events in {streams:,} streams after {seconds:.2f} s, going on behind them")
        case {"what": "stored", "events": events}:
            story.stored = events
            bar.at(events)
        case {"what": "moment"}:
            story.moment = said
        case {"what": "failed", "actor": actor, "events": events, "error": error}:
            bar.say(f"at {events:,} events the actor of model {actor} failed: {error}")
        case {"what": "restarted", "actor": actor, "snapshot": snapshot, "restarts": restarts}:
            story.actor_restarts += restarts
            start = f"its snapshot at position {snapshot:,}" if snapshot else "the beginning (no snapshot was due yet)"
            bar.say(f"its supervisor started {actor} again from {start}; it is up to date")
        case {"what": "killing", "events": events}:
            story.acknowledged = events
            bar.say(f"at {events:,} events acknowledged the process is killed (SIGKILL)")
        case {"what": "done", "behind_s": behind_s}:
            story.behind_s = behind_s
        case {"what": "log", "text": text}:
            bar.say(f"log: {text}")


def run_workers(place: Place, story: Story, *, resume: bool) -> None:
    """Feed the store: with a fault at one third and a kill at two, unless what was there is gone on with."""
    with Bar(story.rows, "flights stored") as bar:
        if not resume:
            code = feed(place, story, bar, crash_at=story.rows // 3, kill_at=2 * story.rows // 3)
            if code != -signal.SIGKILL:
                story.problems.append(f"the first worker was to be killed, but ended with exit code {code}")
                return
            story.kills += 1
            if not story.actor_restarts:
                story.problems.append("the supervisor did not restart the actor that failed")
        code = feed(place, story, bar)
        if code != 0:
            story.problems.append(f"the worker ended with exit code {code}")
        if story.found < story.acknowledged:
            story.problems.append(f"{story.acknowledged:,} events were acknowledged before the kill, only {story.found:,} were found after it")


# -- the check -----------------------------------------------------------------------------------


async def read_models(rt: Runtime) -> Values:
    """Every model as plain values."""
    head = await rt.head()
    for projection in app.projections:
        await rt.model(projection).wait_for(head)
    return {
        "carriers": {carrier: attrs.asdict(delays) for carrier, delays in rt.model(CARRIERS).state.items()},
        "hours": {hour: attrs.asdict(delays) for hour, delays in rt.model(HOURS).state.items()},
        "boards": {entry.key: attrs.asdict(entry.state) async for entry in rt.model(BOARDS).scan()},
        "aircraft": {entry.key: attrs.asdict(entry.state) async for entry in rt.model(AIRCRAFT).scan()},
    }


async def compare_events(rt: Runtime, rows: Iterable[Row]) -> tuple[int, list[str]]:
    """How many events are stored, and one line for each that is not what the file says at its place in its stream."""
    wanted: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for row in rows:
        wanted[f"aircraft-{tail_of(row)}"].append(expected_event(row))
    fields = {cls: attrgetter(*(field.name for field in attrs.fields(cls))) for cls in (FlightDeparted, FlightCancelled)}
    seen: dict[str, int] = defaultdict(int)
    events, differences = 0, []
    async for event in rt.read_all(FLIGHTS):
        events += 1
        stream, place = event.stream, seen[event.stream]
        seen[stream] += 1
        found = (event.type, *fields[type(event.data)](event.data), event.occurred)
        by_file = wanted[stream][place] if place < len(wanted[stream]) else None
        if event.seq != place + 1 or found != by_file:
            differences.append(f"{stream} seq {event.seq}: {found} in the store, {by_file} by the file at {place + 1}")
    differences += [f"{stream}: {seen[stream]} events in the store, {len(rows_)} by the file" for stream, rows_ in wanted.items() if seen[stream] < len(rows_)]
    return events, differences


async def check(place: Place, story: Story) -> tuple[int, int, Values]:
    """Compare events and models with the file; what differs becomes a problem. Events, values, and the models."""
    gc.disable()  # all that is read here is kept to the end: to look through it again and again would take longer than to read it
    rows = list(read_rows(story.rows))
    async with open_runtime(place.url, app, create=False) as rt:
        models = await read_models(rt)
        events, differences = await compare_events(rt, rows)
    values, more = compare(models, recompute(rows))
    story.problems += differences + more + compare_table(place.table, rows)
    story.answers, counted = ask(place.table), count_answers(rows)
    for question, answer in story.answers.items():
        if answer != counted[question]:
            story.problems.append(f"{question}: {answer} by SQL, {counted[question]} by the file")
    if events != story.rows:
        story.problems.append(f"{events:,} events in the store, {story.rows:,} rows in the file")
    return events, values, models


# -- what is shown -------------------------------------------------------------------------------


def show_models(models: Values) -> None:
    """The models, the long ones by their first lines."""
    delays = ["departed", "cancelled", "late", "departure_delay_min", "arrival_delay_min", "worst_min"]
    show_table("carriers: delays", "carrier", delays, sorted(models["carriers"].items(), key=lambda item: -item[1]["departed"]))
    show_table("hours of the day, as scheduled", "hour", delays, sorted(models["hours"].items()))
    boards = sorted(models["boards"].items(), key=lambda item: -item[1]["departed"])
    show_table(f"boards: 8 of {len(boards)} destinations", "to", ["departed", "cancelled", "origins", "worst_min", "last_scheduled"], boards[:8])
    used = sorted(models["aircraft"].items(), key=lambda item: -item[1]["miles"])
    show_table(f"aircraft: 8 of {len(used)}, by miles", "tail", ["carrier", "departed", "cancelled", "miles", "air_min", "longest_miles"], used[:8])


def show_answers(story: Story) -> None:
    """What was asked in SQL."""
    print("\nasked in SQL, of a table that was filled meanwhile:")
    for question, answer in story.answers.items():
        print(f"  {question}: " + ", ".join(f"{name} {number:,}" for name, number in answer))
    print()


def show_rates(story: Story, found_before: int, took_s: float, checked_s: float) -> None:
    """How fast it was, and what happened on the way."""
    stored = story.rows - found_before
    if story.appending_s and stored:
        models, busy_s = len(app.projections), story.appending_s + story.behind_s
        print(f"appended    {stored:,} events in {story.appending_s:.1f} s: {stored / story.appending_s:,.0f} events/s, each durable before its writer went on")
        print(f"projected   into {models} models meanwhile: {stored * models / busy_s:,.0f} steps/s, all done {story.behind_s:.2f} s after the last append")
    print(f"restarts    {story.actor_restarts} of an actor by its supervisor, {story.kills} of the process after SIGKILL", end="")
    print(f" ({story.acknowledged:,} acknowledged before it, {story.found:,} found after it)" if story.kills else "")
    print(f"time        {took_s:.1f} s in all, {checked_s:.1f} s of it comparing")


def show_next(place: Place, story: Story) -> None:
    """What to type next."""
    perdure = Path(sys.executable).with_name("perdure")
    here, there = shlex.quote(place.below(Path.cwd())), shlex.quote(place.below(FOLDER))
    question = f"{os.path.relpath(perdure, FOLDER)} model"
    print("\nnext, read a stream, and ask for a model as it was at a position or at a moment of this run:")
    print(f"  {os.path.relpath(perdure)} read {here} aircraft-N14228")
    print(f"  cd {os.path.relpath(FOLDER)}")
    print(f"  {question} show {there} boards LAX --app flights_domain:app")
    if story.moment:
        print(f"  {question} at {there} carriers --app flights_domain:app --position {story.moment['position']}")
        print(f"  {question} at {there} aircraft N14228 --app flights_domain:app --time {story.moment['time']}")


# -- the command ---------------------------------------------------------------------------------


def fail(text: str) -> NoReturn:
    """Leave with an error."""
    print(f"flights: {text}", file=sys.stderr)
    raise SystemExit(2)


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="flights.py", description="A year of New York's flights through perdure, checked value by value.")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"take only the first ROWS rows, at least {LEAST_ROWS} (all: {ROWS})")
    parser.add_argument("--dir", type=Path, default=Path("build/flights"), help="where the store is made (default: build/flights)")
    parser.add_argument("--store", default="", help="instead of --dir: lmdb:DIR, or postgresql://USER@HOST/DATABASE (in the schemas flights_demo*, made anew)")
    parser.add_argument("--keep", action="store_true", help="go on with the store that is there, without the faults")
    options = parser.parse_args()
    if not LEAST_ROWS <= options.rows <= ROWS:
        parser.error(f"--rows is a number from {LEAST_ROWS} to {ROWS}")
    return options


def main() -> int:
    """Run it; 0 when everything is equal."""
    options = parse()
    try:
        print(f"reading {find_csv()}")
    except NoData as error:
        fail(str(error))
    began = time.perf_counter()
    try:
        place = place_of(options.store, options.dir)
        resume = place.prepare(keep=options.keep)
    except NoPlace as error:
        fail(str(error))
    story = Story(options.rows)
    events = values = 0
    run_workers(place, story, resume=resume)
    if not story.problems:
        fed = time.perf_counter()
        try:
            events, values, models = trio.run(check, place, story)
        except PerdureError as error:
            story.problems.append(f"{type(error).__name__}: {error}")
        else:
            show_models(models)
            show_answers(story)
            show_rates(story, story.found if resume else 0, time.perf_counter() - began, time.perf_counter() - fed)
    for problem in story.problems[:DIFFERENCES_SHOWN]:
        print(f"different: {problem}", file=sys.stderr)
    if story.problems:
        print(f"different: {len(story.problems)} in all", file=sys.stderr)
        return 1
    print(f"equal: {events} events, {values} values")
    show_next(place, story)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
