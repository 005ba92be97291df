"""What a store in a database holds beside its log, read and loaded as it is, and how it is left for another place. See `Moves`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from perdure.backends import keys
from perdure.backends.apply import UNWATCHED
from perdure.backends.carried import AgedPage, Answered, BucketEntry, EntryPage, Numbers, Rest, SnapshotHead, Tombstone
from perdure.backends.errors import Unavailable
from perdure.backends.event import Position, Record
from perdure.backends.limits import Limits
from perdure.backends.postgres import cutting, facts, filling, session
from perdure.backends.postgres.held import LEAVE_S
from perdure.backends.postgres.news import TELL
from perdure.backends.postgres.packing import pack_kept, unpack_kept
from perdure.backends.postgres.schema import LOADING
from perdure.backends.postgres.session import ASK_S
from perdure.backends.postgres.tracing import Ask, PostgresTraces
from perdure.backends.postgres.wire import EPOCH_US, Lost, Question, Refused, Statement, Wire, bodies, int8, int8s, texts, times
from perdure.backends.protocol import CutBound, StreamInfo

_ENTRIES: Final = Statement(
    "SELECT bucket, key, revision, value, spent FROM (SELECT bucket, key, revision, value, octet_length(value) + 100 AS own,"
    " sum(octet_length(value) + 100) OVER (ORDER BY bucket, key ROWS UNBOUNDED PRECEDING)::int8 AS spent"
    " FROM perdure.kv WHERE (bucket, key) > ($1, $2) AND revision > $3 AND value IS NOT NULL ORDER BY bucket, key LIMIT $4) e"
    " WHERE spent - own < $5 ORDER BY bucket, key",
    ("text", "bytea", "int8", "int8", "int8"),
)
_TOMBSTONES: Final = Statement(
    "SELECT bucket, key, revision, deleted FROM perdure.kv WHERE deleted IS NOT NULL AND (deleted, bucket, key) > ($1, $2, $3)"
    " ORDER BY deleted, bucket, key LIMIT $4",
    ("timestamptz", "text", "bytea", "int8"),
)
_ANSWERED: Final = Statement("SELECT id, kept FROM perdure.commits WHERE (at, id) > ($1, $2) ORDER BY at, id LIMIT $3", ("timestamptz", "bytea", "int8"))
_HEADS: Final = Question(Statement("SELECT name, position, fingerprint, at FROM perdure.snapshots ORDER BY name, position"))
_NUMBERS: Final = Question(Statement("SELECT revision, at FROM perdure.head"))
_COMPACTED: Final = Question(Statement("SELECT bucket, revision FROM perdure.compacted ORDER BY bucket"))
_MOVED: Final = Question(Statement("SELECT moved FROM perdure.head"))

_PUT: Final = Statement(
    "INSERT INTO perdure.kv (bucket, key, revision, value, watched, deleted)"
    " SELECT b, k, r, v, w = 1, CASE WHEN v IS NULL THEN d END FROM unnest($1, $2, $3, $4, $5, $6) AS n (b, k, r, v, w, d)"
    " ON CONFLICT (bucket, key) DO UPDATE SET revision = excluded.revision, value = excluded.value, deleted = excluded.deleted",
    ("text[]", "bytea[]", "int8[]", "bytea[]", "int8[]", "timestamptz[]"),
)
_TAKE: Final = Statement(
    "DELETE FROM perdure.kv USING unnest($1, $2) AS gone (bucket, key) WHERE kv.bucket = gone.bucket AND kv.key = gone.key", ("text[]", "bytea[]")
)
_ANSWER: Final = Statement(
    "INSERT INTO perdure.commits (id, at, kept) SELECT * FROM unnest($1, $2, $3) ON CONFLICT (id) DO UPDATE SET at = excluded.at, kept = excluded.kept",
    ("bytea[]", "timestamptz[]", "bytea[]"),
)
_UNANSWER: Final = Statement("DELETE FROM perdure.commits WHERE id = ANY($1)", ("bytea[]",))
_SAVE: Final = Statement(
    "INSERT INTO perdure.snapshots (name, position, fingerprint, at, state) SELECT * FROM unnest($1, $2, $3, $4, $5)"
    " ON CONFLICT (name, position) DO UPDATE SET fingerprint = excluded.fingerprint, at = excluded.at, state = excluded.state",
    ("text[]", "int8[]", "text[]", "timestamptz[]", "bytea[]"),
)
_DROP: Final = Statement(
    "DELETE FROM perdure.snapshots s USING unnest($1, $2) AS gone (name, position) WHERE s.name = gone.name AND s.position = gone.position",
    ("text[]", "int8[]"),
)
_COUNTERS: Final = Statement("UPDATE perdure.head SET revision = $1, at = $2", ("int8", "timestamptz"))
_FORGOTTEN: Final = Statement(
    "INSERT INTO perdure.compacted (bucket, revision) SELECT * FROM unnest($1, $2) ON CONFLICT (bucket) DO UPDATE SET revision = excluded.revision",
    ("text[]", "int8[]"),
)
_MARK: Final = Statement("UPDATE perdure.head SET moved = $1, revision = greatest(revision, $2), epoch = epoch + 1", ("text", "int8"))
_CLAIM: Final = Statement("SELECT pg_try_advisory_xact_lock(hashtextextended('perdure moves ' || 'perdure.head'::regclass::oid, 0))")


class PostgresHeld:
    """See `Held`: a transaction that has the right to write."""

    def __init__(self, ask: Ask, told: Callable[[str], object]) -> None:
        self._ask = ask
        self._told = told

    async def mark(self, to: str, *, revision: int = 0) -> None:
        """See `Held.mark`. The right to write is given back for a moment; who gets it then finds the mark."""
        head, newest, *_ = (await self._ask(Question(facts.LOCK)))[0][0]
        hint = Question(TELL, (f"{head} {max(newest, revision)}".encode(),))
        again = ("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", Question(facts.LOCK))
        await self._ask(Question(_MARK, (to.encode(), int8(revision))), "COMMIT", hint, *again)
        self._told(to)


class PostgresMoves(PostgresTraces):
    """The part of `PostgresBackend` that is about leaving and arriving."""

    id: str
    url: str
    limits: Limits
    _elsewhere: str
    """`LOADING`, or where the store is now, or '': as far as this handle knows."""
    _server: session.Server
    _connect: Callable[[], Awaitable[Wire]]

    @abstractmethod
    def _check_writes(self) -> None: ...

    @abstractmethod
    def _note_mark(self, to: str) -> None: ...

    # -- reading -----------------------------------------------------------------------------

    async def read_entries(self, *, beyond: int = 0, after: bytes = b"", limit: int, bytes_max: int) -> EntryPage:
        """See `Moves.read_entries`."""
        bucket, _, key = after.partition(b"\0")
        (rows,) = await self._ask(Question(_ENTRIES, (bucket, key, int8(beyond), int8(limit), int8(bytes_max))))
        entries = [BucketEntry(*row[:4]) for row in rows]
        more = len(rows) >= limit or (rows and rows[-1][4] >= bytes_max)
        return EntryPage(entries, keys.entry(entries[-1].bucket, entries[-1].key) if more else None)

    async def read_aged(self, *, since_us: int = 0, after: bytes = b"", limit: int) -> AgedPage:
        """See `Moves.read_aged`."""
        at_us, kind, name = keys.read_aged(after) if after else (since_us, "", b"")
        bucket, _, key = name.partition(b"\0") if kind == "tombstone" else (b"", b"", b"")
        id = {"": b"", "key": name, "tombstone": b"\xff" * 17}[kind]  # answers come before tombstones of the same time
        at = int8(max(at_us, 0) - EPOCH_US)
        gone, answered = await self._ask(Question(_TOMBSTONES, (at, bucket, key, int8(limit))), Question(_ANSWERED, (at, id, int8(limit))))
        found: dict[bytes, Tombstone | Answered] = {}
        for bucket_, key_, revision, deleted in gone:
            found[keys.aged(deleted + EPOCH_US, "tombstone", keys.entry(bucket_, key_))] = Tombstone(bucket_, key_, revision, deleted + EPOCH_US)
        for id_, kept in answered:
            one = Answered(id_, unpack_kept(kept))
            found[keys.aged(one.kept.at_us, "key", id_)] = one
        places = sorted(found)[:limit]
        more = len(gone) >= limit or len(answered) >= limit or len(found) > limit
        return AgedPage([found[place] for place in places], places[-1] if more else None)

    async def snapshot_heads(self) -> list[SnapshotHead]:
        """See `Moves.snapshot_heads`."""
        (rows,) = await self._ask(_HEADS)
        return [SnapshotHead(name, Position(position), fingerprint, at + EPOCH_US) for name, position, fingerprint, at in rows]

    async def read_numbers(self) -> Numbers:
        """See `Moves.read_numbers`."""
        ((head,), compacted) = await self._ask(_NUMBERS, _COMPACTED)
        return Numbers(head[0], head[1] + EPOCH_US, dict(compacted))

    async def moved_to(self) -> str:
        """See `Moves.moved_to`."""
        ((row,),) = await self._ask(_MOVED)
        return str(row[0])

    # -- loading -----------------------------------------------------------------------------

    async def begin_load(self, *, anew: bool = False) -> None:
        """See `Backend.begin_load`."""
        async with self._step(within_s=self.limits.commit_s) as (head, ask):
            await filling.begin(head, ask, self.url, anew=anew)
        self._note_mark(LOADING)

    async def load(self, records: Sequence[Record]) -> None:
        """See `Backend.load`."""
        async with self._step(within_s=self.limits.commit_s) as (head, ask):
            await filling.load(head, ask, self.url, self.id, records)

    async def load_cuts(self, streams: Sequence[StreamInfo], cuts: Sequence[CutBound]) -> None:
        """See `Backend.load_cuts`."""
        async with self._step(within_s=self.limits.commit_s) as (head, ask):
            filling.check_loading(head, self.url)
            await cutting.load(ask, streams, cuts)

    async def end_load(self) -> None:
        """See `Backend.end_load`."""
        async with self._step() as (_, ask):
            await ask("UPDATE perdure.head SET loading = false, epoch = epoch + 1 WHERE loading")
        self._note_mark("")

    async def load_rest(self, rest: Rest) -> None:
        """See `Moves.load_rest`."""
        async with self._step() as (head, ask):
            filling.check_loading(head, self.url)
            asked = [*_gone(rest), *_put(rest), *_numbers(rest)]
            if asked:
                await ask(*asked)

    # -- leaving -----------------------------------------------------------------------------

    @asynccontextmanager
    async def hold_commits(self) -> AsyncIterator[PostgresHeld]:
        """See `Moves.hold_commits`. For 2 s at most: then the server takes the right to write back."""
        async with self._step() as (_, ask):
            yield PostgresHeld(ask, self._note_mark)

    @asynccontextmanager
    async def claim_move(self) -> AsyncIterator[None]:
        """See `Moves.claim_move`: a lock of the server's, in a transaction of a connection of its own."""
        self._check_writes()
        try:
            wire = await self._connect()
        except Lost as error:
            raise Unavailable(f"{self.url} cannot be reached ({error})") from error
        try:
            lasting = ["idle_in_transaction_session_timeout", *(["transaction_timeout"] if self._server.version >= 170_000 else [])]
            asked = await wire.ask("BEGIN", session.configure(dict.fromkeys(lasting, "0"), local=True), Question(_CLAIM), within_s=ASK_S)
            if not asked[-1][0][0]:
                raise Unavailable(f"another process is bringing {self.url} elsewhere: let it end, or end it")
            yield
        except Refused as error:
            session.raise_refusal(error, self.url)
        except Lost as error:
            raise Unavailable(f"{self.url} cannot be reached ({error})") from error
        finally:
            if not wire.lost:
                with suppress(Lost, Refused), trio.CancelScope(shield=True):
                    await wire.ask("ROLLBACK", within_s=LEAVE_S)  # the server sees late that a connection was closed
            with suppress(Lost):
                wire.close()


def _gone(rest: Rest) -> list[Question]:
    asked = []
    if rest.gone:
        asked.append(Question(_TAKE, (texts([bucket for bucket, _ in rest.gone]), bodies([key for _, key in rest.gone]))))
    if rest.gone_answers:
        asked.append(Question(_UNANSWER, (bodies(rest.gone_answers),)))
    if rest.gone_snapshots:
        asked.append(Question(_DROP, (texts([name for name, _ in rest.gone_snapshots]), int8s([position for _, position in rest.gone_snapshots]))))
    return asked


def _put(rest: Rest) -> list[Question]:
    """Each row once, as it was read last."""
    asked = []
    left: dict[tuple[str, bytes], BucketEntry | Tombstone] = {(one.bucket, one.key): one for one in rest.entries}
    left |= {(one.bucket, one.key): one for one in rest.aged if isinstance(one, Tombstone)}
    if left:
        asked.append(_put_entries(list(left.values())))
    answered = list({one.id: one for one in rest.aged if isinstance(one, Answered)}.values())
    if answered:
        packed = [pack_kept(one.kept) for one in answered]
        asked.append(Question(_ANSWER, (bodies([one.id for one in answered]), times([one.kept.at_us for one in answered]), bodies(packed))))
    saved = list({(one.name, one.position): one for one in rest.snapshots}.values())
    if saved:
        columns = (
            texts([one.name for one in saved]),
            int8s([one.position for one in saved]),
            texts([one.fingerprint for one in saved]),
            times([one.at_us for one in saved]),
            bodies([one.state for one in saved]),
        )
        asked.append(Question(_SAVE, columns))
    return asked


def _put_entries(entries: Sequence[BucketEntry | Tombstone]) -> Question:
    columns = (
        texts([one.bucket for one in entries]),
        bodies([one.key for one in entries]),
        int8s([one.revision for one in entries]),
        bodies([one.value if isinstance(one, BucketEntry) else None for one in entries]),
        int8s([not one.bucket.startswith(UNWATCHED) for one in entries]),
        times([one.at_us if isinstance(one, Tombstone) else 0 for one in entries]),
    )
    return Question(_PUT, columns)


def _numbers(rest: Rest) -> list[Question]:
    if rest.numbers is None:
        return []
    asked = [Question(_COUNTERS, (int8(rest.numbers.revision), int8(rest.numbers.at_us - EPOCH_US)))]
    if compacted := rest.numbers.compacted:
        asked.append(Question(_FORGOTTEN, (texts(compacted), int8s(list(compacted.values())))))
    return asked
