"""The trace: which entries were changed since a moment, noted by the commits themselves, of every process. Pure.

A migration that follows a store in use asks for it, for entries of unwatched buckets leave nothing else that would lead to them. While the
number `trace` stands in `meta` each commit puts one row for each entry that it changes, in the place of the one before; what was brought
is taken away, unless it was changed again. What a killed migration leaves is swept by upkeep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from perdure.backends import keys, tables
from perdure.backends.carried import Traced, TracePage
from perdure.backends.engine import Decisions
from perdure.backends.tables import Cache, Reader, Writer

ROWS: Final = 2_000
"""So many rows are read or taken away in one step at most."""
KEPT_US: Final = 86_400_000_000
"""A trace that is older was left by somebody."""
_ROW: Final = b"traced "
_FORGOTTEN: Final = 1 << 63


def begin(writer: Writer, cache: Cache, now_us: int) -> bool:
    """Take away what was noted before, some rows at a time, then begin anew. Whether there is more to take away."""
    if _clear(writer):
        return True
    cache.trace = max(now_us, tables.read_meta(writer, tables.TRACE) + 1)
    tables.write_meta(writer, tables.TRACE, cache.trace)
    return False


def end(writer: Writer, cache: Cache) -> bool:
    """Note nothing more, and take away what was noted. Whether there is more to take away."""
    writer.delete("meta", tables.TRACE.encode())
    cache.trace = 0
    return _clear(writer)


def note(writer: Writer, done: Decisions) -> None:
    """Note the entries that a group changes."""
    rows = [(_ROW + keys.entry(change.bucket, change.key), keys.number(change.revision)) for change in done.changes]
    for states, revision in done.states:
        rows += [(_ROW + keys.entry(states.bucket, key), keys.number(revision)) for key, _ in states.entries]
    writer.put_all("meta", rows)


def note_forgotten(writer: Writer, row: bytes, revision: int) -> None:
    """Note that the tombstone of that row in `kv` is gone: another change than the delete."""
    if tables.read_meta(writer, tables.TRACE):
        writer.put("meta", _ROW + row, keys.number(revision | _FORGOTTEN))


def read_some(reader: Reader, *, after: bytes, limit: int) -> TracePage:
    """See `Moves.read_trace`. *after* is a key of `kv`."""
    limit = min(ROWS, limit)
    rows = reader.scan("meta", _ROW + after + b"\0" if after else _ROW, keys.after_prefix(_ROW), limit)
    traced = []
    for key, value in rows:
        after = bytes(key)[len(_ROW) :]
        bucket, _, name = after.partition(b"\0")
        traced.append(Traced(bucket.decode(), name, keys.read_number(value)))
    return TracePage(tables.read_meta(reader, tables.TRACE), traced, after if len(rows) == limit else None)


def forget(writer: Writer, traced: Sequence[Traced]) -> None:
    """Take away what was noted of these, unless they were changed again."""
    for one in traced:
        row = _ROW + keys.entry(one.bucket, one.key)
        raw = writer.get("meta", row)
        if raw is not None and keys.read_number(raw) == one.mark:
            writer.delete("meta", row)


def sweep(writer: Writer, now_us: int) -> bool:
    """Take away some of what somebody has left; whether there was anything."""
    begun = tables.read_meta(writer, tables.TRACE)
    if begun > now_us - KEPT_US:
        return False
    if begun:
        writer.delete("meta", tables.TRACE.encode())
    return _clear(writer) or begun > 0


def _clear(writer: Writer) -> bool:
    found = [bytes(key) for key, _ in writer.scan("meta", _ROW, keys.after_prefix(_ROW), ROWS)]
    for key in found:
        writer.delete("meta", key)
    return len(found) == ROWS
