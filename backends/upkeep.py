"""Upkeep in bounded steps: small frames merged into larger ones, old keys and tombstones forgotten."""

from __future__ import annotations

from perdure.backends import frame, keys, trace
from perdure.backends.build import merge
from perdure.backends.errors import Corrupt
from perdure.backends.tables import Writer, read_entry, read_meta, write_meta

MERGE_BYTES = 64 << 10
"""Small frames are merged into frames of about this size; those of half of it are left alone."""
MERGE_FRAMES = 512
"""So many frames are looked at in one step."""
MERGE_ROOM_BYTES = 4 * MERGE_BYTES
"""Merging takes so much room before it gives any back."""
FORGET_ROWS = 1_000
"""So many aged rows are forgotten in one step."""


def merge_some(writer: Writer) -> bool:
    """Merge the oldest small frames that fill a larger one; whether anything was done."""
    start = read_meta(writer, "merged")
    batch: list[bytes] = []
    size = 0
    for key, value in writer.scan("frames", keys.number(start), None, MERGE_FRAMES):
        if len(value) >= MERGE_BYTES // 2 or size + len(value) > 2 * MERGE_BYTES:
            if len(batch) > 1:
                return _merge(writer, batch)
            batch, size = [], 0
            write_meta(writer, "merged", keys.read_number(key))
            if len(value) >= MERGE_BYTES // 2:
                write_meta(writer, "merged", keys.read_number(key) + 1)
                continue
        batch.append(bytes(value))
        size += len(value)
        if size >= MERGE_BYTES or len(batch) == MERGE_FRAMES:
            return _merge(writer, batch)
    return False


def _merge(writer: Writer, frames: list[bytes]) -> bool:
    for value in frames:
        head = frame.read_head(value)
        writer.delete("frames", keys.number(head.first))
        for run in frame.runs_of(value, head):
            row = writer.get("streams", run.stream.encode())
            if row is None:
                raise Corrupt(f"stream {run.stream!r}", "it has events and no row")
            writer.delete("runs", keys.run(keys.read_stream_row(row)[0], run.first_seq))
    built = merge(frames)
    writer.put("frames", keys.number(built.first), built.value)
    for run in built.runs:
        row = writer.get("streams", run.stream.encode())
        assert row is not None
        writer.put("runs", keys.run(keys.read_stream_row(row)[0], run.first_seq), keys.run_row(built.first, run.offset, run.count))
    write_meta(writer, "merged", built.first if len(built.value) < MERGE_BYTES // 2 else built.last + 1)
    return True


def forget_some(writer: Writer, *, keys_before_us: int, tombstones_before_us: int) -> int:
    """Forget keys and tombstones that are old enough; how many (`FORGET_ROWS`: there may be more)."""
    rows = writer.scan("ages", b"", keys.number(max(keys_before_us, tombstones_before_us, 0)), FORGET_ROWS)
    aged = [(bytes(key), bytes(value)) for key, value in rows]
    gone = 0
    for key, value in aged:
        at_us, kind, name = keys.read_aged(key)
        if kind == "key" and at_us < keys_before_us:
            writer.delete("keys", name)
        elif kind == "tombstone" and at_us < tombstones_before_us:
            _forget_tombstone(writer, name, keys.read_number(value))
        else:
            continue
        writer.delete("ages", key)
        gone += 1
    return gone


def _forget_tombstone(writer: Writer, row: bytes, revision: int) -> None:
    bucket, _, key = row.partition(b"\0")
    name = bucket.decode()
    raw = writer.get("kv", row)
    if raw is not None and read_entry(row, raw) == (revision, None):
        writer.delete("kv", row)
        writer.delete("changes", keys.change(name, revision, key))
        trace.note_forgotten(writer, row, revision)
        write_meta(writer, f"compacted {name}", max(revision, read_meta(writer, f"compacted {name}")))
