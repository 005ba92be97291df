"""What a backend is: one write verb, reads at a position, waits that are hints.

Every outcome is a value or an error of `perdure.backends.errors`; nothing else leaves a backend. A
cancelled read or wait has changed nothing; a commit that has begun is not interrupted.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, cast

import attrs

from perdure.backends.carried import AgedPage, BucketEntry, EntryPage, Numbers, Rest, SnapshotHead, Traced, TracePage
from perdure.backends.commit import Commit, Committed, Group
from perdure.backends.event import Position, Record
from perdure.backends.progress import Told, nobody
from perdure.backends.recovery import Recovery
from perdure.backends.selector import EVERYTHING, Selector


class State(enum.StrEnum):
    """Whether a store can be asked. Drawn in ARCHITECTURE.md."""

    OPEN = "open"
    DOUBTFUL = "doubtful"
    """A flush failed: nobody knows what of it is stored, until `Backend.reopen`. Nothing is committed, reads go on as far as they can."""
    REOPENING = "reopening"
    """Reads wait."""
    LOADING = "loading"
    """It is being filled by a restore, an import or a migration, or that was cut off: nothing is committed until `Backend.end_load`."""
    MOVED = "moved"
    """Its place is elsewhere, as `Backend.moved_to` says: nothing is committed here any more."""
    CLOSED = "closed"


@attrs.frozen
class Capabilities:
    """What a backend can do beyond the laws that all obey. Declared means it works; undeclared means `Unsupported`."""

    durable: bool = False
    """What it acknowledged is there after the process died."""
    views: bool = True
    """`view` gives reads of one position."""
    shared_reads: bool = False
    """Other processes may read the store meanwhile."""
    shared_writes: bool = False
    """Other processes may write to the store meanwhile."""
    loads: bool = False
    """Records can be loaded into it as they were elsewhere: `begin_load`, `load`, `end_load`."""
    images: bool = False
    """Its rows can be read as they are at one moment, and loaded as they are: `moment`, `load_rows`."""
    cuts: bool = False
    """The front of a stream can be cut: `Cut`, `cuts`, `load_cuts`."""
    writes: bool = True
    """Something can be stored through this handle: it was not opened for reading only."""
    moves: bool = False
    """All that it holds beside its log can be read and loaded as it is, and it can be left for another place: see `Moves`."""
    upkeep: bool = True
    """It is kept up through this handle: `maintain`, `scrub` and `shrink`. Else somebody else does it, and they do nothing."""

    def declared(self) -> tuple[str, ...]:
        """The names of those it has."""
        return tuple(name for name, has in attrs.asdict(self).items() if has)


@attrs.frozen
class Page:
    """Records in order of position; *examined* is how far the log was looked through, *head* where it ended then.

    A page holds whole commits. A follower's cursor becomes *examined*; it waits only when
    `examined >= head`.
    """

    records: list[Record]
    examined: Position
    head: Position


@attrs.frozen
class Entry:
    """A kv value with its revision."""

    key: bytes
    value: bytes
    revision: int


@attrs.frozen
class ChangedEntry:
    """A key that changed at *revision*; *value* None means it was deleted."""

    key: bytes
    revision: int
    value: bytes | None


@attrs.frozen
class Changes:
    """Changes of a bucket in order of revision, the last of each key; *examined* is the revision looked through to."""

    changes: list[ChangedEntry]
    examined: int


@attrs.frozen
class Snapshot:
    """A projection's state as kept: the fold of the log up to *position*."""

    name: str
    position: Position
    fingerprint: str
    state: bytes
    at_us: int


@attrs.frozen
class StreamInfo:
    """A stream as a whole: *first* is 1 until something is cut, *last* its last seq, *position* that of its newest event.

    Of the newest event that was cut *cut* is the position (0: none was); *archive* (a CID) is the newest one that has some of what was.
    """

    name: str
    first: int
    last: int
    position: Position
    cut: Position = Position(0)
    archive: str | None = None


@attrs.frozen
class CutBound:
    """Of *category*, events of *type* (None: of whatever type) have been cut; the newest stood at *position*, in *stream*.

    *times* grows with each cut that is told of here, so who knows the streams that had been cut sees whether there may be more.
    """

    category: str
    type: str | None
    position: Position
    stream: str
    times: int = 1


@attrs.frozen
class StoreStatus:
    """What a backend says of itself, as numbers."""

    url: str
    id: str
    head: Position
    revision: int
    bytes_used: int
    bytes_limit: int
    verified: str
    """How far the stored bytes have been checked since the last unclean stop."""
    scrubbed_rows: int = 0
    """How many the scrub under way has read; 0: none is."""
    damages: tuple[str, ...] = ()
    """What scrubs have found since the store was opened, each a sentence."""
    state: State = State.OPEN
    recovery: Recovery = attrs.field(factory=Recovery)
    """What opening found of the last stop."""
    details: dict[str, Any] = attrs.field(factory=dict)
    """What only this kind of backend knows: flush times, oldest reader, and so on."""


class Reads(Protocol):
    """What can be asked of a store; a `View` answers all of it at one position."""

    async def read_stream(self, stream: str, *, after: int, limit: int, bytes_max: int, backward: bool = False) -> list[Record]:
        """Records of *stream* with a seq beyond *after*, oldest first; *backward*: below *after* (0: from the end), newest first.

        At least one record if there is one, however large.

        Raises:
          Truncated: what was asked for begins before the stream's first seq; backward: is all before it.
          Corrupt: a record does not fit its checksum.
        """
        ...

    async def read_log(
        self, *, after: Position, limit: int, bytes_max: int, where: Selector[Any] = EVERYTHING, over_cuts: bool = False
    ) -> Page:
        """A page of the log beyond *after*; *limit* and *bytes_max* are soft by one commit.

        It ends also after 10,000 examined records.

        Raises:
          Rewound: *after* is beyond the head.
          Truncated: beyond *after* events have been cut that *where* may select (by stream, or by category and type); with *over_cuts* what
            is left is given.
          Corrupt: a record does not fit its checksum.
        """
        ...

    async def head(self) -> Position:
        """The last position; 0 while there is none."""
        ...

    async def revision(self) -> int:
        """The revision of the newest change of kv; 0 while there is none."""
        ...

    async def answer(self, id: bytes) -> Committed | None:
        """What was answered to the commit of that id, if it is known."""
        ...

    async def get(self, bucket: str, key: bytes) -> Entry | None:
        """The entry, or None."""
        ...

    async def scan(self, bucket: str, *, prefix: bytes = b"", after: bytes | None = None, limit: int) -> list[Entry]:
        """Entries in order of their keys, those beyond *after*."""
        ...

    async def read_changes(self, bucket: str, *, after: int, limit: int) -> Changes:
        """What changed beyond revision *after*, coalesced, deletes included.

        Raises:
          Compacted: deletes since *after* have been forgotten.
        """
        ...

    async def read_snapshot(self, name: str, *, at_most: Position | None = None) -> Snapshot | None:
        """The newest snapshot of *name*, not beyond *at_most*."""
        ...

    async def snapshots(self, name: str) -> list[Position]:
        """The positions at which snapshots of *name* are kept, oldest first."""
        ...

    async def stream(self, name: str) -> StreamInfo | None:
        """What is known of a stream; None while it has no event."""
        ...

    async def cuts(self) -> list[CutBound]:
        """How far the log has been cut, for each category and type of which something was."""
        ...

    async def streams(self, *, prefix: str = "", after: str | None = None, limit: int) -> list[StreamInfo]:
        """Streams in order of their names' bytes, those beyond *after*."""
        ...


class Hastens(Protocol):
    """A backend behind which somebody may run projections, and can be told that what he keeps is waited for."""

    async def hasten(self, name: str, position: Position) -> bool:
        """Let whoever runs the projection *name* there keep what it has, once it has reached *position*, or after some seconds; False: nobody does.

        Raises:
          ModelFaulted: it stands still for good.
        """
        ...


class Moment(Protocol):
    """All rows of a store as they are at one moment, a slice at a time, while others write. It is an iterator of (table, rows)."""

    @property
    def id(self) -> str:
        """The store's id."""
        ...

    @property
    def head(self) -> Position:
        """Where its log ends."""
        ...

    @property
    def revision(self) -> int:
        """The revision of its newest change of kv."""
        ...

    @property
    def at_us(self) -> int:
        """Its last time."""
        ...

    def __aiter__(self) -> AsyncIterator[tuple[str, list[tuple[bytes, bytes]]]]: ...

    async def __anext__(self) -> tuple[str, list[tuple[bytes, bytes]]]:
        """The next slice: rows of one table, in order of their keys; tables in the order of `keys.TABLES`.

        Raises:
          Unavailable: a flush has failed meanwhile, and the store has to be reopened: begin again.
        """
        ...


class View(Reads, Protocol):
    """Reads that all stand at one position."""


class Held(Protocol):
    """A store to which nobody commits for the moment."""

    async def mark(self, to: str, *, revision: int = 0) -> None:
        """Say that the store is at *to* from here on, '' that it is here again; revisions go on after *revision* at least. Durable on return.

        Raises:
          Unavailable: a flush failed, and nobody knows whether it says so.
        """
        ...


class Moves(Protocol):
    """What it takes to bring a store to another place: all that it holds beside its log, and a way to leave.

    Where `moves` is not declared, loading and leaving are `Unsupported`.
    """

    async def read_entries(self, *, beyond: int = 0, after: bytes = b"", limit: int, bytes_max: int) -> EntryPage:
        """Entries of all buckets, reserved ones too, with a revision beyond *beyond*; those of all revisions in order of bucket and key."""
        ...

    async def read_aged(self, *, since_us: int = 0, after: bytes = b"", limit: int) -> AgedPage:
        """Tombstones, and answers to idempotency keys, of that time or later."""
        ...

    async def read_these(self, keys: Sequence[tuple[str, bytes]], *, bytes_max: int) -> tuple[list[BucketEntry], int]:
        """Those of the entries, named by bucket and key, that there are; and how many names were looked at, in their order: at least one."""
        ...

    async def begin_trace(self) -> int:
        """Note from here on which entries are changed, by all processes, whatever their bucket; what was noted before is forgotten.

        Returns its number, which no other trace has. It is noted until `end_trace`, for a day at least.
        """
        ...

    async def read_trace(self, *, after: bytes = b"", limit: int) -> TracePage:
        """What was changed since then, each entry once."""
        ...

    async def forget_trace(self, traced: Sequence[Traced]) -> None:
        """Forget that these were changed, unless they were changed again."""
        ...

    async def end_trace(self) -> None:
        """Note nothing any more."""
        ...

    async def snapshot_heads(self) -> list[SnapshotHead]:
        """All snapshots, in order of name and position."""
        ...

    async def read_numbers(self) -> Numbers:
        """The store's counters."""
        ...

    async def load_rest(self, rest: Rest) -> None:
        """Lay *rest* over what is there, while the store is being loaded; durable on return, all or none.

        Raises:
          Misuse: the store is not being loaded.
        """
        ...

    async def moved_to(self) -> str:
        """Where the store is now; '' if it is here."""
        ...

    def hold_commits(self) -> AbstractAsyncContextManager[Held]:
        """Nobody commits while the body runs, in any process: it is to be short. What waits meanwhile goes on after it.

        Raises:
          Unavailable: another keeps the right to write.
        """
        ...

    def claim_move(self) -> AbstractAsyncContextManager[None]:
        """The right to bring the store elsewhere, in one process at a time; who dies loses it. Whoever cuts has it for that long: none does meanwhile.

        Raises:
          Unavailable: another has it.
        """
        ...


class Backend(Reads, Moves, Protocol):
    """A store that is open."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def id(self) -> str:
        """The store's id, made at creation: 32 hexadecimal digits."""
        ...

    async def commit(self, commits: Sequence[Commit]) -> Group:
        """Make *commits* durable with one flush, each answered by itself, in order; a later one sees the earlier ones.

        What concerns one commit alone (a conflict, a key reused, no room, a damaged stream that it appends to) is its answer.

        On return every later read, by any process, sees them. Once begun it is not interrupted.

        Raises:
          Unavailable: not begun; nothing will happen later. Where `state` is doubtful, `reopen` is the remedy.
          Unsupported: it was opened for reading only.
          StoreMoved: the store is elsewhere; nothing was stored.
          InDoubt: the flush failed; the store is doubtful. `reopen` it, then ask for each commit's `answer`.
          Closed: not begun.
        """
        ...

    @property
    def state(self) -> State:
        """Whether it can be asked."""
        ...

    async def reopen(self) -> None:
        """Bring a doubtful store back: cut its views, close it, open it again, and learn what is stored of the commits in doubt.

        On return it is open and `answer` knows each of them. At once where nothing is in doubt. If cancelled, it is as it was or open.

        Raises:
          Unavailable: it does not open now; try again.
          Corrupt, WrongStore, TooNew, Misuse: it will not.
        """
        ...

    async def wait_beyond(self, position: Position) -> None:
        """Return when the head is beyond *position*; at once if it is already.

        Raises:
          StoreMoved: nothing will come here any more.
        """
        ...

    async def wait_changed(self, revision: int) -> None:
        """Return when kv has changed beyond *revision*; at once if it has already.

        Raises:
          StoreMoved: nothing will come here any more.
        """
        ...

    def view(self) -> AbstractAsyncContextManager[View]:
        """Reads that all stand at one position, for 5 s at most: then the body is cancelled and `Closed` raised."""
        ...

    def moment(self) -> AbstractAsyncContextManager[Moment]:
        """All rows as they are now, for a backup: no matter how long it takes.

        Raises:
          Unsupported: `images` is not declared.
        """
        ...

    async def begin_load(self, *, anew: bool = False) -> None:
        """Begin to load an empty store, or go on where loading it was cut off; *anew*: with nothing in it.

        One that was moved elsewhere may be loaded again, with what has come since: it does not say any more that it was moved.

        On return its state is loading, durably: nothing is committed, by any process, until `end_load`.

        Raises:
          Misuse: it holds data that was not loaded.
          Unsupported: `loads` is not declared.
        """
        ...

    async def load(self, records: Sequence[Record]) -> None:
        """Store whole commits under their own positions, seqs, ids and times, beyond what is there; durable on return, all or none.

        Positions may have gaps, seqs not; a stream may begin beyond seq 1.

        Raises:
          Misuse: they do not follow what is there, or a commit is not whole; or the store is not being loaded.
          Corrupt: one does not fit its checksum.
          Unavailable: a flush failed; go on from the head, once it was reopened.
        """
        ...

    async def load_cuts(self, streams: Sequence[StreamInfo], cuts: Sequence[CutBound]) -> None:
        """Take over what was cut elsewhere (`stream`, `cuts`), before the records that were left; durable on return, all or none.

        Raises:
          Misuse: a stream is there already, or nothing was cut of it; or the store is not being loaded.
        """
        ...

    async def load_rows(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Store rows as `moment` gives them, whatever they say; durable on return. The store keeps its own id.

        Raises:
          Misuse: there is no such table, or the store is not being loaded.
          Unsupported: `images` is not declared.
        """
        ...

    async def end_load(self) -> None:
        """All has been loaded: durably open on return. At once where nothing is being loaded."""
        ...

    async def now_us(self) -> int:
        """The later of the store's last time and its machine's clock: a proposal may be 300 s ahead of it."""
        ...

    async def maintain(self) -> bool:
        """Do one bounded slice of upkeep (merge small frames, forget old tombstones and keys); whether more is due."""
        ...

    async def shrink(self) -> str:
        """Give room that is not used back to the disk, if that can be done now; '' when it was, else why not.

        Reads and commits wait meanwhile, views are cut. If cancelled, it was done or not, and is open.

        Raises:
          Unavailable: somebody writes or reads, and does not end; nothing was done.
        """
        ...

    async def verify(self, progress: Told = nobody) -> list[str]:
        """Read everything and check it: checksums, seqs, indexes both ways, revisions. The problems found, each a sentence that names what is lost.

        Raises:
          Unavailable: a flush has failed meanwhile, and the store has to be reopened: begin again.
        """
        ...

    async def scrub(self) -> bool:
        """Read one bounded slice (about a millisecond) of what is kept, and check it; whether there is more of this round.

        What it finds is in the status as `damages`, and how far it is; commits and reads go on between two slices.
        """
        ...

    async def store_status(self) -> StoreStatus:
        """Numbers about the store."""
        ...

    async def aclose(self) -> None:
        """Close it, cleanly if possible. Idempotent."""
        ...


def hastens(backend: Backend) -> Hastens | None:
    """*backend* as one that `Hastens`, if it is; it may stand behind another."""
    return cast(Hastens, backend) if hasattr(backend, "hasten") else None
