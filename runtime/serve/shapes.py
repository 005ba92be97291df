"""What goes over the wire, as classes: bodies are decoded into them, answers encoded from them, and the OpenAPI document drawn from them.

Without slots, for msgspec writes the fields of an object in the order of its dict; those of slots it would write sorted.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import attrs
from msgspec import Meta

MOST = (1 << 63) - 1
Place = Annotated[int, Meta(ge=0, le=MOST)]
Name = Annotated[str, Meta(min_length=1, max_length=400)]
TypeName = Annotated[str, Meta(min_length=1, max_length=128)]
Moment = Annotated[datetime, Meta(tz=True)]
Expected = Place | Literal["any", "exists"]


# -- writing ---------------------------------------------------------------------------------


@attrs.frozen(slots=False)
class NewEvent:
    """An event to append. `data` is any JSON; where the daemon's app has a class for `type`, it must fit it."""

    type: TypeName
    data: Any = None
    tags: Annotated[list[Annotated[str, Meta(min_length=1, max_length=128)]], Meta(max_length=8)] = attrs.field(factory=list)
    meta: dict[str, Any] | None = None
    occurred: Moment | None = None
    id: Annotated[str, Meta(min_length=1, max_length=400)] | None = None


@attrs.frozen(slots=False)
class AppendBody:
    """Events for one stream: one commit, consecutive seqs. Without events it checks what is believed of the stream, and stores nothing."""

    events: Annotated[list[NewEvent], Meta(max_length=10_000)]


@attrs.frozen(slots=False)
class Appended:
    """Seqs `first` to `last` of the stream are durable; `position` is that of the last event. Where none was appended it is null, and `first` is `last` + 1."""

    stream: str
    first: Place
    last: Place
    position: Place | None


@attrs.frozen(slots=False)
class AppendWrite:
    """Events for a stream, within a commit."""

    stream: Name
    events: Annotated[list[NewEvent], Meta(max_length=10_000)]
    expected: Expected = "any"


@attrs.frozen(slots=False)
class PutWrite:
    """A value for a key, within a commit."""

    bucket: Name
    key: Name
    value: Any = None
    expected: Expected = "any"


@attrs.frozen(slots=False)
class DeleteWrite:
    """The end of an entry, within a commit."""

    bucket: Name
    key: Name
    expected: Expected = "any"


@attrs.frozen(slots=False)
class StreamCheck:
    """A belief about a stream's last seq, without a write."""

    stream: Name
    expected: Expected


@attrs.frozen(slots=False)
class EntryCheck:
    """A belief about an entry's revision, without a write."""

    bucket: Name
    key: Name
    expected: Expected


@attrs.frozen(slots=False)
class Item:
    """One alternative of a query; an empty list restricts nothing."""

    types: list[TypeName] = attrs.field(factory=list)
    streams: list[Name] = attrs.field(factory=list)
    categories: list[Name] = attrs.field(factory=list)
    tags: list[Name] = attrs.field(factory=list)


@attrs.frozen(slots=False)
class UnlessCondition:
    """The append condition: a conflict, if an event that matches any item exists after `after`."""

    items: Annotated[list[Item], Meta(min_length=1, max_length=8)]
    after: Place


@attrs.frozen(slots=False)
class Fence:
    """Holds while the lease `name` is that of `number`."""

    name: Name
    number: Place


@attrs.frozen(slots=False)
class CommitBody:
    """The whole write verb: all of it happens, or nothing. Each stream and each key occurs once."""

    appends: list[AppendWrite] = attrs.field(factory=list)
    puts: list[PutWrite] = attrs.field(factory=list)
    deletes: list[DeleteWrite] = attrs.field(factory=list)
    check_streams: list[StreamCheck] = attrs.field(factory=list)
    check_entries: list[EntryCheck] = attrs.field(factory=list)
    unless: list[UnlessCondition] = attrs.field(factory=list)
    fences: list[Fence] = attrs.field(factory=list)


@attrs.frozen(slots=False)
class Committed:
    """The commit is durable. `appended` answers the appends in order; `revision` is that of all puts and deletes, null without any."""

    position: Place | None
    appended: list[Appended]
    revision: Place | None


# -- the log ---------------------------------------------------------------------------------


@attrs.frozen(slots=False)
class StoredEvent:
    """An event as it is stored. Bytes in `data` are base64 text, times ISO 8601; CloudEvents (`Accept`) give every payload exactly."""

    stream: str
    seq: Place
    position: Place
    type: str
    version: int
    at: str
    occurred: str
    id: str
    tags: list[str]
    meta: dict[str, Any]
    traceparent: str | None
    data: Any


@attrs.frozen(slots=False)
class StreamPage:
    """Events of a stream. Go on with `after=next`; null: there are no more now."""

    events: list[StoredEvent]
    next: Place | None


@attrs.frozen(slots=False)
class LogPage:
    """Events of the log. Go on with `after=examined`; where that is `head`, there are no more now."""

    events: list[StoredEvent]
    examined: Place
    head: Place


@attrs.frozen(slots=False)
class Stream:
    """A stream: the seqs of its first and last event, and the position of the last."""

    stream: str
    first: Place
    last: Place
    position: Place


@attrs.frozen(slots=False)
class Streams:
    """Streams in order of their names. Go on with `after=next`; null: there are no more."""

    streams: list[Stream]
    next: str | None


@attrs.frozen(slots=False)
class Head:
    """Where the log ends, and the revision of the newest change of kv."""

    store: str
    head: Place
    revision: Place


# -- kv --------------------------------------------------------------------------------------


@attrs.frozen(slots=False)
class Entry:
    """A value with its revision, which is its ETag, too."""

    key: str
    value: Any
    revision: Place


@attrs.frozen(slots=False)
class Entries:
    """Entries in order of their keys. Go on with `after=next`; follow the bucket from `revision` on to miss nothing."""

    entries: list[Entry]
    revision: Place
    next: str | None


@attrs.frozen(slots=False)
class Stored:
    """The entry was put or deleted at this revision."""

    revision: Place


@attrs.frozen(slots=False)
class Blob:
    """A blob that is kept: a `BlobRef`, as events and values hold it."""

    cid: str
    size_bytes: Annotated[int, Meta(ge=0)]
    media_type: str


@attrs.frozen(slots=False)
class Change:
    """A key that changed: `value` is its value then; `deleted`: it has none."""

    key: str
    revision: Place
    deleted: bool
    value: Any = None


# -- models ----------------------------------------------------------------------------------

ModelKind = Literal["single", "keyed", "sql"]


@attrs.frozen(slots=False)
class ModelState:
    """What a model is, without its state."""

    name: str
    kind: ModelKind
    version: int
    position: Place
    running: bool
    fault: str | None


@attrs.frozen(slots=False)
class Models:
    """The models of the app that this daemon runs."""

    models: list[ModelState]


@attrs.frozen(slots=False)
class ModelValue:
    """A model's state at a position; of a keyed model that of one key. Of a keyed model without a key, or one in SQL, `state` is null."""

    name: str
    position: Place
    state: Any
    key: str | None = None


@attrs.frozen(slots=False)
class ModelKeys:
    """Keys of a keyed model with their states. Go on with `after=next`; null: there are no more."""

    name: str
    position: Place
    entries: list[KeyState]
    next: str | None


@attrs.frozen(slots=False)
class KeyState:
    """A key of a keyed model."""

    key: str
    state: Any


# -- operating -------------------------------------------------------------------------------


@attrs.frozen(slots=False)
class Health:
    """Whether, and if not, why not."""

    status: Literal["ok", "not ready"]
    reasons: list[str] = attrs.field(factory=list)


@attrs.frozen(slots=False)
class Actor:
    """An actor of the tree; see `Runtime.status`."""

    name: str
    state: str
    mailbox: int
    position: Place | None
    lag_events: int | None
    lag_s: float | None
    restarts: int
    last_error: str | None
    owner: str | None
    children: list[Actor]


@attrs.frozen(slots=False)
class Daemon:
    """A daemon on this store; `here`: the one that answers."""

    name: str
    process: str
    here: bool


@attrs.frozen(slots=False)
class Http:
    """What the HTTP side has done since it was started."""

    connections: int
    connections_refused: int
    followers: int
    requests: int
    failures: int
    bodies_bytes: int


@attrs.frozen(slots=False)
class Status:
    """All that the daemon says of itself. `format` grows when a field changes its meaning; fields may be added."""

    format: int
    state: Literal["running", "draining"]
    store: str
    url: str
    head: Place
    store_state: str
    up_s: float
    loop_stall_max_s: float
    streams_live: int
    journal: dict[str, Any]
    http: Http
    daemons: list[Daemon]
    root: Actor


@attrs.frozen(slots=False)
class Failed:
    """What did not hold."""

    what: str
    subject: str
    expected: Any
    actual: Any


@attrs.frozen(kw_only=True, slots=False)
class Problem:
    """RFC 9457. `type` names the situation, `detail` the remedy; `conflict` has the facts of a 409, `facts` those of any error, bytes in hexadecimal digits."""

    type: str
    title: str
    status: int
    detail: str
    conflict: list[Failed] | None = None
    facts: dict[str, Any] | None = None
