"""Looking after a store in a database: whether what is there fits together, how large it is, who stands in the way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from perdure.backends.errors import Corrupt
from perdure.backends.postgres.pool import Pool
from perdure.backends.postgres.runs import COLUMNS, EVENTS, POSITION, read
from perdure.backends.postgres.wire import Lost, Question, Refused, Row, Statement, int8
from perdure.backends.progress import Progress, Told

Ask = Callable[..., Awaitable[list[list[Row]]]]

PROBLEMS_MAX: Final = 100
SLICE: Final = 200
"""Events that a slice of the scrub reads."""
PAGE: Final = 2_000

CLOCK: Final = Question(Statement("SELECT greatest(at, clock_timestamp()) FROM perdure.head"))
"""The later of the store's last time and the server's clock."""
SIZES: Final = Question(
    Statement(
        "SELECT position, revision, (SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::int8 FROM pg_class"
        " WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'perdure.head'::regclass) AND relkind = 'r') FROM perdure.head"
    )
)
_WRITERS: Final = Question(
    Statement(
        "WITH RECURSIVE b (pid) AS ("
        "SELECT pid FROM pg_locks WHERE relation = 'perdure.head'::regclass AND mode IN ('RowShareLock', 'RowExclusiveLock')"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " UNION SELECT unnest(pg_blocking_pids(b.pid)) FROM b)"
        " SELECT application_name, host(client_addr), pid FROM b JOIN pg_stat_activity USING (pid) WHERE cardinality(pg_blocking_pids(pid)) = 0"
    )
)
"""Who has the right to write or keeps from going on who has it, and waits for nobody. Not asked by the pid of who waits: behind a pooler nobody knows that."""


async def who_writes(pool: Pool, *, within_s: float) -> str:
    """Who has the right to write, or keeps others from getting it."""
    with suppress(Lost, Refused):
        async with pool.wire() as wire:
            (rows,) = await wire.ask(_WRITERS, within_s=within_s)
            if rows:
                return ", ".join(f"{name or 'somebody'} at {address or 'this machine'} (server process {pid})" for name, address, pid in rows)
    return "nobody knows who"


# -- damage ----------------------------------------------------------------------------------

_PAGE: Final = Statement(
    f"SELECT {COLUMNS} FROM perdure.runs WHERE position > $1"
    " AND position <= coalesce((SELECT position FROM perdure.runs WHERE position >= $1 + $2 ORDER BY position LIMIT 1), $1 + $2) ORDER BY position",
    ("int8", "int8"),
)
"""So many positions, to the end of a row."""


class Scrub:
    """A reading of all events, a slice at a time."""

    def __init__(self) -> None:
        self.rows = 0
        self.done = False
        self._after = 0

    async def slice(self, ask: Ask, most: int = SLICE) -> list[str]:
        """Read on; what is damaged in it, each a sentence."""
        (rows,) = await ask(Question(_PAGE, (int8(self._after), int8(most))))
        self.rows += sum([row[EVENTS] for row in rows])
        self.done = not rows
        if rows:
            self._after = rows[-1][POSITION]
        return _damaged(rows)


def _damaged(rows: list[Row]) -> list[str]:
    try:
        read(rows)
    except Corrupt as error:
        return [str(error)] if len(rows) == 1 else [problem for row in rows for problem in _damaged([row])]
    return []


_TELLS: Final = {
    "streams": (
        "SELECT format('stream %L has seqs %s to %s and %s events, its row says that it begins with %s', coalesce(s.name, e.stream),"
        " e.low, e.high, e.events, s.first)"
        " FROM (SELECT r.stream, min(r.seq) AS low, max(r.seq + r.events - 1) AS high, sum(r.events) AS events, bool_and(n.swept) AS swept"
        " FROM perdure.runs r LEFT JOIN perdure.names n ON n.name = r.stream GROUP BY r.stream) e"
        " FULL JOIN perdure.names s ON s.name = e.stream"
        " WHERE CASE WHEN e.stream IS NULL THEN s.cut = 0 OR NOT s.swept ELSE e.swept IS NULL OR e.low > s.first OR s.first > e.high + 1"
        " OR (e.swept AND e.low < s.first) OR e.events <> e.high - e.low + 1 END"
    ),
    "order": (
        "SELECT format('position %s has a time, seq or commit before those of what it follows', position) FROM (SELECT position, events, at, seq,"
        " lag(position) OVER log AS position_before, lag(at) OVER log AS at_before, lag(commit_end) OVER log AS end_before,"
        " lag(commit) OVER log AS commit_before, commit, commit_end, lag(seq + events) OVER (PARTITION BY stream ORDER BY position) AS seq_wanted"
        " FROM perdure.runs WINDOW log AS (ORDER BY position)) e"
        " WHERE at < at_before OR seq <> seq_wanted OR commit_end < position OR position - events < position_before"
        " OR (commit = commit_before) <> (end_before >= position)"
    ),
    "head": (
        "SELECT format('the head is %s, the last event is at position %s', h.position, e.position) FROM perdure.head h,"
        " (SELECT greatest((SELECT max(position) FROM perdure.runs), (SELECT max(position) FROM perdure.cuts), 0) AS position) e"
        " WHERE h.position <> e.position"
    ),
    "tags": (
        "SELECT format('tag %L and position %s are not told the same by the index and the event', tag, position)"
        " FROM (SELECT DISTINCT unnest(tags) AS tag, position FROM perdure.runs) e FULL JOIN perdure.tags t USING (tag, position)"
        " WHERE e.tag IS NULL OR t.tag IS NULL"
    ),
    "entries": (
        "SELECT format('the entry %s of bucket %L has revision %s, the store is at %s', encode(key, 'escape'), bucket, k.revision, h.revision)"
        " FROM perdure.kv k, perdure.head h WHERE k.revision > h.revision OR (value IS NULL) <> (deleted IS NOT NULL)"
    ),
    "snapshots": (
        "SELECT format('snapshot %L stands at position %s, the log ends at %s', name, s.position, h.position)"
        " FROM perdure.snapshots s, perdure.head h WHERE s.position > h.position"
    ),
}
"""Each gives a sentence for what does not fit."""


async def verify(ask: Ask, progress: Told) -> list[str]:
    """Read everything; the problems found. Each question is of one moment."""
    problems: list[str] = []
    for done, (what, sql) in enumerate(_TELLS.items()):
        progress(Progress(f"tables: {what}", done, len(_TELLS)))
        (rows,) = await ask(Question(Statement(f"SELECT told FROM ({sql}) p (told) LIMIT {PROBLEMS_MAX}")))
        problems += [row[0] for row in rows]
    scrub = Scrub()
    while not scrub.done:
        problems += await scrub.slice(ask, PAGE)
        progress(Progress("events", scrub.rows, None))
    return problems[:PROBLEMS_MAX]
