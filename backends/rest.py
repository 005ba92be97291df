"""What a store holds beside its log, as rows: entries, tombstones, answers to idempotency keys, snapshots, counters. Pure.

A migration reads it page by page while others write, and lays it over what another store has. Changed entries are found
by revision: those of watched buckets by the rows of their changes; of the others (checkpoints, states of models, beats)
all are looked at. Who follows a store reads its trace instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from perdure.backends import keys, tables
from perdure.backends.apply import UNWATCHED, write_change, write_snapshot
from perdure.backends.carried import AgedPage, Answered, BucketEntry, EntryPage, Numbers, Rest, SnapshotHead, Tombstone
from perdure.backends.commit import SaveSnapshot
from perdure.backends.engine import Change
from perdure.backends.event import Position
from perdure.backends.limits import LIMITS
from perdure.backends.sealing import sealed
from perdure.backends.tables import Cache, Reader, Writer

ROWS: Final = 2_000
"""So many rows are looked at in one step at most."""
_REVISION: Final = slice(0, 8)
_AFTER_KEYS: Final = b"\xff" * (LIMITS.key_bytes + 1)
"""Sorts after every key."""
_COMPACTED: Final = b"compacted "
_pack = msgspec.msgpack.Encoder().encode


# -- reading ---------------------------------------------------------------------------------


def read_entries(reader: Reader, *, beyond: int, after: bytes, limit: int, bytes_max: int) -> EntryPage:
    """See `Moves.read_entries`. *after* is a key of `kv`, or, in a watched bucket whose changes are read, one of `changes`."""
    found: list[BucketEntry] = []
    left, place = min(ROWS, max(1, limit)), after
    while left > 0 and bytes_max > 0:
        rows, entries, place = _some(reader, beyond, place, left)
        if not rows:
            return EntryPage(found, None)
        left -= rows
        for one in entries:
            found.append(one)
            bytes_max -= len(one.value) + len(one.key)
            if bytes_max <= 0:
                return EntryPage(found, _place_of(one, beyond))
    return EntryPage(found, place)


def _some(reader: Reader, beyond: int, after: bytes, limit: int) -> tuple[int, list[BucketEntry], bytes]:
    """Some rows of one bucket: how many were looked at, what was found, and where to go on. None at the end."""
    bucket = after.partition(b"\0")[0]
    if after and beyond and _is_watched(bucket):
        rows = reader.scan("changes", after + b"\0", bucket + b"\1", limit)
        if rows:
            return len(rows), list(_entries_of(reader, bucket, [bytes(key) for key, _ in rows])), bytes(rows[-1][0])
        after = bucket + b"\1"  # no key of the bucket sorts there
    start = after + b"\0" if after else b""
    for key, _ in reader.scan("kv", start, None, 1) if beyond else ():
        bucket = bytes(key).partition(b"\0")[0]
        if _is_watched(bucket):
            return 1, [], bucket + b"\0" + keys.number(beyond) + _AFTER_KEYS
    stop = None if not beyond else bucket + b"\1"
    rows = reader.scan("kv", start, stop, limit)
    if not rows:
        return 0, [], after
    least = keys.number(beyond)
    changed = [(bytes(key), bytes(value)) for key, value in rows if not beyond or bytes(value[_REVISION]) > least]
    return len(rows), [entry for key, value in changed if (entry := _entry_of(key, value)) is not None], bytes(rows[-1][0])


def _entries_of(reader: Reader, bucket: bytes, changes: list[bytes]) -> Iterator[BucketEntry]:
    for change in changes:
        row = bucket + change[len(bucket) : len(bucket) + 1] + change[len(bucket) + 9 :]
        raw = reader.get("kv", row)
        if raw is not None and (entry := _entry_of(row, bytes(raw))) is not None:
            yield entry


def _entry_of(row: bytes, raw: bytes) -> BucketEntry | None:
    revision, value = tables.read_entry(row, raw)
    bucket, _, key = row.partition(b"\0")
    return None if value is None else BucketEntry(bucket.decode(), key, revision, value)


def _place_of(entry: BucketEntry, beyond: int) -> bytes:
    watched = beyond and _is_watched(entry.bucket.encode())
    return keys.change(entry.bucket, entry.revision, entry.key) if watched else keys.entry(entry.bucket, entry.key)


def _is_watched(bucket: bytes) -> bool:
    return not bucket.decode().startswith(UNWATCHED)


def read_these(reader: Reader, names: Sequence[tuple[str, bytes]], *, bytes_max: int) -> tuple[list[BucketEntry], int]:
    """See `Moves.read_these`."""
    found: list[BucketEntry] = []
    for count, (bucket, key) in enumerate(names, 1):
        row = keys.entry(bucket, key)
        raw = reader.get("kv", row)
        if raw is not None and (entry := _entry_of(row, bytes(raw))) is not None:
            found.append(entry)
            bytes_max -= len(entry.value)
            if bytes_max <= 0:
                return found, count
    return found, len(names)


def read_aged(reader: Reader, *, since_us: int, after: bytes, limit: int) -> AgedPage:
    """See `Moves.read_aged`. *after* is a key of `ages`."""
    rows = reader.scan("ages", after + b"\0" if after else keys.number(since_us), None, min(limit, ROWS))
    aged = [one for key, value in rows if (one := _aged(reader, bytes(key), bytes(value))) is not None]
    return AgedPage(aged, bytes(rows[-1][0]) if rows else None)


def _aged(reader: Reader, key: bytes, value: bytes) -> Tombstone | Answered | None:
    at_us, kind, name = keys.read_aged(key)
    if kind == "key":
        kept = tables.read_kept(reader, name)
        return None if kept is None else Answered(name, kept)
    raw = reader.get("kv", name)
    revision = keys.read_number(value)
    if raw is None or tables.read_entry(name, raw) != (revision, None):
        return None  # it was put again
    bucket, _, entry = name.partition(b"\0")
    return Tombstone(bucket.decode(), entry, revision, at_us)


def snapshot_heads(reader: Reader) -> list[SnapshotHead]:
    """See `Moves.snapshot_heads`."""
    found = []
    for key, raw in reader.scan("snapshots", b"", None, 1 << 20):
        name, position = bytes(key[:-9]).decode(), Position(keys.last_number(key))
        row = tables.unpack_snapshot(name, position, bytes(key), raw)
        found.append(SnapshotHead(name, position, row.fingerprint, row.at_us))
    return found


def read_numbers(reader: Reader) -> Numbers:
    """See `Moves.read_numbers`."""
    compacted = {bytes(key)[len(_COMPACTED) :].decode(): key for key, _ in reader.scan("meta", _COMPACTED, keys.after_prefix(_COMPACTED), 1 << 20)}
    at_us = max(tables.read_head(reader)[1], tables.read_meta(reader, "at"))
    return Numbers(tables.read_meta(reader, "revision"), at_us, {bucket: tables.read_meta(reader, bytes(key).decode()) for bucket, key in compacted.items()})


# -- loading ---------------------------------------------------------------------------------


def load_rest(writer: Writer, cache: Cache, rest: Rest) -> None:
    """See `Moves.load_rest`."""
    for bucket, key in rest.gone:
        _take_away(writer, bucket, key)
    for id in rest.gone_answers:
        kept = tables.read_kept(writer, id)
        if kept is not None:
            writer.delete("keys", id)
            writer.delete("ages", keys.aged(kept.at_us, "key", id))
    for name, position in rest.gone_snapshots:
        writer.delete("snapshots", keys.snapshot(name, position))
    for entry in rest.entries:
        write_change(writer, Change(entry.bucket, entry.key, entry.revision, entry.value), 0)
    for aged in rest.aged:
        if isinstance(aged, Tombstone):
            write_change(writer, Change(aged.bucket, aged.key, aged.revision, None), aged.at_us)
        else:
            writer.put("keys", aged.id, sealed(aged.id, _pack(aged.kept)))
            writer.put("ages", keys.aged(aged.kept.at_us, "key", aged.id), b"")
    for one in rest.snapshots:
        write_snapshot(writer, SaveSnapshot(one.name, one.position, one.fingerprint, one.state), one.at_us)
    if rest.numbers is not None:
        _write_numbers(writer, cache, rest.numbers)


def _take_away(writer: Writer, bucket: str, key: bytes) -> None:
    row = keys.entry(bucket, key)
    raw = writer.get("kv", row)
    if raw is not None:
        revision, _ = tables.read_entry(row, raw)
        writer.delete("kv", row)
        writer.delete("changes", keys.change(bucket, revision, key))


def _write_numbers(writer: Writer, cache: Cache, numbers: Numbers) -> None:
    tables.write_meta(writer, "revision", numbers.revision)
    tables.write_meta(writer, "at", numbers.at_us)
    for bucket, revision in numbers.compacted.items():
        tables.write_meta(writer, f"compacted {bucket}", revision)
    cache.revision, cache.at_us = numbers.revision, max(cache.at_us, numbers.at_us)
