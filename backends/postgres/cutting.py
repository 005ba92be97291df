"""Cuts in a database: firsts are moved at once, events before them are deleted by upkeep when no doubt is about them any more.

Who would miss something is told: whatever is read is asked for first, and what has been cut of it after that, so nothing goes in between.
Seqs that were believed are proven by the rows that have them (see `belief`): who cuts, and who deletes rows, begins a new epoch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from perdure.backends.commit import CHECKPOINTS, HOLDS, Cut
from perdure.backends.engine import Facts
from perdure.backends.errors import Misuse, Truncated
from perdure.backends.event import Position
from perdure.backends.held import held_at
from perdure.backends.postgres import runs
from perdure.backends.postgres.runs import COLUMNS
from perdure.backends.postgres.schema import NEW_EPOCH
from perdure.backends.postgres.wire import Question, Row, Statement, Value, bodies, int8, int8s, texts
from perdure.backends.protocol import CutBound, StreamInfo
from perdure.backends.selector import Item, Selector

Ask = Callable[..., Awaitable[list[list[Row]]]]

SLICE: Final = 20
"""So many streams are swept at once."""

_FIRSTS: Final = Statement("SELECT name, first FROM perdure.names WHERE name = ANY($1)", ("text[]",))
_ENDS: Final = Statement(
    "SELECT w.stream, w.seq, r.position - r.events + w.seq - r.seq + 1 FROM unnest($1, $2) AS w (stream, seq) CROSS JOIN LATERAL"
    " (SELECT seq, events, position FROM perdure.runs WHERE stream = w.stream AND seq <= w.seq ORDER BY seq DESC LIMIT 1) r WHERE w.seq < r.seq + r.events",
    ("text[]", "int8[]"),
)
_HOLDS: Final = Statement(f"SELECT bucket, key, value FROM perdure.kv WHERE bucket IN ('{CHECKPOINTS}', '{HOLDS}') AND value IS NOT NULL")
_GOING: Final = (
    "FROM unnest($1, $2, $3) AS w (name, first, archive) JOIN perdure.names s USING (name) CROSS JOIN LATERAL"
    " (SELECT r.stream, r.type, r.position - greatest(r.seq + r.events - w.first, 0) AS position FROM perdure.runs r"
    " WHERE r.stream = s.name AND r.seq + r.events > s.first AND r.seq < w.first) e"
)
_TYPES: Final = ("text[]", "int8[]", "text[]")
_TOLD: Final = (
    "ON CONFLICT (category, type) DO UPDATE SET position = greatest(cuts.position, excluded.position), times = cuts.times + excluded.times,"
    " stream = CASE WHEN cuts.position < excluded.position THEN excluded.stream ELSE cuts.stream END"
)
_TELL: Final = Statement(
    "INSERT INTO perdure.cuts (category, type, position, stream) SELECT DISTINCT ON (1, 2) split_part(e.stream, '-', 1), e.type, e.position, e.stream"
    f" {_GOING} ORDER BY 1, 2, 3 DESC {_TOLD}",
    _TYPES,
)
_MOVE: Final = Statement(
    "UPDATE perdure.names SET first = g.first, cut = g.position, archive = coalesce(nullif(g.archive, ''), names.archive), swept = false"
    f" FROM (SELECT w.name, w.first, w.archive, max(e.position) AS position {_GOING} GROUP BY 1, 2, 3) g WHERE names.name = g.name",
    _TYPES,
)
_DUE: Final = Statement(
    "SELECT n.name, n.first FROM perdure.names n WHERE NOT n.swept AND (SELECT r.at FROM perdure.runs r WHERE r.stream = n.name AND r.seq < n.first"
    " ORDER BY r.seq DESC LIMIT 1) < clock_timestamp() - $1 * interval '1 s' ORDER BY n.name LIMIT $2",
    ("int8", "int8"),
)
_SPLIT: Final = Statement(
    f"SELECT {COLUMNS}, w.first FROM unnest($1, $2) AS w (name, first) JOIN perdure.runs r ON r.stream = w.name AND r.seq < w.first"
    " AND r.seq + r.events > w.first",
    ("text[]", "int8[]"),
)
_TRIM: Final = Statement(
    "UPDATE perdure.runs SET seq = w.seq, events = w.events, ordinal = w.ordinal, crcs = w.crcs, ends = w.ends, payload = w.payload"
    " FROM unnest($1, $2, $3, $4, $5, $6, $7) AS w (position, seq, events, ordinal, crcs, ends, payload) WHERE runs.position = w.position",
    ("int8[]", "int8[]", "int8[]", "int8[]", "bytea[]", "bytea[]", "bytea[]"),
)
_SWEEP: Final = Statement(
    "WITH due AS (SELECT name, first FROM unnest($1, $2) AS w (name, first)),"
    " gone AS (DELETE FROM perdure.runs r USING due WHERE r.stream = due.name AND r.seq + r.events <= due.first RETURNING r.position, r.tags),"
    " untagged AS (DELETE FROM perdure.tags t USING (SELECT unnest(tags) AS tag, position FROM gone) g WHERE t.tag = g.tag AND t.position = g.position)"
    " UPDATE perdure.names SET swept = true FROM due WHERE names.name = due.name",
    ("text[]", "int8[]"),
)
_BOUNDS: Final = Statement("SELECT category, type, position, stream, times FROM perdure.cuts ORDER BY category, type")
_LOAD_STREAMS: Final = Statement(
    "INSERT INTO perdure.names (name, first, cut, archive) SELECT name, first, cut, nullif(archive, '') FROM unnest($1, $2, $3, $4)"
    " AS w (name, first, cut, archive)",
    ("text[]", "int8[]", "int8[]", "text[]"),
)
_LOAD_BOUNDS: Final = Statement(
    "INSERT INTO perdure.cuts (category, type, position, stream, times) SELECT * FROM unnest($1, $2, $3, $4, $5)"
    f" AS w (category, type, position, stream, times) {_TOLD}",
    ("text[]", "text[]", "int8[]", "text[]", "int8[]"),
)
_KNOWN: Final = Statement("SELECT name FROM perdure.names WHERE name = ANY($1) LIMIT 1", ("text[]",))


# -- facts -----------------------------------------------------------------------------------


def questions(cuts: Sequence[Cut]) -> list[Question]:
    """What judging them takes."""
    names = texts([cut.stream for cut in cuts])
    return [Question(_FIRSTS, (names,)), Question(_ENDS, (names, int8s([cut.first - 1 for cut in cuts]))), Question(_HOLDS)]


def add_facts(known: Facts, cuts: Sequence[Cut], firsts: list[Row], ends: list[Row], holds: list[Row]) -> None:
    """The same as facts, from the answers."""
    known.firsts = {cut.stream: 1 for cut in cuts} | dict(firsts)
    places = {(stream, seq): Position(position) for stream, seq, position in ends}
    known.ends = {cut: places.get((cut.stream, cut.first - 1)) for cut in cuts}
    known.holds = {(bucket, key): place for bucket, key, value in holds if (place := held_at(value)) is not None}


def write(cuts: Sequence[Cut]) -> list[Question]:
    """Move firsts, and say who is told, after the events of the group are there."""
    if not cuts:
        return []
    last = {cut.stream: cut for cut in cuts}
    archives = {cut.stream: cut.archive for cut in cuts if cut.archive}
    values = (texts(last), int8s([cut.first for cut in last.values()]), texts([archives.get(name, "") for name in last]))
    return [Question(_TELL, values), Question(_MOVE, values), Question(Statement(NEW_EPOCH))]


# -- who is told -----------------------------------------------------------------------------


def bound_of(item: Item, after: int) -> Question:
    """What stands against reading events that *item* may select beyond *after*: the newest that was cut."""
    types: list[str] = ["int8"]
    values: list[Value] = [int8(after)]

    def among(names: tuple[str, ...]) -> str:
        types.append("text[]")
        values.append(texts(names))
        return f"ANY(${len(values)})"

    if item.streams:
        tests = [f"s.name = {among(item.streams)}", "s.cut > $1"]
        tests += [f"split_part(s.name, '-', 1) = {among(item.categories)}"] if item.categories else []
        sql = f"SELECT s.cut, s.name, s.first, s.archive FROM perdure.names s WHERE {' AND '.join(tests)} ORDER BY s.cut DESC LIMIT 1"
    else:
        tests = ["c.position > $1"]
        tests += [f"c.category = {among(item.categories)}"] if item.categories else []
        tests += [f"(c.type = '' OR c.type = {among(item.types)})"] if item.types else []
        sql = (
            "SELECT c.position, s.name, s.first, s.archive FROM perdure.cuts c JOIN perdure.names s ON s.name = c.stream"
            f" WHERE {' AND '.join(tests)} ORDER BY c.position DESC LIMIT 1"
        )
    return Question(Statement(sql, tuple(types)), values)


def bounds_of(where: Selector[Any], after: int) -> list[Question]:
    """The same for a selector."""
    return [bound_of(item, after) for item in where.items]


def truncated(found: Sequence[list[Row]]) -> Truncated | None:
    """What to say, from the answers to `bounds_of`."""
    row = max((rows[0] for rows in found if rows), key=lambda row: int(row[0]), default=None)
    return None if row is None else Truncated(row[1], row[2], row[3], row[0])


async def firsts_of(ask: Ask, streams: Sequence[str]) -> dict[str, int]:
    """Where each of them begins."""
    (rows,) = await ask(Question(_FIRSTS, (texts(streams),)))
    return dict(rows)


async def read(ask: Ask) -> list[CutBound]:
    """See `Reads.cuts`."""
    (rows,) = await ask(Question(_BOUNDS))
    return [CutBound(category, type or None, Position(position), stream, times) for category, type, position, stream, times in rows]


# -- upkeep and loading ----------------------------------------------------------------------


async def sweep(ask: Ask, kept_s: int) -> bool:
    """Delete what was cut of some streams, if it is older than that; whether there was some. Of a row that holds more, what is left stays."""
    (due,) = await ask(Question(_DUE, (int8(kept_s), int8(SLICE))))
    if not due:
        return False
    which = (texts([name for name, _ in due]), int8s([first for _, first in due]))
    (split,) = await ask(Question(_SPLIT, which))
    left = [runs.left_of(row, row[-1]) for row in split]
    if left:
        positions, seqs, events, ordinals, crcs, ends, payloads = zip(*left, strict=True)
        numbers = (int8s(positions), int8s(seqs), int8s(events), int8s(ordinals))
        await ask(Question(_TRIM, (*numbers, bodies(crcs), bodies(ends), bodies(payloads))))
    await ask(Question(_SWEEP, which), Question(Statement(NEW_EPOCH)))
    return True


async def load(ask: Ask, streams: Sequence[StreamInfo], cuts: Sequence[CutBound]) -> None:
    """See `Backend.load_cuts`."""
    for stream in streams:
        if not (stream.first > 1 and stream.cut):
            raise Misuse(f"nothing was cut of stream {stream.name!r}")
    names = texts([stream.name for stream in streams])
    (known,) = await ask(Question(_KNOWN, (names,)))
    if known:
        raise Misuse(f"stream {known[0][0]!r} is there already: load cuts before the records")
    columns = (names, int8s([one.first for one in streams]), int8s([one.cut for one in streams]), texts([one.archive or "" for one in streams]))
    bounds = (
        *(texts([cut.category for cut in cuts]), texts([cut.type or "" for cut in cuts])),
        *(int8s([cut.position for cut in cuts]), texts([cut.stream for cut in cuts]), int8s([cut.times for cut in cuts])),
    )
    await ask(Question(_LOAD_STREAMS, columns), Question(_LOAD_BOUNDS, bounds))
