"""The PostgreSQL server of the rows that need one: started at the first, the same for every side, an empty database for each case."""

import atexit
import sys
from functools import cache
from pathlib import Path

from benchmarks.harness import refuse_volatile

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))

from postgres_server import Server, running

SETTINGS = ("max_connections=400", "shared_buffers=256MB", "max_wal_size=4GB", "autovacuum_naptime=10s")
"""Beside what a server is made with: so that no checkpoint of one side falls into the time of another."""


@cache
def server() -> Server:
    """The server, up to the end of this process.

    Raises:
      NotDurable: its folder is kept in memory.
    """
    context = running(settings=SETTINGS)
    started = context.__enter__()
    atexit.register(context.__exit__, None, None, None)
    refuse_volatile(started.folder)
    return started


def database_of(folder: Path) -> str:
    """The URL of the database of the case that works in *folder*, made if there is none; the folder is made anew with each case."""
    note = folder / "database"
    if not note.exists():
        note.write_text(server().new_database())
    return note.read_text()


def name_of(url: str) -> str:
    """The database in a URL of ours."""
    return url.rpartition("/")[2].partition("?")[0]
