"""Writing what was decided: the one place that puts events, entries, snapshots and kept answers into tables."""

from __future__ import annotations

import msgspec

from perdure.backends import keys, trace
from perdure.backends.answers import write_drawn
from perdure.backends.build import build, kinds
from perdure.backends.commit import BEATS, CHECKPOINTS, MODELS, Alike, SaveSnapshot
from perdure.backends.cutting import gains_events, write_cut
from perdure.backends.engine import Change, Decisions
from perdure.backends.frame import type_name
from perdure.backends.sealing import sealed
from perdure.backends.stream_row import read_row
from perdure.backends.tables import Cache, SnapshotRow, Writer, pack_entries, pack_entry, read_entry, write_meta

_pack = msgspec.msgpack.Encoder().encode

UNWATCHED = (CHECKPOINTS, MODELS, BEATS)
"""Reserved buckets without change rows or tombstones (a prefix of the name)."""


TYPES_MAX = 1 << 16
"""A record names its type with two bytes."""


class TooManyTypes(Exception):
    """The table of types has no room for one more: *type*."""

    def __init__(self, type: str) -> None:
        super().__init__(type)
        self.type = type


def apply(writer: Writer, cache: Cache, done: Decisions) -> None:
    """Write what was decided. The cache is brought up to date with it: drop the cache if the transaction then fails.

    Raises:
      TooManyTypes: a type is new and there is no number for it.
    """
    if done.pieces:
        _write_events(writer, cache, done)
    for change in done.changes:
        write_change(writer, change, done.at_us)
    for states, revision in done.states:
        writer.put_all("kv", pack_entries(states.bucket, revision, states.entries))
    for cut in done.cuts:
        write_cut(writer, cache, cut)
    if done.changes or done.states:
        write_meta(writer, "revision", done.revision)
        if cache.trace:
            trace.note(writer, done)
    if done.at_us > (done.commits[-1][1] if done.commits else cache.at_us):  # the last event does not tell it
        write_meta(writer, "at", done.at_us)
    for snapshot, at_us in done.snapshots:
        write_snapshot(writer, snapshot, at_us)
    for id, kept in done.kept:
        writer.put("keys", id, sealed(id, _pack(kept)))
        writer.put("ages", keys.aged(kept.at_us, "key", id), b"")
    if done.drawn:
        write_drawn(writer, cache.owner, done.drawn)
    cache.head, cache.at_us, cache.revision = done.head, done.at_us, done.revision


def _write_events(writer: Writer, cache: Cache, done: Decisions) -> None:
    for name in {kind for piece in done.pieces for kind in kinds(piece.events)} - cache.numbers.keys():
        new_type(writer, cache, *name)
    built = build(done.commits, done.pieces, cache.numbers)
    writer.put("frames", keys.number(built.first), built.value)
    rows = []
    for run in built.runs:
        number = stream_number(writer, cache, run.stream)
        rows.append((keys.run(number, run.first_seq), keys.run_row(built.first, run.offset, run.count)))
        cache.streams[run.stream] = (number, run.first_seq + run.count - 1)
    writer.put_all("runs", rows)
    for piece in done.pieces:
        if type(piece.events) is Alike:
            continue  # without extra, so without tags
        for position, draft in enumerate(piece.events, piece.first_position):
            for tag in draft.tags:
                writer.put("tags", keys.tag(tag, position), b"")


def new_type(writer: Writer, cache: Cache, name: str, version: int) -> None:
    """Give a type its number.

    Raises:
      TooManyTypes: there is none left.
    """
    number = len(cache.types)
    if number >= TYPES_MAX:
        raise TooManyTypes(name)
    writer.put("types", number.to_bytes(2, "big"), _pack((version, name)))
    type = type_name(name, version)
    cache.types.append(type)
    cache.numbers[name, version] = (number, type.crc)


def stream_number(writer: Writer, cache: Cache, stream: str) -> int:
    """The number of a stream whose last seq is known (see `fetch.facts`); a new one gets one."""
    remembered = cache.streams.get(stream)
    if remembered is not None:
        return remembered[0]
    name = stream.encode()
    raw = writer.get("streams", name)
    if raw is not None:
        row = read_row(name, raw)
        gains_events(writer, name, row)
        return row.number
    cache.streams_made += 1
    writer.put("streams", stream.encode(), keys.stream_row(cache.streams_made, 1))
    write_meta(writer, "streams", cache.streams_made)
    return cache.streams_made


def write_change(writer: Writer, change: Change, at_us: int) -> None:
    """Put or delete an entry, with what is kept for those who watch its bucket."""
    row = keys.entry(change.bucket, change.key)
    if change.bucket.startswith(UNWATCHED):
        if change.value is None:
            writer.delete("kv", row)
        else:
            writer.put("kv", row, pack_entry(row, change.revision, change.value))
        return
    before = writer.get("kv", row)
    if before is not None:
        revision, _ = read_entry(row, before)
        writer.delete("changes", keys.change(change.bucket, revision, change.key))
    writer.put("kv", row, pack_entry(row, change.revision, change.value))
    writer.put("changes", keys.change(change.bucket, change.revision, change.key), b"")
    if change.value is None:
        writer.put("ages", keys.aged(at_us, "tombstone", row), keys.number(change.revision))


def write_snapshot(writer: Writer, snapshot: SaveSnapshot, at_us: int) -> None:
    """Put a snapshot in the place of those that it drops."""
    for position in snapshot.drop:
        writer.delete("snapshots", keys.snapshot(snapshot.name, position))
    key = keys.snapshot(snapshot.name, snapshot.position)
    writer.put("snapshots", key, sealed(key, _pack(SnapshotRow(snapshot.fingerprint, at_us, snapshot.state))))
