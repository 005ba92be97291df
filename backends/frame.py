"""The frame: one stored value for the events of a group. Drawn byte by byte in ARCHITECTURE.md.

A frame is a header, a table of its commits, and its runs. A run is one stream's consecutive seqs: a
header with the name, an index entry per event, then the bodies (extra and payload) back to back; where
one commit appended many events of one type the index is two columns instead (a uniform run). So
one event is read by slicing a run out of the frame; the log is read run by run and put in order of
position. All numbers are little end first.

A record's checksum is a CRC-32 over its body, started from a number made of all that the body does
not say (stream, seq, position, type, commit, time): it stays valid wherever the record is copied, and
fails wherever it does not belong.
"""

from __future__ import annotations

import bisect
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Final
from zlib import crc32

import attrs
import msgspec

from perdure.backends.errors import Corrupt, TooNew
from perdure.backends.event import Position, Record, unpack_extra

MAGIC = b"PdFr"
FORMAT = 1

HEADER = struct.Struct("<4sHHQQIIII")
"""magic, format, flags, first position, last position, commits, runs, records, checksum of header and commits."""
COMMIT = struct.Struct("<16sqI")
"""id, time in microseconds since the epoch, place of its last event (position after the frame's first)."""
RUN = struct.Struct("<QIHI")
"""first seq, events, bytes of the name, checksum of these, the name and the entries; then the name."""
ENTRY = struct.Struct("<IIIHHHH")
"""position after the frame's first, checksum, end of its body in the run's bodies, commit, ordinal in it, type number, extra bytes."""
UNIFORM = struct.Struct("<IHHHH")
"""Of a uniform run: position of its first event after the frame's first, commit, first ordinal, type number, zero; then the
checksums, then the ends of the bodies, 4 bytes each."""
_IDENTITY = struct.Struct("<16sq")
UNIFORM_MIN: Final = 16
"""From so many events on a uniform run is made."""
UNIFORM_FLAG = 0x8000
"""In a run's bytes of the name."""

GAP_FLAG = 1
"""In a frame's flags: positions between the frame before and this one were never given. What was loaded kept its positions."""

SEQ_STEP = 0x9E3779B1
POSITION_STEP = 0x85EBCA77
ORDINAL_STEP = 0xC2B2AE3D
_EXTRA_STEP = 0x27D4EB2F
MASK = 0xFFFFFFFF

Filter = Callable[[str], Callable[[str, Callable[[], tuple[str, ...]]], bool] | None]


@attrs.frozen
class TypeName:
    """An event type as a store numbers it, with the checksum of its name and version."""

    name: str
    version: int
    crc: int


def type_name(name: str, version: int) -> TypeName:
    """The row of the table of types."""
    return TypeName(sys.intern(name), version, crc32(name.encode(), version))


def context(stream: bytes, commit: bytes, at_us: int) -> int:
    """What records of one commit in one stream share in their seeds."""
    return crc32(stream, crc32(_IDENTITY.pack(commit, at_us)))


def seed(context: int, type_crc: int, seq: int, position: int, ordinal: int) -> int:
    """Where a record's checksum starts. All steps are odd, so any one change of seq, position or ordinal changes it."""
    return (context + type_crc + seq * SEQ_STEP + position * POSITION_STEP + ordinal * ORDINAL_STEP) & MASK


def seeds(lead: int, count: int) -> list[int]:
    """Where the checksums of consecutive records of one commit, stream and type start, from that of the first."""
    step = SEQ_STEP + POSITION_STEP + ORDINAL_STEP
    return [check & MASK for check in range(lead, lead + count * step, step)]


def begun(extra: bytes, start: int) -> int:
    """The checksum after *extra*: its size counts, so that none of its bytes is taken for the payload's."""
    return crc32(extra, (start + len(extra) * _EXTRA_STEP) & MASK)


def with_checksum(record: Record) -> Record:
    """*record* with the checksum that its other fields have."""
    lead = context(record.stream.encode(), record.commit, record.at_us)
    start = seed(lead, crc32(record.type.encode(), record.version), record.seq, record.position, record.ordinal)
    return msgspec.structs.replace(record, crc=crc32(record.payload, begun(record.extra, start) if record.extra else start))


class RunPlace(msgspec.Struct, frozen=True, gc=False):
    """Where a run lies: a row of the run index."""

    stream: str
    first_seq: int
    offset: int
    count: int


# -- reading ---------------------------------------------------------------------------------


@attrs.frozen
class Head:
    """A frame's header and table of commits: (id, time, place of the last event)."""

    first: Position
    last: Position
    commits: list[tuple[bytes, int, int]]
    runs: int
    records: int
    offset: int
    """Where the first run begins."""
    gap: bool = False
    """Whether positions before the first were never given."""

    def commit_end(self, position: int) -> Position:
        """The position of the last event of the commit that *position* is in."""
        place = bisect.bisect_left(self.commits, position - self.first, key=_commit_end)
        return Position(self.first + self.commits[place][2])


def _commit_end(commit: tuple[bytes, int, int]) -> int:
    return commit[2]


def read_head(frame: bytes | memoryview) -> Head:
    """The header and table of commits, checked.

    Raises:
      TooNew: a newer format.
      Corrupt: the bytes are not a frame's.
    """
    try:
        magic, format, flags, first, last, commits, runs, records, crc = HEADER.unpack_from(frame)
    except struct.error as error:
        raise Corrupt("a frame", "it is shorter than its header") from error
    if magic != MAGIC:
        raise Corrupt("a frame", "it does not begin like one")
    if format > FORMAT:
        raise TooNew(f"the frame at position {first}", format, FORMAT)
    end = HEADER.size + commits * COMMIT.size
    if len(frame) < end or crc32(frame[HEADER.size : end], crc32(frame[: HEADER.size - 4])) != crc:
        raise Corrupt(f"the frame at position {first}", "the checksum of its header does not fit")
    return Head(Position(first), Position(last), list(COMMIT.iter_unpack(frame[HEADER.size : end])), runs, records, end, bool(flags & GAP_FLAG))


def read_frame(
    frame: bytes,
    types: Sequence[TypeName],
    *,
    head: Head | None = None,
    first: int = 0,
    last: int | None = None,
    where: Filter | None = None,
) -> list[Record]:
    """The records of a frame from position *first* to *last*, in order, checked; *where* chooses (see `Selector.filter`).

    Raises:
      Corrupt: a record that is wanted does not fit its checksum, or the frame its lengths.
    """
    head = head or read_head(frame)
    offset = head.offset
    low = first - head.first
    high = head.last - head.first if last is None else last - head.first
    records: list[Record] = []
    try:
        for _ in range(head.runs):
            run = open_run(frame, offset)
            offset = run.end
            if where is not None:
                run.check(frame)  # what is left out must be left out for what was written
            wanted = where(run.stream) if where is not None else None
            if where is not None and wanted is None:
                continue
            start, stop = (0, run.count) if low <= 0 and high >= head.last - head.first else run.between(frame, low, high)
            if start < stop:
                _read_records(frame, run, head.first, types, start, stop, records, wanted)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise Corrupt(f"the frame at position {head.first}", f"the run at offset {offset} cannot be read ({error})") from error
    if offset != len(frame):
        raise Corrupt(f"the frame at position {head.first}", f"it has {len(frame)} bytes, its runs end at {offset}")
    if head.runs > 1:
        records.sort(key=_position)
    return records


def _position(record: Record) -> int:
    return record.position


def read_run(frame: bytes | memoryview, base: int, offset: int, types: Sequence[TypeName], *, skip: int = 0, count: int | None = None) -> list[Record]:
    """The records of the run at *offset* of the frame that begins at position *base*: from its *skip*th on, *count* of them.

    Raises:
      Corrupt: a record does not fit its checksum, or there is no run, or not so many records in it.
    """
    records: list[Record] = []
    try:
        run = open_run(frame, offset)
        stop = run.count if count is None else skip + count
        if stop > run.count:
            raise Corrupt(f"the frame at position {base}", f"the run at offset {offset} has {run.count} records, {stop} are indexed")
        _read_records(frame, run, base, types, skip, stop, records, None)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise Corrupt(f"the frame at position {base}", f"the run at offset {offset} cannot be read ({error})") from error
    return records


def read_one(frame: bytes | memoryview, base: int, offset: int, name: bytes, seq: int, types: Sequence[TypeName]) -> Record:
    """The record of the run at *offset* that holds just one, seq *seq* of stream *name*: what interleaved streams are made of.

    It says the same as `read_run` in a fifth of the time.

    Raises:
      Corrupt: it does not fit its checksum, or is another.
    """
    try:
        first_seq, count, name_size, _ = RUN.unpack_from(frame, offset)
        entry = offset + RUN.size + name_size
        delta, crc, size, number, ordinal, type_number, extra_size = ENTRY.unpack_from(frame, entry)
        at = HEADER.size + number * COMMIT.size
        commit, at_us, _ = COMMIT.unpack_from(frame, at)
        type_ = types[type_number]
    except (struct.error, IndexError) as error:
        raise Corrupt(f"the frame at position {base}", f"the run at offset {offset} cannot be read ({error})") from error
    body = bytes(frame[entry + ENTRY.size : entry + ENTRY.size + size])
    extra = body[:extra_size] if extra_size else b""
    payload = body[extra_size:] if extra_size else body
    position = base + delta
    shared = crc32(name, crc32(frame[at : at + _IDENTITY.size]))
    check = (shared + type_.crc + seq * SEQ_STEP + position * POSITION_STEP + ordinal * ORDINAL_STEP) & MASK
    if crc32(payload, begun(extra, check) if extra else check) != crc or first_seq != seq or count != 1:
        raise Corrupt(f"the record of stream {name.decode()!r}, seq {seq}", "its checksum does not fit, or the index leads to another")
    return Record(name.decode(), seq, Position(position), type_.name, type_.version, at_us, commit, ordinal, extra, payload, crc)


class Run:
    """A run's header, and where its parts lie in the frame."""

    __slots__ = ("bodies", "count", "crc", "end", "entries", "first_seq", "name", "stream", "uniform")

    def __init__(self, first_seq: int, count: int, crc: int, name: bytes, entries: int, bodies: int, end: int, uniform: bool) -> None:
        self.first_seq = first_seq
        self.uniform = uniform
        self.crc = crc
        self.count = count
        self.name = name
        self.stream = name.decode()
        self.entries = entries
        self.bodies = bodies
        self.end = end

    def entry(self, frame: bytes | memoryview, place: int) -> tuple[int, ...]:
        """The entry of its *place*th record."""
        if self.uniform:
            return next(self.columns(frame, place, place + 1))
        return ENTRY.unpack_from(frame, self.entries + place * ENTRY.size)

    def columns(self, frame: bytes | memoryview, start: int, stop: int) -> Iterator[tuple[int, ...]]:
        """The entries from *start* to before *stop*."""
        if not self.uniform:
            return ENTRY.iter_unpack(frame[self.entries + start * ENTRY.size : self.entries + stop * ENTRY.size])
        delta, commit, ordinal, number, _ = UNIFORM.unpack_from(frame, self.entries)
        crcs, ends = self.column(frame, 0, start, stop), self.column(frame, 1, start, stop)
        count = stop - start
        return zip(
            range(delta + start, delta + stop),
            crcs,
            ends,
            repeat(commit, count),
            range(ordinal + start, ordinal + stop),
            repeat(number),
            repeat(0),
            strict=False,
        )

    def kinds(self, frame: bytes | memoryview, start: int, stop: int) -> dict[int, int]:
        """The numbers of the types among its records from *start* to before *stop*; of each the last place (position after the frame's first)."""
        return {entry[5]: entry[0] for entry in self.columns(frame, start, stop)}

    def column(self, frame: bytes | memoryview, which: int, start: int, stop: int) -> tuple[int, ...]:
        """Checksums (0) or ends (1) of a uniform run."""
        place = self.entries + UNIFORM.size + 4 * (which * self.count + start)
        return struct.unpack_from(f"<{stop - start}I", frame, place)

    def check(self, frame: bytes | memoryview) -> None:
        """Whether name and entries are those that were written."""
        lead = self.entries - len(self.name) - RUN.size
        if crc32(frame[lead + RUN.size : self.bodies], crc32(frame[lead : lead + RUN.size - 4])) != self.crc:
            raise Corrupt(f"a run of stream {self.stream!r}", "the checksum of its entries does not fit")

    def between(self, frame: bytes | memoryview, low: int, high: int) -> tuple[int, int]:
        """Which of its records lie between two places of the frame, both included."""
        places = range(self.count)
        start = bisect.bisect_left(places, low, key=lambda place: self.entry(frame, place)[0])
        return start, bisect.bisect_right(places, high, lo=start, key=lambda place: self.entry(frame, place)[0])


def open_run(frame: bytes | memoryview, offset: int) -> Run:
    first_seq, count, name_size, crc = RUN.unpack_from(frame, offset)
    uniform = name_size >= UNIFORM_FLAG
    entries = offset + RUN.size + (name_size & ~UNIFORM_FLAG)
    if uniform:
        bodies = entries + UNIFORM.size + 8 * count
        size = int.from_bytes(frame[bodies - 4 : bodies], "little")
    else:
        bodies = entries + count * ENTRY.size
        size = ENTRY.unpack_from(frame, bodies - ENTRY.size)[2]
    return Run(first_seq, count, crc, bytes(frame[offset + RUN.size : entries]), entries, bodies, bodies + size, uniform)


def _read_records(
    frame: bytes | memoryview,
    run: Run,
    base: int,
    types: Sequence[TypeName],
    start: int,
    stop: int,
    records: list[Record],
    wanted: Callable[[str, Callable[[], tuple[str, ...]]], bool] | None,
) -> None:
    """Append the wanted records from the *start*th of *run* to before the *stop*th."""
    if run.uniform and _read_uniform(frame, run, base, types, start, stop, records, wanted):
        return
    stream, name, bodies = run.stream, run.name, run.bodies
    seq = run.first_seq + start
    if seq >> 32:
        run.check(frame)  # the records' checksums tell seqs apart by 32 bits
    body = bodies + (run.entry(frame, start - 1)[2] if start else 0)
    known, at_us, commit, shared = -1, 0, b"", 0
    made = records.append
    for delta, crc, size, number, ordinal, type_number, extra_size in run.columns(frame, start, stop):
        if number != known:
            known = number
            commit, at_us, _ = COMMIT.unpack_from(frame, HEADER.size + number * COMMIT.size)
            shared = context(name, commit, at_us)
        type_ = types[type_number]
        middle = body + extra_size
        end = bodies + size
        extra = bytes(frame[body:middle]) if extra_size else b""
        body = end
        position = Position(base + delta)
        check = shared + type_.crc + seq * SEQ_STEP + position * POSITION_STEP + ordinal * ORDINAL_STEP
        if wanted is None or wanted(type_.name, lambda: _tags(extra, frame[middle:end], check, crc)):  # noqa: B023 - called at once
            payload = bytes(frame[middle:end])
            check &= MASK
            if crc32(payload, begun(extra, check) if extra else check) != crc:
                raise Corrupt(f"the record of stream {stream!r}, seq {seq}, position {position}", "its checksum does not fit")
            made(Record(stream, seq, position, type_.name, type_.version, at_us, commit, ordinal, extra, payload, crc))
        seq += 1


def _read_uniform(
    frame: bytes | memoryview,
    run: Run,
    base: int,
    types: Sequence[TypeName],
    start: int,
    stop: int,
    records: list[Record],
    wanted: Callable[[str, Callable[[], tuple[str, ...]]], bool] | None,
) -> bool:
    """The same for a uniform run, column by column, which costs half; False if a checksum does not fit: record by record finds out which."""
    first_delta, number, first_ordinal, type_number, _ = UNIFORM.unpack_from(frame, run.entries)
    type_ = types[type_number]
    if wanted is not None and not wanted(type_.name, tuple):
        return True
    commit, at_us, _ = COMMIT.unpack_from(frame, HEADER.size + number * COMMIT.size)
    count = stop - start
    crcs, ends = run.column(frame, 0, start, stop), run.column(frame, 1, start, stop)
    begin = run.column(frame, 1, start - 1, start)[0] if start else 0
    bodies = bytes(frame[run.bodies : run.bodies + ends[-1]])
    payloads = [bodies[a:b] for a, b in zip((begin, *ends[:-1]), ends, strict=True)]
    seq, position, ordinal = run.first_seq + start, base + first_delta + start, first_ordinal + start
    if seq >> 32:
        run.check(frame)  # the records' checksums tell seqs apart by 32 bits
    lead = seed(context(run.name, commit, at_us), type_.crc, seq, position, ordinal)
    if tuple(map(crc32, payloads, seeds(lead, count))) != crcs:
        return False
    records += map(
        Record,
        repeat(run.stream),
        range(seq, seq + count),
        range(position, position + count),
        repeat(type_.name),
        repeat(type_.version),
        repeat(at_us),
        repeat(commit),
        range(ordinal, ordinal + count),
        repeat(b""),
        payloads,
        crcs,
    )
    return True


def _tags(extra: bytes, payload: bytes | memoryview, check: int, crc: int) -> tuple[str, ...]:
    """The tags in *extra*, which a filter may rely on: the record is checked first."""
    if not extra:
        return ()
    if crc32(payload, begun(extra, check)) != crc:
        raise Corrupt("a record that was asked for by its tags", "its checksum does not fit")
    return unpack_extra(extra).tags


def describe_run(frame: bytes | memoryview, offset: int) -> tuple[str, int, int]:
    """Stream, first seq and number of events of the run at *offset*, checked.

    Raises:
      Corrupt: there is no run, or its index does not fit its checksum.
    """
    try:
        run = open_run(frame, offset)
        run.check(frame)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise Corrupt("a frame", f"there is no run at offset {offset} ({error})") from error
    return run.stream, run.first_seq, run.count


def run_end(frame: bytes | memoryview, base: int, offset: int) -> Position:
    """The position of the last record of the run at *offset*."""
    run = open_run(frame, offset)
    return Position(base + run.entry(frame, run.count - 1)[0])


def runs_of(frame: bytes | memoryview, head: Head) -> list[RunPlace]:
    """Where the runs of a frame lie."""
    offset = head.offset
    places = []
    for _ in range(head.runs):
        run = open_run(frame, offset)
        run.check(frame)
        places.append(RunPlace(run.stream, run.first_seq, offset, run.count))
        offset = run.end
    return places
