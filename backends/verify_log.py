"""Checking the log: frames, their records, and the indexes that lead to them, both ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import attrs

from perdure.backends import frame, keys, tables
from perdure.backends.bounds import bounds
from perdure.backends.errors import PerdureError
from perdure.backends.event import Record, category_of, unpack_extra
from perdure.backends.frame import Head, TypeName
from perdure.backends.progress import Progress
from perdure.backends.stream_row import StreamRow, read_row
from perdure.backends.tables import Reader, Row

_STEP: Final = 1_000
_RUNS_STEP: Final = 10_000

Finding = str | Progress


@attrs.define
class _Seen:
    """What the frames have said so far."""

    numbers: dict[str, int]
    seqs: dict[str, int]
    """The last seq of each stream."""
    firsts: dict[str, int]
    """The first one that is not cut."""
    runs: int = 0
    tags: int = 0
    keys: int = 0
    broken: int = 0
    """Frames that could not be read as a whole."""


def check_log(reader: Reader) -> Iterator[Finding]:
    """Frames follow each other, records fit their checksums, seqs have no gaps; runs, tags and idempotency keys lead to what is there, and to all of it."""
    rows: dict[str, StreamRow] = {}
    for key, value in rows_of(reader, "streams"):
        name = bytes(key)
        try:
            rows[name.decode()] = read_row(name, value)
        except PerdureError as error:
            rows[name.decode()] = StreamRow(*keys.read_stream_row(value))
            yield f"{error}: where it begins is lost, and if nothing is left of it, its last seq"
    firsts = {name: row.first for name, row in rows.items()}
    seen = _Seen({name: row.number for name, row in rows.items()}, {name: first - 1 for name, first in firsts.items()}, firsts)
    emptied = {name for name, row in rows.items() if row.emptied}
    types, numbered = tables.read_types(reader), reader.scan_back("types", b"", None, 1)
    if numbered and int.from_bytes(numbered[0][0], "big") != len(types) - 1:
        count = int.from_bytes(numbered[0][0], "big") + 1
        yield f"{count - len(types)} of {count} rows of the table of types is missing: what has a later one cannot be read"
    if len(set(seen.numbers.values())) != len(rows):
        yield "two streams have one number: what is read of one may be the other's"
    yield from _check_frames(reader, types, seen)
    yield from _check_ends(reader, seen, emptied)
    yield from _check_bounds(reader, types, rows)
    yield from _check_runs(reader, seen)
    yield from _check_tags(reader, types, seen)
    kept = sum(1 for key, _ in rows_of(reader, "keys") if _position_of(reader, bytes(key)) is not None)
    if kept != seen.keys and not seen.broken:
        yield f"{kept - seen.keys} kept idempotency keys are of commits that the log does not have"


def rows_of(reader: Reader, table: str) -> Iterator[Row]:
    """All rows of a table, in order."""
    start = b""
    while True:
        rows = reader.scan(table, start, None, _STEP)
        yield from rows
        if len(rows) < _STEP:
            return
        start = bytes(rows[-1][0]) + b"\0"


# -- frames ----------------------------------------------------------------------------------


def _check_frames(reader: Reader, types: Sequence[TypeName], seen: _Seen) -> Iterator[Finding]:
    head_position, _ = tables.read_head(reader)
    position = at_us = 0
    for key, value in rows_of(reader, "frames"):
        first = keys.read_number(key)
        yield Progress("events", position, head_position)
        try:
            head = frame.read_head(value)
        except PerdureError as error:
            yield f"{error}; what was in the frame at position {first} is lost"
            seen.broken += 1
            position = -1
            continue
        if head.first != first:
            yield f"the frame at position {first} says that it is the one at position {head.first}"
        if position >= 0 and head.first != position + 1 and not head.gap:
            yield f"the log has no positions {position + 1} to {head.first - 1}: they are lost"
        if head.commits[0][1] < at_us:
            yield f"time goes back at position {first}"
        position, at_us = head.last, head.commits[-1][1]
        yield from _check_frame(reader, types, bytes(value), head, seen)


def _check_frame(reader: Reader, types: Sequence[TypeName], value: bytes, head: Head, seen: _Seen) -> Iterator[Finding]:
    try:
        records = frame.read_frame(value, types, head=head)
        runs = frame.runs_of(value, head)
    except PerdureError as error:
        seen.broken += 1
        records = []
        yield str(error)
        yield from _salvage(value, head, types, records)
    else:
        for run in runs:
            seen.runs += 1
            number = seen.numbers.get(run.stream)
            if number is None:
                yield f"stream {run.stream!r} has events and no row: they cannot be read by stream"
            elif _run_row(reader, keys.run(number, run.first_seq)) != (head.first, run.offset, run.count):
                yield f"stream {run.stream!r}: the index does not lead to seqs {run.first_seq} to {run.first_seq + run.count - 1}"
    for record in records:
        before = seen.seqs.get(record.stream, 0)
        if record.seq < seen.firsts.get(record.stream, 1):
            if record.extra:  # cut, and not swept yet
                yield from _check_tagged(reader, record, seen)
            continue
        if record.seq != before + 1:
            yield _lost(record.stream, before + 1, record.seq - 1) if record.seq > before else f"stream {record.stream!r}: seq {record.seq} follows {before}"
        seen.seqs[record.stream] = record.seq
        if record.extra:
            yield from _check_tagged(reader, record, seen)
    yield from _check_commits(reader, head, seen)


def _lost(stream: str, first: int, last: int) -> str:
    return f"stream {stream!r}: " + (f"seq {first} is lost" if first == last else f"seqs {first} to {last} are lost")


def _salvage(value: bytes, head: Head, types: Sequence[TypeName], records: list[Record]) -> Iterator[str]:
    """What can be read of a damaged frame, run by run and then record by record; what cannot is found by the seqs that are missing."""
    offset = head.offset
    for _ in range(head.runs):
        try:
            run = frame.open_run(value, offset)
        except (IndexError, *tables.DAMAGE) as error:
            yield f"the frame at position {head.first}: nothing from offset {offset} on can be read ({error})"
            break
        for place in range(min(run.count, head.records)):
            try:
                records += frame.read_run(value, head.first, offset, types, skip=place, count=1)
            except (PerdureError, *tables.DAMAGE):
                continue
        if run.end <= offset or run.end > len(value):
            break
        offset = run.end
    records.sort(key=lambda record: record.position)


def _run_row(reader: Reader, key: bytes) -> tuple[int, int, int] | None:
    value = reader.get("runs", key)
    return None if value is None else keys.read_run_row(value)


def _check_tagged(reader: Reader, record: Record, seen: _Seen) -> Iterator[str]:
    for tag in dict.fromkeys(unpack_extra(record.extra).tags):
        seen.tags += 1
        if reader.get("tags", keys.tag(tag, record.position)) is None:
            yield f"the event at position {record.position} (stream {record.stream!r}, seq {record.seq}) is not found by its tag {tag!r}"


def _check_commits(reader: Reader, head: Head, seen: _Seen) -> Iterator[str]:
    """What is kept of a commit for its key says where its last event is."""
    for id, _, end in head.commits:
        position = _position_of(reader, id)
        if position is not None:
            seen.keys += 1
            if position != head.first + end:
                yield f"the row of commit {id.hex()} says position {position}, its last event is at {head.first + end}"


def _position_of(reader: Reader, id: bytes) -> int | None:
    if reader.get("keys", id) is None:
        return None
    try:
        kept = tables.read_kept(reader, id)
    except (PerdureError, *tables.DAMAGE):
        return None  # told among the keys
    return None if kept is None else kept.position


# -- indexes ---------------------------------------------------------------------------------


def _check_ends(reader: Reader, seen: _Seen, emptied: set[str]) -> Iterator[Finding]:
    """The index knows no seq beyond those that the frames have."""
    for done, (name, number) in enumerate(seen.numbers.items()):
        if not done % _STEP:
            yield Progress("streams", done, len(seen.numbers))
        rows = reader.scan_back("runs", keys.run(number, 0), keys.run(number + 1, 0), 1)
        if name in emptied:
            if seen.seqs[name] >= seen.firsts[name]:
                yield f"stream {name!r} has events, and its row says that all have been cut"
            continue
        if not rows:
            yield f"stream {name!r} has a row and no events: all of it is lost"
            continue
        last = keys.last_number(rows[0][0]) + keys.read_run_row(rows[0][1])[2] - 1
        if last > seen.seqs.get(name, 0):
            yield _lost(name, seen.seqs.get(name, 0) + 1, last)


def _check_bounds(reader: Reader, types: Sequence[TypeName], rows: Mapping[str, StreamRow]) -> Iterator[Finding]:
    """Who reads the log from before a cut is told of it."""
    known: dict[str, int] = {}
    for bound in bounds(reader, types):
        known[bound.category] = max(bound.position, known.get(bound.category, 0))
    for name, row in rows.items():
        if row.cut > known.get(category_of(name), 0):
            yield f"stream {name!r} was cut up to position {row.cut}, and who reads the log from before there is not told"


def _check_runs(reader: Reader, seen: _Seen) -> Iterator[Finding]:
    """No row of the run index leads to a frame that is not there, or to another stream. Those that frames have were looked up."""
    indexed = sum(1 for _ in rows_of(reader, "runs"))
    if indexed == seen.runs and not seen.broken:
        return
    names = {number: name for name, number in seen.numbers.items()}
    for done, (key, value) in enumerate(rows_of(reader, "runs")):
        if not done % _RUNS_STEP:
            yield Progress("runs", done, indexed)
        number, first_seq = keys.read_run(key)
        base, offset, count = keys.read_run_row(value)
        name = names.get(number)
        if name is None:
            yield f"the index has seqs {first_seq} to {first_seq + count - 1} of a stream that has no row (number {number})"
            continue
        found = reader.get("frames", keys.number(base))
        if found is None:
            yield f"stream {name!r}: the index leads seqs {first_seq} to {first_seq + count - 1} to a frame at position {base} that is missing"
            continue
        try:
            fits = frame.describe_run(found, offset) == (name, first_seq, count)
        except PerdureError:
            continue  # told with its frame
        if not fits:
            yield f"stream {name!r}: the index leads seqs {first_seq} to {first_seq + count - 1} to another run, in the frame at position {base}"


def _check_tags(reader: Reader, types: Sequence[TypeName], seen: _Seen) -> Iterator[Finding]:
    """No row of the tag index leads to an event without the tag. Those that events have were looked up."""
    indexed = sum(1 for _ in rows_of(reader, "tags"))
    if indexed == seen.tags:
        return
    for done, (key, _) in enumerate(rows_of(reader, "tags")):
        if not done % _STEP:
            yield Progress("tags", done, indexed)
        tag, position = bytes(key)[:-9].decode(), keys.last_number(key)
        try:
            record = tables.record_at(reader, types, position)  # type: ignore[arg-type]  # a position, if it is one
        except PerdureError:
            yield f"tag {tag!r} leads to position {position}, where no event can be read"
            continue
        if tag not in record.tags:
            yield f"tag {tag!r} leads to the event at position {position}, which has it not"
