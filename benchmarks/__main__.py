"""`python -m benchmarks`: run the rows, print the table, write it as JSON."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import attrs

from benchmarks.harness import Failure, NotDurable, Result, Row, measure, refuse_volatile
from benchmarks.sizes import FULL, QUICK

Outcome = Result | Failure
COLUMNS = ("row", "peer", "unit", "ours", "theirs", "ratio", "range", "goal", "met")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="perdure beside its peers: ratios of one interleaved run, all durable")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each row (default 5)")
    parser.add_argument("--rows", default="*", metavar="NAMES", help="rows to run: names or patterns, by commas (default all); see --list")
    parser.add_argument("--quick", action="store_true", help="small counts and one round: shows that it runs, the figures mean nothing")
    parser.add_argument("--dir", type=Path, default=Path("build/bench-data"), help="where the data goes; must be on a disk (default build/bench-data)")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"), help="the JSON file (default build/bench.json)")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when all rows ran, met or not; 1 when one failed to run; 2 for a folder that is not on a disk."""
    from benchmarks.rows import ROWS  # late: so that --help needs no peer

    options = parse(arguments)
    rows = [row for row in ROWS if any(fnmatch(row.name, pattern) for pattern in options.rows.split(","))]
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    if not rows:
        return _fail(f"no row matches {options.rows!r}: see --list")
    try:
        file_system = refuse_volatile(options.dir)
    except NotDurable as error:
        return _fail(str(error))
    options.dir.mkdir(parents=True, exist_ok=True)

    begun = perf_counter()
    with TemporaryDirectory(prefix="run-", dir=options.dir) as folder:
        outcomes = run(rows, Path(folder), options, say=_progress if sys.stderr.isatty() else _silent)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps([as_row(each) for each in outcomes], indent=2) + "\n")
    print_table(outcomes)
    print_notes(rows, outcomes)
    print(f"{len(rows)} rows in {perf_counter() - begun:.0f} s on {file_system} at {options.dir}; written to {options.out}")
    return 1 if any(isinstance(each, Failure) for each in outcomes) else 0


def run(rows: Sequence[Row], folder: Path, options: argparse.Namespace, *, say: Callable[[str], None]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for row in rows:
        outcomes += measure(row, folder, QUICK if options.quick else FULL, rounds=1 if options.quick else options.rounds, say=say)
    say("")
    return outcomes


def as_row(outcome: Outcome) -> dict[str, Any]:
    """One object of the JSON list; a row that did not run has its error and no ratio."""
    if isinstance(outcome, Failure):
        return {"row": outcome.row, "peer": outcome.case, "ratio": None, "goal": None, "met": False, "error": outcome.error}
    return attrs.asdict(outcome)


def cells(outcome: Outcome) -> tuple[str, ...]:
    if isinstance(outcome, Failure):
        return (outcome.row, outcome.case, "", "", "", "", "", "", f"did not run: {outcome.error}")
    goal = "" if outcome.goal is None else f"{'<=' if outcome.at_most else '>='} {outcome.goal:.3g}"
    met = {None: "", True: "yes", False: "NO"}[outcome.met]
    span = f"{min(outcome.ratios):.2f} to {max(outcome.ratios):.2f}"
    sides = figure(outcome.ours.median), figure(outcome.theirs.median)
    return (outcome.row, outcome.peer, outcome.unit, *sides, f"{outcome.ratio:.2f}", span, goal, met)


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def print_table(outcomes: Sequence[Outcome]) -> None:
    """By rich where it is installed, else plain."""
    lines = [cells(each) for each in outcomes]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print_plain(lines)
        return
    table = Table(*COLUMNS)
    for column in table.columns[3:8]:
        column.justify = "right"
    for line in lines:
        table.add_row(*line)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def print_plain(lines: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[column]) for line in [COLUMNS, *lines]) for column in range(len(COLUMNS))]
    for line in [COLUMNS, *lines]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_notes(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> None:
    """What is to be known of the peers' figures, and of the rows that fall short: where the time goes."""
    noted: dict[str, list[str]] = {}
    for each in outcomes:
        if isinstance(each, Result) and each.note:
            noted.setdefault(each.note, []).append(f"{each.row} against {each.peer}")
    for note, places in noted.items():
        print(f"note: {note} ({', '.join(places)})")
    short = {each.row for each in outcomes if isinstance(each, Result) and each.met is False}
    for row in rows:
        if row.name in short:
            print(f"short: {row.name}: {row.why or 'not yet explained'}")


def _progress(text: str) -> None:
    print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _silent(text: str) -> None:
    pass


def _fail(text: str) -> int:
    print(text, file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
