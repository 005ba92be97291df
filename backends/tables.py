"""What the tables of a store mean: reads and writes over ordered keys, whatever keeps them.

Plain functions of a `Reader` or `Writer`, which is one transaction: nothing here awaits, and a buffer
that a reader returns is used up before the transaction ends.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Protocol
from zlib import crc32

import attrs
import msgspec

from perdure.backends import frame, keys
from perdure.backends.bounds import truncated
from perdure.backends.engine import Kept
from perdure.backends.errors import Compacted, Corrupt, Rewound, Truncated
from perdure.backends.event import Position, Record
from perdure.backends.frame import TypeName, type_name
from perdure.backends.limits import PAGE_EXAMINED
from perdure.backends.protocol import ChangedEntry, Changes, Entry, Page, Snapshot, StreamInfo
from perdure.backends.sealing import sealed, unseal
from perdure.backends.selector import EVERYTHING, Selector
from perdure.backends.stream_row import StreamRow, read_row

Buffer = bytes | memoryview
Row = tuple[Buffer, Buffer]

DAMAGE = (struct.error, UnicodeDecodeError, msgspec.DecodeError)
"""What unpacking a row raises that is not as it was written."""
FRAMES_A_STEP = 256
"""Frames looked at in one scan step."""


class Reader(Protocol):
    """Ordered tables at one moment. Buffers are valid until the transaction ends."""

    def get(self, table: str, key: bytes) -> Buffer | None: ...

    def scan(self, table: str, start: bytes, stop: bytes | None, limit: int) -> Sequence[Row]:
        """Rows from *start* (included) to *stop* (excluded), ascending."""
        ...

    def scan_back(self, table: str, start: bytes, stop: bytes | None, limit: int) -> Sequence[Row]:
        """Rows from before *stop* (None: the end) down to *start* (included), descending."""
        ...


class Writer(Reader, Protocol):
    """The same, in a transaction that writes."""

    @property
    def stale(self) -> bool:
        """Whether someone else has written since this map was written last: what was remembered since then does not count."""
        ...

    def put(self, table: str, key: bytes, value: bytes) -> None: ...

    def put_all(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None: ...

    def delete(self, table: str, key: bytes) -> bool: ...


# -- state that a process may remember between transactions ----------------------------------


@attrs.define
class Cache:
    """Facts remembered between transactions, for as long as no other process has written.

    *types* by number; *numbers* from (name, version) to (number, checksum); *streams* to (number, last seq).
    """

    types: list[TypeName] = attrs.field(factory=list)
    numbers: dict[tuple[str, int], tuple[int, int]] = attrs.field(factory=dict)
    streams: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    head: Position = Position(0)
    at_us: int = 0
    revision: int = 0
    streams_made: int = 0
    loading: bool = False
    """Whether the store is being loaded: nothing is committed then."""
    moved: str = ""
    """Where the store is now, if it is not here: nothing is committed then either."""
    trace: int = 0
    """Not 0: commits note which entries they change (see `trace`)."""
    owner: bytes = b"\0" * 8
    """Whose it is: under this name the ids of the last group are kept that its events do not tell."""

    STREAMS_MAX = 200_000

    def load(self, reader: Reader) -> None:
        """Forget everything and read the store-wide facts again."""
        self.streams.clear()
        self.load_types(reader)
        self.head, self.at_us = read_head(reader)
        self.revision = read_meta(reader, "revision")
        self.at_us = max(self.at_us, read_meta(reader, "at"))
        self.streams_made = read_meta(reader, "streams")
        self.loading = bool(read_meta(reader, "loading"))
        self.moved = read_moved(reader)
        self.trace = read_meta(reader, TRACE)

    def load_types(self, reader: Reader) -> None:
        """Read the table of types."""
        newest = reader.scan_back("types", b"", None, 1)
        if newest and int.from_bytes(newest[0][0], "big") < len(self.types):
            return  # types are only added
        self.types = read_types(reader)
        self.numbers = {(type.name, type.version): (number, type.crc) for number, type in enumerate(self.types)}


def read_types(reader: Reader) -> list[TypeName]:
    """The table of types, by number."""
    return [_read_type(value) for _, value in reader.scan("types", b"", None, 1 << 16)]


def _read_type(value: Buffer) -> TypeName:
    version, name = msgspec.msgpack.decode(value, type=tuple[int, str])
    return type_name(name, version)


def read_meta(reader: Reader, name: str) -> int:
    """A number of the store as a whole; 0 if it was never written."""
    key = name.encode()
    value = reader.get("meta", key)
    return 0 if value is None else keys.read_number(unseal(f"the store's number {name!r}", key, value))


def write_meta(writer: Writer, name: str, value: int) -> None:
    """Keep a number of the store as a whole."""
    key = name.encode()
    writer.put("meta", key, sealed(key, keys.number(value)))


TRACE = "trace"
"""The number of `meta` that says since when changed entries are noted."""
MOVED = b"moved"
"""The row of `meta` that says where the store is now."""


def read_moved(reader: Reader) -> str:
    """Where the store is now; '' if it is here."""
    raw = reader.get("meta", MOVED)
    return "" if raw is None else unseal("the row that says where the store is", MOVED, raw).decode()


def read_head(reader: Reader) -> tuple[Position, int]:
    """The last position and its time; zeros while the log is empty."""
    for _, value in reader.scan_back("frames", b"", None, 1):
        head = frame.read_head(value)
        return head.last, head.commits[-1][1]
    return Position(0), 0


# -- reading the log -------------------------------------------------------------------------


def read_log(
    reader: Reader,
    types: Sequence[TypeName],
    *,
    after: Position,
    limit: int,
    bytes_max: int,
    where: Selector[Any] = EVERYTHING,
    over_cuts: bool = False,
) -> Page:
    """See `Reads.read_log`."""
    end, _ = read_head(reader)
    if after > end:
        raise Rewound(end)
    if not over_cuts and after < end and (gone := truncated(reader, types, where, after)) is not None:
        raise gone
    left = _Left(reader) if over_cuts else None
    choose = None if where.everything else where.filter()
    records: list[Record] = []
    cursor, budget, room = after, PAGE_EXAMINED, bytes_max
    while cursor < end and budget > 0 and room > 0 and len(records) < limit:
        before = cursor
        for value, head in frames_beyond(reader, cursor):
            if head.first > cursor + 1:
                cursor = _over_gap(cursor, head)
            while cursor < head.last and budget > 0 and room > 0 and len(records) < limit:
                last = head.commit_end(min(head.last, cursor + min(limit - len(records), budget)))
                found = frame.read_frame(value, types, head=head, first=cursor + 1, last=last, where=choose)
                if left is not None:
                    found = left.of(found)
                size = bytes_of(found)
                if size >= room:
                    found, last = _cut_to_bytes(found, last, head, room)
                records += found
                room -= size
                budget -= min(last - cursor, head.records + 1)  # where what was loaded has gaps, or something was cut, there are fewer
                cursor = last
            if budget <= 0 or room <= 0 or len(records) >= limit:
                break
        if cursor == before:
            raise Corrupt(f"the log after position {cursor}", "the next frame is missing")
    return Page(records, cursor, end)


class _Left:
    """Leaves out what has been cut and still lies there."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._firsts: dict[str, int] = {}

    def of(self, records: list[Record]) -> list[Record]:
        """Those that are left."""
        return [record for record in records if record.seq >= self._first(record.stream)]

    def _first(self, stream: str) -> int:
        first = self._firsts.get(stream)
        if first is None:
            row = self._reader.get("streams", stream.encode())
            first = self._firsts[stream] = 1 if row is None else keys.read_stream_row(row)[1]
        return first


def _over_gap(cursor: Position, head: frame.Head) -> Position:
    """Just before a frame, over positions that were never given: they cost nothing."""
    if not head.gap:
        raise Corrupt(f"the log after position {cursor}", f"positions {cursor + 1} to {head.first - 1} are missing")
    return Position(head.first - 1)


def frames_beyond(reader: Reader, after: Position) -> Iterator[tuple[bytes, frame.Head]]:
    """Some frames that hold positions beyond *after*, in order."""
    start = keys.number(after + 1)
    for key, _ in reader.scan_back("frames", b"", keys.number(after + 2), 1):
        start = bytes(key)
    for key, value in reader.scan("frames", start, None, FRAMES_A_STEP):
        head = frame.read_head(value)
        if head.first != keys.read_number(key):
            raise Corrupt(f"the frame at position {keys.read_number(key)}", f"it says that it is the one at position {head.first}")
        if head.last > after:
            yield bytes(value), head


_payload = attrgetter("payload")


def bytes_of(records: Sequence[Record]) -> int:
    """What *records* weigh in a page: their payloads, and 100 bytes each."""
    return sum(map(len, map(_payload, records))) + 100 * len(records)


def _cut_to_bytes(records: list[Record], last: Position, head: frame.Head, room: int) -> tuple[list[Record], Position]:
    """The records up to the end of the commit in which *room* bytes are used up."""
    for place, record in enumerate(records):
        room -= len(record.payload) + 100
        if room <= 0:
            end = head.commit_end(record.position)
            if end >= last:
                break
            rest = place + 1
            while rest < len(records) and records[rest].position <= end:
                rest += 1
            return records[:rest], end
    return records, last


# -- reading a stream ------------------------------------------------------------------------


def read_stream(reader: Reader, types: Sequence[TypeName], stream: str, *, after: int, limit: int, bytes_max: int, backward: bool = False) -> list[Record]:
    """See `Reads.read_stream`."""
    name = stream.encode()
    raw = reader.get("streams", name)
    if raw is None:
        return []
    row = read_row(name, raw)
    number, first = row.number, row.first
    runs = _runs_back(reader, number, after) if backward else _runs_on(reader, number, after)
    if first > 1 and (0 < after <= first if backward else after + 1 < first):
        _check_begins(reader, stream, row)
        raise Truncated(stream, first, row.archive)
    records: list[Record] = []
    room = bytes_max
    for first_seq, value in runs:
        place, offset, count = keys.read_run_row(value)
        if backward and first_seq + count <= first:
            break  # it has been cut
        frame_ = reader.get("frames", keys.number(place))
        if frame_ is None:
            raise Corrupt(f"stream {stream!r} at seq {first_seq}", f"its frame at position {place} is missing")
        if count == 1:
            part = [frame.read_one(frame_, place, offset, name, first_seq, types)]
        else:
            if backward:
                skip, count = 0, min(count, after - first_seq) if after else count
            else:
                skip = max(0, after + 1 - first_seq)
            part = _part(frame_, place, offset, types, skip, count, limit - len(records), backward)
        if backward and first_seq < first:
            part = [record for record in part if record.seq >= first]
        if part:
            wanted = records[-1].seq + (-1 if backward else 1) if records else part[0].seq if backward else after + 1
            if part[0].seq != wanted or part[0].stream != stream:
                raise Corrupt(f"stream {stream!r} at seq {wanted}", f"the index leads to stream {part[0].stream!r}, seq {part[0].seq}")
        size = bytes_of(part) if len(part) != 1 else len(part[0].payload) + 100
        if size >= room:
            return records + _first_bytes(part, room)
        records += part
        room -= size
        if len(records) >= limit:
            break
    if not (records or after):
        newest(reader, stream, row)
        if backward:
            raise Truncated(stream, first, row.archive)
    return records


def _check_begins(reader: Reader, stream: str, row: StreamRow) -> None:
    if row.first > 1 + newest(reader, stream, row)[0]:
        raise Corrupt(f"stream {stream!r}", f"its row says that it begins with seq {row.first}, and it has none")


def _first_bytes(records: Sequence[Record], room: int) -> list[Record]:
    """The records in which *room* bytes are used up."""
    found = []
    for record in records:
        found.append(record)
        room -= len(record.payload) + 100
        if room <= 0:
            break
    return found


def _part(value: Buffer, base: int, offset: int, types: Sequence[TypeName], skip: int, count: int, most: int, backward: bool) -> list[Record]:
    if backward:
        skip = max(0, count - most)
        return frame.read_run(value, base, offset, types, skip=skip, count=count - skip)[::-1]
    return frame.read_run(value, base, offset, types, skip=skip, count=min(count - skip, most))


_RUNS_A_STEP = 64


def _runs_on(reader: Reader, number: int, after: int) -> Iterator[tuple[int, Buffer]]:
    """The runs that hold seqs beyond *after*: (first seq, row)."""
    start, stop = keys.run(number, after + 1), keys.run(number + 1, 0)
    if after:
        for key, _ in reader.scan_back("runs", keys.run(number, 0), keys.run(number, after + 2), 1):
            start = bytes(key)
    while True:
        rows = reader.scan("runs", start, stop, _RUNS_A_STEP)
        for key, value in rows:
            first_seq = keys.last_number(key)
            if after and first_seq <= after and first_seq + keys.read_run_row(value)[2] <= after + 1:
                continue
            yield first_seq, value
        if len(rows) < _RUNS_A_STEP:
            return
        start = bytes(rows[-1][0]) + b"\0"


def _runs_back(reader: Reader, number: int, below: int) -> Iterator[tuple[int, Buffer]]:
    """The runs that hold seqs below *below* (0: all), newest first."""
    start, stop = keys.run(number, 0), keys.run(number, below) if below else keys.run(number + 1, 0)
    while True:
        rows = reader.scan_back("runs", start, stop, _RUNS_A_STEP)
        for key, value in rows:
            yield keys.last_number(key), value
        if len(rows) < _RUNS_A_STEP:
            return
        stop = bytes(rows[-1][0])


def newest(reader: Reader, name: str, row: StreamRow) -> tuple[int, Position]:
    """The last seq of a stream and its position, from its newest run: what the index says must be what the run says of itself.

    The rows of the index have no checksums; a wrong one must not make the next append leave a gap. Where all has been cut the
    stream's row knows, which has one.
    """
    number = row.number
    if row.emptied:
        return row.first - 1, row.cut
    for key, value in reader.scan_back("runs", keys.run(number, 0), keys.run(number + 1, 0), 1):
        base, offset, count = keys.read_run_row(value)
        frame_ = reader.get("frames", keys.number(base))
        if frame_ is None:
            raise Corrupt(f"stream {name!r}", f"its frame at position {base} is missing")
        first_seq = keys.last_number(key)
        said = frame.describe_run(frame_, offset)
        if said != (name, first_seq, count):
            raise Corrupt(f"stream {name!r}", f"the index leads to seqs {first_seq} to {first_seq + count - 1}, there is {said}")
        return first_seq + count - 1, frame.run_end(frame_, base, offset)
    raise Corrupt(f"stream {name!r}", "it has a row and no events")


def stream_info(reader: Reader, name: str, row: Buffer) -> StreamInfo:
    """What is known of the stream with that row."""
    known = read_row(name.encode(), row)
    return StreamInfo(name, known.first, *newest(reader, name, known), known.cut, known.archive)


def streams(reader: Reader, *, prefix: str = "", after: str | None = None, limit: int) -> list[StreamInfo]:
    """See `Reads.streams`."""
    start = prefix.encode() if after is None else max(prefix.encode(), after.encode() + b"\0")
    rows = reader.scan("streams", start, keys.after_prefix(prefix.encode()) if prefix else None, limit)
    return [stream_info(reader, bytes(key).decode(), value) for key, value in rows]


# -- kv --------------------------------------------------------------------------------------

_ENTRY = struct.Struct(">QIB")
"""revision, checksum of revision, mark, key and value; the mark: 1 for a tombstone."""
_MARKED = struct.Struct(">QB")


def pack_entry(key: bytes, revision: int, value: bytes | None) -> bytes:
    """A row of `kv`; without a value a tombstone."""
    gone, body = (1, b"") if value is None else (0, value)
    return _ENTRY.pack(revision, crc32(body, crc32(key, crc32(_MARKED.pack(revision, gone)))), gone) + body


def pack_entries(bucket: str, revision: int, entries: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Rows of `kv` for many (key, value) of one bucket."""
    lead, pack = keys.named(bucket), _ENTRY.pack
    begun = crc32(lead, crc32(_MARKED.pack(revision, 0)))
    return [(lead + key, pack(revision, crc32(value, crc32(key, begun)), 0) + value) for key, value in entries]


def read_entry(key: bytes, raw: Buffer) -> tuple[int, bytes | None]:
    """Revision and value (None: a tombstone) of a row of `kv`, checked."""
    if len(raw) < _ENTRY.size:
        raise Corrupt(f"kv entry {key!r}", "it is too short")
    revision, crc, gone = _ENTRY.unpack_from(raw)
    body = bytes(raw[_ENTRY.size :])
    if crc32(body, crc32(key, crc32(_MARKED.pack(revision, gone)))) != crc:
        raise Corrupt(f"kv entry {key!r}", "its checksum does not fit")
    return revision, None if gone else body


def lost_by(reader: Reader, change: bytes) -> str:
    """What is wrong with the entry that a row of `changes` tells of: '' if it is there, in that revision.

    Raises:
      Corrupt: it does not fit its checksum.
    """
    bucket, _, rest = change.partition(b"\0")
    revision, key = int.from_bytes(rest[:8], "big"), bucket + b"\0" + rest[8:]
    raw = reader.get("kv", key)
    if raw is not None and read_entry(key, raw)[0] == revision:
        return ""
    return f"a change of kv entry {key!r} at revision {revision} leads nowhere: that entry is lost, or older than it was"


def get(reader: Reader, bucket: str, key: bytes) -> Entry | None:
    """See `Reads.get`."""
    row = keys.entry(bucket, key)
    raw = reader.get("kv", row)
    if raw is None:
        return None
    revision, value = read_entry(row, raw)
    return None if value is None else Entry(key, value, revision)


def scan(reader: Reader, bucket: str, *, prefix: bytes = b"", after: bytes | None = None, limit: int) -> list[Entry]:
    """See `Reads.scan`."""
    lead = keys.named(bucket)
    start = lead + prefix if after is None else max(lead + prefix, lead + after + b"\0")
    stop = keys.after_prefix(lead + prefix)
    found: list[Entry] = []
    while len(found) < limit:
        rows = reader.scan("kv", start, stop, limit - len(found))
        for key, raw in rows:
            row = bytes(key)
            revision, value = read_entry(row, raw)
            if value is not None:
                found.append(Entry(row[len(lead) :], value, revision))
        if not rows:
            break
        start = bytes(rows[-1][0]) + b"\0"
    return found


def read_changes(reader: Reader, bucket: str, *, after: int, limit: int) -> Changes:
    """See `Reads.read_changes`."""
    forgotten = read_meta(reader, f"compacted {bucket}")
    if after < forgotten:
        raise Compacted(bucket, forgotten + 1)
    lead = keys.named(bucket)
    rows = reader.scan("changes", lead + keys.number(after + 1), keys.after_prefix(lead), limit + 1)
    changes = []
    for key, _ in rows[:limit]:
        revision, name = keys.read_change(bucket, key)
        entry = get(reader, bucket, name)
        changes.append(ChangedEntry(name, revision, None if entry is None else entry.value))
    if len(rows) <= limit:
        return Changes(changes, max(after, read_meta(reader, "revision")))
    # a commit's changes share one revision and stay together
    split = keys.read_change(bucket, rows[limit][0])[0]
    whole = [change for change in changes if change.revision < split]
    if not whole:
        return read_changes(reader, bucket, after=after, limit=limit * 2)
    return Changes(whole, whole[-1].revision)


# -- snapshots -------------------------------------------------------------------------------


class SnapshotRow(msgspec.Struct, array_like=True, frozen=True):
    """Value in `snapshots`."""

    fingerprint: str
    at_us: int
    state: bytes


_unpack_snapshot = msgspec.msgpack.Decoder(SnapshotRow).decode
_unpack_kept = msgspec.msgpack.Decoder(Kept).decode


def read_snapshot(reader: Reader, name: str, at_most: Position | None = None) -> Snapshot | None:
    """See `Reads.read_snapshot`."""
    lead = keys.named(name)
    stop = keys.after_prefix(lead) if at_most is None else keys.snapshot(name, at_most + 1)
    for key, raw in reader.scan_back("snapshots", lead, stop, 1):
        position = Position(keys.last_number(key))
        row = unpack_snapshot(name, position, bytes(key), raw)
        return Snapshot(name, position, row.fingerprint, row.state, row.at_us)
    return None


def snapshot_state(key: bytes, raw: Buffer) -> bytes:
    """The state in a row of `snapshots`.

    Raises:
      Corrupt: it is not as it was written.
    """
    return _unpack_snapshot(unseal(f"snapshot {key!r}", key, raw)).state


def unpack_snapshot(name: str, position: int, key: bytes, raw: Buffer) -> SnapshotRow:
    """The value of a row of `snapshots`, checked."""
    return _unpack_snapshot(unseal(f"snapshot {name!r} at position {position}", key, raw))


def snapshots(reader: Reader, name: str) -> list[Position]:
    """See `Reads.snapshots`."""
    lead = keys.named(name)
    return [Position(keys.last_number(key)) for key, _ in reader.scan("snapshots", lead, keys.after_prefix(lead), 1 << 20)]


# -- facts ---------------------------------------------------------------------------------


def last_seq(reader: Reader, cache: Cache, stream: str) -> int:
    """The last seq of a stream, 0 if there is none; remembered in *cache*."""
    remembered = cache.streams.get(stream)
    if remembered is None:
        name = stream.encode()
        raw = reader.get("streams", name)
        if raw is None:
            return 0
        row = read_row(name, raw)
        if row.emptied:
            return row.first - 1  # not remembered: who appends next has to say in the row that it has events again
        remembered = cache.streams[stream] = (row.number, newest(reader, stream, row)[0])
    return remembered[1]


def read_kept(reader: Reader, id: bytes) -> Kept | None:
    """What is kept of the commit with that id, if it had a key."""
    raw = reader.get("keys", id)
    return None if raw is None else _unpack_kept(unseal(f"the row of commit {id.hex()}", id, raw))


def record_at(reader: Reader, types: Sequence[TypeName], position: Position) -> Record:
    """The record at *position*, which exists."""
    for _, value in reader.scan_back("frames", b"", keys.number(position + 1), 1):
        for record in frame.read_frame(bytes(value), types, first=position, last=position):
            return record
    raise Corrupt(f"position {position}", "an index leads to it, but no frame holds it")
