"""Making frames: of a group's events, and of several small frames. What a frame is, see `frame`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from zlib import crc32

import attrs
import msgspec

from perdure.backends.commit import Alike, Draft
from perdure.backends.errors import Corrupt
from perdure.backends.event import Position, Record, unpack_extra
from perdure.backends.frame import (
    COMMIT,
    ENTRY,
    FORMAT,
    GAP_FLAG,
    HEADER,
    MAGIC,
    MASK,
    ORDINAL_STEP,
    POSITION_STEP,
    RUN,
    SEQ_STEP,
    UNIFORM,
    UNIFORM_FLAG,
    UNIFORM_MIN,
    Run,
    RunPlace,
    begun,
    context,
    open_run,
    read_head,
    seed,
    seeds,
)


class Piece(msgspec.Struct, frozen=True, gc=False):
    """Events of one commit for one stream, with their place: what a frame is built of."""

    stream: str
    first_seq: int
    first_position: int
    commit: int
    first_ordinal: int
    events: Sequence[Draft]


@attrs.frozen
class Built:
    """A frame's bytes, and where its runs lie in it."""

    first: Position
    last: Position
    value: bytes
    runs: list[RunPlace]


def build(commits: Sequence[tuple[bytes, int]], pieces: Sequence[Piece], numbers: Mapping[tuple[str, int], tuple[int, int]], *, gap: bool = False) -> Built:
    """The frame of a group: *commits* as (id, time), *pieces* in order of position.

    *numbers* gives (number, checksum) for each (type, version). Positions are dense within a piece; *gap*:
    some before the first were never given.
    """
    base = pieces[0].first_position
    if len(pieces) == 1 and len(pieces[0].events) == 1 and not gap:
        return _build_one(commits[0], pieces[0], numbers)
    by_stream: dict[str, _RunBuilder] = {}
    ends = [0] * len(commits)
    last = base
    for piece in pieces:
        run = by_stream.get(piece.stream)
        if run is None:
            run = by_stream[piece.stream] = _RunBuilder(piece.stream.encode(), piece.first_seq)
        run.add(piece, commits[piece.commit], base, numbers)
        last = piece.first_position + len(piece.events) - 1
        ends[piece.commit] = last - base
    table = [COMMIT.pack(id, at_us, end) for (id, at_us), end in zip(commits, ends, strict=True)]
    return _assemble(base, last, table, by_stream, gap)


def _build_one(commit: tuple[bytes, int], piece: Piece, numbers: Mapping[tuple[str, int], tuple[int, int]]) -> Built:
    """The same bytes for one event alone, a lone writer's group, in a third of the time."""
    draft = piece.events[0]
    extra, payload, name = draft.extra, draft.payload, piece.stream.encode()
    number, type_crc = numbers[draft.type, draft.version]
    check = seed(context(name, *commit), type_crc, piece.first_seq, piece.first_position, piece.first_ordinal)
    crc = crc32(payload, begun(extra, check) if extra else check)
    index = name + ENTRY.pack(0, crc, len(extra) + len(payload), 0, piece.first_ordinal, number, len(extra))
    lead = RUN.pack(piece.first_seq, 1, len(name), 0)[:-4]
    table = COMMIT.pack(*commit, 0)
    head = HEADER.pack(MAGIC, FORMAT, 0, piece.first_position, piece.first_position, 1, 1, 1, 0)[:-4]
    sealed = crc32(table, crc32(head)).to_bytes(4, "little")
    value = b"".join((head, sealed, table, lead, crc32(index, crc32(lead)).to_bytes(4, "little"), index, extra, payload))
    position = Position(piece.first_position)
    return Built(position, position, value, [RunPlace(piece.stream, piece.first_seq, HEADER.size + COMMIT.size, 1)])


def records_of(commits: Sequence[tuple[bytes, int]], pieces: Sequence[Piece]) -> list[Record]:
    """The records that a frame of these would give when read, in order of position."""
    return [record for piece in pieces for record in _records_of(piece, *commits[piece.commit])]


def _records_of(piece: Piece, id: bytes, at_us: int) -> Iterator[Record]:
    shared = context(piece.stream.encode(), id, at_us)
    for place, draft in enumerate(piece.events):
        seq, position, ordinal = piece.first_seq + place, piece.first_position + place, piece.first_ordinal + place
        check = seed(shared, crc32(draft.type.encode(), draft.version), seq, position, ordinal)
        crc = crc32(draft.payload, begun(draft.extra, check))
        yield Record(piece.stream, seq, Position(position), draft.type, draft.version, at_us, id, ordinal, draft.extra, draft.payload, crc)


@attrs.frozen
class _Columns:
    """The index of a uniform run."""

    delta: int
    commit: int
    ordinal: int
    type_number: int
    crcs: tuple[int, ...]
    ends: tuple[int, ...]

    def packed(self) -> bytes:
        """Its bytes."""
        columns = struct.Struct(f"<{2 * len(self.crcs)}I")
        return UNIFORM.pack(self.delta, self.commit, self.ordinal, self.type_number, 0) + columns.pack(*self.crcs, *self.ends)

    def entries(self, start: int, stop: int) -> Iterator[tuple[int, ...]]:
        """The same as entries."""
        for place in range(start, stop):
            yield self.delta + place, self.crcs[place], self.ends[place], self.commit, self.ordinal + place, self.type_number, 0


def kinds(events: Sequence[Draft]) -> set[tuple[str, int]]:
    """The types and versions among *events*."""
    return {(draft.type, draft.version) for draft in (events[:1] if type(events) is Alike else events)}


class _RunBuilder:
    """The bytes of one run, growing."""

    __slots__ = ("bodies", "count", "end", "entries", "first_seq", "name", "uniform")

    def __init__(self, name: bytes, first_seq: int) -> None:
        self.name = name
        self.first_seq = first_seq
        self.count = 0
        self.end = 0
        self.uniform: _Columns | None = None
        self.entries: list[bytes] = []
        self.bodies: list[bytes] = []

    def add(self, piece: Piece, commit: tuple[bytes, int], base: int, numbers: Mapping[tuple[str, int], tuple[int, int]]) -> None:
        """Append the piece's events, each with its checksum."""
        if self.uniform is not None:
            self._spread()
        self.count += len(piece.events)
        if self.count == len(piece.events) >= UNIFORM_MIN and self._add_uniform(piece, commit, base, numbers):
            return
        pack, place, ordinal, end = ENTRY.pack, piece.commit, piece.first_ordinal, self.end
        entry, body = self.entries.append, self.bodies.append
        delta = piece.first_position - base
        start = seed(context(self.name, *commit), 0, piece.first_seq, piece.first_position, ordinal)
        for draft in piece.events:
            number, type_crc = numbers[draft.type, draft.version]
            payload, extra = draft.payload, draft.extra
            crc = (start + type_crc) & MASK
            if extra:
                body(extra)
                crc = begun(extra, crc)
            body(payload)
            end += len(extra) + len(payload)
            entry(pack(delta, crc32(payload, crc), end, place, ordinal, number, len(extra)))
            delta += 1
            ordinal += 1
            start += SEQ_STEP + POSITION_STEP + ORDINAL_STEP
        self.end = end

    def _add_uniform(self, piece: Piece, commit: tuple[bytes, int], base: int, numbers: Mapping[tuple[str, int], tuple[int, int]]) -> bool:
        """Append them as columns, if they are all of one type and without extras."""
        events = piece.events
        kind = events[0].type, events[0].version
        if type(events) is not Alike and (len(kinds(events)) > 1 or any(draft.extra for draft in events)):
            return False
        number, type_crc = numbers[kind]
        lead = seed(context(self.name, *commit), type_crc, piece.first_seq, piece.first_position, piece.first_ordinal)
        self.bodies = [draft.payload for draft in events]
        crcs = tuple(map(crc32, self.bodies, seeds(lead, len(events))))
        ends = tuple(accumulate(map(len, self.bodies)))
        self.uniform = _Columns(piece.first_position - base, piece.commit, piece.first_ordinal, number, crcs, ends)
        self.end = ends[-1]
        return True

    def _spread(self) -> None:
        """Turn the columns into entries: another piece follows."""
        assert self.uniform is not None
        self.entries = [ENTRY.pack(*entry) for entry in self.uniform.entries(0, self.count)]
        self.uniform = None

    def index(self) -> bytes:
        """The entries, or the columns."""
        return b"".join(self.entries) if self.uniform is None else self.uniform.packed()

    def copy_uniform(self, source: _Source, numbers: Mapping[int, int]) -> None:
        """Take over a uniform run, the first of its stream, from its *skip*th record on, the checksums untouched."""
        frame, run, skip = source.frame, source.run, source.skip
        crcs, ends = run.column(frame, 0, skip, run.count), run.column(frame, 1, skip, run.count)
        delta, _, _, commit, ordinal, number, _ = run.entry(frame, skip)
        start = run.entry(frame, skip - 1)[2] if skip else 0
        ends = tuple(end - start for end in ends)
        self.uniform = _Columns(delta + source.shift, numbers[commit + source.commits], ordinal, number, crcs, ends)
        self.bodies = [frame[run.bodies + start : run.end]]
        self.count, self.end = run.count - skip, ends[-1]

    def copy(self, delta: int, crc: int, commit: int, ordinal: int, type_number: int, extra_size: int, body: bytes) -> None:
        """Take over a record as it is, its checksum untouched."""
        self.end += len(body)
        self.count += 1
        self.entries.append(ENTRY.pack(delta, crc, self.end, commit, ordinal, type_number, extra_size))
        self.bodies.append(body)


def _assemble(base: int, last: int, commits: Sequence[bytes], by_stream: Mapping[str, _RunBuilder], gap: bool = False) -> Built:
    table = b"".join(commits)
    records = sum([run.count for run in by_stream.values()])
    head = HEADER.pack(MAGIC, FORMAT, GAP_FLAG if gap else 0, base, last, len(commits), len(by_stream), records, 0)[:-4]
    parts = [head, crc32(table, crc32(head)).to_bytes(4, "little"), table]
    offset = HEADER.size + len(table)
    runs = []
    for stream, run in by_stream.items():
        runs.append(RunPlace(stream, run.first_seq, offset, run.count))
        index = run.name + run.index()
        flag = 0 if run.uniform is None else UNIFORM_FLAG
        lead = RUN.pack(run.first_seq, run.count, len(run.name) | flag, 0)[:-4]
        parts += (lead, crc32(index, crc32(lead)).to_bytes(4, "little"), index, *run.bodies)
        offset += RUN.size + len(index) + run.end
    return Built(Position(base), Position(last), b"".join(parts), runs)


# -- merging and trimming --------------------------------------------------------------------


def merge(frames: Sequence[bytes]) -> Built:
    """One frame for several that follow each other, each stream's events together; records are copied as they are.

    Raises:
      Corrupt: one of them is damaged in its structure.
    """
    return trim(frames, lambda _: 0, lambda _: False).built


@attrs.frozen
class Trimmed:
    """A frame in the place of others, and the tags (with their positions) of what is in it no more."""

    built: Built
    tags: list[tuple[str, int]]


@attrs.frozen
class _Source:
    """A run of one of the frames, and how many of its first records go."""

    frame: bytes
    run: Run
    skip: int
    shift: int
    commits: int
    """How many commits the frames before have."""


def trim(frames: Sequence[bytes], first_of: Callable[[str], int], keeps: Callable[[bytes], bool]) -> Trimmed:
    """One frame for several that follow each other, each stream's events together, without those before its first seq.

    Records are copied as they are. Commits of which nothing is left go too, unless *keeps* says of their id that they stay; the last one
    always does: its time is the frame's.

    Raises:
      Corrupt: one of them is damaged in its structure (the records' checksums travel along unread).
    """
    heads = [read_head(frame) for frame in frames]
    base = heads[0].first
    ends: list[tuple[bytes, int, int]] = []
    sources: list[_Source] = []
    tags: list[tuple[str, int]] = []
    for frame, head in zip(frames, heads, strict=True):
        offset = head.offset
        for _ in range(head.runs):
            run = open_run(frame, offset)
            run.check(frame)  # its new index gets a new checksum: what is damaged must not become sound
            source = _Source(frame, run, min(max(0, first_of(run.stream) - run.first_seq), run.count), head.first - base, len(ends))
            sources.append(source)
            tags += _tags_before(source, head.first)
            offset = run.end
        ends += [(id, at_us, end + head.first - base) for id, at_us, end in head.commits]
    used = {entry[3] + source.commits for source in sources for entry in source.run.columns(source.frame, source.skip, source.run.count)}
    stay = [place for place, (id, _, _) in enumerate(ends) if place in used or place == len(ends) - 1 or keeps(id)]
    numbers = {place: number for number, place in enumerate(stay)}
    by_stream: dict[str, _RunBuilder] = {}
    for source in sources:
        if source.skip < source.run.count:
            _copy_run(source, numbers, by_stream)
    return Trimmed(_assemble(base, heads[-1].last, [COMMIT.pack(*ends[place]) for place in stay], by_stream, heads[0].gap), tags)


def _tags_before(source: _Source, first: int) -> Iterator[tuple[str, int]]:
    run, body = source.run, source.run.bodies
    for delta, _, size, _, _, _, extra_size in run.columns(source.frame, 0, source.skip):
        if extra_size:
            for tag in unpack_extra(source.frame[body : body + extra_size]).tags:
                yield tag, first + delta
        body = run.bodies + size


def _copy_run(source: _Source, numbers: Mapping[int, int], by_stream: dict[str, _RunBuilder]) -> None:
    frame, run, skip = source.frame, source.run, source.skip
    made = by_stream.get(run.stream)
    if made is None:
        made = by_stream[run.stream] = _RunBuilder(run.name, run.first_seq + skip)
        if run.uniform and run.count - skip >= UNIFORM_MIN:
            made.copy_uniform(source, numbers)
            return
    elif made.first_seq + made.count != run.first_seq + skip:
        raise Corrupt(f"stream {run.stream!r}", f"seq {run.first_seq} follows seq {made.first_seq + made.count - 1}")
    if made.uniform is not None:
        made._spread()
    body = run.bodies + (run.entry(frame, skip - 1)[2] if skip else 0)
    for delta, crc, size, commit, ordinal, type_number, extra_size in run.columns(frame, skip, run.count):
        end = run.bodies + size
        made.copy(delta + source.shift, crc, numbers[commit + source.commits], ordinal, type_number, extra_size, frame[body:end])
        body = end
