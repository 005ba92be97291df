"""What the engine decides on, as the tables of a store have it: last seqs, revisions, kept answers, conditions, fences. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perdure.backends import keys
from perdure.backends.commit import LEASES, Unless
from perdure.backends.engine import Facts, Needs, TooBroad
from perdure.backends.event import Position
from perdure.backends.frame import TypeName
from perdure.backends.limits import CONDITION_ROWS, PAGE_EXAMINED
from perdure.backends.selector import Item, Selector
from perdure.backends.tables import Cache, Reader, get, last_seq, read_head, read_kept, read_log, record_at


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
    for name in needs.leases:
        entry = get(reader, LEASES, name.encode())
        known.leases[name] = 0 if entry is None else int.from_bytes(entry.value[:8], "big")
    return known


def find_match(reader: Reader, types: Sequence[TypeName], condition: Unless) -> Position | TooBroad | None:
    """The first event beyond the condition's position that its query selects."""
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
