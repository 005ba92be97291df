"""The reads of a store in a database: of its newest state, or of the one that a view holds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter
from typing import Any, Final, Protocol

from perdure.backends.answers import committed_of
from perdure.backends.commit import Committed
from perdure.backends.engine import Kept
from perdure.backends.errors import Compacted, Corrupt, Rewound, Truncated
from perdure.backends.event import Position, Record
from perdure.backends.keys import after_prefix
from perdure.backends.limits import PAGE_EXAMINED
from perdure.backends.postgres import cutting, runs
from perdure.backends.postgres.packing import unpack_drawn, unpack_kept
from perdure.backends.postgres.runs import COLUMNS
from perdure.backends.postgres.schema import ELSEWHERE
from perdure.backends.postgres.wire import EPOCH_US, Question, Row, Statement, Value, bodies, int8, texts
from perdure.backends.protocol import ChangedEntry, Changes, CutBound, Entry, Page, Snapshot, StreamInfo
from perdure.backends.selector import EVERYTHING, Item, Selector

RECENT: Final = 20_000
"""So many positions back a drawn commit id is looked for when nothing says where its commit began."""
MANY: Final = (1 << 63) - 1

_WEIGHT: Final = "CASE WHEN {} = events THEN octet_length(payload) + 100 * events ELSE 0 END"
"""What a row weighs in a page; one of which only a part counts is cut when it is there."""

Ask = Callable[..., Awaitable[list[list[Row]]]]


class Asks(Protocol):
    """Whoever asks the server: see `Wire.ask`."""

    async def __call__(self, *questions: Question) -> list[list[Row]]: ...


def _cut(order: str, condition: str, events: str, limit: str, bytes_max: str) -> str:
    """Rows in *order* until there are enough, each with how many events and bytes there are up to it; *events*: those of a row that count."""
    running = f"OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING)::int8"
    weight = _WEIGHT.format(events)
    rows = (
        f"SELECT {COLUMNS}, {events} AS own, sum({events}) {running} AS counted, {weight} AS weight, sum({weight}) {running} AS spent"
        f" FROM perdure.runs WHERE {condition} ORDER BY {order} LIMIT {limit}"
    )
    return f"SELECT {COLUMNS}, counted, spent FROM ({rows}) e WHERE counted - own < {limit} AND spent - weight < {bytes_max}"


_FIRST = Statement("SELECT first, archive FROM perdure.names WHERE name = $1", ("text",))
_HEAD = Statement(f"SELECT position, revision, at, {ELSEWHERE} FROM perdure.head")
_STREAM = Statement("SELECT first, last, position, cut, archive FROM perdure.streams WHERE name = $1", ("text",))
_RUN_OF = "coalesce((SELECT seq FROM perdure.runs WHERE stream = $1 AND seq <= $2 + 1 ORDER BY seq DESC LIMIT 1), 0)"
_ON = Statement(
    _cut("seq", f"stream = $1 AND seq >= {_RUN_OF} AND seq <= $5 AND seq + events > $2 + 1", "least(events, seq + events - 1 - $2)", "$3", "$4"),
    ("text", "int8", "int8", "int8", "int8"),
)
"""Up to a seq: seqs have no gaps, so there are no more rows to be looked at than are wanted."""
_BACK = Statement(_cut("seq DESC", "stream = $1 AND seq < $2", "least(events, $2 - seq)", "$3", "$4"), ("text", "int8", "int8", "int8"))
_BOUND_SQL = "SELECT commit_end FROM perdure.runs WHERE position >= $1 + {} ORDER BY position LIMIT 1"
_GET = Statement("SELECT value, revision FROM perdure.kv WHERE bucket = $1 AND key = $2 AND value IS NOT NULL", ("text", "bytea"))
_SCAN = "SELECT key, value, revision FROM perdure.kv WHERE bucket = $1 AND key >= $2 AND value IS NOT NULL{stop} ORDER BY key LIMIT $3"
_SCAN_ON = Statement(_SCAN.format(stop=""), ("text", "bytea", "int8"))
_SCAN_TO = Statement(_SCAN.format(stop=" AND key < $4"), ("text", "bytea", "int8", "bytea"))
_CHANGES = Statement(
    "SELECT h.revision, (SELECT revision FROM perdure.compacted WHERE bucket = $1), c.key, c.revision, c.value FROM perdure.head h LEFT JOIN LATERAL"
    " (SELECT key, revision, value FROM perdure.kv WHERE bucket = $1 AND watched AND revision > $2 ORDER BY revision, key LIMIT $3) c ON true",
    ("text", "int8", "int8"),
)
_SNAPSHOT = Statement(
    "SELECT position, fingerprint, state, at FROM perdure.snapshots WHERE name = $1 AND position <= $2 ORDER BY position DESC LIMIT 1", ("text", "int8")
)
_SNAPSHOTS = Statement("SELECT position FROM perdure.snapshots WHERE name = $1 ORDER BY position", ("text",))
_STREAMS = "SELECT name, first, last, position, cut, archive FROM perdure.streams WHERE name >= $1{stop} ORDER BY name LIMIT $2"
_STREAMS_ON = Statement(_STREAMS.format(stop=""), ("text", "int8"))
_STREAMS_TO = Statement(_STREAMS.format(stop=" AND name < $3"), ("text", "int8", "text"))
_KEPT = Statement("SELECT id, kept FROM perdure.commits WHERE id = ANY($1)", ("bytea[]",))
_DRAWN = Statement("SELECT drawn FROM perdure.writers")
_OF_COMMITS = Statement(
    f"SELECT {COLUMNS} FROM perdure.runs WHERE commit = ANY($1) AND position > coalesce($2, (SELECT position FROM perdure.head) - {RECENT}) ORDER BY position",
    ("bytea[]", "int8"),
)


class PostgresReads:
    """See `Reads`. *ask* takes questions to the server, for one round trip."""

    def __init__(self, ask: Asks) -> None:
        self._ask = ask

    async def read_stream(self, stream: str, *, after: int, limit: int, bytes_max: int, backward: bool = False) -> list[Record]:
        """See `Reads.read_stream`."""
        answers = await self._ask(*stream_page(stream, after, limit, bytes_max, backward=backward))
        return read_stream_page(stream, after, limit, bytes_max, *answers, backward=backward)

    async def read_log(self, *, after: Position, limit: int, bytes_max: int, where: Selector[Any] = EVERYTHING, over_cuts: bool = False) -> Page:
        """See `Reads.read_log`."""
        chosen = _Chosen(where, over_cuts=over_cuts)
        limit = min(limit, PAGE_EXAMINED)
        told = [] if over_cuts else cutting.bounds_of(where, after)
        heads, bounds, rows, *gone = await self._ask(Question(_HEAD), *chosen.questions(after, limit, bytes_max), *told)
        head = Position(heads[0][0])
        if after > head:
            raise Rewound(head)
        if after < head and (cut := cutting.truncated(gone)) is not None:
            raise cut
        end = min(head, bounds[0][0]) if bounds else head
        if rows and rows[-1][runs.POSITION] > end:  # a commit came in between
            rows = [row for row in rows if row[runs.POSITION] <= end]
        if rows and (rows[-1][-2] >= limit or rows[-1][-1] >= bytes_max):
            last, end = rows[-1][runs.POSITION], rows[-1][runs.COMMIT_END]
            if last < end:
                (rest,) = await self._ask(chosen.rest(last, end))
                rows += rest
        elif not rows and where.everything and after < head and not over_cuts:
            raise Corrupt(f"the log after position {after}", f"events are missing: it ends at position {head}")
        records = runs.read(rows)
        if records and records[0].position <= after:
            records = [record for record in records if record.position > after]
        if over_cuts and records:
            firsts = await cutting.firsts_of(self._ask, list({record.stream for record in records}))
            records = [record for record in records if record.seq >= firsts[record.stream]]
        return Page(records, Position(end), head)

    async def head(self) -> Position:
        """See `Reads.head`."""
        return Position((await self.numbers())[0])

    async def revision(self) -> int:
        """See `Reads.revision`."""
        return (await self.numbers())[1]

    async def numbers(self) -> tuple[int, int, int, str]:
        """The head, the newest revision, the last time, and why nothing is committed: 'loading', or where the store is now; else ''."""
        ((head,),) = await self._ask(Question(_HEAD))
        return head[0], head[1], head[2] + EPOCH_US, head[3]

    async def answer(self, id: bytes) -> Committed | None:
        """See `Reads.answer`: by its row if it had a key, else among the ids kept of last groups and the newest events."""
        return (await self.answers([id], None)).get(id)

    async def answers(self, ids: Sequence[bytes], after: Position | None) -> dict[bytes, Committed]:
        """What is known of commits of which none has events at or before *after* (None: of the newest)."""
        wanted, start = bodies(ids), None if after is None else int8(after)
        kept_rows, drawn_rows, rows = await self._ask(Question(_KEPT, (wanted,)), Question(_DRAWN), Question(_OF_COMMITS, (wanted, start)))
        kept: dict[bytes, Kept] = {}
        for (drawn,) in drawn_rows:
            kept.update({id: one for id, one in unpack_drawn(drawn) if id in ids})
        kept.update({id: unpack_kept(one) for id, one in kept_rows})
        records = runs.read(rows)
        found = {id: committed_of(own) for id in ids if (own := _whole(rows, records, id))}
        return found | {id: one.answer() for id, one in kept.items()}

    async def get(self, bucket: str, key: bytes) -> Entry | None:
        """See `Reads.get`."""
        (rows,) = await self._ask(Question(_GET, (bucket.encode(), key)))
        return Entry(key, *rows[0]) if rows else None

    async def scan(self, bucket: str, *, prefix: bytes = b"", after: bytes | None = None, limit: int) -> list[Entry]:
        """See `Reads.scan`."""
        start = prefix if after is None else max(prefix, after + b"\0")
        stop = after_prefix(prefix) if prefix else None
        values: list[Value] = [bucket.encode(), start, int8(limit)]
        (rows,) = await self._ask(Question(_SCAN_ON, values) if stop is None else Question(_SCAN_TO, [*values, stop]))
        return [Entry(*row) for row in rows]

    async def read_changes(self, bucket: str, *, after: int, limit: int) -> Changes:
        """See `Reads.read_changes`."""
        while True:
            (rows,) = await self._ask(Question(_CHANGES, (bucket.encode(), int8(after), int8(limit + 1))))
            revision, forgotten = rows[0][:2]
            if after < (forgotten or 0):
                raise Compacted(bucket, forgotten + 1)
            changes = [ChangedEntry(*row[2:]) for row in rows if row[2] is not None]
            if len(changes) <= limit:
                return Changes(changes, max(after, revision))
            whole = [change for change in changes if change.revision < changes[-1].revision]  # a commit's changes stay together
            if whole:
                return Changes(whole, whole[-1].revision)
            limit *= 2

    async def read_snapshot(self, name: str, *, at_most: Position | None = None) -> Snapshot | None:
        """See `Reads.read_snapshot`."""
        (rows,) = await self._ask(Question(_SNAPSHOT, (name.encode(), int8(MANY if at_most is None else at_most))))
        for position, fingerprint, state, at in rows:
            return Snapshot(name, Position(position), fingerprint, state, at + EPOCH_US)
        return None

    async def snapshots(self, name: str) -> list[Position]:
        """See `Reads.snapshots`."""
        (rows,) = await self._ask(Question(_SNAPSHOTS, (name.encode(),)))
        return [Position(row[0]) for row in rows]

    async def stream(self, name: str) -> StreamInfo | None:
        """See `Reads.stream`."""
        (rows,) = await self._ask(Question(_STREAM, (name.encode(),)))
        return StreamInfo(name, *rows[0]) if rows else None

    async def cuts(self) -> list[CutBound]:
        """See `Reads.cuts`."""
        return await cutting.read(self._ask)

    async def streams(self, *, prefix: str = "", after: str | None = None, limit: int) -> list[StreamInfo]:
        """See `Reads.streams`."""
        start = prefix if after is None else max(prefix.encode(), after.encode() + b"\x01").decode()  # no name has a byte as low as that
        stop = _text_after(prefix)
        values: list[Value] = [start.encode(), int8(limit)]
        (rows,) = await self._ask(Question(_STREAMS_ON, values) if stop is None else Question(_STREAMS_TO, [*values, stop.encode()]))
        return [StreamInfo(*row) for row in rows]


# -- streams ---------------------------------------------------------------------------------


def stream_page(stream: str, after: int, limit: int, bytes_max: int, *, backward: bool = False) -> tuple[Question, Question, Question]:
    """What to ask for a page of a stream. Where it begins is asked before and after, for it may come to be, and be cut, meanwhile."""
    values: list[Value] = [stream.encode(), int8(after or MANY) if backward else int8(min(after, MANY - 1)), int8(limit), int8(bytes_max)]
    page = Question(_BACK, values) if backward else Question(_ON, [*values, int8(min(after + limit, MANY))])
    first = Question(_FIRST, (stream.encode(),))
    return first, page, first


def read_stream_page(
    stream: str, after: int, limit: int, bytes_max: int, known: Sequence[Row], rows: Sequence[Row], infos: Sequence[Row], *, backward: bool = False
) -> list[Record]:
    """The records, from the answers.

    Raises:
      Truncated, Corrupt: see `Reads.read_stream`.
    """
    first, archive = infos[0] if infos else (1, None)
    if first > 1 and (0 < after <= first if backward else after + 1 < first):
        raise Truncated(stream, first, archive)
    if rows:
        in_order = rows[::-1] if backward else rows
        _check_seqs(stream, in_order, in_order[0][runs.SEQ] if backward else after + 1)
    records = runs.read(rows)
    if backward:
        records = sorted([record for record in records if first <= record.seq < (after or MANY)], key=_seq, reverse=True)
    elif records and records[0].seq <= after:
        records = records[after + 1 - records[0].seq :]
    if len(records) > limit or sum([len(row[runs.PAYLOAD]) for row in rows]) + 100 * len(records) >= bytes_max:
        records = _first(records, limit, bytes_max)
    if backward and first > 1 and not (records or after):
        raise Truncated(stream, first, archive)
    if known and not (records or after) and limit > 0:
        raise Corrupt(f"stream {stream!r}", "it has a row and no events")
    return records


# -- pages -----------------------------------------------------------------------------------


class _Chosen:
    """The questions for a page of what a selector wants."""

    def __init__(self, where: Selector[Any], *, over_cuts: bool = False) -> None:
        self.where = where
        self.types: list[str] = []
        self.values: list[Value] = []
        self.condition = "true" if where.everything else " OR ".join(map(self._item, where.items))
        if over_cuts:
            self.condition = f"({self.condition}) AND seq + events > (SELECT first FROM perdure.names WHERE name = stream)"

    def _item(self, item: Item) -> str:
        tests = [
            self._test("type = ANY({})", item.types),
            self._test("stream = ANY({})", item.streams),
            self._test("split_part(stream, '-', 1) = ANY({})", item.categories),
            self._test("tags @> {}", item.tags),
        ]
        return "(" + (" AND ".join(filter(None, tests)) or "true") + ")"

    def _test(self, test: str, names: tuple[str, ...]) -> str:
        if not names:
            return ""
        self.types.append("text[]")
        self.values.append(texts(names))
        return test.format(f"${len(self.values) + 3}")

    def questions(self, after: int, limit: int, bytes_max: int) -> tuple[Question, Question]:
        """How far it is looked, and what is found."""
        bound = _BOUND_SQL.format("$2" if self.where.everything else PAGE_EXAMINED)
        sql = _cut("position", f"position > $1 AND position <= coalesce(({bound}), {MANY}) AND ({self.condition})", "least(events, position - $1)", "$2", "$3")
        start = int8(min(after, MANY - PAGE_EXAMINED))
        page = Question(Statement(sql, ("int8", "int8", "int8", *self.types)), [start, int8(limit), int8(bytes_max), *self.values])
        return Question(Statement(f"{bound} OFFSET 0 * $2", ("int8", "int8")), (start, int8(limit))), page

    def rest(self, after: int, end: int) -> Question:
        """What is left of the last commit."""
        sql = f"SELECT {COLUMNS}, $3, $3 FROM perdure.runs WHERE position > $1 AND position <= $2 AND ({self.condition}) ORDER BY position"
        return Question(Statement(sql, ("int8", "int8", "int8", *self.types)), [int8(after), int8(end), int8(0), *self.values])


def condition_of(item: Item, first: int) -> tuple[str, list[Value]]:
    """The test of one item of a query, its parameters numbered from *first* on (all of them `text[]`)."""
    chosen = _Chosen(EVERYTHING)
    test = chosen._item(item)
    for number in range(len(chosen.values), 0, -1):
        test = test.replace(f"${number + 3}", f"${number + first - 1}")
    return test, chosen.values


# -- records ---------------------------------------------------------------------------------


_seq = attrgetter("seq")


def _first(records: list[Record], limit: int, bytes_max: int) -> list[Record]:
    """So many of them, and no more than use up *bytes_max*."""
    for place, record in enumerate(records[:limit], 1):
        bytes_max -= len(record.payload) + 100
        if bytes_max <= 0:
            return records[:place]
    return records[:limit]


def _check_seqs(stream: str, rows: Sequence[Row], first: int) -> None:
    """Whether *rows*, in order, hold the seqs from *first* on without a gap."""
    begin = rows[0][runs.SEQ]
    wanted = begin if begin < first < begin + rows[0][runs.EVENTS] else first
    for row in rows:
        if row[runs.SEQ] != wanted:
            raise Corrupt(f"stream {stream!r} at seq {wanted}", f"it is missing, seq {row[runs.SEQ]} is there")
        wanted += row[runs.EVENTS]


def _whole(rows: Sequence[Row], records: Sequence[Record], id: bytes) -> list[Record]:
    """The records of a commit; none if a part of it has been cut since: what was answered is not known any more."""
    own = [record for record in records if record.commit == id]
    end = next((row[runs.COMMIT_END] for row in rows if row[runs.COMMIT] == id), None)
    return own if own and own[-1].position == end and own[-1].ordinal + 1 == len(own) else []


def _text_after(prefix: str) -> str | None:
    """The first text beyond all that begin with *prefix*; None: there is no end."""
    while prefix:
        last = ord(prefix[-1]) + 1
        if last <= 0x10FFFF:
            return prefix[:-1] + chr(0xE000 if 0xD800 <= last <= 0xDFFF else last)
        prefix = prefix[:-1]
    return None
