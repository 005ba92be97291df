"""What was decided, as one statement that writes all of it: rows as arrays, one part for each table that it touches. Pure but for the types of values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from perdure.backends.apply import UNWATCHED
from perdure.backends.build import records_of
from perdure.backends.commit import Alike
from perdure.backends.engine import Change, Decisions
from perdure.backends.event import Record, unpack_extra
from perdure.backends.postgres.packing import json_of, pack_drawn, pack_kept
from perdure.backends.postgres.wire import EPOCH_US, Question, Statement, Value, bodies, int8, int8s, texts, times


def _part(sql: str, types: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """What writes to one table, and the types of its values."""
    return sql, types


_PARTS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "head": _part(
        "UPDATE perdure.head SET position = {0}, revision = {1}, at = {2}",
        ("int8", "int8", "timestamptz"),
    ),
    "events": _part(
        "INSERT INTO perdure.events (position, commit_end, stream, seq, type, version, at, commit, ordinal, extra, payload, data, crc)"
        " SELECT * FROM unnest({0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}, {9}, {10}, {11}, {12})",
        ("int8[]", "int8[]", "text[]", "int8[]", "text[]", "int8[]", "timestamptz[]", "bytea[]", "int8[]", "bytea[]", "bytea[]", "jsonb[]", "int8[]"),
    ),
    "tagged": _part(
        "INSERT INTO perdure.events (position, commit_end, stream, seq, type, version, at, commit, ordinal, extra, payload, data, crc, tags)"
        " SELECT p, e, s, q, t, v, a, c, o, x, b, d, k, g::text[]"
        " FROM unnest({0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}, {9}, {10}, {11}, {12}, {13}) AS r (p, e, s, q, t, v, a, c, o, x, b, d, k, g)",
        (
            *("int8[]", "int8[]", "text[]", "int8[]", "text[]", "int8[]", "timestamptz[]"),
            *("bytea[]", "int8[]", "bytea[]", "bytea[]", "jsonb[]", "int8[]", "text[]"),
        ),
    ),
    "tags": _part("INSERT INTO perdure.tags (tag, position) SELECT DISTINCT * FROM unnest({0}, {1})", ("text[]", "int8[]")),
    "streams": _part(
        "INSERT INTO perdure.streams (name, first, last, position) SELECT * FROM unnest({0}, {1}, {2}, {3})"
        " ON CONFLICT (name) DO UPDATE SET last = excluded.last, position = excluded.position",
        ("text[]", "int8[]", "int8[]", "int8[]"),
    ),
    "put": _part(
        "INSERT INTO perdure.kv (bucket, key, revision, value, watched, deleted)"
        " SELECT b, k, r, v, w = 1, CASE WHEN v IS NULL THEN {5} END FROM unnest({0}, {1}, {2}, {3}, {4}) AS n (b, k, r, v, w)"
        " ON CONFLICT (bucket, key) DO UPDATE SET revision = excluded.revision, value = excluded.value, deleted = excluded.deleted",
        ("text[]", "bytea[]", "int8[]", "bytea[]", "int8[]", "timestamptz"),
    ),
    "delete": _part(
        "DELETE FROM perdure.kv USING unnest({0}, {1}) AS gone (bucket, key) WHERE kv.bucket = gone.bucket AND kv.key = gone.key",
        ("text[]", "bytea[]"),
    ),
    "snapshots": _part(
        "INSERT INTO perdure.snapshots (name, position, fingerprint, at, state) SELECT * FROM unnest({0}, {1}, {2}, {3}, {4})"
        " ON CONFLICT (name, position) DO UPDATE SET fingerprint = excluded.fingerprint, at = excluded.at, state = excluded.state",
        ("text[]", "int8[]", "text[]", "timestamptz[]", "bytea[]"),
    ),
    "dropped": _part(
        "DELETE FROM perdure.snapshots s USING unnest({0}, {1}) AS gone (name, position) WHERE s.name = gone.name AND s.position = gone.position",
        ("text[]", "int8[]"),
    ),
    "kept": _part(
        "INSERT INTO perdure.commits (id, at, kept) SELECT * FROM unnest({0}, {1}, {2})",
        ("bytea[]", "timestamptz[]", "bytea[]"),
    ),
    "drawn": _part(
        "INSERT INTO perdure.writers (owner, at, drawn) VALUES ({0}, {1}, {2}) ON CONFLICT (owner) DO UPDATE SET at = excluded.at, drawn = excluded.drawn",
        ("bytea", "timestamptz", "bytea"),
    ),
}


def write(done: Decisions, owner: bytes, *, people: bool = True) -> Question:
    """All that was decided; *owner* is who keeps the ids of its last group; *people*: with the JSON form of payloads."""
    parts: dict[str, list[Value]] = {"head": [int8(done.head), int8(done.revision), _time(done.at_us)]}
    if done.pieces:
        parts |= events(records_of(done.commits, done.pieces), any_tags=_has_tags(done), people=people)
    if done.changes or done.states:
        parts |= _entries(done)
    if done.snapshots:
        parts |= _snapshots(done)
    if done.kept:
        ids, kept = zip(*done.kept, strict=True)
        parts["kept"] = [bodies(ids), times([one.at_us for one in kept]), bodies(list(map(pack_kept, kept)))]
    if done.drawn:
        parts["drawn"] = [owner, _time(done.at_us), pack_drawn(done.drawn)]
    return _together(parts)


def _together(parts: dict[str, list[Value]]) -> Question:
    return Question(_statement(tuple(parts)), [value for values in parts.values() for value in values])


@lru_cache(maxsize=512)
def _statement(names: tuple[str, ...]) -> Statement:
    """One statement of these parts: nothing of it sees the others, and none needs to."""
    *before, last = names[1:] + names[:1]
    types: list[str] = []
    texts_of: dict[str, str] = {}
    for name in names:
        sql, wanted = _PARTS[name]
        texts_of[name] = sql.format(*(f"${len(types) + number}" for number in range(1, len(wanted) + 1)))
        types += wanted
    lead = "WITH " + ", ".join(f"{name} AS ({texts_of[name]})" for name in before) + " " if before else ""
    return Statement(lead + texts_of[last], tuple(types))


def _time(at_us: int) -> bytes:
    return int8(at_us - EPOCH_US)


# -- events ----------------------------------------------------------------------------------


def _has_tags(done: Decisions) -> bool:
    return any(draft.tags for piece in done.pieces if type(piece.events) is not Alike for draft in piece.events)


def events(records: Sequence[Record], *, any_tags: bool, people: bool = True, firsts: dict[str, int] | None = None) -> dict[str, list[Value]]:
    """The parts for *records*, whole commits in order of position; *firsts*: where streams begin that do not begin with 1."""
    ends = {record.commit: record.position for record in records}
    columns: list[Value] = [
        int8s([record.position for record in records]),
        int8s([ends[record.commit] for record in records]),
        texts([record.stream for record in records]),
        int8s([record.seq for record in records]),
        texts([record.type for record in records]),
        int8s([record.version for record in records]),
        times([record.at_us for record in records]),
        bodies([record.commit for record in records]),
        int8s([record.ordinal for record in records]),
        bodies([record.extra for record in records]),
        bodies([record.payload for record in records]),
        bodies([json_of(record.payload) if people else None for record in records], "jsonb"),
        int8s([record.crc for record in records]),
    ]
    last = {record.stream: record for record in records}
    parts: dict[str, list[Value]] = {}
    if any_tags:
        tags = [unpack_extra(record.extra).tags if record.extra else () for record in records]
        parts["tagged"] = [*columns, texts([_literal(one) if one else None for one in tags])]
        pairs = [(tag, record.position) for record, own in zip(records, tags, strict=True) for tag in own]
        parts["tags"] = [texts([tag for tag, _ in pairs]), int8s([position for _, position in pairs])]
    else:
        parts["events"] = columns
    parts["streams"] = [
        texts(last),
        int8s([(firsts or {}).get(stream, 1) for stream in last]),
        int8s([record.seq for record in last.values()]),
        int8s([record.position for record in last.values()]),
    ]
    return parts


def _literal(tags: Iterable[str]) -> str:
    """Tags as the text of an array: arrays of arrays are not taken apart as one would like."""
    return "{" + ",".join('"' + tag.replace("\\", "\\\\").replace('"', '\\"') + '"' for tag in tags) + "}"


def load(records: Sequence[Record], firsts: dict[str, int], revision: int) -> Question:
    """The records of a store that is being loaded."""
    last = records[-1]
    parts: dict[str, list[Value]] = {"head": [int8(last.position), int8(revision), _time(last.at_us)]}
    return _together(parts | events(records, any_tags=any(record.tags for record in records), firsts=firsts))


# -- entries and snapshots -------------------------------------------------------------------


def _entries(done: Decisions) -> dict[str, list[Value]]:
    """What each key is after the group."""
    left: dict[tuple[str, bytes], Change] = {}
    for change in done.changes:
        left[change.bucket, change.key] = change
    for states, revision in done.states:
        for key, value in states.entries:
            before = left.get((states.bucket, key))
            if before is None or before.revision <= revision:
                left[states.bucket, key] = Change(states.bucket, key, revision, value)
    puts = [change for change in left.values() if change.value is not None or not change.bucket.startswith(UNWATCHED)]
    gone = [change for change in left.values() if change.value is None and change.bucket.startswith(UNWATCHED)]
    parts: dict[str, list[Value]] = {}
    if puts:
        parts["put"] = [
            texts([change.bucket for change in puts]),
            bodies([change.key for change in puts]),
            int8s([change.revision for change in puts]),
            bodies([change.value for change in puts]),
            int8s([not change.bucket.startswith(UNWATCHED) for change in puts]),
            _time(done.at_us),
        ]
    if gone:
        parts["delete"] = [texts([change.bucket for change in gone]), bodies([change.key for change in gone])]
    return parts


def _snapshots(done: Decisions) -> dict[str, list[Value]]:
    """What snapshots there are after the group."""
    saved: dict[tuple[str, int], tuple[str, int, bytes]] = {}
    dropped: dict[tuple[str, int], None] = {}
    for snapshot, at_us in done.snapshots:
        for position in snapshot.drop:
            saved.pop((snapshot.name, position), None)
            dropped[snapshot.name, position] = None
        dropped.pop((snapshot.name, snapshot.position), None)
        saved[snapshot.name, snapshot.position] = (snapshot.fingerprint, at_us, snapshot.state)
    parts: dict[str, list[Value]] = {}
    if saved:
        parts["snapshots"] = [
            texts([name for name, _ in saved]),
            int8s([position for _, position in saved]),
            texts([fingerprint for fingerprint, _, _ in saved.values()]),
            times([at_us for _, at_us, _ in saved.values()]),
            bodies([state for _, _, state in saved.values()]),
        ]
    if dropped:
        parts["dropped"] = [texts([name for name, _ in dropped]), int8s([position for _, position in dropped])]
    return parts
