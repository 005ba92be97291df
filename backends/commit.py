"""What a commit is made of, what is answered to it, and what is refused before it is asked.

What every append makes (`Append`, `Commit` and their answers) is a msgspec struct: built four times as fast as an
attrs class, and as immutable. The writes are generic in what they carry: a program says `Append("order-17", [OrderPlaced(...)])`
with objects, a backend is given the same with `Draft`s and bytes.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, Generic, Literal, Self, TypeVar

import attrs
import msgspec

from perdure.backends.errors import ConditionTooBroad, Conflict, Corrupt, Full, InDoubt, KeyReused, Misuse, TooLarge, Truncated, Unavailable
from perdure.backends.event import Position, Record, unpack_extra
from perdure.backends.limits import LIMITS, Limits
from perdure.backends.selector import Selector

E = TypeVar("E")
V = TypeVar("V")


class Expect(enum.Enum):
    """An expectation that is not a number."""

    ANY = "any"
    EXISTS = "exists"

    def __str__(self) -> str:
        return self.value


ANY: Final = Expect.ANY
"""Whatever is there."""
EXISTS: Final = Expect.EXISTS
"""At least one event, or an entry."""

Expected = int | Literal[Expect.ANY, Expect.EXISTS]


class Draft(msgspec.Struct, frozen=True, gc=False):
    """An event that is not stored yet: encoded, without a place. *extra* as `event.pack_extra` makes it."""

    type: str
    version: int
    payload: bytes
    extra: bytes = b""
    tags: tuple[str, ...] = ()


class Alike(list[Draft]):
    """Drafts of one type and version, all without extra, as their maker promises: what follows need not look at each again."""


# -- writes ----------------------------------------------------------------------------------


class Append(msgspec.Struct, Generic[E], frozen=True):
    """Events for the end of *stream*, whose last seq is believed to be *expected* (0: no such stream)."""

    stream: str
    events: Sequence[E]
    expected: Expected = ANY


@attrs.frozen
class Put(Generic[V]):
    """A value for *key* of *bucket*, whose revision is believed to be *expected* (0: absent)."""

    bucket: str
    key: V | str | bytes
    value: V | Any
    expected: Expected = ANY


@attrs.frozen
class Delete:
    """The end of *key* of *bucket*, whose revision is believed to be *expected*."""

    bucket: str
    key: str | bytes
    expected: Expected = ANY


@attrs.frozen
class Check:
    """A belief without a write: of a stream's last seq, or (with *bucket* and *key*) of an entry's revision."""

    expected: Expected
    stream: str | None = attrs.field(default=None, kw_only=True)
    bucket: str | None = attrs.field(default=None, kw_only=True)
    key: str | bytes | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        entry = self.bucket is not None and self.key is not None
        if (self.stream is not None) == entry or (self.bucket is None) != (self.key is None):
            raise Misuse("a Check is of stream=, or of bucket= and key=")


@attrs.frozen
class Unless:
    """The append condition: conflict if an event that matches *query* exists after position *after*."""

    query: Selector[Any]
    after: Position = attrs.field(kw_only=True)


@attrs.frozen
class PutAll:
    """Many values for one of perdure's own buckets, whatever is there: the states of a keyed model. (key, value) each, answered by one `Stored`."""

    bucket: str
    entries: Sequence[tuple[bytes, bytes]]


@attrs.frozen
class SaveSnapshot:
    """A projection's state for keeping; *drop* names positions of older snapshots that go."""

    name: str
    position: Position
    fingerprint: str
    state: bytes
    drop: tuple[Position, ...] = ()


@attrs.frozen
class Fence:
    """Holds if the lease *name* was acquired with *number* and has not been stolen since."""

    name: str
    number: int


@attrs.frozen
class Cut:
    """The end of *stream*'s events before seq *first*; *archive* (a CID) is where they are kept from now on, if anywhere.

    Its last seq stays. A conflict if the stream has not so many events, or if a registered consumer (a checkpoint, a hold) has not
    passed them all. Of one stream at most 10,000 events go in one commit.
    """

    stream: str
    first: int
    archive: str | None = None


@attrs.frozen
class Unbarred:
    """Holds while no commit of that *id* is known: whoever makes one bars all that is to come under it. Who asks is no content of a commit."""

    id: bytes


Write = Append[Draft] | Put[bytes] | PutAll | Delete | Check | Unless | SaveSnapshot | Fence | Cut | Unbarred

MODELS: Final = "$models "
"""What the reserved buckets of keyed models' states begin with: without change rows, without tombstones."""
CHECKPOINTS: Final = "$checkpoints"
"""The reserved bucket of checkpoints, likewise."""
HOLDS: Final = "$holds"
"""The reserved bucket of holds: who else has a place in the log that must not be cut away, with the position, as a checkpoint is packed."""
LEASES: Final = "$leases"
"""The reserved bucket of leases; an entry's value begins with its fence, 8 bytes, big end first. Put with the fence `NEW_FENCE` it gets the
revision of that commit: a number that nobody has had."""
NEW_FENCE: Final = bytes(8)
BEATS: Final = "$beats"
"""The reserved bucket of signs of life: one entry for each runtime that holds leases. Without change rows, without tombstones, and nobody in
another process is woken for it."""


class Commit(msgspec.Struct, frozen=True, gc=False):
    """A set of writes that happens whole or not at all.

    *id* has 16 bytes: drawn, or the digest of the caller's idempotency *key*. *at_us* is the time its
    caller proposes. *size_bytes* is what it weighs in a group. Build it with `propose`.
    """

    id: bytes
    at_us: int
    writes: tuple[Write, ...]
    key: bytes | None = None
    size_bytes: int = 0


# -- answers ---------------------------------------------------------------------------------


class _Success(msgspec.Struct, frozen=True, gc=False):
    """An answer that is no conflict."""

    def unwrap(self) -> Self:
        """This answer itself (a `Conflict` would raise)."""
        return self


class Appended(_Success, frozen=True, gc=False):
    """Seqs *first* to *last* of the stream; *position* is that of the last event, None when nothing was appended."""

    first: int
    last: int
    position: Position | None


class Stored(_Success, frozen=True, gc=False):
    """The entry was put or deleted at *revision*."""

    revision: int


class Committed(_Success, frozen=True, gc=False):
    """The commit is durable. *parts* answer its appends, puts and deletes in order; *position* is that of its last event."""

    position: Position | None
    parts: tuple[Appended | Stored, ...]


Answer = Committed | Conflict | KeyReused | TooLarge | ConditionTooBroad | Truncated | Full | Corrupt | Unavailable | InDoubt
"""The last three where others of the group have another answer; else `Backend.commit` raises them."""


@attrs.frozen
class Group:
    """One flush: the answers in the order asked; *follows* is the head just before its first event.

    *records* makes the group's records, in order, for followers in this process; None where a backend
    does not know them (they are read from the log then).
    """

    follows: Position
    answers: list[Answer]
    records: Callable[[], list[Record]] | None = attrs.field(default=None, eq=False, repr=False)


# -- before it is asked ----------------------------------------------------------------------


def key_id(key: bytes) -> bytes:
    """The commit id that an idempotency key stands for."""
    return hashlib.blake2b(key, digest_size=16, person=b"perdure-key").digest()


def content_digest(writes: Iterable[Write]) -> bytes:
    """What "the same content" means: writes, payloads, given meta and ids; not time, drawn ids, traceparent, or through which writer."""
    digest = hashlib.blake2b(digest_size=16, person=b"perdure-content")
    for write in writes:
        if type(write) is Unbarred:
            continue
        digest.update(_pack([type(write).__name__, *_content(write)]))
    return digest.digest()


_pack = msgspec.msgpack.Encoder(enc_hook=str).encode


def _content(write: Write) -> list[Any]:
    match write:
        case Append(stream, events, expected):
            return [stream, expected, [[e.type, e.version, e.payload, _given(e.extra)] for e in events]]
        case Unless(query, after=after):
            return [[[item.types, item.streams, item.categories, item.tags] for item in query.items], after]
        case Put(bucket, key, value, expected):
            return [bucket, key, value, expected]
        case PutAll(bucket, entries):
            return [bucket, entries]
        case Delete(bucket, key, expected):
            return [bucket, key, expected]
        case Check():
            return [write.expected, write.stream, write.bucket, write.key]
        case SaveSnapshot(name, position, fingerprint, state, _):
            return [name, position, fingerprint, state]
        case Fence(name, number):
            return [name, number]
        case Cut(stream, first, archive):
            return [stream, first, archive]
        case Unbarred():
            return []


def _given(extra: bytes) -> list[Any]:
    given = unpack_extra(extra)
    return [given.tags, given.occurred_us, given.id, bytes(given.meta)]


def propose(writes: Sequence[Write], *, id: bytes, at_us: int, key: bytes | None = None, limits: Limits = LIMITS, own: bool = False) -> Commit:
    """The commit of *writes*, checked for size, names and misuse; *own* may write perdure's reserved names.

    With a *key* the commit's id is the key's, whatever *id* says.

    Raises:
      Misuse: a bad name or expectation, a stream or key that occurs twice, no write at all.
      TooLarge: a name, an event, a value or the whole exceeds its limit.
    """
    if key is not None:
        id = _check_key(key, limits)
    if len(writes) == 1 and type(write := writes[0]) is Append:
        size = check_append(write, limits, own)
    else:
        size = _check_writes(writes, limits, own)
    return Commit(id, at_us, tuple(writes), key, size)


def _check_key(key: bytes, limits: Limits) -> bytes:
    if not isinstance(key, bytes) or not key:
        raise Misuse(f"an idempotency key is 1 to {limits.idempotency_key_bytes} bytes, not {key!r}")
    if len(key) > limits.idempotency_key_bytes:
        raise TooLarge("idempotency key", "a commit", len(key), limits.idempotency_key_bytes)
    return key_id(key)


def _check_writes(writes: Sequence[Write], limits: Limits, own: bool) -> int:
    if not writes:
        raise Misuse("a commit needs at least one write or check")
    seen: set[object] = set()
    size = events = 0
    for write in writes:
        subject = _subject(write)
        if subject in seen:
            raise Misuse(f"{_told(subject)} occurs twice in one commit: in a commit each stream and each key occurs once")
        if subject is not None:
            seen.add(subject)
        size += _check_write(write, limits, own)
        events += len(write.events) if isinstance(write, Append) else 0
    if events > limits.commit_events:
        raise TooLarge("commit", f"{len(writes)} writes", events, limits.commit_events, "events")
    if size > limits.commit_bytes:
        raise TooLarge("commit", f"{len(writes)} writes", size, limits.commit_bytes)
    return size


def _subject(write: Write) -> object:
    match write:
        case Append(stream=stream) | Check(stream=str() as stream) | Cut(stream=stream):
            return stream
        case Put(bucket=bucket, key=key) | Delete(bucket=bucket, key=key) | Check(bucket=bucket, key=key):
            return (bucket, key)
        case SaveSnapshot(name=name):
            return ("snapshot", name, None)
        case _:
            return None


def _told(subject: object) -> str:
    if isinstance(subject, tuple):
        return f"snapshot {subject[1]!r}" if len(subject) == 3 else f"key {subject[1]!r} of bucket {subject[0]!r}"
    return f"stream {subject!r}"


def _check_write(write: Write, limits: Limits, own: bool) -> int:
    match write:
        case Append():
            return check_append(write, limits, own)
        case Put(bucket, key, value, expected):
            check_entry(bucket, key, limits, own)
            check_expected(expected, f"key {key!r}")
            if not isinstance(value, bytes):
                raise Misuse(f"the value of key {key!r} in bucket {bucket!r} is not encoded")
            if len(value) > limits.value_bytes:
                raise TooLarge("value", f"key {key!r} in bucket {bucket!r}", len(value), limits.value_bytes)
            return len(key) + len(value) + 100
        case Delete(bucket, key, expected):
            check_entry(bucket, key, limits, own)
            check_expected(expected, f"key {key!r}")
            return len(key) + 100
        case Check(expected, stream=stream, bucket=bucket, key=key):
            if stream is not None:
                check_stream(stream, limits, own)
            else:
                assert bucket is not None and key is not None
                check_entry(bucket, key, limits, own)
            check_expected(expected, str(stream or key))
        case Unless(query, after=after):
            for tag in (tag for item in query.items for tag in item.tags):
                check_name("tag", tag, limits.tag_bytes)
            if isinstance(after, bool) or not isinstance(after, int) or after < 0:
                raise Misuse(f"Unless(after=...) takes a position, not {after!r}")
        case PutAll(bucket, entries):
            if not (own and bucket.startswith(MODELS)):
                raise Misuse(f"PutAll is for the states of perdure's models, not for bucket {bucket!r}: use Put")
            return sum([len(key) + len(value) + 100 for key, value in entries])
        case SaveSnapshot(name, position, _, state):
            check_name("snapshot name", name, limits.stream_name_bytes)
            if isinstance(position, bool) or not isinstance(position, int) or position < 0:
                raise Misuse(f"snapshot {name!r} stands at a position, not at {position!r}")
            return len(state) + 200
        case Fence(name):
            check_name("lease name", name, limits.key_bytes)
        case Cut(stream, first, archive):
            check_stream(stream, limits, own)
            if isinstance(first, bool) or not isinstance(first, int) or not 1 <= first < 1 << 63:
                raise Misuse(f"a cut of stream {stream!r} names its first seq from then on, a number from 1, not {first!r}")
            if archive is not None:
                check_name("archive", archive, limits.archive_bytes)
            return len(archive or "") + 200
    return 100


def check_append(write: Append[Draft], limits: Limits, own: bool = False) -> int:
    """The size of an append, its names and events checked."""
    events, most, size = write.events, limits.event_bytes, 0
    _check_known("stream name", write.stream, limits.stream_name_bytes, own)
    if write.expected is not ANY:
        check_expected(write.expected, write.stream)
    alike = type(events) is Alike
    for type_name in {draft.type for draft in (events[:1] if alike else events)}:
        _check_known("type name", type_name, limits.type_bytes, True)
    weights = [len(draft.payload) for draft in events]
    if weights and max(weights) > most:
        raise TooLarge("event", f"stream {write.stream!r}", max(weights), most)
    if not alike:
        size = sum([_check_extra(draft, write.stream, limits) for draft in events if draft.extra])
    size += sum(weights) + 24 * len(events) + 100
    if len(events) > limits.commit_events:
        raise TooLarge("commit", f"stream {write.stream!r}", len(events), limits.commit_events, "events")
    if size > limits.commit_bytes:
        raise TooLarge("commit", f"stream {write.stream!r}", size, limits.commit_bytes)
    return size


def _check_extra(draft: Draft, stream: str, limits: Limits) -> int:
    if len(draft.extra) > limits.extra_bytes:
        raise TooLarge("meta", f"an event of stream {stream!r}", len(draft.extra), limits.extra_bytes, "bytes", "put it in the payload")
    if len(draft.tags) > limits.tags:
        raise TooLarge("tag list", f"an event of stream {stream!r}", len(draft.tags), limits.tags, "tags")
    for tag in draft.tags:
        check_name("tag", tag, limits.tag_bytes)
    return len(draft.extra)


@lru_cache(maxsize=8_192)
def _check_text(what: str, name: str, limit: int, own: bool) -> None:
    check_name(what, name, limit, own)


def _check_known(what: str, name: object, limit: int, own: bool) -> None:
    """`check_name`, remembering names that passed: a stream's is checked with every append."""
    if type(name) is str:
        _check_text(what, name, limit, own)
    else:
        check_name(what, name, limit, own)


def check_name(what: str, name: object, limit: int, own: bool = True) -> None:
    """One rule for every name: text, not empty, printable, without surrogates, not too long.

    Raises:
      Misuse: it is not such a name, or begins with `$` and is not *own*.
      TooLarge: it has more than *limit* bytes in UTF-8.
    """
    if not isinstance(name, str) or not name:
        raise Misuse(f"a {what} is text of 1 to {limit} bytes, not {name!r}")
    if not name.isprintable():
        if not name.isascii() and any("\ud800" <= one <= "\udfff" for one in name):
            raise Misuse(f"a {what} is text in UTF-8, {name!r} is none: write it in UTF-8")
        raise Misuse(f"a {what} has no control characters or line ends, {name!r} has: leave them out")
    size = len(name) if name.isascii() else len(name.encode())
    if size > limit:
        raise TooLarge(what, f"{name[:40]!r}...", size, limit)
    if not own and name[0] == "$":
        raise Misuse(f"names beginning with $ are perdure's own: name the {what.removesuffix(' name')} {name!r} otherwise")


def check_stream(stream: object, limits: Limits, own: bool = False) -> None:
    """A stream's name."""
    check_name("stream name", stream, limits.stream_name_bytes, own)


def check_entry(bucket: object, key: object, limits: Limits, own: bool = False) -> None:
    """A bucket's name and a key, as bytes."""
    check_name("bucket name", bucket, limits.bucket_bytes, own)
    if not isinstance(key, bytes) or not key:
        raise Misuse(f"a key is 1 to {limits.key_bytes} bytes, not {key!r}")
    if len(key) > limits.key_bytes:
        raise TooLarge("key", f"bucket {bucket!r}", len(key), limits.key_bytes)


def check_expected(expected: object, subject: str) -> None:
    """An expectation: a number from 0, EXISTS or ANY."""
    if type(expected) is Expect or (type(expected) is int and 0 <= expected < 1 << 63):
        return
    raise Misuse(f"expected of {subject!r} is a number from 0, EXISTS or ANY, not {expected!r}")
