"""What a store holds beside its log, as it is read at one place and loaded at another. See `Moves`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from perdure.backends.engine import Kept
from perdure.backends.event import Position

if TYPE_CHECKING:
    from perdure.backends.protocol import Snapshot


@attrs.frozen
class BucketEntry:
    """An entry as it is kept, with its bucket."""

    bucket: str
    key: bytes
    revision: int
    value: bytes


@attrs.frozen
class Tombstone:
    """What is kept of an entry that was deleted: the revision of that, and its time."""

    bucket: str
    key: bytes
    revision: int
    at_us: int


@attrs.frozen
class Answered:
    """What is kept of a commit that had an idempotency key."""

    id: bytes
    kept: Kept


@attrs.frozen
class EntryPage:
    """Some entries; *after* is what to ask for next, None at the end. A page may be empty and not the last."""

    entries: list[BucketEntry]
    after: bytes | None


@attrs.frozen
class Traced:
    """An entry that was changed or deleted; *mark* is another one each time."""

    bucket: str
    key: bytes
    mark: int


@attrs.frozen
class TracePage:
    """Some of what was changed since a trace was begun; *after* as in `EntryPage`."""

    trace: int
    """Which one it is, as `begin_trace` says; 0: there is none."""
    traced: list[Traced]
    after: bytes | None


@attrs.frozen
class AgedPage:
    """Some of what is to be forgotten one day, in order of its time; *after* as in `EntryPage`."""

    aged: list[Tombstone | Answered]
    after: bytes | None


@attrs.frozen
class SnapshotHead:
    """Which snapshot it is: all but its state."""

    name: str
    position: Position
    fingerprint: str
    at_us: int


@attrs.frozen
class Numbers:
    """A store's counters: the newest revision, its last time, and by bucket up to which revision deletes are forgotten."""

    revision: int
    at_us: int
    compacted: dict[str, int] = attrs.field(factory=dict)


@attrs.define
class Rest:
    """What is to be laid over what a store holds beside its log: put as it is here, taken away where it is among the *gone*."""

    entries: list[BucketEntry] = attrs.field(factory=list)
    aged: list[Tombstone | Answered] = attrs.field(factory=list)
    snapshots: list[Snapshot] = attrs.field(factory=list)
    gone: list[tuple[str, bytes]] = attrs.field(factory=list)
    """Entries and tombstones, by bucket and key."""
    gone_answers: list[bytes] = attrs.field(factory=list)
    gone_snapshots: list[tuple[str, Position]] = attrs.field(factory=list)
    numbers: Numbers | None = None

    def __bool__(self) -> bool:
        return any((self.entries, self.aged, self.snapshots, self.gone, self.gone_answers, self.gone_snapshots, self.numbers))
