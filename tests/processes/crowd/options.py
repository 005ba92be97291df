"""What a member is told at its start: one value for all jobs, as JSON in its arguments."""

from __future__ import annotations

import msgspec


class Options(msgspec.Struct, kw_only=True, frozen=True):
    """*by* is this life of a process: its name, a point, a number."""

    store: str
    """A folder;"""
    url: str = ""
    """or the URL of a store that is elsewhere."""
    notes: str
    by: str
    jobs: tuple[str, ...]
    hold: str = ""
    """Instead of any job: hold this lock file,"""
    flushing: bool = False
    """and LMDB's own lock too, as a writer does whose flush takes long."""
    freeze_at: int = 0
    """On PostgreSQL: it stops itself at its so-manyth COMMIT, with the right to write in hand;"""
    freeze_written: bool = False
    """not before it has written, but when there is nothing left to do than the COMMIT."""
    gate_s: float = 5.0
    close_s: float = 10.0
    lease_s: float = 10.0
    ring_bytes: int = 1 << 20
    beat_s: float = 0.02
    snapshot_events: int = 25
    seed: int = 0
    # appending and putting
    stream: str = "one-1"
    expecting: bool = True
    """Append with the stream's last seq as the expectation."""
    pace_s: float = 0.0
    """The pause between two writes, in the mean; without one the next is asked for at once."""
    stop_after: int = 0
    """So many appends; 0: for ever."""
    cancel_share: float = 0.0
    """So many of the appends are cancelled after a moment."""
    # following
    subscription: str | None = None
    """Its name, where it has one."""
    # projecting and reading
    suffix: str = ""
    """Of the projections' names."""
    pairs: int = 1
    """So many pairs of projections, one of each kind; the names of further ones end with their number."""
    database: str = ""
    """Where the read model in SQL is,"""
    tables_version: int = 1
    """and the version of its tables."""
    how: str = "os"
    """Forking: by `os` or by `multiprocessing`."""

    @property
    def where(self) -> str:
        """The store's URL."""
        return self.url or f"lmdb:{self.store}"


def write_options(options: Options) -> str:
    """As one argument."""
    return msgspec.json.encode(options).decode()


def read_options(text: str) -> Options:
    """The inverse."""
    return msgspec.json.decode(text, type=Options)
