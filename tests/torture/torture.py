"""`make torture`: every fault on purpose, one table of counts at the end. `SCALE=0.1` is a tenth of it; Ctrl-C ends it with the table.

    python tests/torture/torture.py --scale 1 --seed 7 --only SIGKILL
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from torment.row import Row, Tally
from torment.rows import all_rows


def main() -> int:
    parser = argparse.ArgumentParser(description="every fault on purpose, one table of counts at the end")
    parser.add_argument("--scale", type=float, default=float(os.environ.get("SCALE") or 1), help="times the rounds of the table in docs/reliability.md")
    parser.add_argument("--seed", type=int, default=None, help="the seed of all that is drawn; drawn itself if not given")
    parser.add_argument("--only", default="", help="rows whose fault or store contains this text")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no round is begun later")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    rows = [row for row in all_rows() if options.only in f"{row.fault} on {row.store}"]
    began = time.monotonic()
    results: list[tuple[Row, Tally, float]] = []
    current: list[Tally] = []

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one does not wait for the round
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for tally in current:
            tally.stopped = True
        print("stopping after this round", file=sys.stderr, flush=True)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    for row in rows:
        if any(tally.stopped for tally in current):
            break
        with tempfile.TemporaryDirectory(prefix="torture-") as folder:
            tally = Tally(max(1, round(row.full * options.scale)), seed, Path(folder), began + options.seconds)
            current.append(tally)
            row_began = time.monotonic()
            run_row(row, tally)
            results.append((row, tally, time.monotonic() - row_began))
        print(line_of(*results[-1]), *tally.listed, sep="\n", file=sys.stderr, flush=True)
    print_table(results, seed, options.scale)
    return 1 if any(tally.violations or tally.unclear for _, tally, _ in results) else 0


def run_row(row: Row, tally: Tally) -> None:
    """Run it; what leaves it is a violation."""
    try:
        row.run(tally)
    except Exception:
        tally.violation(f"{row.fault} on {row.store}, seed {tally.seed}: {traceback.format_exc()}")


def line_of(row: Row, tally: Tally, took_s: float) -> str:
    """One line of the table."""
    notes = ", ".join(f"{name} {count:,.10g}" for name, count in tally.notes.items())
    count = f"skipped: {tally.skipped}" if tally.skipped else f"{tally.done:,} of {tally.goal:,} {row.unit}"
    return f"| {row.fault} | {row.store} | {count} | {notes} | {tally.violations} | {tally.unclear} | {took_s:.0f} s |"


def print_table(results: list[tuple[Row, Tally, float]], seed: int, scale: float) -> None:
    """The table, what broke, and the verdict."""
    print(f"seed {seed}, scale {scale:g}\n")
    print("| fault | store | rounds | counted | violations | unclear errors | time |\n|---|---|---|---|---|---|---|")
    for result in results:
        print(line_of(*result))
    for _, tally, _ in results:
        for text in tally.listed:
            print(f"\n{text}")
    print(f"\nunclear errors: {sum(tally.unclear for _, tally, _ in results)}")
    print(f"violations: {sum(tally.violations for _, tally, _ in results)}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
