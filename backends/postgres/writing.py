"""What was decided, as one statement that writes all of it: rows as arrays, one part for each table that it touches. Pure but for the types of values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final

import attrs

from perdure.backends.apply import UNWATCHED
from perdure.backends.build import Piece
from perdure.backends.commit import Draft
from perdure.backends.engine import Change, Decisions, Facts, Needs
from perdure.backends.event import Record
from perdure.backends.postgres.news import heard_by
from perdure.backends.postgres.packing import pack_drawn, pack_kept
from perdure.backends.postgres.runs import Rows
from perdure.backends.postgres.wire import EPOCH_US, Question, Statement, Value, bodies, int8, int8s, texts, times


def _part(sql: str, types: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """What writes to one table, and the types of its values."""
    return sql, types


_COLUMNS: Final = "position, events, stream, seq, type, version, at, commit, ordinal, commit_end, crcs, ends, payload, extra, moved, sealed_at"
_ROWS: Final = (
    "SELECT p + h.moved, n, s, q, t, v, greatest(a, h.at_before), c, o, e + h.moved, k, f, b, x, nullif(h.moved, 0), CASE WHEN h.at_before > a THEN a END"
)
_ROWS_OF: Final = "unnest({0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}, {9}, {10}, {11}, {12}, {13}"
_ROWS_AS: Final = "AS r (p, n, s, q, t, v, a, c, o, e, k, f, b, x"
_ROW_TYPES: Final = (
    *("int8[]", "int8[]", "text[]", "int8[]", "text[]", "int8[]", "timestamptz[]"),
    *("bytea[]", "int8[]", "int8[]", "bytea[]", "bytea[]", "bytea[]", "bytea[]"),
)
_HEAD: Final = (
    "UPDATE perdure.head SET position = position + {0}, revision = revision + {1}, at_before = at, at = greatest(at, {2})"
    " WHERE store = {3} AND epoch = {4} AND loading = LOADING AND moved = '' AND position = coalesce({5}, position) AND revision = coalesce({6}, revision)"
    " RETURNING position - {0} AS follows, revision - {1} AS since, at_before, position - {0} - {7} AS moved, NOT pg_try_advisory_xact_lock({8}) AS heard"
)
_HEAD_TYPES: Final = ("int8", "int8", "timestamptz", "text", "int8", "int8", "int8", "int8", "int8")
_IF_DONE: Final = "(SELECT true FROM head)"

_PARTS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "head": _part(_HEAD.replace("LOADING", "false"), _HEAD_TYPES),
    "loading": _part(_HEAD.replace("LOADING", "true"), _HEAD_TYPES),
    "events": _part(
        f"INSERT INTO perdure.runs ({_COLUMNS}) {_ROWS} FROM head h, {_ROWS_OF}) {_ROWS_AS})",
        _ROW_TYPES,
    ),
    "single": _part(
        f"INSERT INTO perdure.runs ({_COLUMNS}) SELECT p + h.moved, 1, s, q, t, v, greatest(a, h.at_before), c, 0, p + h.moved, k, NULL, b, '',"
        " nullif(h.moved, 0), CASE WHEN h.at_before > a THEN a END"
        " FROM head h, unnest({0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}) AS r (p, s, q, t, v, a, c, k, b)",
        ("int8[]", "text[]", "int8[]", "text[]", "int8[]", "timestamptz[]", "bytea[]", "bytea[]", "bytea[]"),
    ),
    "tagged": _part(
        f"INSERT INTO perdure.runs ({_COLUMNS}, tags) {_ROWS}, g::text[] FROM head h, {_ROWS_OF}, {{14}}) {_ROWS_AS}, g)",
        (*_ROW_TYPES, "text[]"),
    ),
    "tags": _part("INSERT INTO perdure.tags (tag, position) SELECT DISTINCT t, p + h.moved FROM head h, unnest({0}, {1}) AS r (t, p)", ("text[]", "int8[]")),
    "names": _part("INSERT INTO perdure.names (name, first) SELECT n, f FROM unnest({0}, {1}) AS r (n, f) WHERE " + _IF_DONE, ("text[]", "int8[]")),
    "put": _part(
        "INSERT INTO perdure.kv (bucket, key, revision, value, watched, deleted)"
        " SELECT b, k, r, v, w = 1, CASE WHEN v IS NULL THEN {5} END FROM unnest({0}, {1}, {2}, {3}, {4}) AS n (b, k, r, v, w)"
        f" WHERE {_IF_DONE}"
        " ON CONFLICT (bucket, key) DO UPDATE SET revision = excluded.revision, value = excluded.value, deleted = excluded.deleted",
        ("text[]", "bytea[]", "int8[]", "bytea[]", "int8[]", "timestamptz"),
    ),
    "delete": _part(
        f"DELETE FROM perdure.kv USING unnest({{0}}, {{1}}) AS gone (bucket, key) WHERE kv.bucket = gone.bucket AND kv.key = gone.key AND {_IF_DONE}",
        ("text[]", "bytea[]"),
    ),
    "snapshots": _part(
        "INSERT INTO perdure.snapshots (name, position, fingerprint, at, state) SELECT * FROM unnest({0}, {1}, {2}, {3}, {4}) AS s"
        f" WHERE {_IF_DONE}"
        " ON CONFLICT (name, position) DO UPDATE SET fingerprint = excluded.fingerprint, at = excluded.at, state = excluded.state",
        ("text[]", "int8[]", "text[]", "timestamptz[]", "bytea[]"),
    ),
    "dropped": _part(
        "DELETE FROM perdure.snapshots s USING unnest({0}, {1}) AS gone (name, position) WHERE s.name = gone.name AND s.position = gone.position"
        f" AND {_IF_DONE}",
        ("text[]", "int8[]"),
    ),
    "kept": _part(
        "INSERT INTO perdure.commits (id, at, kept) SELECT * FROM unnest({0}, {1}, {2}) AS k WHERE " + _IF_DONE,
        ("bytea[]", "timestamptz[]", "bytea[]"),
    ),
    "drawn": _part(
        f"INSERT INTO perdure.writers (owner, at, drawn) SELECT {{0}}, {{1}}, {{2}} WHERE {_IF_DONE}"
        " ON CONFLICT (owner) DO UPDATE SET at = excluded.at, drawn = excluded.drawn",
        ("bytea", "timestamptz", "bytea"),
    ),
}


@attrs.frozen
class Place:
    """Where a group is to be written.

    *store* and *epoch* are those of the facts that it was judged by; *follows* and *since* the position and revision,
    which must be the store's still where *fixed_position*, *fixed_revision*.
    """

    store: str
    epoch: int
    follows: int
    since: int
    fixed_position: bool = True
    fixed_revision: bool = True

    @classmethod
    def believed(cls, store: str, epoch: int, facts: Facts, needs: Needs, done: Decisions) -> Place:
        """Where what was decided by beliefs may be written: wherever nothing is otherwise that it was decided by, or that it says."""
        said = bool(done.kept or (done.drawn and done.pieces))
        revision = said or bool(needs.entries or needs.leases or done.changes or done.states or done.drawn)
        return cls(store, epoch, facts.head, facts.revision, said or bool(needs.conditions), revision)


def write(done: Decisions, place: Place, owner: bytes, *, alone: bool) -> Question:
    """All that was decided, if it is still *place*; *owner* is who keeps the ids of its last group; *alone*: as a transaction of its own.

    The answer is a row, if it was written: the position and revision before it, the time before it, and whether somebody listens.
    """
    head = int8(done.head - place.follows), int8(done.revision - place.since), _time(done.at_us)
    guards = place.store.encode(), int8(place.epoch), _if(place.fixed_position, place.follows), _if(place.fixed_revision, place.since)
    parts: dict[str, list[Value]] = {"head": [*head, *guards, int8(place.follows), int8(heard_by(place.store))]}
    if done.pieces:
        parts |= events(Rows.of(done.commits, done.pieces), {piece.stream: 1 for piece in done.pieces if piece.first_seq == 1})
    if done.changes or done.states:
        parts |= _entries(done)
    if done.snapshots:
        parts |= _snapshots(done)
    if done.kept:
        ids, kept = zip(*done.kept, strict=True)
        parts["kept"] = [bodies(ids), times([one.at_us for one in kept]), bodies(list(map(pack_kept, kept)))]
    if done.drawn:
        parts["drawn"] = [owner, _time(done.at_us), pack_drawn(done.drawn)]
    return _together(parts, alone=alone)


def _if(wanted: bool, value: int) -> Value:
    return int8(value) if wanted else None


def _together(parts: dict[str, list[Value]], *, alone: bool) -> Question:
    return Question(_statement(tuple(parts), alone), [value for values in parts.values() for value in values])


@lru_cache(maxsize=512)
def _statement(names: tuple[str, ...], alone: bool) -> Statement:
    """One statement of these parts: nothing is written unless the head was."""
    types: list[str] = []
    found: list[str] = []
    for name in names:
        sql, wanted = _PARTS[name]
        found.append(f"{'head' if name == 'loading' else name} AS ({sql.format(*(f'${len(types) + number}' for number in range(1, len(wanted) + 1)))})")
        types += wanted
    return Statement(f"WITH {', '.join(found)} SELECT follows, since, at_before, heard FROM head", tuple(types), alone)


def _time(at_us: int) -> bytes:
    return int8(at_us - EPOCH_US)


# -- events ----------------------------------------------------------------------------------


def events(rows: Rows, new: dict[str, int]) -> dict[str, list[Value]]:
    """The parts for *rows*; *new*: the streams that begin with them, and with which seq."""
    parts: dict[str, list[Value]] = {}
    if any(rows.tags):
        parts["tagged"] = [*rows.values(), texts([_literal(one) if one else None for one in rows.tags])]
        pairs = [(tag, position) for position, own in zip(rows.positions, rows.tags, strict=True) for tag in own]
        parts["tags"] = [texts([tag for tag, _ in pairs]), int8s([position for _, position in pairs])]
    else:
        parts["single" if rows.single else "events"] = rows.values()
    if new:
        parts["names"] = [texts(new), int8s(list(new.values()))]
    return parts


def _literal(tags: Iterable[str]) -> str:
    """Tags as the text of an array: arrays of arrays are not taken apart as one would like."""
    return "{" + ",".join('"' + tag.replace("\\", "\\\\").replace('"', '\\"') + '"' for tag in tags) + "}"


def load(records: Sequence[Record], firsts: dict[str, int], place: Place) -> Question:
    """The records of a store that is being loaded; *firsts*: the streams that begin with them, and with which seq."""
    last = records[-1]
    place_of = dict[bytes, int]()
    for record in records:
        place_of.setdefault(record.commit, len(place_of))
    times_us = {record.commit: record.at_us for record in records}
    pieces = [_piece(own, place_of[own[0].commit]) for own in _in_a_row(records)]
    head: list[Value] = [int8(last.position - place.follows), int8(0), _time(last.at_us), place.store.encode(), int8(place.epoch), None, None]
    rows = Rows.of(list(times_us.items()), pieces)
    return _together({"loading": [*head, int8(place.follows), int8(heard_by(place.store))]} | events(rows, firsts), alone=False)


def _in_a_row(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Records of one commit and stream whose seqs, positions and ordinals follow each other."""
    own: list[Record] = []
    for record in records:
        if own:
            before = own[-1]
            follows = (before.stream, before.commit, before.seq + 1, before.position + 1, before.ordinal + 1)
            if follows != (record.stream, record.commit, record.seq, record.position, record.ordinal):
                yield own
                own = []
        own.append(record)
    yield own


def _piece(records: Sequence[Record], commit: int) -> Piece:
    first = records[0]
    drafts = [Draft(record.type, record.version, record.payload, record.extra, record.tags) for record in records]
    return Piece(first.stream, first.seq, first.position, commit, first.ordinal, drafts)


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
