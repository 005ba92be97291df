"""Loading a store: filling it with what another one held, everything under its own numbers. Pure.

While a row of `meta` says `loading` nothing is committed, whoever asks: what is there is not the whole yet. The
row outlives a crash, so the store says so until the loading has come to its end.

Records keep stream, seq, position, type, time, commit, ordinal, extra, payload and checksum. Positions
may have gaps (the store they come from had them, or was not loaded as a whole); seqs may not, but a stream may begin
beyond 1. Rows, in place of records, are those of an image: they are taken as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Final

from perdure.backends import frame, keys, tables
from perdure.backends.apply import new_type, stream_number
from perdure.backends.bounds import ANY_TYPE, write_bounds
from perdure.backends.bounds import PREFIX as BOUNDS
from perdure.backends.build import Built, Piece, build
from perdure.backends.commit import Draft, check_name
from perdure.backends.cutting import SWEEP
from perdure.backends.errors import Corrupt, Misuse, PerdureError, StoreMoved, Unavailable
from perdure.backends.event import Position, Record, unpack_extra
from perdure.backends.limits import LIMITS
from perdure.backends.protocol import CutBound, StreamInfo
from perdure.backends.sealing import sealed
from perdure.backends.stream_row import StreamRow
from perdure.backends.tables import Cache, Reader, Writer

FRAME_BYTES: Final = 64 << 10
"""Commits that are loaded share frames of about this size."""
FRAME_COMMITS: Final = 4_096
CLEAR_ROWS: Final = 5_000
"""So many rows are cleared in one step."""

OURS: Final = (b"revision", b"at", b"streams", b"merged")
COMPACTED: Final = b"compacted "
OURS_PREFIX: Final = (COMPACTED, BOUNDS, SWEEP)
"""The rows of `meta` that are part of what a store holds; the others say which store it is, and what its processes do."""


def refusal(url: str) -> str:
    """Why a store that is being loaded is not available."""
    return f"{url} is being loaded, or its loading was cut off: let it end, begin the same import, restore or migration again, or remove the store"


def refused(url: str, moved: str) -> PerdureError:
    """Why nothing is committed: the store is being loaded, or it was *moved*."""
    return StoreMoved(url, moved) if moved else Unavailable(refusal(url))


# -- steps -----------------------------------------------------------------------------------


def begin(writer: Writer, cache: Cache, url: str, *, anew: bool) -> bool:
    """Say that the store is being loaded; *anew*: clear what was loaded so far, some rows at a time. Whether there is more to clear.

    Raises:
      Misuse: it holds something that was not loaded.
    """
    if not cache.loading:
        if not cache.moved and not is_empty(writer):
            raise Misuse(f"{url} holds data already: load into a new store")
        tables.write_meta(writer, "loading", 1)
        write_moved(writer, cache, "")
        writer.delete("meta", tables.TRACE.encode())
        cache.loading, cache.trace = True, 0
    return _clear(writer) if anew else False


def is_empty(reader: Reader) -> bool:
    """Whether a store holds no event, entry or snapshot, nor ever did."""
    return not any(reader.scan(table, b"", None, 1) for table in keys.TABLES if table != "meta") and not tables.read_meta(reader, "revision")


def end(writer: Writer, cache: Cache) -> None:
    """All has been loaded: the store is like any other from here on."""
    writer.delete("meta", b"loading")
    cache.loading = False


def write_moved(writer: Writer, cache: Cache, to: str, *, revision: int = 0) -> None:
    """Say where the store is from here on, '' that it is here; revisions go on after *revision* at least."""
    if to:
        writer.put("meta", tables.MOVED, sealed(tables.MOVED, to.encode()))
    else:
        writer.delete("meta", tables.MOVED)
    if revision > cache.revision:
        tables.write_meta(writer, "revision", revision)
        cache.revision = revision
    cache.moved = to


def check_loading(cache: Cache, url: str) -> None:
    """Refuse what may be done only while a store is being loaded.

    Raises:
      Misuse: it is not.
    """
    if not cache.loading:
        raise Misuse(f"{url} is not being loaded: call begin_load first")


def _clear(writer: Writer) -> bool:
    left = CLEAR_ROWS
    for table in keys.TABLES:
        found = [bytes(key) for key, _ in writer.scan(table, b"", None, left)]
        for key in found:
            if table != "meta" or _is_ours(key):
                writer.delete(table, key)
        left -= len(found)
        if left <= 0:
            return True
    return False


def _is_ours(key: bytes) -> bool:
    return key in OURS or key.startswith(OURS_PREFIX)


# -- rows ------------------------------------------------------------------------------------


def load_rows(writer: Writer, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
    """Take over rows of an image. Of `meta`, what says which store it is is left out: the store stays itself.

    Raises:
      Misuse: there is no such table.
    """
    if table not in keys.TABLES:
        raise Misuse(f"there is no table {table!r}: it is one of {', '.join(keys.TABLES)}")
    writer.put_all(table, [row for row in rows if _is_ours(row[0])] if table == "meta" else rows)


# -- records ---------------------------------------------------------------------------------


def load_records(writer: Writer, cache: Cache, records: Sequence[Record]) -> None:
    """Store *records*, whole commits in order of position, beyond what is there. If it raises, nothing of them may be kept.

    Raises:
      Misuse: they are out of order, a seq is missing, or a commit is not whole; a name is none.
      Corrupt: one does not fit its checksum.
      TooManyTypes: a type is new and there is no number for it.
    """
    if len(cache.streams) > Cache.STREAMS_MAX:
        cache.streams.clear()
    last_commit = _last_commit(writer)
    if records and records[0].commit == last_commit:
        raise Misuse(f"{told(records[0])}: its commit has been loaded in part before; load commits whole")
    for part in _frames_of(records):
        check_order(part, cache.head, tables.read_head(writer)[1], lambda stream: tables.last_seq(writer, cache, stream))
        _write(writer, cache, part)


def _last_commit(reader: Reader) -> bytes | None:
    for _, value in reader.scan_back("frames", b"", None, 1):
        return frame.read_head(value).commits[-1][0]
    return None


def _frames_of(records: Sequence[Record]) -> Iterator[list[Record]]:
    """The records in parts that each make a frame: whole commits."""
    part: list[Record] = []
    size = commits = 0
    for _, found in groupby(records, key=lambda record: record.commit):
        commit = list(found)
        part += commit
        size += tables.bytes_of(commit)
        commits += 1
        if size >= FRAME_BYTES or commits >= FRAME_COMMITS:
            yield part
            part, size, commits = [], 0, 0
    if part:
        yield part


def check_order(records: Sequence[Record], position: int, at_us: int, last_seq: Callable[[str], int]) -> None:
    """Look whether *records* follow a log that ends at *position* and *at_us*; *last_seq* tells that of a stream, 0 if there is none.

    Raises:
      Misuse: they are out of order, or a seq is missing; a name is none.
    """
    seqs: dict[str, int] = {}
    commit, ordinal = b"", -1
    for record in records:
        if record.position <= position:
            raise Misuse(f"{told(record)}: it follows position {position}; load records in order of position")
        if record.at_us < at_us:
            raise Misuse(f"{told(record)}: its time is before that of the record before")
        if record.stream not in seqs:
            _check_names(record)
            seqs[record.stream] = last_seq(record.stream) or record.seq - 1
        if record.seq != seqs[record.stream] + 1:
            raise Misuse(f"{told(record)}: it follows seq {seqs[record.stream]} of its stream; load every event of a stream")
        if record.commit != commit:
            commit, ordinal = record.commit, -1
        elif record.at_us != at_us:
            raise Misuse(f"{told(record)}: it has another time than the rest of its commit")
        if not ordinal < record.ordinal < 1 << 16 or len(commit) != 16:
            raise Misuse(f"{told(record)}: a commit has 16 bytes and its events are in order, this is number {record.ordinal} of {commit.hex()}")
        position, at_us, ordinal = record.position, record.at_us, record.ordinal
        seqs[record.stream] = record.seq


def _check_names(record: Record) -> None:
    check_name("stream name", record.stream, LIMITS.stream_name_bytes)
    if record.seq < 1:
        raise Misuse(f"{told(record)}: seqs begin at 1")


def _write(writer: Writer, cache: Cache, records: list[Record]) -> None:
    for name, version in {(record.type, record.version) for record in records} - cache.numbers.keys():
        check_name("type name", name, LIMITS.type_bytes)
        new_type(writer, cache, name, version)
    built = _build(cache, records)
    if frame.read_frame(built.value, cache.types) != records:
        raise _not_as_written(built, cache, records)
    writer.put("frames", keys.number(built.first), built.value)
    firsts = {record.stream: record for record in reversed(records)}
    rows = []
    for run in built.runs:
        if run.stream not in cache.streams:
            _begin_beyond(writer, cache, firsts[run.stream])
        number = stream_number(writer, cache, run.stream)
        rows.append((keys.run(number, run.first_seq), keys.run_row(built.first, run.offset, run.count)))
        cache.streams[run.stream] = (number, run.first_seq + run.count - 1)
    writer.put_all("runs", rows)
    for record in records:
        for tag in unpack_extra(record.extra).tags if record.extra else ():
            check_name("tag", tag, LIMITS.tag_bytes)
            writer.put("tags", keys.tag(tag, record.position), b"")
    cache.head, cache.at_us = built.last, max(cache.at_us, records[-1].at_us)


def _begin_beyond(writer: Writer, cache: Cache, record: Record) -> None:
    """Of a new stream that begins beyond seq 1 what was before has been cut, wherever that was done."""
    if record.seq > 1 and record.position > 1 and writer.get("streams", record.stream.encode()) is None:
        cut_stream(writer, cache, StreamInfo(record.stream, record.seq, record.seq - 1, Position(record.position - 1), Position(record.position - 1)))
        write_bounds(writer, record.stream, {ANY_TYPE: Position(record.position - 1)})


# -- cuts ------------------------------------------------------------------------------------


def load_cuts(writer: Writer, cache: Cache, streams: Sequence[StreamInfo], cuts: Sequence[CutBound]) -> None:
    """Take over what was cut elsewhere, before the records that were left: those of each stream then begin with its first seq.

    Raises:
      Misuse: a stream is there already.
      TooManyTypes: a type is new and there is no number for it.
    """
    for stream in streams:
        check_name("stream name", stream.name, LIMITS.stream_name_bytes)
        if writer.get("streams", stream.name.encode()) is not None:
            raise Misuse(f"stream {stream.name!r} is there already: load cuts before the records")
        if not (stream.first > 1 and stream.cut):
            raise Misuse(f"nothing was cut of stream {stream.name!r}")
        cut_stream(writer, cache, stream)
    for cut in cuts:
        if cut.type is None:
            write_bounds(writer, cut.stream, {ANY_TYPE: cut.position}, cut.times)
            continue
        version = next((version for name, version in cache.numbers if name == cut.type), None)
        if version is None:
            version = 1
            new_type(writer, cache, cut.type, version)
        write_bounds(writer, cut.stream, {cache.numbers[cut.type, version][0]: cut.position}, cut.times)


def cut_stream(writer: Writer, cache: Cache, stream: StreamInfo) -> None:
    """Make a stream of which nothing is left, yet."""
    cache.streams_made += 1
    name = stream.name.encode()
    writer.put("streams", name, StreamRow(cache.streams_made, stream.first, stream.cut, True, stream.archive).packed(name))
    tables.write_meta(writer, "streams", cache.streams_made)


def _build(cache: Cache, records: Sequence[Record]) -> Built:
    commits: list[tuple[bytes, int]] = []
    parts: list[tuple[int, list[Record]]] = []
    before: Record | None = None
    for record in records:
        if before is not None and _adjoins(before, record):
            parts[-1][1].append(record)
        else:
            if before is None or record.commit != before.commit:
                commits.append((record.commit, record.at_us))
            parts.append((len(commits) - 1, [record]))
        before = record
    return build(commits, [_piece(part, commit) for commit, part in parts], cache.numbers, gap=records[0].position > cache.head + 1)


def _adjoins(before: Record, record: Record) -> bool:
    """Whether a record continues the one before in every way."""
    return (
        record.commit == before.commit
        and record.stream == before.stream
        and record.position == before.position + 1
        and record.seq == before.seq + 1
        and record.ordinal == before.ordinal + 1
    )


def _piece(records: Sequence[Record], commit: int) -> Piece:
    first = records[0]
    events = [Draft(record.type, record.version, record.payload, record.extra) for record in records]
    return Piece(first.stream, first.seq, first.position, commit, first.ordinal, events)


def _not_as_written(built: Built, cache: Cache, records: Sequence[Record]) -> PerdureError:
    for record, made in zip(records, frame.read_frame(built.value, cache.types), strict=True):
        if record != made:
            return Corrupt(told(record), "its checksum does not fit")
    raise AssertionError("equal after all")


def told(record: Record) -> str:
    return f"the record at position {record.position} (stream {record.stream!r}, seq {record.seq})"
