"""Events as rows of `runs`: one row for each, or for up to 256 that follow each other in one commit, stream and type. Pure.

A row is sealed with the position and time for which it was made. Where it was stored further on, because another
process had written in between, it says by how much (`moved`, `sealed_at`): the checksums fit what it was made for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, repeat
from typing import Any, Final
from zlib import crc32

from perdure.backends.build import Piece
from perdure.backends.commit import Alike, Draft
from perdure.backends.errors import Corrupt
from perdure.backends.event import Record
from perdure.backends.frame import begun, context, seed, seeds
from perdure.backends.postgres.wire import EPOCH_US, Row, Value, bodies, int8s, read_uint4s, texts, times, uint4s

COLUMNS: Final = "stream, seq, position, events, type, version, at, commit, ordinal, extra, payload, crcs, ends, commit_end, moved, sealed_at"
"""What `read` takes."""
SEQ, POSITION, EVENTS, COMMIT, PAYLOAD, COMMIT_END = 1, 2, 3, 7, 10, 13
"""Where some of them are in a row."""

FEW: Final = 4
"""Fewer events are rows of their own."""
MANY: Final = 256
"""A row holds no more events,"""
MANY_BYTES: Final = 128 * 1024
"""nor more bytes, but for one event."""


@lru_cache(maxsize=1_024)
def _type_crc(name: str, version: int) -> int:
    return crc32(name.encode(), version)


def _crc(piece: Piece, draft: Draft, id: bytes, at_us: int) -> bytes:
    shared, extra = context(piece.stream.encode(), id, at_us), draft.extra
    check = seed(shared, _type_crc(draft.type, draft.version), piece.first_seq, piece.first_position, 0)
    return crc32(draft.payload, begun(extra, check) if extra else check).to_bytes(4, "big")


# -- writing ---------------------------------------------------------------------------------


class Rows:
    """Rows, growing; in order of position."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.counts: list[int] = []
        self.streams: list[str] = []
        self.seqs: list[int] = []
        self.types: list[str] = []
        self.versions: list[int] = []
        self.times_us: list[int] = []
        self.commits: list[bytes] = []
        self.ordinals: list[int] = []
        self.commit_ends: list[int] = []
        self.crcs: list[bytes] = []
        self.ends: list[bytes | None] = []
        self.payloads: list[bytes] = []
        self.extras: list[bytes] = []
        self.tags: list[tuple[str, ...]] = []
        self.single = False
        """Whether each is a commit of one event with nothing beside its payload."""

    @classmethod
    def of(cls, commits: Sequence[tuple[bytes, int]], pieces: Sequence[Piece]) -> Rows:
        """The rows for *pieces* of *commits*, as `build.build` takes them."""
        rows = cls()
        ends = {piece.commit: piece.first_position + len(piece.events) - 1 for piece in pieces}
        if len(ends) == len(pieces) and all(len(piece.events) == 1 for piece in pieces):
            rows._take_single([(piece, piece.events[0], *commits[piece.commit]) for piece in pieces])
            return rows
        for piece in pieces:
            rows._add(piece, *commits[piece.commit], ends[piece.commit])
        return rows

    def _take_single(self, events: Sequence[tuple[Piece, Draft, bytes, int]]) -> None:
        """The rows of commits of one event each, which most are, column by column."""
        count = len(events)
        self.positions = self.commit_ends = [piece.first_position for piece, *_ in events]
        self.counts, self.ordinals, self.ends = [1] * count, [0] * count, [None] * count
        self.streams = [piece.stream for piece, *_ in events]
        self.seqs = [piece.first_seq for piece, *_ in events]
        self.types = [draft.type for _, draft, *_ in events]
        self.versions = [draft.version for _, draft, *_ in events]
        self.times_us = [at_us for *_, at_us in events]
        self.commits = [id for *_, id, _ in events]
        self.payloads = [draft.payload for _, draft, *_ in events]
        self.extras = [draft.extra for _, draft, *_ in events]
        self.tags = [draft.tags for _, draft, *_ in events]
        self.single = not any(self.extras)
        self.crcs = [_crc(piece, draft, id, at_us) for piece, draft, id, at_us in events]

    def _add(self, piece: Piece, id: bytes, at_us: int, commit_end: int) -> None:
        """The rows of one piece."""
        shared, events = context(piece.stream.encode(), id, at_us), piece.events
        start = 0
        for stop in _stops(events):
            draft, count = events[start], stop - start
            seq, position, ordinal = piece.first_seq + start, piece.first_position + start, piece.first_ordinal + start
            check = seed(shared, _type_crc(draft.type, draft.version), seq, position, ordinal)
            if count == 1:
                self.crcs.append(crc32(draft.payload, begun(draft.extra, check) if draft.extra else check).to_bytes(4, "big"))
                self.ends.append(None)
                self.payloads.append(draft.payload)
            else:
                payloads = [each.payload for each in events[start:stop]]
                self.crcs.append(uint4s(map(crc32, payloads, seeds(check, count)), count))
                self.ends.append(uint4s(accumulate(map(len, payloads)), count))
                self.payloads.append(b"".join(payloads))
            self.positions.append(position + count - 1)
            self.counts.append(count)
            self.streams.append(piece.stream)
            self.seqs.append(seq)
            self.types.append(draft.type)
            self.versions.append(draft.version)
            self.times_us.append(at_us)
            self.commits.append(id)
            self.ordinals.append(ordinal)
            self.commit_ends.append(commit_end)
            self.extras.append(draft.extra)
            self.tags.append(draft.tags)
            start = stop

    def values(self) -> list[Value]:
        """The columns but for the tags, as `writing` takes them; those that are the same in all rows left out where all are `single`."""
        if self.single:
            return [
                int8s(self.positions),
                texts(self.streams),
                int8s(self.seqs),
                texts(self.types),
                int8s(self.versions),
                times(self.times_us),
                bodies(self.commits),
                bodies(self.crcs),
                bodies(self.payloads),
            ]
        return [
            int8s(self.positions),
            int8s(self.counts),
            texts(self.streams),
            int8s(self.seqs),
            texts(self.types),
            int8s(self.versions),
            times(self.times_us),
            bodies(self.commits),
            int8s(self.ordinals),
            int8s(self.commit_ends),
            bodies(self.crcs),
            bodies(self.ends),
            bodies(self.payloads),
            bodies(self.extras),
        ]


def _stops(events: Sequence[Draft]) -> Iterable[int]:
    """Where rows end among *events*."""
    first, count = events[0], len(events)
    if count < FEW or not (type(events) is Alike or all(_alike(first, each) for each in events)):
        return range(1, count + 1)
    return _stops_of_alike(events)


def _alike(one: Draft, other: Draft) -> bool:
    return not (one.extra or other.extra) and one.type == other.type and one.version == other.version


def _stops_of_alike(events: Sequence[Draft]) -> Iterator[int]:
    start = size = 0
    for place, bytes_ in enumerate([len(draft.payload) for draft in events]):
        if place > start and (place - start == MANY or size + bytes_ > MANY_BYTES):
            yield place
            start, size = place, 0
        size += bytes_
    yield len(events)


# -- reading ---------------------------------------------------------------------------------


def read(rows: Iterable[Row]) -> list[Record]:
    """Rows of `COLUMNS`, and whatever follows them, as records.

    Raises:
      Corrupt: one does not fit its checksum.
    """
    records: list[Record] = []
    add = records.append
    before: tuple[str, bytes, int] | None = None
    shared = 0
    for stream, seq, position, events, type, version, at, commit, ordinal, extra, payload, crcs, ends, _, moved, sealed_at, *_ in rows:
        if events != 1 or moved is not None or sealed_at is not None:
            records += _read_run(stream, seq, position, events, type, version, at, commit, ordinal, extra, payload, crcs, ends, moved, sealed_at)
            continue
        if (stream, commit, at) != before:
            before = (stream, commit, at)
            shared = context(stream.encode(), commit, at + EPOCH_US)
        start = seed(shared, _type_crc(type, version), seq, position, ordinal)
        crc = crc32(payload, begun(extra, start) if extra else start)
        if crc.to_bytes(4, "big") != crcs:
            raise _unfit(stream, seq, position)
        add(Record(stream, seq, position, type, version, at + EPOCH_US, commit, ordinal, extra, payload, crc))
    return records


def _read_run(
    stream: str,
    seq: int,
    last: int,
    count: int,
    type: str,
    version: int,
    at: int,
    commit: bytes,
    ordinal: int,
    extra: bytes,
    payload: bytes,
    crcs: bytes,
    ends: bytes | None,
    moved: int | None,
    sealed_at: int | None,
) -> Iterator[Record]:
    """The records of a row that holds several, or was moved."""
    name, position, type_crc = stream.encode(), last - count + 1, _type_crc(type, version)
    stops = (len(payload),) if ends is None else read_uint4s(ends)
    if len(stops) != count or len(crcs) != 4 * count or stops[-1] != len(payload) or (extra and count > 1):
        raise Corrupt(f"the records at positions {position} to {last} (stream {stream!r}, from seq {seq} on)", "their lengths do not fit")
    payloads = [payload] if count == 1 else [payload[a:b] for a, b in zip((0, *stops[:-1]), stops, strict=True)]
    found = read_uint4s(crcs)
    made = _seeds(name, commit, at if sealed_at is None else sealed_at, type_crc, seq, position - (moved or 0), ordinal, extra, count)
    if (fit := tuple(map(crc32, payloads, made))) != found:
        wrong = next(place for place in range(count) if fit[place] != found[place])
        raise _unfit(stream, seq + wrong, position + wrong)
    if moved is not None or sealed_at is not None:
        found = tuple(map(crc32, payloads, _seeds(name, commit, at, type_crc, seq, position, ordinal, extra, count)))
    return map(
        Record,
        repeat(stream),
        range(seq, seq + count),
        range(position, position + count),
        repeat(type),
        repeat(version),
        repeat(at + EPOCH_US),
        repeat(commit),
        range(ordinal, ordinal + count),
        repeat(extra),
        payloads,
        found,
    )


def left_of(row: Row, first: int) -> tuple[int, int, int, int, bytes, bytes | None, bytes]:
    """What is left of a row that holds several events when those before seq *first* go.

    Its position, then what becomes of seq, events, ordinal, crcs, ends and payload: each event's checksum is its own, and stays.
    """
    _, seq, position, events, _, _, _, _, ordinal, _, payload, crcs, ends, *_ = row
    gone = first - seq
    stops = read_uint4s(ends)
    start, left = stops[gone - 1], events - gone
    new_ends = None if left == 1 else uint4s([stop - start for stop in stops[gone:]], left)
    return position, first, left, ordinal + gone, crcs[4 * gone :], new_ends, payload[start:]


def _seeds(name: bytes, commit: bytes, at: int, type_crc: int, seq: int, position: int, ordinal: int, extra: bytes, count: int) -> list[int]:
    lead = seed(context(name, commit, at + EPOCH_US), type_crc, seq, position, ordinal)
    return [begun(extra, lead)] if extra else seeds(lead, count)


def _unfit(stream: str, seq: int, position: Any) -> Corrupt:
    return Corrupt(f"the record at position {position} (stream {stream!r}, seq {seq})", "its checksum does not fit")
