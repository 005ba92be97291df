"""Upkeep in bounded steps: small frames merged into larger ones, old keys and tombstones forgotten. What was cut is swept by `cutting`."""

from __future__ import annotations

from functools import partial

from perdure.backends import cutting, frame, keys, trace
from perdure.backends.build import trim
from perdure.backends.tables import Writer, read_entry, read_meta, write_meta

MERGE_BYTES = 64 << 10
"""Small frames are merged into frames of about this size; those of half of it are left alone."""
MERGE_FRAMES = 512
"""So many frames are looked at in one step."""
MERGE_ROOM_BYTES = 4 * MERGE_BYTES
"""Merging takes so much room before it gives any back."""
DOUBTS = 10
"""What was cut leaves frames only when their last commit is older than so many times `commit_s`: doubts about it are over."""
FORGET_ROWS = 1_000
"""So many aged rows are forgotten in one step."""


def merge_some(writer: Writer, before_us: int) -> bool:
    """Merge the oldest small frames that fill a larger one; whether anything was done, or there is more to look at.

    What has been cut goes, but not from frames with commits from *before_us* on (see `cutting.sweep_some`): those wait.
    """
    start = read_meta(writer, "merged")
    batch: list[bytes] = []
    size = seen = 0
    for key, value in writer.scan("frames", keys.number(start), None, MERGE_FRAMES):
        seen += 1
        if len(value) >= MERGE_BYTES // 2 or size + len(value) > 2 * MERGE_BYTES:
            if len(batch) > 1:
                return _merge(writer, batch, before_us)
            batch, size = [], 0
            write_meta(writer, "merged", keys.read_number(key))
            if len(value) >= MERGE_BYTES // 2:
                write_meta(writer, "merged", keys.read_number(key) + 1)
                continue
        batch.append(bytes(value))
        size += len(value)
        if size >= MERGE_BYTES or len(batch) == MERGE_FRAMES:
            return _merge(writer, batch, before_us)
    return seen == MERGE_FRAMES and read_meta(writer, "merged") > start


def _merge(writer: Writer, frames: list[bytes], before_us: int) -> bool:
    firsts: dict[str, int] = {}
    heads = [frame.read_head(value) for value in frames]
    if heads[-1].commits[-1][1] >= before_us and any(
        run.first_seq < cutting.first_of(writer, firsts, run.stream) for value, head in zip(frames, heads, strict=True) for run in frame.runs_of(value, head)
    ):
        return False
    made = trim(frames, partial(cutting.first_of, writer, firsts), partial(cutting.has_key, writer))
    cutting.replace(writer, frames, made)
    built = made.built
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
