"""The reads of a store in a database: of its newest state, or of the one that a view holds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol
from zlib import crc32

from perdure.backends.answers import committed_of
from perdure.backends.commit import Committed
from perdure.backends.engine import Kept
from perdure.backends.errors import Compacted, Corrupt, Rewound, Truncated
from perdure.backends.event import Position, Record
from perdure.backends.frame import begun, context, seed, type_name
from perdure.backends.keys import after_prefix
from perdure.backends.limits import PAGE_EXAMINED
from perdure.backends.postgres import cutting
from perdure.backends.postgres.packing import unpack_drawn, unpack_kept
from perdure.backends.postgres.wire import EPOCH_US, Question, Row, Statement, Value, bodies, int8, texts
from perdure.backends.protocol import ChangedEntry, Changes, CutBound, Entry, Page, Snapshot, StreamInfo
from perdure.backends.selector import EVERYTHING, Item, Selector

RECENT: Final = 20_000
"""So many positions back a drawn commit id is looked for when nothing says where its commit began."""
MANY: Final = (1 << 63) - 1

COLUMNS: Final = "stream, seq, position, type, version, at, commit, ordinal, extra, payload, crc, commit_end"
_WEIGHT: Final = "octet_length(payload) + 100"

Ask = Callable[..., Awaitable[list[list[Row]]]]


class Asks(Protocol):
    """Whoever asks the server: see `Wire.ask`."""

    async def __call__(self, *questions: Question) -> list[list[Row]]: ...


def _weighed(order: str, condition: str, limit: str) -> str:
    """Records in *order*, with what they and those before them weigh."""
    running = f"sum({_WEIGHT}) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING)::int8 AS spent"
    return f"SELECT {COLUMNS}, {running}, {_WEIGHT} AS own FROM perdure.events WHERE {condition} ORDER BY {order} LIMIT {limit}"


def _cut(order: str, condition: str, limit: str, bytes_max: str) -> str:
    return f"SELECT {COLUMNS}, spent FROM ({_weighed(order, condition, limit)}) e WHERE spent - own < {bytes_max}"


_HEAD = Statement("SELECT position, revision, at, loading FROM perdure.head")
_STREAM = Statement("SELECT first, last, position, cut, archive FROM perdure.streams WHERE name = $1", ("text",))
_ON = Statement(_cut("seq", "stream = $1 AND seq > $2", "$3", "$4"), ("text", "int8", "int8", "int8"))
_BACK = Statement(_cut("seq DESC", "stream = $1 AND seq < $2", "$3", "$4"), ("text", "int8", "int8", "int8"))
_BOUND_SQL = f"SELECT commit_end FROM perdure.events WHERE position > $1 ORDER BY position OFFSET {PAGE_EXAMINED - 1} LIMIT 1"
_BOUND = Statement(_BOUND_SQL, ("int8",))
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
    f"SELECT {COLUMNS} FROM perdure.events WHERE commit = ANY($1)"
    f" AND position > coalesce($2, (SELECT position FROM perdure.head) - {RECENT}) ORDER BY position",
    ("bytea[]", "int8"),
)


class PostgresReads:
    """See `Reads`. *ask* takes questions to the server, for one round trip."""

    def __init__(self, ask: Asks) -> None:
        self._ask = ask

    async def read_stream(self, stream: str, *, after: int, limit: int, bytes_max: int, backward: bool = False) -> list[Record]:
        """See `Reads.read_stream`."""
        statement, start = (_BACK, after or MANY) if backward else (_ON, after)
        page = Question(statement, (stream.encode(), int8(start), int8(limit), int8(bytes_max)))
        known, rows, infos = await self._ask(question := Question(_STREAM, (stream.encode(),)), page, question)  # cut meanwhile: not before the last
        first = infos[0][0] if infos else 1
        if first > 1 and (0 < after <= first if backward else after + 1 < first):
            raise Truncated(stream, first, infos[0][4])
        records = [record for record in checked(rows) if record.seq >= first]
        if records:
            _check_seqs(stream, records, after, backward=backward)
        elif backward and not after and infos and first > infos[0][1]:
            raise Truncated(stream, first, infos[0][4])
        elif known and not after and limit > 0:
            raise Corrupt(f"stream {stream!r}", "it has a row and no events")
        return records

    async def read_log(
        self, *, after: Position, limit: int, bytes_max: int, where: Selector[Any] = EVERYTHING, over_cuts: bool = False
    ) -> Page:
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
        rows = [row for row in rows if row[2] <= end] if rows and rows[-1][2] > end else rows  # beyond it, a commit came in between
        if rows and (len(rows) >= limit or rows[-1][-1] >= bytes_max):
            last, end = rows[-1][2], rows[-1][11]
            if last < end:
                (rest,) = await self._ask(chosen.rest(last, end))
                rows += rest
        elif not rows and where.everything and after < head and not over_cuts:
            raise Corrupt(f"the log after position {after}", f"events are missing: it ends at position {head}")
        return Page(checked(rows), Position(end), head)

    async def head(self) -> Position:
        """See `Reads.head`."""
        return Position((await self.numbers())[0])

    async def revision(self) -> int:
        """See `Reads.revision`."""
        return (await self.numbers())[1]

    async def numbers(self) -> tuple[int, int, int, bool]:
        """The head, the newest revision, the last time, and whether the store is being loaded."""
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
        records = checked(rows)
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


# -- pages -----------------------------------------------------------------------------------


class _Chosen:
    """The questions for a page of what a selector wants."""

    def __init__(self, where: Selector[Any], *, over_cuts: bool = False) -> None:
        self.where = where
        self.types: list[str] = []
        self.values: list[Value] = []
        self.condition = "true" if where.everything else " OR ".join(map(self._item, where.items))
        if over_cuts:
            self.condition = f"({self.condition}) AND seq >= (SELECT first FROM perdure.streams WHERE name = stream)"

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
        if self.where.everything:
            bound, within = Question(Statement("SELECT 0::int8 WHERE false")), ""
        else:
            bound, within = Question(_BOUND, (int8(after),)), f" AND position <= coalesce(({_BOUND_SQL}), {MANY})"
        sql = _cut("position", f"position > $1{within} AND ({self.condition})", "$2", "$3")
        return bound, Question(Statement(sql, ("int8", "int8", "int8", *self.types)), [int8(after), int8(limit), int8(bytes_max), *self.values])

    def rest(self, after: int, end: int) -> Question:
        """What is left of the last commit."""
        sql = f"SELECT {COLUMNS}, $3 FROM perdure.events WHERE position > $1 AND position <= $2 AND ({self.condition}) ORDER BY position"
        return Question(Statement(sql, ("int8", "int8", "int8", *self.types)), [int8(after), int8(end), int8(0), *self.values])


def condition_of(item: Item, first: int) -> tuple[str, list[Value]]:
    """The test of one item of a query, its parameters numbered from *first* on (all of them `text[]`)."""
    chosen = _Chosen(EVERYTHING)
    test = chosen._item(item)
    for number in range(len(chosen.values), 0, -1):
        test = test.replace(f"${number + 3}", f"${number + first - 1}")
    return test, chosen.values


# -- records ---------------------------------------------------------------------------------


def _whole(rows: Sequence[Row], records: Sequence[Record], id: bytes) -> list[Record]:
    """The records of a commit; none if a part of it has been cut since: what was answered is not known any more."""
    own = [(row[11], record) for row, record in zip(rows, records, strict=True) if record.commit == id]
    whole = bool(own) and own[-1][1].position == own[-1][0] and own[-1][1].ordinal + 1 == len(own)
    return [record for _, record in own] if whole else []


def checked(rows: Sequence[Row]) -> list[Record]:
    """Rows of `COLUMNS`, and whatever follows them, as records.

    Raises:
      Corrupt: one does not fit its checksum.
    """
    records: list[Record] = []
    add, types = records.append, dict[tuple[str, int], int]()
    before: tuple[str, bytes, int] | None = None
    shared = at_us = 0
    for stream, seq, position, type, version, at, commit, ordinal, extra, payload, crc, *_ in rows:
        if (stream, commit, at) != before:
            before, at_us = (stream, commit, at), at + EPOCH_US
            shared = context(stream.encode(), commit, at_us)
        type_crc = types.get((type, version))
        if type_crc is None:
            type_crc = types[type, version] = type_name(type, version).crc
        start = seed(shared, type_crc, seq, position, ordinal)
        if crc32(payload, begun(extra, start) if extra else start) != crc:
            raise Corrupt(f"the record at position {position} (stream {stream!r}, seq {seq})", "its checksum does not fit")
        add(Record(stream, seq, position, type, version, at_us, commit, ordinal, extra, payload, crc))
    return records


def _check_seqs(stream: str, records: Sequence[Record], after: int, *, backward: bool) -> None:
    step = -1 if backward else 1
    wanted = records[0].seq if backward else after + 1
    for record in records:
        if record.seq != wanted:
            raise Corrupt(f"stream {stream!r} at seq {wanted}", f"it is missing, seq {record.seq} is there")
        wanted += step


def _text_after(prefix: str) -> str | None:
    """The first text beyond all that begin with *prefix*; None: there is no end."""
    while prefix:
        last = ord(prefix[-1]) + 1
        if last <= 0x10FFFF:
            return prefix[:-1] + chr(0xE000 if 0xD800 <= last <= 0xDFFF else last)
        prefix = prefix[:-1]
    return None
