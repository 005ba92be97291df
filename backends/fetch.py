"""Fetching what the engine asks for: every fact that judging a group takes, in one pass over the tables. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perdure.backends import keys
from perdure.backends.bounds import truncated
from perdure.backends.commit import CHECKPOINTS, HOLDS, LEASES, Cut, Unless
from perdure.backends.engine import Facts, Needs, TooBroad
from perdure.backends.errors import Truncated
from perdure.backends.event import Position
from perdure.backends.frame import TypeName
from perdure.backends.held import held_at
from perdure.backends.limits import CONDITION_ROWS, PAGE_EXAMINED
from perdure.backends.selector import Item, Selector
from perdure.backends.stream_row import read_row
from perdure.backends.tables import Cache, Reader, get, last_seq, read_head, read_kept, read_log, read_stream, record_at, scan


def facts(reader: Reader, cache: Cache, needs: Needs) -> Facts:
    """Everything that *needs* names, as it is now."""
    known = Facts(cache.head, cache.at_us, cache.revision)
    if len(cache.streams) + len(needs.streams) > Cache.STREAMS_MAX:
        cache.streams.clear()  # before the first: what is written later needs the streams of the whole group
    for stream in needs.streams:
        known.streams[stream] = last_seq(reader, cache, stream)
    for bucket, key in needs.entries:
        entry = get(reader, bucket, key)
        known.entries[bucket, key] = 0 if entry is None else entry.revision
    for id in needs.ids:
        kept = read_kept(reader, id)
        if kept is not None:
            known.ids[id] = kept
    for condition in needs.conditions:
        known.conditions[condition] = find_match(reader, cache.types, condition)
    for cut in needs.cuts:
        known.firsts[cut.stream], known.ends[cut] = _cut_facts(reader, cache, cut, known.streams[cut.stream])
    for bucket in (CHECKPOINTS, HOLDS) if needs.cuts else ():
        known.holds.update(holds(reader, bucket))
    for name in needs.leases:
        entry = get(reader, LEASES, name.encode())
        known.leases[name] = 0 if entry is None else int.from_bytes(entry.value[:8], "big")
    return known


def _cut_facts(reader: Reader, cache: Cache, cut: Cut, last: int) -> tuple[int, Position | None]:
    """The first seq of the stream, and the position of the last event that would go."""
    name = cut.stream.encode()
    raw = reader.get("streams", name)
    if raw is None:
        return 1, None
    row = read_row(name, raw)
    if not row.first < cut.first <= last + 1:
        return row.first, None
    record = read_stream(reader, cache.types, cut.stream, after=cut.first - 2, limit=1, bytes_max=1)[0]
    return row.first, record.position


def holds(reader: Reader, bucket: str) -> dict[tuple[str, bytes], int]:
    """The places in the log that the entries of a bucket register."""
    found: dict[tuple[str, bytes], int] = {}
    after: bytes | None = None
    while entries := scan(reader, bucket, after=after, limit=1_000):
        for entry in entries:
            place = held_at(entry.value)
            if place is not None:
                found[bucket, entry.key] = place
        after = entries[-1].key
    return found


def find_match(reader: Reader, types: Sequence[TypeName], condition: Unless) -> Position | TooBroad | Truncated | None:
    """The first event beyond the condition's position that its query selects."""
    if (gone := truncated(reader, types, condition.query, condition.after)) is not None:
        return gone
    found = [_find_item(reader, types, item, condition.after) for item in condition.query.items]
    places = [place for place in found if place is not None and not isinstance(place, TooBroad)]
    if places:
        return min(places)
    return next((place for place in found if isinstance(place, TooBroad)), None)


def _find_item(reader: Reader, types: Sequence[TypeName], item: Item, after: Position) -> Position | TooBroad | None:
    if item.tags:
        return _find_tagged(reader, types, item, after)
    examined = 0
    cursor = after
    end, _ = read_head(reader)
    query: Selector[Any] = Selector((item,))
    while cursor < end:
        page = read_log(reader, types, after=cursor, limit=1, bytes_max=1, where=query)
        if page.records:
            return page.records[0].position
        examined += PAGE_EXAMINED  # a page without a record ends for nothing else, or at the end of the log
        cursor = page.examined
        if examined >= CONDITION_ROWS and cursor < end:
            return TooBroad()
    return None


def _find_tagged(reader: Reader, types: Sequence[TypeName], item: Item, after: Position) -> Position | TooBroad | None:
    rows = [
        [keys.last_number(key) for key, _ in reader.scan("tags", keys.tag(tag, after + 1), keys.after_prefix(keys.named(tag)), CONDITION_ROWS + 1)]
        for tag in item.tags
    ]
    rarest = min(rows, key=len)
    for position in rarest[:CONDITION_ROWS]:
        record = record_at(reader, types, Position(position))
        if item.matches(record.stream, record.type, record.tags):
            return record.position
    return TooBroad() if len(rarest) > CONDITION_ROWS else None
