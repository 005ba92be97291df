"""The runtime: fifteen methods, each a delegation, and the blob store it was given."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import attrs
import trio

from perdure.actors.fold import Fold, Keyed, Projection
from perdure.actors.follower import Follower
from perdure.actors.journal import Journal, JournalStatistics
from perdure.actors.model import KeyedModel, Model
from perdure.actors.sql import SqlModel, SqlProjection
from perdure.actors.status import ActorStatus, Hub
from perdure.actors.stream import Streams
from perdure.actors.subscription import Place, Subscription, start_position
from perdure.backends.blobs.protocol import BlobStore
from perdure.backends.codec import Codec
from perdure.backends.commit import ANY, Appended, Commit, Committed, Expect, Expected, Write, check_name
from perdure.backends.environment import Environment
from perdure.backends.errors import AlreadyRunning, Closed, Conflict, Misuse, PerdureError, Rewound
from perdure.backends.event import HEAD, START, Event, Position
from perdure.backends.limits import Limits
from perdure.backends.protocol import Backend
from perdure.backends.recovery import Recovery
from perdure.backends.selector import EVERYTHING, Selector
from perdure.backends.timing import Timings
from perdure.runtime import execute as executing
from perdure.runtime.encode import AnyWrite, Encoder
from perdure.runtime.kv import Bucket
from perdure.runtime.lease import Lease, open_lease
from perdure.runtime.log import LogReader, StreamReader, fold_stream
from perdure.runtime.models import Handle, Models
from perdure.runtime.tracing import UNTRACED, following
from perdure.runtime.tree import Status, Tree
from perdure.runtime.view import RuntimeView

if TYPE_CHECKING:
    from perdure.actors.spans import Spans

log = logging.getLogger("perdure.subscription")

S = TypeVar("S")
D = TypeVar("D")
V = TypeVar("V")


@attrs.define(eq=False, repr=False)
class Runtime:
    """An open store with its actors. Made by `open_runtime`; see there."""

    backend: Backend
    """Not the one that `open_runtime` was given, but a seat on it: the store may go elsewhere (see `perdure.runtime.migrate`)."""
    environment: Environment
    limits: Limits
    hub: Hub
    _codec: Codec
    _encoder: Encoder
    _journal: Journal
    _streams: Streams
    _models: Models
    _tree: Tree
    _places: AsyncExitStack
    """Stores that it was brought to, open until it ends."""
    _blobs: BlobStore | None = None
    _spans: Spans | None = None
    """None where there is no OpenTelemetry."""
    _buckets: dict[str, Any] = attrs.field(factory=dict)
    _subscriptions: dict[object, Subscription[Any]] = attrs.field(factory=dict)
    _names: set[str | None] = attrs.field(factory=set)

    def __repr__(self) -> str:
        return f"<runtime on {self.backend!r}>"

    # -- writing -----------------------------------------------------------------------------

    @overload
    async def append(self, stream: str, events: Sequence[object], *, key: bytes | None = None) -> Appended: ...
    @overload
    async def append(
        self, stream: str, events: Sequence[object], *, expected: int | Literal[Expect.EXISTS, Expect.ANY], key: bytes | None = None
    ) -> Appended | Conflict: ...
    async def append(self, stream: str, events: Sequence[object], *, expected: Expected = ANY, key: bytes | None = None) -> Appended | Conflict:
        """Append *events* to *stream* as one commit, with consecutive seqs.

        An item is an instance of a class marked `@event`, or `NewEvent`. *expected* is the stream's
        last seq as the caller believes it (0: no such stream), `EXISTS` or `ANY`. On return they are
        durable and visible to every reader. If cancelled, nothing was stored: once its group is formed
        the call waits for its answer.

        Raises:
          Misuse: a bad name, or an event that cannot be encoded; nothing was stored.
          TooLarge: a name, an event or the commit exceeds its limit; nothing was stored.
          KeyReused: *key* was used for another content; nothing was stored.
          Full: the store reached its size limit; nothing was stored.
          ClockAhead: this machine's clock jumped ahead; nothing was stored.
          Corrupt: the stream's newest run is damaged; nothing was stored.
          Unavailable: another process keeps the right to write (the message names it), or the store takes nothing now; nothing was
            stored, nothing will be.
          InDoubt: a flush failed, or hangs, and the store did not come back within `limits.commit_s`; ask again with the same *key*;
            without one a retry is a new commit.
          Closed: the runtime was closed before the group was formed; nothing was stored.
        """
        with UNTRACED if self._spans is None else following(self._spans, "append", {"perdure.stream": stream}):
            answer = await self._streams.commit(stream, self._encoder.append(stream, events, expected, key))
        return answer.parts[0] if isinstance(answer, Committed) else answer  # type: ignore[return-value]  # an append has one part

    async def transact(self, *writes: AnyWrite, key: bytes | None = None) -> Committed | Conflict:
        """Commit *writes* (`Append`, `Put`, `Delete`, `Check`, `Unless`, `Fence`) whole or not at all.

        `parts` of the answer are those of the appends, puts and deletes, in order. If cancelled,
        nothing was stored. Raises as `append` does, and:
          ConditionTooBroad: an `Unless` would examine too much; nothing was stored.
        """
        with UNTRACED if self._spans is None else following(self._spans, "transact", {"perdure.writes": len(writes)}):
            return await self._journal.commit(self._encoder.transact(writes, key))

    async def execute(
        self,
        stream: str,
        fold: Fold[S, D],
        decide: Callable[..., Sequence[object]],
        *args: object,
        key: bytes | None = None,
        attempts_max: int = 5,
    ) -> Appended | Conflict:
        """Fold *stream*, append what `decide(state, *args)` returns with that expectation, again on conflict.

        Payloads none: `Appended` with `first == last + 1`, nothing was stored. After *attempts_max* the
        last `Conflict` is returned. A known *key* gives its first answer, undecided. Raises as `append`.
        """
        return await executing.execute(self, stream, fold, decide, args, key, attempts_max)

    # -- reading -----------------------------------------------------------------------------

    async def fold(self, stream: str, fold: Fold[S, D]) -> tuple[S, int]:
        """The state of *stream* and its last seq (0 while it has no event).

        Raises:
          ProjectionFailed: an event could not be read or folded; the cause says why.
        """
        return await fold_stream(self.backend, self._codec, self._journal.pace, stream, fold)

    def read(self, stream: str, *, after: int = 0, limit: int | None = None, backward: bool = False) -> AsyncIterator[Event[object]]:
        """The stream's events with a seq beyond *after*; *backward*: below *after* (0: from the end), newest first.

        Ends at the end it finds. Raises while iterating:
          Unreadable: an event does not fit its class. Truncated: what was asked for has been cut.
        """
        return StreamReader(self.backend, self._codec, self._journal.pace, stream, after=after, limit=limit, backward=backward)

    def read_all(self, events: Selector[D] = EVERYTHING, *, after: Position = START, limit: int | None = None) -> LogReader[D]:
        """The selected events beyond position *after*, in order, to the head it finds.

        Raises while iterating:
          Unreadable: an event does not fit its class. Rewound: *after* is beyond the head.
        """
        self._register(events)
        return LogReader(self.backend, self._codec, self._journal.pace, events, after=after, limit=limit)

    @asynccontextmanager
    async def subscribe(self, events: Selector[D], *, after: Position = HEAD, name: str | None = None) -> AsyncIterator[Subscription[D]]:
        """An iterator over the selected events beyond *after* (HEAD: those to come), in order, without a gap, for ever.

        Asking for the next event says that the last one is done. With a *name* its place is kept in the
        store, at most every second and at the end: the last commit of which all is done; the kept place
        goes before *after*. The iteration ends when the runtime closes.

        Of several processes that subscribe under one name one gets the events (it holds a lease), the others wait for the first one. When
        the holder ends, the next one goes on from the kept place at once; when it is killed or frozen, within `limits.lease_s`: none is missed,
        and what came after the last kept place comes again.

        Raises:
          AlreadyRunning: the name is in use in this runtime; or (where processes cannot share the store) another runtime moves its place.
          Rewound: *after* or the kept place is beyond the head.
          WrongStore: the kept place belongs to another store.
        """
        self._register(events)
        if name is not None:
            check_name("subscription name", name, 128, own=False)
            if name in self._names:
                raise AlreadyRunning(name)
        self._check_open()
        try:
            if name is not None:
                self._names.add(name)
            async with self._subscribe(events, after, name) as subscription:
                yield subscription
        finally:
            self._names.discard(name)

    @asynccontextmanager
    async def _subscribe(self, events: Selector[D], after: Position, name: str | None) -> AsyncIterator[Subscription[D]]:
        head = await self.backend.head()
        place, claim, start = None, None, start_position(after, head)
        if name is not None:
            place = Place(f"subscription {name}", self.backend)
            kept = await place.read()
            start = start if kept is None else Position(kept.position)
        if start > head:
            raise Rewound(head)
        if name is not None and self.backend.capabilities.shared_writes:
            claim = self._tree.leases.claim(f"subscription {name}")
        follower = Follower(self.backend, self._journal.ring, events, start, self._journal.pace)
        subscription: Subscription[D] = Subscription(
            follower,
            self._codec,
            place=place,
            commit=self._tree.commit_derived,
            store=self.backend.id,
            name=name or "",
            claim=claim,
        )
        token = object()
        self._subscriptions[token] = subscription
        ended_well = False
        try:
            yield subscription
            ended_well = True
        finally:
            try:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + self.limits.ask_s):
                    await subscription.save()
            except Closed:
                pass
            except Exception as error:
                if ended_well:
                    raise
                log.warning("the place of subscription %s was not kept: %s", name, error)  # the body's own exception leaves
            finally:
                del self._subscriptions[token]
                if claim is not None:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + self.limits.ask_s):
                        await self._tree.leases.release(claim)

    def kv(self, bucket: str, type: type[V]) -> Bucket[V]:
        """The bucket of that name, whose values are of *type*.

        Raises:
          Misuse: a bad name, a type that cannot be stored, or the bucket was opened here with another type.
        """
        known = self._buckets.get(bucket)
        if known is None:
            check_name("bucket name", bucket, self.limits.bucket_bytes, own=False)
            self._encoder.buckets[bucket] = type
            known = self._buckets[bucket] = Bucket(
                bucket,
                type,
                backend=self.backend,
                codec=self._codec,
                limits=self.limits,
                propose=lambda writes: self._encoder.transact(writes, None),
                commit=self._commit_entry,
            )
        elif known.type != type:
            raise Misuse(f"bucket {bucket!r} is of {known.type!r} here, not of {type!r}: a bucket has one type")
        bucket_: Bucket[V] = known
        return bucket_

    async def _commit_entry(self, commit: Commit) -> Committed | Conflict:
        with UNTRACED if self._spans is None else following(self._spans, "kv", {}):
            return await self._journal.commit(commit)

    @overload
    def model(self, projection: Projection[S, Any]) -> Model[S]: ...
    @overload
    def model(self, projection: Keyed[S, Any]) -> KeyedModel[S]: ...
    @overload
    def model(self, projection: SqlProjection[Any]) -> SqlModel: ...
    def model(self, projection: Projection[Any, Any] | Keyed[Any, Any] | SqlProjection[Any]) -> Handle:
        """A typed handle that reads the projection's model, wherever it runs; of a `SqlProjection` how far its tables are.

        One that nobody here runs answers from what is kept: `await model.refresh()` first.
        """
        return self._models.handle(projection)

    async def project(  # noqa: ASYNC128 - handed on to the actor
        self, projection: Projection[Any, Any] | Keyed[Any, Any] | SqlProjection[Any], *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run *projection* here, in the caller's own nursery: `model = await nursery.start(rt.project, P)`.

        Raises:
          ProjectionFailed: an event could not be folded; the cause is attached.
          AlreadyRunning: it runs in this runtime.
          ModelFaulted: what is stored was made by another version of it.
          Closed: the runtime is closed.
        """
        self._check_open()
        await self._models.project(projection, task_status)

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[Lease]:
        """The right to run *name*, in one process at a time: the body runs once it is had, and gives it back.

        Waits while another process has it: until that one gives it back, has ended, or was not heard of for `limits.lease_s`. While the body
        runs this runtime beats for it. If that does not get through for too long (this process was frozen, the store takes nothing) the
        body is cancelled, before another process may have it as far as clocks can tell. What is never wrong is the fence:
        `await rt.transact(*writes, lease.fence)` is a `Conflict` as soon as another process has it, and nothing was stored.

        Raises:
          LeaseLost: it was lost while the body ran.
          Misuse: a bad name.
          Closed: the runtime is closed.
        """
        check_name("lease name", name, 128, own=False)
        self._check_open()
        async with open_lease(self._tree.leases, name, lease_s=self.limits.lease_s, release_s=self.limits.ask_s) as held:
            yield held

    @property
    def blobs(self) -> BlobStore:
        """The blob store that `open_runtime` was given, for large objects: `ref = await rt.blobs.put(path)`, then append *ref*.

        Raises:
          Misuse: it was given none.
        """
        if self._blobs is None:
            raise Misuse("this runtime has no blob store: open_runtime(..., blobs='directory:DIR') gives it one")
        return self._blobs

    async def head(self) -> Position:
        """The last position; 0 while the log is empty."""
        return await self.backend.head()

    def view(self) -> AbstractAsyncContextManager[RuntimeView]:
        """Reads that all stand at one position, for `limits.view_s` at most; then the body is cancelled and `Closed` raised."""
        return RuntimeView.open(self.backend, self._codec, self._journal.pace, self._register)

    def status(self) -> Status:
        """The tree of actors, as values."""
        return self._tree.status(self._streams, self._models, self._subscriptions.values())

    async def recovery_report(self) -> Recovery:
        """What opening the store found: how it was left, what was checked and applied again, what was set aside in `lost/`.

        Raises:
          Unavailable: the store cannot be looked at now.
        """
        return (await self.backend.store_status()).recovery

    # -- for parts of perdure beside it (the daemon) -----------------------------------------

    async def commit_own(self, writes: list[Write]) -> Committed | Conflict:
        """Commit perdure's own writes, which may name what is reserved."""
        return await self._tree.commit_derived(writes)

    def models_status(self) -> tuple[ActorStatus, ...]:
        """The projections of `status()` alone, which cost little."""
        return self._tree.models_status(self._models)

    def journal_statistics(self) -> JournalStatistics:
        """The journal's numbers alone."""
        return self._journal.statistics()

    @property
    def flushes(self) -> Timings:
        """How long the store took for each group of commits."""
        return self._journal.flushes

    async def commit_group(self, commits: Sequence[Commit]) -> list[Committed | Conflict | PerdureError]:
        """Commit, in this order, what was proposed elsewhere, and checked. See `Journal.commit_all`."""
        return await self._journal.commit_all(commits)

    @property
    def spans(self) -> Spans | None:
        """What spans are made with, where there is OpenTelemetry."""
        return self._spans

    def follower(self, events: Selector[Any], after: Position) -> Follower:
        """The selected records beyond *after*, not decoded, a page at a time."""
        return Follower(self.backend, self._journal.ring, events, after, self._journal.pace)

    # -- inside ------------------------------------------------------------------------------

    def _keep_open(self, place: AsyncExitStack) -> None:
        """Keep a store open that this runtime stands on, until it ends."""
        self._places.push_async_exit(place)

    def _ask_leases(self) -> None:
        """Want leases for what is run here, if other processes may run it too now."""
        for running in self._models.all():
            running.actor.ask()

    def _check_open(self) -> None:
        if self._tree.closing:
            raise Closed("the runtime")

    def _register(self, events: Selector[Any]) -> None:
        for cls in events.classes:
            self._codec.registry.register(cls)
