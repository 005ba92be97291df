"""Cutting: a stream's first is moved at once, what lies before it is taken out of the frames by and by. Pure.

The commit of a cut writes the stream's row, how far the log was cut (see `bounds`), and a row of `meta` that names the stream as one to be
swept. Upkeep sweeps: it writes each frame that holds something of it again without all that has been cut, whosever it is. A frame keeps
its positions and the time of its last commit, so that what is missing is told from what was cut: seqs, from the first on, have no gaps.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from perdure.backends import frame, keys
from perdure.backends.bounds import write_bounds
from perdure.backends.build import Trimmed, trim
from perdure.backends.commit import Cut
from perdure.backends.errors import Corrupt
from perdure.backends.event import Position
from perdure.backends.sealing import sealed, unseal
from perdure.backends.stream_row import StreamRow, read_row
from perdure.backends.tables import Cache, Reader, Writer, last_seq, read_meta, write_meta

SWEEP_BYTES: Final = 256 << 10
"""Frames of about so much are written again in one step."""
SWEEP: Final = b"sweep "
"""What the rows of `meta` begin with that name what is to be swept; then the time of its frame, and the stream's number."""
_QUEUED: Final = 64
_RUNS_A_STEP: Final = 64


# -- the commit ------------------------------------------------------------------------------


def write_cut(writer: Writer, cache: Cache, cut: Cut) -> None:
    """Move the first of a stream, as was decided."""
    name = cut.stream.encode()
    raw = writer.get("streams", name)
    assert raw is not None, "it has the events"
    row = read_row(name, raw)
    kinds, at_us = _what_goes(writer, row, cut)
    position = max(kinds.values())
    emptied = cut.first == last_seq(writer, cache, cut.stream) + 1
    writer.put("streams", name, StreamRow(row.number, cut.first, position, emptied, cut.archive or row.archive).packed(name))
    write_bounds(writer, cut.stream, kinds)
    _queue(writer, at_us, row.number, name)
    if emptied:
        cache.streams.pop(cut.stream, None)


def _what_goes(reader: Reader, row: StreamRow, cut: Cut) -> tuple[dict[int, Position], int]:
    """The numbers of the types of what goes, with the position of the last of each, and the time of the last one's frame."""
    kinds: dict[int, Position] = {}
    at_us = 0
    start = keys.run(row.number, row.first)
    for key, _ in reader.scan_back("runs", keys.run(row.number, 0), keys.run(row.number, row.first + 1), 1):
        start = bytes(key)
    while rows := reader.scan("runs", start, keys.run(row.number, cut.first), _RUNS_A_STEP):
        for key, value in rows:
            base, offset, count = keys.read_run_row(value)
            first_seq = keys.last_number(key)
            found = reader.get("frames", keys.number(base))
            if found is None or frame.describe_run(found, offset) != (cut.stream, first_seq, count):
                raise Corrupt(f"stream {cut.stream!r} at seq {first_seq}", "the index leads to something else")
            low, high = max(row.first, first_seq), min(cut.first, first_seq + count)
            run = frame.open_run(found, offset)
            if high > low:
                kinds |= {kind: Position(base + place) for kind, place in run.kinds(found, low - first_seq, high - first_seq).items()}
                at_us = frame.read_head(found).commits[-1][1]
        start = bytes(rows[-1][0]) + b"\0"
    return kinds, at_us


def _queue(writer: Writer, at_us: int, number: int, name: bytes) -> None:
    key = SWEEP + keys.number(at_us) + keys.number(number)
    writer.put("meta", key, sealed(key, name))


def gains_events(writer: Writer, name: bytes, row: StreamRow) -> None:
    """A stream of which nothing was left has events again."""
    writer.put("streams", name, StreamRow(row.number, row.first, row.cut, False, row.archive).packed(name))


# -- sweeping --------------------------------------------------------------------------------


def sweep_some(writer: Writer, *, before_us: int, bytes_max: int = SWEEP_BYTES) -> bool:
    """Take what was cut out of some frames; whether anything was done.

    Frames with commits from *before_us* on are left for later: a commit in doubt is looked for there by its id.
    """
    firsts: dict[str, int] = {}
    done = False
    for key, raw in [(bytes(key), bytes(raw)) for key, raw in writer.scan("meta", SWEEP, SWEEP + keys.number(max(before_us, 0)), _QUEUED)]:
        name = unseal("a row of what is to be swept", key, raw)
        value = writer.get("streams", name)
        row = None if value is None else read_row(name, value)
        while row is not None and bytes_max > 0:
            base = _first_swept(writer, row)
            if base is None:
                row = None
                break
            size, young_us = sweep_frame(writer, base, firsts, before_us)
            done = True
            bytes_max -= max(size, 4096)
            if young_us:
                _queue(writer, young_us, row.number, name)
                row = None
        if row is not None:
            return True  # there is more of it
        writer.delete("meta", key)
        done = True
    return done


def check_queue(reader: Reader) -> None:
    """Read what is to be swept.

    Raises:
      Corrupt: a row does not fit its checksum.
    """
    for key, raw in reader.scan("meta", SWEEP, keys.after_prefix(SWEEP), 1 << 20):
        unseal("a row of what is to be swept", bytes(key), raw)


def _first_swept(reader: Reader, row: StreamRow) -> int | None:
    """The frame with the oldest events of a stream that have been cut."""
    for _, value in reader.scan("runs", keys.run(row.number, 0), keys.run(row.number, row.first), 1):
        return keys.read_run_row(value)[0]
    return None


def sweep_frame(writer: Writer, base: int, firsts: dict[str, int], before_us: int) -> tuple[int, int]:
    """Write a frame again without what has been cut: how large it was, and 0; or the time of its last commit, if that is too young."""
    found = writer.get("frames", keys.number(base))
    if found is None:
        raise Corrupt(f"the frame at position {base}", "the index leads to it, and it is missing")
    value = bytes(found)
    head = frame.read_head(value)
    if head.commits[-1][1] >= before_us:
        return len(value), head.commits[-1][1]
    replace(writer, [value], trim([value], partial(first_of, writer, firsts), partial(has_key, writer)))
    if base < read_meta(writer, "merged"):
        write_meta(writer, "merged", base)
    return len(value), 0


def first_of(reader: Reader, known: dict[str, int], stream: str) -> int:
    """The first seq of a stream; what was looked up is *known*."""
    first = known.get(stream)
    if first is None:
        row = reader.get("streams", stream.encode())
        if row is None:
            raise Corrupt(f"stream {stream!r}", "it has events and no row")
        first = known[stream] = keys.read_stream_row(row)[1]
    return first


def has_key(reader: Reader, id: bytes) -> bool:
    """Whether a commit is known by its caller's key: then its frame goes on naming it."""
    return reader.get("keys", id) is not None


def replace(writer: Writer, frames: list[bytes], made: Trimmed) -> None:
    """Put one frame in the place of some that follow each other, and let the indexes lead to it."""
    numbers: dict[str, int] = {}

    def number_of(stream: str) -> int:
        if stream not in numbers:
            row = writer.get("streams", stream.encode())
            if row is None:
                raise Corrupt(f"stream {stream!r}", "it has events and no row")
            numbers[stream] = keys.read_stream_row(row)[0]
        return numbers[stream]

    for value in frames:
        head = frame.read_head(value)
        writer.delete("frames", keys.number(head.first))
        for run in frame.runs_of(value, head):
            writer.delete("runs", keys.run(number_of(run.stream), run.first_seq))
    for tag, position in made.tags:
        writer.delete("tags", keys.tag(tag, position))
    writer.put("frames", keys.number(made.built.first), made.built.value)
    for run in made.built.runs:
        writer.put("runs", keys.run(number_of(run.stream), run.first_seq), keys.run_row(made.built.first, run.offset, run.count))
