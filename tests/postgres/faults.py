"""`make test-faults`: a store in PostgreSQL whose connections are cut, swallowed and delayed, and whose server is killed, again and again."""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

import trio

ROOT = Path(__file__).resolve().parents[2]
sys.path[1:1] = [str(Path(__file__).parent), str(ROOT / "tools")]

from pgfaults.cycles import run_cycles  # noqa: E402 - the path comes first
from postgres_server import running  # noqa: E402 - likewise


def main() -> int:
    """Run the cycles, print the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    given = parser.parse_args()
    began = time.monotonic()
    with running() as server:
        verdict = trio.run(run_cycles, server, given.cycles, given.seed, lambda line: print(line, file=sys.stderr))
    print(f"seed {verdict.seed}, {sum(verdict.cycles.values())} cycles in {time.monotonic() - began:.0f} s")
    for fault, times in verdict.cycles.items():
        print(f"  {times:4}  {fault}")
    print(f"{verdict.acknowledged} acknowledged, {verdict.doubted} in doubt to the end, longest call {verdict.longest_s:.1f} s, told: {dict(verdict.errors)}")
    print(f"{verdict.owners} times another runtime ran a projection")
    for problem in verdict.problems:
        print(f"VIOLATION: {problem}")
    print("0 violations" if not verdict.problems else f"{len(verdict.problems)} violations")
    return 1 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
