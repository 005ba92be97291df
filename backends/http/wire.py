"""What a client's backend and a daemon say to each other: msgpack, positional, as classes that both sides check. Pure.

The daemon decides: a client sends whole commits and is answered as a backend answers. Every answer of a read says by itself
where it ends, so that the daemon may give less than was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from perdure.backends import commit as writes
from perdure.backends.commit import ANY, EXISTS, Appended, Commit, Committed, Draft, Expected, Stored
from perdure.backends.errors import Misuse, PerdureError
from perdure.backends.event import Position, Record, unpack_extra
from perdure.backends.http.facts import error_of, facts_of
from perdure.backends.selector import EVERYTHING, Item, Selector

T = TypeVar("T")

VERSION: Final = 1
MEDIA_TYPE: Final = "application/vnd.perdure.v1+msgpack"
PATH: Final = "/v1/wire"
VIEW: Final = "perdure-view"
"""The header that names the view which a question is about."""
STORE: Final = "perdure-store"
"""The header that says which store is meant, by its id: another one may be behind the same address by now."""
SCRATCH: Final = "perdure-scratch"
"""The header that names a store of the client's own."""
ID_BYTES: Final = 16
MOST: Final = (1 << 63) - 1
OVERHEAD_BYTES: Final = 4 << 20
"""What the largest commit may have around its payloads."""
_ANY, _EXISTS = -1, -2


class Spoken(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Something that is said: an array, without names."""


class Said(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """One of several things that may be said: its name comes first."""


# -- writes ----------------------------------------------------------------------------------


class AppendWrite(Said, frozen=True, tag="append"):
    """Events for a stream: type, version, payload, extra."""

    stream: str
    expected: int
    events: list[tuple[str, int, bytes, bytes]]


class PutWrite(Said, frozen=True, tag="put"):
    bucket: str
    key: bytes
    value: bytes
    expected: int


class PutAllWrite(Said, frozen=True, tag="put-all"):
    bucket: str
    entries: list[tuple[bytes, bytes]]


class DeleteWrite(Said, frozen=True, tag="delete"):
    bucket: str
    key: bytes
    expected: int


class CheckStream(Said, frozen=True, tag="check-stream"):
    stream: str
    expected: int


class CheckEntry(Said, frozen=True, tag="check-entry"):
    bucket: str
    key: bytes
    expected: int


Items = list[tuple[list[str], list[str], list[str], list[str]]]
"""A selector: types, streams, categories, tags of each item."""


class UnlessWrite(Said, frozen=True, tag="unless"):
    items: Items
    after: int


class SnapshotWrite(Said, frozen=True, tag="snapshot"):
    name: str
    position: int
    fingerprint: str
    state: bytes
    drop: list[int]


class FenceWrite(Said, frozen=True, tag="fence"):
    name: str
    number: int


AnyWrite = AppendWrite | PutWrite | PutAllWrite | DeleteWrite | CheckStream | CheckEntry | UnlessWrite | SnapshotWrite | FenceWrite


class Proposal(Spoken, frozen=True):
    """A commit. *kept*: its answer is to be found by its id for as long as a key's, though it has no key."""

    id: bytes
    at_us: int
    key: bytes | None
    kept: bool
    writes: list[AnyWrite]


class Proposals(Spoken, frozen=True):
    """Commits, to be decided in this order, by *writer*: 16 bytes that its client drew. Once it is barred, nothing of it is stored."""

    writer: bytes
    commits: list[Proposal]


class Resolve(Spoken, frozen=True):
    """Bar *writer*, then say what became of *ids*, of which none has events at or before *after*."""

    writer: bytes
    ids: list[bytes]
    after: int


# -- answers ---------------------------------------------------------------------------------


class Done(Said, frozen=True, tag="done"):
    """A commit is durable: its position, and for each part first, last and position, or a revision."""

    position: int | None
    parts: list[tuple[int, int, int | None] | int]


class NotDone(Said, frozen=True, tag="not-done"):
    """A commit was not stored: the error's name and facts. Of `InDoubt` nobody knows."""

    error: str
    facts: dict[str, Any]


class Answers(Spoken, frozen=True):
    """The answers in the order asked; then where the store is."""

    answers: list[Done | NotDone]
    head: int
    revision: int


class Hello(Spoken, frozen=True):
    """What a daemon says first."""

    version: int
    store: str
    durable: bool
    writes: bool
    body_bytes: int
    alive_s: float
    head: int
    revision: int
    now_us: int


# -- questions, each with what is answered ---------------------------------------------------


class ReadStream(Said, frozen=True, tag="stream"):
    stream: str
    after: int
    limit: int
    bytes_max: int
    backward: bool


class ReadLog(Said, frozen=True, tag="log"):
    after: int
    limit: int
    bytes_max: int
    items: Items
    over_cuts: bool


class ListCuts(Said, frozen=True, tag="cuts"):
    """How far events were cut, by category and type."""


class Where(Said, frozen=True, tag="where"):
    """Head and revision."""


class AnswerTo(Said, frozen=True, tag="answer"):
    id: bytes


class Get(Said, frozen=True, tag="get"):
    bucket: str
    key: bytes


class Scan(Said, frozen=True, tag="scan"):
    bucket: str
    prefix: bytes
    after: bytes | None
    limit: int


class ReadChanges(Said, frozen=True, tag="changes"):
    bucket: str
    after: int
    limit: int


class ReadSnapshot(Said, frozen=True, tag="snapshot"):
    name: str
    at_most: int | None


class ListSnapshots(Said, frozen=True, tag="snapshots"):
    name: str


class OneStream(Said, frozen=True, tag="one-stream"):
    name: str


class ListStreams(Said, frozen=True, tag="streams"):
    prefix: str
    after: str | None
    limit: int


class AskStatus(Said, frozen=True, tag="status"):
    """What the store says of itself."""


class Verify(Said, frozen=True, tag="verify"):
    """Read everything and check it."""


class Hasten(Said, frozen=True, tag="hasten"):
    """Let the daemon keep what its projection has, once it has reached a position; whether it runs there."""

    name: str
    position: int


_OfLog = ReadStream | ReadLog | OneStream | ListStreams | ListCuts
_OfEntries = Get | Scan | ReadChanges
_OfSnapshots = ReadSnapshot | ListSnapshots | Hasten
Question = _OfLog | _OfEntries | _OfSnapshots | Where | AnswerTo | AskStatus | Verify

Row = tuple[str, int, int, str, int, int, bytes, int, bytes, bytes, int]
"""A record, field by field."""


class Records(Spoken, frozen=True):
    """Records; *more*: less than was asked for, and there are more."""

    rows: list[Row]
    more: bool


class LogPage(Spoken, frozen=True):
    rows: list[Row]
    examined: int
    head: int


class Entries(Spoken, frozen=True):
    """Key, value and revision of entries; *more* as in `Records`."""

    entries: list[tuple[bytes, bytes, int]]
    more: bool


class ChangedEntries(Spoken, frozen=True):
    """Key, revision and value (None: deleted)."""

    changes: list[tuple[bytes, int, bytes | None]]
    examined: int


class KeptSnapshot(Spoken, frozen=True):
    name: str
    position: int
    fingerprint: str
    state: bytes
    at_us: int


StreamRow = tuple[str, int, int, int, int, str | None]
"""What is known of a stream, field by field."""
CutRow = tuple[str, str | None, int, str, int]


class Streams(Spoken, frozen=True):
    """Streams; *more* as in `Records`."""

    streams: list[StreamRow]
    more: bool


# -- to bytes and back -----------------------------------------------------------------------

to_bytes = msgspec.msgpack.Encoder().encode
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def from_bytes(raw: bytes, kind: Any) -> Any:
    """*raw* as *kind*.

    Raises:
      Misuse: it is none.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Misuse(f"the body is not what is spoken here: {error}") from error


# -- commits ---------------------------------------------------------------------------------


def proposal_of(commit: Commit) -> Proposal:
    """A commit as it is sent."""
    return Proposal(commit.id, commit.at_us, commit.key, not _told_by_its_events(commit), [_said(write) for write in commit.writes])


def _told_by_its_events(commit: Commit) -> bool:
    """Whether its answer can be made again from its events alone."""
    appends = [write for write in commit.writes if isinstance(write, writes.Append)]
    others = any(isinstance(write, writes.Put | writes.PutAll | writes.Delete) for write in commit.writes)
    return bool(appends) and all(write.events for write in appends) and not others


def _said(write: writes.Write) -> AnyWrite:
    match write:
        case writes.Append(stream, events, expected):
            return AppendWrite(stream, _number(expected), [(one.type, one.version, one.payload, one.extra) for one in events])
        case writes.Put(bucket, bytes() as key, value, expected):
            return PutWrite(bucket, key, value, _number(expected))
        case writes.PutAll(bucket, entries):
            return PutAllWrite(bucket, list(entries))
        case writes.Delete(bucket, bytes() as key, expected):
            return DeleteWrite(bucket, key, _number(expected))
        case writes.Check(expected, stream=str() as stream):
            return CheckStream(stream, _number(expected))
        case writes.Check(expected, bucket=str() as bucket, key=bytes() as key):
            return CheckEntry(bucket, key, _number(expected))
        case writes.Unless(query, after=after):
            return UnlessWrite(items_of(query), after)
        case writes.SaveSnapshot(name, position, fingerprint, state, drop):
            return SnapshotWrite(name, position, fingerprint, state, list(drop))
        case writes.Fence(name, number):
            return FenceWrite(name, number)
        case _:
            raise Misuse(f"{write!r} is not encoded")


def write_of(said: AnyWrite) -> writes.Write:
    """A write as it was sent.

    Raises:
      Misuse: what goes with an event cannot be read.
    """
    match said:
        case AppendWrite(stream, expected, events):
            return writes.Append(stream, [_draft(*one) for one in events], _expected(expected))
        case PutWrite(bucket, key, value, expected):
            return writes.Put(bucket, key, value, _expected(expected))
        case PutAllWrite(bucket, entries):
            return writes.PutAll(bucket, entries)
        case DeleteWrite(bucket, key, expected):
            return writes.Delete(bucket, key, _expected(expected))
        case CheckStream(stream, expected):
            return writes.Check(_expected(expected), stream=stream)
        case CheckEntry(bucket, key, expected):
            return writes.Check(_expected(expected), bucket=bucket, key=key)
        case UnlessWrite(items, after):
            return writes.Unless(selector_of(items), after=Position(after))
        case SnapshotWrite(name, position, fingerprint, state, drop):
            return writes.SaveSnapshot(name, Position(position), fingerprint, state, tuple(map(Position, drop)))
        case FenceWrite(name, number):
            return writes.Fence(name, number)


def _draft(type: str, version: int, payload: bytes, extra: bytes) -> Draft:
    try:
        return Draft(type, version, payload, extra, unpack_extra(extra).tags)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Misuse(f"what goes with an event cannot be read: {error}") from error


def _number(expected: Expected) -> int:
    return expected if isinstance(expected, int) else _ANY if expected is ANY else _EXISTS


def _expected(number: int) -> Expected:
    return ANY if number == _ANY else EXISTS if number == _EXISTS else number


def items_of(query: Selector[Any]) -> Items:
    """A selector as it is sent."""
    return [(list(one.types), list(one.streams), list(one.categories), list(one.tags)) for one in query.items]


def selector_of(items: Items) -> Selector[Any]:
    """A selector as it was sent."""
    found: Selector[Any] = Selector(tuple(Item(*one) for one in items))
    return EVERYTHING if found == EVERYTHING else found


def told(answer: Committed | PerdureError) -> Done | NotDone:
    """An answer as it is sent."""
    if isinstance(answer, PerdureError):
        return NotDone(type(answer).__name__, facts_of(answer))
    return Done(answer.position, [part.revision if isinstance(part, Stored) else (part.first, part.last, part.position) for part in answer.parts])


def answer_of(said: Done | NotDone) -> Committed | PerdureError:
    """An answer as it was sent."""
    if isinstance(said, NotDone):
        return error_of(said.error, said.facts)
    position = None if said.position is None else Position(said.position)
    return Committed(position, tuple(Stored(part) if isinstance(part, int) else _appended(*part) for part in said.parts))


def _appended(first: int, last: int, position: int | None) -> Appended:
    return Appended(first, last, None if position is None else Position(position))


# -- records ---------------------------------------------------------------------------------


def rows_of(records: Iterable[Record]) -> list[Row]:
    """Records as they are sent."""
    return [msgspec.structs.astuple(record) for record in records]


def records_of(rows: Sequence[Row]) -> list[Record]:
    """Records as they were sent."""
    return [Record(*row) for row in rows]  # type: ignore[arg-type]  # a position is an int
