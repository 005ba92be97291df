"""What becomes of a backup's rows in the store that is made of them: where its log is to end, and what else changes. Pure.

A `Survey` reads all rows once; a `Rewriter` turns them into those of the new store: another id in its checkpoints,
fences and revisions beyond any that somebody may remember, and, where the log is cut, nothing that knows more than it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs
import msgspec

from perdure.actors import cursor
from perdure.actors.cursor import Checkpoint
from perdure.backends import bounds, cutting, frame, keys, tables
from perdure.backends.commit import BEATS, CHECKPOINTS, LEASES, MODELS
from perdure.backends.engine import Kept
from perdure.backends.errors import Misuse, PerdureError
from perdure.backends.event import Position, Record
from perdure.backends.frame import TypeName, type_name
from perdure.backends.protocol import CutBound, StreamInfo
from perdure.backends.sealing import sealed, unseal
from perdure.backends.stream_row import read_row

Rows = list[tuple[bytes, bytes]]

RAISE: Final = 1 << 32
"""Revisions go on at the next multiple of this: beyond all that the store itself may have given since the backup."""
SUBSCRIPTION: Final = "subscription "
"""What the checkpoints of named subscriptions begin with."""
_unpack_kept = msgspec.msgpack.Decoder(Kept).decode
_unpack_type = msgspec.msgpack.Decoder(tuple[int, str]).decode
_unpack_snapshot = msgspec.msgpack.Decoder(tables.SnapshotRow).decode


@attrs.frozen
class Cut:
    """Where a log is to end: *position* (of the end of a commit), as asked for by position or by time.

    *newer_us* and *older_us*: what was committed after the one is newer than the cut, before the other older.
    """

    position: Position
    newer_us: int
    older_us: int


@attrs.define
class Survey:
    """What has to be known of a backup before the first row is rewritten. Add its rows in their order; ask for the cut by *until*."""

    until_position: int | None = None
    until_us: int | None = None
    types: list[TypeName] = attrs.field(factory=list)
    snapshots: dict[str, list[tuple[int, str]]] = attrs.field(factory=dict)
    """Positions and fingerprints, by projection."""
    keyed: set[str] = attrs.field(factory=set)
    """Projections that have states of keys."""
    buckets: set[str] = attrs.field(factory=set)
    """The users' own."""
    revision: int = 0
    events: int = 0
    cut: Cut | None = None
    newer_from: int | None = None
    """A revision that is known to be newer than the cut, as is every later one,"""
    older_to: int = 0
    """and one that is known to be older, as is every earlier one."""
    cuts: list[StreamInfo] = attrs.field(factory=list)
    """Streams of which something has been cut,"""
    bounds: Rows = attrs.field(factory=list)
    """and the rows that say who is told of it."""
    _last: tuple[int, int] = (0, 0)
    _over: bool = False

    def add(self, table: str, rows: Rows) -> None:
        """Take note of some rows."""
        match table:
            case "meta":
                self._meta(rows)
            case "frames" if self._asked:
                for _, value in rows:
                    self._frame(value)
            case "streams":
                self._streams(rows)
            case "types":
                self.types += [_read_type(value) for _, value in rows]
            case "kv":
                self._entries(rows)
            case "keys" if self.cut is not None:
                for key, value in rows:
                    self._kept(key, value)
            case "ages" if self.cut is not None:
                for key, value in rows:
                    self._tombstone(key, value)
            case "snapshots":
                self._snapshots(rows)
        if self._asked and table != "frames" and table != "meta" and self.cut is None:
            self._end_log()

    def finish(self) -> None:
        """There are no more rows."""
        if self._asked and self.cut is None:
            self._end_log()

    def told_of(self) -> list[CutBound]:
        """Who is told of what has been cut. All rows have been added."""
        return [bounds.read_bound(key, value, self.types) for key, value in self.bounds]

    def check_cut(self) -> None:
        """Whether all that the log had up to its end is there: what was cut later cannot be brought back.

        Raises:
          Misuse: naming the first position where it is.
        """
        last = max(self.cuts, key=lambda stream: stream.cut, default=None)
        if self.cut is not None and last is not None and last.cut > self.cut.position:
            raise Misuse(
                f"events up to position {last.cut} had been cut when the backup was made (of stream {last.name!r} before seq {last.first}): "
                f"end at position {last.cut} or later, or take an older backup"
            )

    @property
    def _asked(self) -> bool:
        return self.until_position is not None or self.until_us is not None

    def _meta(self, rows: Rows) -> None:
        for key, value in rows:
            if key == b"revision":
                self.revision = keys.read_number(unseal("the store's number 'revision'", key, value))
            elif key.startswith(bounds.PREFIX):
                self.bounds.append((key, value))

    def _streams(self, rows: Rows) -> None:
        for key, value in rows:
            row = read_row(key, value)
            if row.cut:
                self.cuts.append(StreamInfo(key.decode(), row.first, row.first - 1, row.cut, row.cut, row.archive))

    def _frame(self, value: bytes) -> None:
        head = frame.read_head(value)
        self.events += head.records
        for _, at_us, end in head.commits if not self._over else ():
            position = head.first + end
            if (self.until_position is not None and position > self.until_position) or (self.until_us is not None and at_us > self.until_us):
                self._over = True
                self._end_log(at_us)
                return
            self._last = (position, at_us)

    def _end_log(self, newer_us: int | None = None) -> None:
        """The log is cut after the last commit that was looked at; *newer_us*: the time of the first one that goes."""
        position, at_us = self._last
        if self.until_us is not None:
            self.cut = Cut(Position(position), self.until_us, self.until_us + 1)
        else:
            self.cut = Cut(Position(position), (1 << 63) if newer_us is None else newer_us, at_us)

    def _entries(self, rows: Rows) -> None:
        for key, value in rows:
            bucket = key.partition(b"\0")[0].decode(errors="replace")
            if bucket.startswith(MODELS):
                self.keyed.add(bucket.removeprefix(MODELS))
            elif bucket == CHECKPOINTS and self.cut is not None:
                self._checkpoint(key, value)
            elif not bucket.startswith("$"):
                self.buckets.add(bucket)

    def _checkpoint(self, key: bytes, value: bytes) -> None:
        checkpoint = checkpoint_of(key, value)
        if checkpoint is not None and checkpoint[1].position > self._cut.position:
            self._is_newer(checkpoint[0])

    def _kept(self, key: bytes, value: bytes) -> None:
        try:
            kept = _unpack_kept(unseal("the row of a commit", key, value))
        except (PerdureError, msgspec.DecodeError):
            return
        revision = max((part for part in kept.parts if isinstance(part, int)), default=0)
        if revision and (kept.at_us > self._cut.newer_us or (kept.position or 0) > self._cut.position):
            self._is_newer(revision)
        elif revision and (kept.at_us < self._cut.older_us or (kept.position is not None and kept.position <= self._cut.position)):
            self.older_to = max(self.older_to, revision)

    def _tombstone(self, key: bytes, value: bytes) -> None:
        at_us, kind, _ = keys.read_aged(key)
        if kind == "tombstone" and len(value) == 8:
            if at_us > self._cut.newer_us:
                self._is_newer(keys.read_number(value))
            elif at_us < self._cut.older_us:
                self.older_to = max(self.older_to, keys.read_number(value))

    def _is_newer(self, revision: int) -> None:
        self.newer_from = revision if self.newer_from is None else min(self.newer_from, revision)

    @property
    def _cut(self) -> Cut:
        assert self.cut is not None
        return self.cut

    def _snapshots(self, rows: Rows) -> None:
        for key, value in rows:
            try:
                print_ = _unpack_snapshot(unseal("a snapshot", key, value)).fingerprint
            except (PerdureError, msgspec.DecodeError):
                continue
            self.snapshots.setdefault(key[:-9].decode(), []).append((keys.last_number(key), print_))


def _read_type(value: bytes) -> TypeName:
    version, name = _unpack_type(value)
    return type_name(name, version)


def checkpoint_of(key: bytes, value: bytes) -> tuple[int, Checkpoint] | None:
    """Revision and checkpoint of a row of the bucket of checkpoints; None if it cannot be read, or was deleted."""
    try:
        revision, raw = tables.read_entry(key, value)
        return None if raw is None else (revision, cursor.unpack_any(raw))
    except (PerdureError, msgspec.MsgspecError):
        return None


# -- rewriting -------------------------------------------------------------------------------


@attrs.define
class Rewriter:
    """Turns the rows of a backup of *store* into those of the store *id*. Counts what it does."""

    survey: Survey
    store: str
    id: str
    moved: list[str] = attrs.field(factory=list)
    """Whose checkpoints go back: models to a snapshot, subscriptions to the cut."""
    rebuilt: list[str] = attrs.field(factory=list)
    """Models of which nothing stays: they are built anew."""
    snapshots_dropped: int = 0
    fences: int = 0
    entries: int = 0
    newer_least: int = 0
    newer_most: int = 0
    _dropped: set[bytes] = attrs.field(factory=set)
    _dropped_models: set[str] = attrs.field(factory=set)
    _leases: set[bytes] = attrs.field(factory=set)

    @property
    def revision(self) -> int:
        """Where revisions go on."""
        return (self.survey.revision // RAISE + 1) * RAISE

    @property
    def _position(self) -> int | None:
        return None if self.survey.cut is None else self.survey.cut.position

    def records(self, rows: Rows) -> Iterator[list[Record]]:
        """The records of some frames up to the cut, those of each frame together."""
        assert self._position is not None
        firsts = {stream.name: stream.first for stream in self.survey.cuts}
        for _, value in rows:
            head = frame.read_head(value)
            if head.first <= self._position:
                found = frame.read_frame(value, self.survey.types, head=head, last=min(head.last, self._position))
                yield [record for record in found if record.seq >= firsts.get(record.stream, 1)]

    def rows(self, table: str, rows: Rows) -> Rows:
        """The rows to load for those of the backup. Where the log is cut, frames and their indexes are made from `records`."""
        match table:
            case "meta":
                return [row for row in rows if self._keeps_number(row[0])]
            case "frames" | "runs" | "streams" | "types" | "tags" if self._position is not None:
                return []
            case "kv":
                return [row for old in rows for row in self._entry(*old)]
            case "changes":
                lead = keys.named(LEASES)
                return [row for row in rows if not (row[0].startswith(lead) and lead + row[0][len(lead) + 8 :] in self._leases)]
            case "keys" if self._position is not None:
                return [row for row in rows if self._keeps_answer(*row)]
            case "ages" if self._position is not None:
                return [row for row in rows if keys.read_aged(row[0])[2] not in self._dropped]
            case "snapshots" if self._position is not None:
                kept = [row for row in rows if keys.last_number(row[0]) <= self._position]
                self.snapshots_dropped += len(rows) - len(kept)
                return kept
        return rows

    def more(self) -> Iterator[tuple[str, Rows]]:
        """What comes to the rows: the new revision, and from where on changes can be asked for."""
        numbers = {b"revision": self.revision, **{f"compacted {bucket}".encode(): self.revision for bucket in sorted(self.survey.buckets)}}
        yield "meta", [(key, sealed(key, keys.number(value))) for key, value in numbers.items()]
        lead = keys.named(LEASES)
        if self._leases:
            yield "changes", [(keys.change(LEASES, self.revision, row[len(lead) :]), b"") for row in sorted(self._leases)]

    def _keeps_number(self, key: bytes) -> bool:
        made_anew = key in (b"streams", b"merged") or key.startswith((bounds.PREFIX, cutting.SWEEP))
        return not (key == b"revision" or (self._position is not None and made_anew))

    # -- entries -----------------------------------------------------------------------------

    def _entry(self, key: bytes, value: bytes) -> Rows:
        bucket = key.partition(b"\0")[0].decode(errors="replace")
        if bucket == CHECKPOINTS:
            return self._checkpoint(key, value)
        if bucket == LEASES:
            return [(key, self._raised(key, value))]
        if bucket == BEATS:
            return []  # nobody lives in the new store: its leases need not be waited for
        if bucket.startswith(MODELS) and self._is_dropped(bucket.removeprefix(MODELS)):
            return []
        if not bucket.startswith("$"):
            self._count(key, value)
        return [(key, value)]

    def _count(self, key: bytes, value: bytes) -> None:
        try:
            revision, body = tables.read_entry(key, value)
        except PerdureError:
            return
        self.entries += body is not None
        if self._position is not None and body is not None:
            newer = self.survey.newer_from is not None and revision >= self.survey.newer_from
            self.newer_least += newer
            self.newer_most += newer or revision > self.survey.older_to

    def _raised(self, key: bytes, value: bytes) -> bytes:
        """A lease with a fence that nobody has: who held it conflicts, and acquires it anew."""
        try:
            _, body = tables.read_entry(key, value)
        except PerdureError:
            return value
        if body is None:
            return value
        self.fences += 1
        self._leases.add(key)
        return tables.pack_entry(key, self.revision, keys.number(self.revision) + body[8:])

    def _checkpoint(self, key: bytes, value: bytes) -> Rows:
        found = checkpoint_of(key, value)
        if found is None or found[1].store != self.store:
            return [(key, value)]
        name = key.partition(b"\0")[2].decode(errors="replace")
        checkpoint = self._set_back(name, msgspec.structs.replace(found[1], store=self.id))
        if checkpoint is None:
            self.rebuilt.append(name)
            return []
        if checkpoint.position != found[1].position:
            self.moved.append(name)
        return [(key, tables.pack_entry(key, self.revision, cursor.pack(checkpoint)))]

    def _set_back(self, name: str, checkpoint: Checkpoint) -> Checkpoint | None:
        """The checkpoint as it may stand at the cut; None if nothing of the model can."""
        if self._position is None or checkpoint.position <= self._position:
            return checkpoint
        if name.startswith(SUBSCRIPTION):
            return msgspec.structs.replace(checkpoint, position=self._position)
        place = self._snapshot(name, checkpoint.fingerprint)
        if name in self.survey.keyed or place is None:
            self._dropped_models.add(name)
            return None
        return msgspec.structs.replace(checkpoint, position=place, durable=place, fault="")

    def _snapshot(self, name: str, print_: str) -> int | None:
        """The newest snapshot that stands at or before the cut."""
        assert self._position is not None
        places = [place for place, made in self.survey.snapshots.get(name, ()) if place <= self._position and made == print_]
        return max(places, default=None)

    def _is_dropped(self, name: str) -> bool:
        """Whether the states of a keyed model go. Checkpoints come before states: `$c` sorts before `$m`."""
        return name in self._dropped_models

    # -- idempotency keys --------------------------------------------------------------------

    def _keeps_answer(self, key: bytes, value: bytes) -> bool:
        """Whether a commit is known still: one whose events are gone is not, so that a retry stores them."""
        assert self._position is not None
        try:
            kept = _unpack_kept(unseal("the row of a commit", key, value))
        except (PerdureError, msgspec.DecodeError):
            return True
        if kept.position is None or kept.position <= self._position:
            return True
        self._dropped.add(key)
        return False
