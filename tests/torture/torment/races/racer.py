"""The process of a racer: `python -m torment.races.racer`.

For each line of JSON with a race and a file it says `ready`, awaits another line, races, writes the file, says `done`.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import trio

import perdure.backends.lmdb  # noqa: F401 - before the race
from torment.races.race import Race, run


async def ready() -> None:
    """Say so, and wait for the others: nothing else runs here meanwhile."""
    await trio.lowlevel.checkpoint()
    print("ready", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    while line := sys.stdin.readline():
        asked = json.loads(line)
        noted = trio.run(run, Race(**asked["race"]), ready)
        Path(asked["file"]).write_bytes(pickle.dumps(noted))
        print("done", flush=True)
