"""Every error perdure raises: the class is the situation, the fields are the facts, the message names the remedy.

Foreign exceptions are translated into these where they enter (a backend, the codec); nothing above
sees an `lmdb.Error`. `Conflict` is the one member that is returned rather than raised.
"""

from __future__ import annotations

from typing import Final, Never, Self

import attrs

_define = attrs.define(eq=False, slots=False)

AT_HOME: Final = "do it where the daemon runs, on the store's own URL (that of `perdure serve --store`)"
"""The remedy for what a store that a daemon has open cannot do over HTTP."""


class PerdureError(Exception):
    """The family: whoever catches this catches everything perdure raises on purpose."""


# -- asked wrongly, or asked for too much ----------------------------------------------------


@_define
class Misuse(PerdureError, ValueError):
    """The call itself is wrong: nothing was done, and asking again will not help."""

    message: str

    def __str__(self) -> str:
        return self.message


@_define
class KeyReused(PerdureError):
    """An idempotency key that is known, with another content: nothing was stored."""

    key: bytes

    def __str__(self) -> str:
        return f"idempotency key {self.key!r} was used for another content: use a new key for new writes"


@_define
class TooLarge(PerdureError):
    """Something exceeds its limit: nothing was stored."""

    what: str
    subject: str
    size: int
    limit: int
    unit: str = "bytes"
    remedy: str = ""

    def __str__(self) -> str:
        remedy = self.remedy or _REMEDIES.get(self.what, "split it")
        return f"{_article(self.what)} of {self.subject} has {self.size:,} {self.unit}, the limit is {self.limit:,}: {remedy}"


_REMEDIES = {
    "event": "put the bytes in a blob store (rt.blobs.put) and append its BlobRef",
    "value": "put the bytes in a blob store (rt.blobs.put) and keep its BlobRef",
    "commit": "split it into several commits",
    "stream name": "use a shorter name",
    "bucket name": "use a shorter name",
    "key": "use a shorter key, or its digest",
    "idempotency key": "use a shorter key, or its digest",
    "type name": "use a shorter name",
    "tag": "use a shorter tag, or its digest",
    "tag list": "use fewer tags",
    "selector": "use fewer items",
    "cut": "cut it in several commits",
}


def _article(noun: str) -> str:
    return f"an {noun}" if noun[:1] in "aeiou" else f"a {noun}"


@_define
class ConditionTooBroad(PerdureError):
    """An append condition would have to examine too much: nothing was stored."""

    query: str
    limit: int

    def __str__(self) -> str:
        return f"the condition {self.query} would examine more than {self.limit:,} records: narrow it by a tag, or give a later `after`"


@_define
class ClockAhead(PerdureError):
    """The caller's clock is too far ahead of the store's: nothing was stored."""

    ahead_s: float
    limit_s: float

    def __str__(self) -> str:
        ahead = f"{self.ahead_s:.0f} s ahead of the store, the limit is {self.limit_s:.0f} s"
        return f"this machine's clock is {ahead}: set the clock right, or open the runtime again"


@_define
class Unsupported(PerdureError):
    """The backend does not declare this capability."""

    capability: str
    backend: str
    remedy: str = "choose a backend whose capabilities include it"

    def __str__(self) -> str:
        return f"{self.backend} does not declare {self.capability!r}: {self.remedy}"


@_define
class MissingExtra(PerdureError):
    """An optional dependency is not installed."""

    what: str
    extra: str

    def __str__(self) -> str:
        return f"{self.what} needs an extra: pip install 'perdure[{self.extra}]'"


@_define
class Forbidden(PerdureError):
    """A daemon does not let this token do it, or asks for one: nothing was done."""

    why: str
    remedy: str = "`perdure token new` makes a token that permits it, where the daemon runs"

    def __str__(self) -> str:
        return f"the daemon refuses: {self.why}; {self.remedy}"


@_define
class Closed(PerdureError):
    """The part was closed before the call took effect: nothing was stored."""

    what: str

    def __str__(self) -> str:
        return f"{self.what} is closed: nothing was stored; open it again"


# -- the store cannot, now or any more -------------------------------------------------------


@_define
class Unavailable(PerdureError):
    """Not begun, and nothing will happen later: try again. *what* cannot be had, if it is not the store."""

    why: str
    remedy: str = "nothing was stored, try again"
    what: str = "the store"

    def __str__(self) -> str:
        return f"{self.what} is unavailable: {self.why}; {self.remedy}"


@_define
class StoreMoved(PerdureError):
    """The store was brought to another place: nothing was stored here, and nothing will be."""

    where: str
    to: str

    def __str__(self) -> str:
        return f"the store {self.where} is at {self.to} now: nothing was stored here; open it there"


@_define
class InDoubt(PerdureError):
    """The store went away during the commit and did not come back in time."""

    id: bytes
    key: bytes | None

    def __str__(self) -> str:
        ask = f"ask again with the same key {self.key!r}" if self.key is not None else "a retry without a key is a new commit"
        return f"commit {self.id.hex()} is in doubt, the store did not come back in time: {ask}"


@_define
class Full(PerdureError):
    """The store reached its size limit: nothing was stored."""

    where: str
    size_bytes: int
    limit_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.where} is full ({self.size_bytes:,} of {self.limit_bytes:,} bytes): nothing was stored; "
            "free disk space, delete entries, or open it with a larger ?size="
        )


@_define
class Corrupt(PerdureError):
    """Stored bytes are not what was written."""

    where: str
    why: str
    remedy: str = "keep the files, run `perdure verify`, restore from a backup"

    def __str__(self) -> str:
        return f"{self.where} is damaged: {self.why}; {self.remedy}"


@_define
class Unreadable(PerdureError):
    """A payload that no class here can read: an error of the event, the store is sound."""

    type: str
    version: int
    position: int
    path: str
    why: str = "it does not fit its class"

    def __str__(self) -> str:
        at = f" at {self.path}" if self.path else ""
        where = f"the event at position {self.position}" if self.position else "the value"
        return f"{where} ({self.type!r} version {self.version}) cannot be read{at}: {self.why}; add an upcaster or correct the class"


@_define
class Truncated(PerdureError):
    """A part of what was asked for has been cut: of the stream, or (with *position*) of the log, up to there.

    *first* is the stream's first seq that is left, *archive* where what was cut is kept, if anywhere. *remedy*: what helps who asked, where that is known.
    """

    stream: str
    first: int
    archive: str | None = None
    position: int = 0
    remedy: str = ""

    def __str__(self) -> str:
        on = f"after position {self.position}" if self.position else f"after seq {self.first - 1}"
        where = f"read {on}, or with the archives (the newest one of that stream is {self.archive})" if self.archive else f"read {on}"
        return f"stream {self.stream!r} begins at seq {self.first}, what was before has been cut: {self.remedy or where}"


@_define
class Compacted(PerdureError):
    """The changes that were asked for have been forgotten."""

    bucket: str
    first: int

    def __str__(self) -> str:
        return f"changes of bucket {self.bucket!r} before revision {self.first} are forgotten: scan it, then watch from the scan's revision"


@_define
class Rewound(PerdureError):
    """The follower knows positions that this store does not have."""

    head: int

    def __str__(self) -> str:
        return f"the log ends at position {self.head}, before the position asked for: its end was lost, or the cursor is wrong; start from one below the head"


@_define
class TooNew(PerdureError):
    """The store was made by a newer perdure."""

    where: str
    format: int
    known: int

    def __str__(self) -> str:
        return f"{self.where} has format {self.format}, this perdure knows up to {self.known}: install a newer perdure"


@_define
class WrongStore(PerdureError):
    """A cursor or checkpoint of another store; or a daemon that has another one open now."""

    expected: str
    actual: str

    def __str__(self) -> str:
        return f"the cursor belongs to store {self.expected}, this is store {self.actual}: start again from a position of this store"


# -- blobs -----------------------------------------------------------------------------------


@_define
class BlobMissing(PerdureError):
    """A blob, or a block of it, is not in the blob store."""

    cid: str
    where: str
    block: str | None = None

    def __str__(self) -> str:
        lost = f"block {self.block} of blob {self.cid}" if self.block is not None else f"blob {self.cid}"
        return f"{lost} is not in {self.where}: put the same bytes again, or open the blob store that has them"


@_define
class BlobsUnavailable(PerdureError):
    """The blob store did not do it: no blob was put, none was taken away."""

    where: str
    why: str
    remedy: str = "try again"

    def __str__(self) -> str:
        return f"{self.where} is unavailable: {self.why}; nothing was put or deleted, {self.remedy}"


# -- actors ----------------------------------------------------------------------------------


@_define
class ProjectionFailed(PerdureError):
    """A projection stopped at an event; the cause is attached."""

    name: str
    position: int
    stream: str
    seq: int

    def __str__(self) -> str:
        return (
            f"projection {self.name!r} failed at position {self.position} (stream {self.stream!r}, seq {self.seq}): "
            "correct its step (see the cause) and start it again; its state is that before the event"
        )


@_define
class ModelFaulted(PerdureError):
    """The model stands still for good; it stays readable."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"model {self.name!r} stands still: {self.reason}"


@_define
class StateTooLarge(PerdureError):
    """A single-value state exceeds its limit."""

    name: str
    size_bytes: int
    limit_bytes: int

    def __str__(self) -> str:
        return f"the state of {self.name!r} has {self.size_bytes:,} bytes, the limit is {self.limit_bytes:,}: make it a Keyed projection"


@_define
class UnstableState(PerdureError):
    """A state that does not come back from its bytes as it went."""

    name: str
    path: str
    remedy: str = "write the field with the type it declares (a float field as 0.0, not 0)"

    def __str__(self) -> str:
        return f"the state of {self.name!r} changes when stored and read back, at {self.path}: {self.remedy}"


@_define
class AlreadyRunning(PerdureError):
    """The same projection or named subscription runs already: in this runtime, or (where there are no leases) its place is moved by another one."""

    name: str

    def __str__(self) -> str:
        return f"{self.name!r} runs already, here or in another process: use its model, or stop the other first"


@_define
class LeaseLost(PerdureError):
    """A lease ended while its body ran: this process was held up for too long, and another one may have it."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"the lease {self.name!r} was lost: {self.why}; what was committed with its fence counts, ask for it again to go on"


@_define
class TooManyRestarts(PerdureError):
    """A child kept failing without progress; the cause is the group of its failures."""

    name: str
    restarts: int

    def __str__(self) -> str:
        return f"{self.name!r} was restarted {self.restarts} times in a row without progress: see the causes"


@_define
class AskTimeout(PerdureError):
    """An actor did not answer an internal question in time."""

    actor: str
    depth: int
    limit_s: float

    def __str__(self) -> str:
        return f"actor {self.actor!r} did not answer within {self.limit_s:g} s (mailbox depth {self.depth}): see the status tree"


class RuntimeFailed(PerdureError):
    """The runtime itself failed; its cause says why."""

    def __str__(self) -> str:
        return f"the runtime failed: {self.__cause__}" if self.__cause__ else "the runtime failed"


# -- an answer, not an error -----------------------------------------------------------------


@_define
class Conflict(PerdureError):
    """A commit whose expectation, check, condition or fence did not hold: nothing was stored.

    Returned, not raised: `match` it, or call `unwrap()`, which raises it.
    *what* is "stream", "entry", "condition" or "fence"; further failures of the same commit are in *more*.
    """

    what: str
    subject: str
    expected: object
    actual: object
    more: tuple[Conflict, ...] = ()

    def __str__(self) -> str:
        return f"{self.what} {self.subject!r}: expected {self.expected}, found {self.actual}; read it again, decide anew, and append with what you found"

    def unwrap(self) -> Never:
        """Raise this conflict."""
        raise self

    def facts(self) -> tuple[tuple[str, str, object, object], ...]:
        """All failures as (what, subject, expected, actual), for comparison: exceptions compare by identity."""
        own = (self.what, self.subject, self.expected, self.actual)
        return (own, *(fact for one in self.more for fact in one.facts()))

    def with_more(self, more: tuple[Self, ...]) -> Conflict:
        """This conflict as the first of several."""
        return Conflict(self.what, self.subject, self.expected, self.actual, more)
