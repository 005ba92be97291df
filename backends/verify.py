"""Reading a whole store to see whether it says what it should; the problems, each a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from perdure.backends import frame, keys, tables
from perdure.backends.errors import PerdureError
from perdure.backends.frame import TypeName
from perdure.backends.tables import Buffer, Reader, Row

PROBLEMS_MAX = 100
"""Enough to know that a store is damaged."""
_STEP = 1_000


def verify_tables(reader: Reader, types: Sequence[TypeName]) -> list[str]:
    """Check frames, run index, kv, changes and snapshots of a store at one moment."""
    found: list[str] = []
    for check in (_frames, _entries, _changes, _snapshots):
        try:
            for problem in check(reader, types):
                found.append(problem)
                if len(found) >= PROBLEMS_MAX:
                    return [*found, "more problems follow"]
        except tables.DAMAGE as error:
            found.append(f"a row cannot be read ({error})")
    return found


def rows_of(reader: Reader, table: str) -> Iterator[Row]:
    """All rows of a table, in order."""
    start = b""
    while True:
        rows = reader.scan(table, start, None, _STEP)
        yield from rows
        if len(rows) < _STEP:
            return
        start = bytes(rows[-1][0]) + b"\0"


def _frames(reader: Reader, types: Sequence[TypeName]) -> Iterator[str]:
    """Frames follow each other, records fit their checksums, seqs have no gaps, and the index leads to each run."""
    numbers = {bytes(key).decode(): keys.read_stream_row(value) for key, value in rows_of(reader, "streams")}
    seqs = {name: first - 1 for name, (_, first) in numbers.items()}
    expected = None
    runs = at_us = 0
    for key, value in rows_of(reader, "frames"):
        position = keys.read_number(key)
        try:
            head = frame.read_head(value)
            records = frame.read_frame(bytes(value), types, head=head)
        except PerdureError as error:
            yield str(error)
            expected = None
            continue
        if expected is not None and position != expected and not head.gap:
            yield f"the log has no positions {expected} to {position - 1}"
        if head.commits[0][1] < at_us:
            yield f"time goes back at position {position}"
        expected, at_us = head.last + 1, head.commits[-1][1]
        for record in records:
            if record.seq != seqs.get(record.stream, 0) + 1:
                yield f"stream {record.stream!r}: seq {record.seq} follows seq {seqs.get(record.stream, 0)}"
            seqs[record.stream] = record.seq
        for run in frame.runs_of(value, head):
            runs += 1
            row = numbers.get(run.stream)
            if row is None:
                yield f"stream {run.stream!r} has events and no row"
            elif _row(reader, keys.run(row[0], run.first_seq)) != (head.first, run.offset, run.count):
                yield f"stream {run.stream!r}: the index does not lead to seq {run.first_seq}"
    indexed = sum(1 for _ in rows_of(reader, "runs"))
    if indexed != runs:
        yield f"the run index has {indexed} rows, the frames have {runs} runs"


def _row(reader: Reader, key: bytes) -> tuple[int, int, int] | None:
    value: Buffer | None = reader.get("runs", key)
    return None if value is None else keys.read_run_row(value)


def _entries(reader: Reader, types: Sequence[TypeName]) -> Iterator[str]:
    """Entries fit their checksums, no revision is beyond the store's."""
    last = tables.read_meta(reader, "revision")
    for key, value in rows_of(reader, "kv"):
        row = bytes(key)
        try:
            revision, _ = tables.read_entry(row, value)
        except PerdureError as error:
            yield str(error)
            continue
        if revision > last:
            yield f"kv entry {row!r} has revision {revision}, the store's last is {last}"


def _changes(reader: Reader, types: Sequence[TypeName]) -> Iterator[str]:
    """Every change row leads to an entry of its revision."""
    for key, _ in rows_of(reader, "changes"):
        raw = bytes(key)
        bucket, _, rest = raw.partition(b"\0")
        revision, name = int.from_bytes(rest[:8], "big"), rest[8:]
        row = bucket + b"\0" + name
        value = reader.get("kv", row)
        try:
            fits = value is not None and tables.read_entry(row, value)[0] == revision
        except PerdureError:
            continue  # told among the entries
        if not fits:
            yield f"a change of kv entry {row!r} at revision {revision} leads nowhere"


def _snapshots(reader: Reader, types: Sequence[TypeName]) -> Iterator[str]:
    """Snapshots fit their checksums and are not beyond the head."""
    head, _ = tables.read_head(reader)
    names = dict.fromkeys(bytes(key)[:-9].decode() for key, _ in rows_of(reader, "snapshots"))
    for name in names:
        for position in tables.snapshots(reader, name):
            try:
                tables.read_snapshot(reader, name, position)
            except PerdureError as error:
                yield str(error)
            if position > head:
                yield f"snapshot {name!r} stands at position {position}, the log ends at {head}"
