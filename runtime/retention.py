"""Retention: how long events are kept, as policy. What may go is planned, put into an archive, and cut.

    App(..., retention=[Retention(categories=["session"], age_s=30 * 86_400), Retention(categories=["order"], count=1_000, covered_by=["revenue"])])

Of what a policy says all must allow an event to go; the first policy that names a stream counts for it. Whatever it says, nothing goes that a
registered consumer (a projection, a named subscription, a hold) has not passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import attrs
import trio

from perdure.backends.blobs.protocol import BlobStore
from perdure.backends.commit import Commit, Committed, Cut, propose
from perdure.backends.errors import BlobsUnavailable, Conflict, Full, InDoubt, Misuse, PerdureError, Truncated, Unavailable, Unsupported
from perdure.backends.event import Position, Record, category_of
from perdure.backends.limits import CUT_EVENTS, LIMITS, Limits
from perdure.backends.progress import Progress, Told, nobody
from perdure.backends.protocol import Backend, StreamInfo
from perdure.runtime.archives import write_archive
from perdure.runtime.consumers import Consumer, consumers

STREAMS_A_STEP: Final = 1_000
CUTS_A_GROUP: Final = 64
"""So many streams are cut with one flush."""
EVENT_BYTES: Final = 20
"""What an event takes in a frame beside its body."""


def _names(values: Iterable[str]) -> tuple[str, ...]:
    if isinstance(values, str):
        raise Misuse(f"a retention takes a list of names, not the text {values!r}: write [{values!r}]")
    return tuple(values)


@attrs.frozen(kw_only=True)
class Retention:
    """What goes of the streams that it names, or that are in its categories: events that all of it allows to go.

    *age_s*: those older than that; *count*: all but so many newest; *covered_by*: those that the last snapshot but one of each of these
    projections covers. With *archive* they are in a blob before they go.

    Raises:
      Misuse: it names no streams, or says nothing of what goes.
    """

    categories: tuple[str, ...] = attrs.field(default=(), converter=_names)
    streams: tuple[str, ...] = attrs.field(default=(), converter=_names)
    age_s: float | None = None
    count: int | None = None
    covered_by: tuple[str, ...] = attrs.field(default=(), converter=_names)
    archive: bool = True

    def __attrs_post_init__(self) -> None:
        if not (self.categories or self.streams):
            raise Misuse("a Retention is of categories= or streams=")
        if self.age_s is None and self.count is None and not self.covered_by:
            raise Misuse("a Retention says what goes: by age_s=, by count=, or covered_by= the snapshots of projections")
        if (self.age_s is not None and self.age_s < 0) or (self.count is not None and self.count < 0):
            raise Misuse("a Retention keeps events for a time of 0 s or more, and so many of them: 0 or more")

    def names(self, stream: str) -> bool:
        """Whether it is about that stream."""
        return stream in self.streams or category_of(stream) in self.categories


@attrs.frozen
class Planned:
    """A stream of which something may go: *events* before seq *first*."""

    info: StreamInfo
    first: int
    archive: bool

    @property
    def events(self) -> int:
        """How many go."""
        return self.first - self.info.first


@attrs.frozen
class Plan:
    """What may go now. *waiting* events more may by their policies, and *holders* have not passed all of those: the lowest first."""

    planned: tuple[Planned, ...]
    waiting: int = 0
    holders: tuple[Consumer, ...] = ()


@attrs.frozen
class Gone:
    """What went of a stream, or (of a dry run) would."""

    stream: str
    first: int
    events: int
    bytes: int


@attrs.frozen
class Retained:
    """What a run did. *bytes* are those of events, as stored; files get smaller with `compact`."""

    gone: tuple[Gone, ...]
    archive: str | None
    """The blob that has it, if an archive was asked for."""
    held: tuple[str, ...]
    """Streams of which nothing went in the end, and why: somebody registered meanwhile."""
    dry: bool = False
    waiting: int = 0
    """So many events more may go by their policies,"""
    holders: tuple[Consumer, ...] = ()
    """and these have not passed them all: the lowest first."""

    @property
    def events(self) -> int:
        """How many went."""
        return sum(gone.events for gone in self.gone)

    @property
    def bytes(self) -> int:
        """What they took."""
        return sum(gone.bytes for gone in self.gone)


# -- planning --------------------------------------------------------------------------------


async def plan(backend: Backend, policies: Sequence[Retention], *, now_us: int) -> Plan:
    """What may go now, by stream, and what stands against more."""
    registered = await consumers(backend)
    floor = min((one.position for one in registered), default=await backend.head())
    covered = {name: await _covered(backend, name) for policy in policies for name in policy.covered_by}
    found: list[Planned] = []
    waiting, furthest = 0, Position(0)
    for info in await _streams(backend, policies):
        policy = next((policy for policy in policies if policy.names(info.name)), None)
        if policy is None or info.first > info.last:
            continue
        until = min((covered[name] for name in policy.covered_by), default=None)
        before_us = None if policy.age_s is None else now_us - int(policy.age_s * 1e6)
        last = info.last if policy.count is None else info.last - policy.count
        allowed, position = await _last_that_goes(backend, info, last, until, before_us)
        seq = allowed if position <= floor else (await _last_that_goes(backend, info, allowed, floor, None))[0]
        waiting, furthest = waiting + allowed - seq, max(furthest, position)
        if seq >= info.first:
            found.append(Planned(info, seq + 1, policy.archive))
    return Plan(tuple(found), waiting, tuple(one for one in registered if waiting and one.position < furthest))


async def _covered(backend: Backend, name: str) -> Position:
    """How far the last snapshot but one of a projection reaches: should the last one not verify, nothing is missing."""
    places = await backend.snapshots(name)
    return places[-2] if len(places) > 1 else Position(0)


async def _streams(backend: Backend, policies: Sequence[Retention]) -> list[StreamInfo]:
    found: list[StreamInfo] = []
    prefixes = sorted({name for policy in policies for name in (*policy.streams, *policy.categories)})
    shortest = [name for name in prefixes if not any(other != name and name.startswith(other) for other in prefixes)]
    for prefix in shortest:
        after: str | None = None
        while infos := await backend.streams(prefix=prefix, after=after, limit=STREAMS_A_STEP):
            found += infos
            after = infos[-1].name
    return found


async def _last_that_goes(backend: Backend, info: StreamInfo, last: int, until: Position | None, before_us: int | None) -> tuple[int, Position]:
    """The last seq that goes, and its position, by halving: position and time only grow along a stream. One read, where nothing does."""
    low, high, position = info.first - 1, min(last, info.last), Position(0)

    def goes(record: Record) -> bool:
        return (until is None or record.position <= until) and (before_us is None or record.at_us < before_us)

    probe = low + 1
    while low < high:
        (record,) = await backend.read_stream(info.name, after=probe - 1, limit=1, bytes_max=1)
        if goes(record):
            low, position = probe, record.position
        else:
            high = probe - 1
        probe = (low + high + 1) // 2
    return low, position


# -- doing it --------------------------------------------------------------------------------


async def retain(
    backend: Backend,
    policies: Sequence[Retention],
    *,
    ids: Callable[[], bytes],
    blobs: BlobStore | None = None,
    dry_run: bool = False,
    limits: Limits = LIMITS,
    progress: Told = nobody,
) -> Retained:
    """Let go what *policies* allow to; with *dry_run* only say what that would be.

    What is archived is in one blob, durably, before the first event goes. If cancelled, or killed, some of it has gone, or nothing: the next run goes on.

    Raises:
      Misuse: a policy asks for an archive, and there is no blob store.
      Unsupported: the backend cuts nothing.
      Unavailable: the store has to be reopened; or somebody else cuts at the same time.
      BlobsUnavailable: the blob store took no archive; nothing has gone.
      Full, InDoubt: some of it has gone, perhaps; the next run goes on.
    """
    try:
        found = await plan(backend, policies, now_us=await backend.now_us())
        planned = found.planned
        sizes = {one.info.name: await _bytes_of(backend, one, limits, progress) for one in planned}
    except Truncated as error:
        raise Unavailable(f"stream {error.stream!r} was cut by somebody else meanwhile") from error
    gone = [Gone(one.info.name, one.first, one.events, sizes[one.info.name]) for one in planned]
    if dry_run or not planned:
        return Retained(tuple(gone), None, (), dry_run, found.waiting, found.holders)
    if not (backend.capabilities.writes and backend.capabilities.cuts):  # before an archive is put for nothing
        raise Unsupported("cuts" if backend.capabilities.writes else "writes", (await backend.store_status()).url)
    kept = {one.info.name: (one.info, one.first) for one in planned if one.archive}
    if kept and blobs is None:
        raise Misuse(f"{len(kept):,} streams are to be archived, and there is no blob store: give one (--blobs), or say archive=False in their Retention")
    cid = await write_archive(backend, blobs, kept, limits=limits) if kept and blobs is not None else None
    held = await _cut(backend, planned, cid, ids, progress)
    return Retained(tuple(one for one in gone if one.stream not in held), cid, tuple(held.values()), False, found.waiting, found.holders)


async def _bytes_of(backend: Backend, one: Planned, limits: Limits, progress: Told) -> int:
    size, seq = 0, one.info.first - 1
    while seq + 1 < one.first:
        limit = min(limits.page_records, one.first - 1 - seq)
        records = await backend.read_stream(one.info.name, after=seq, limit=limit, bytes_max=limits.page_bytes)
        size += sum(len(record.payload) + len(record.extra) + EVENT_BYTES for record in records)
        seq = records[-1].seq
        progress(Progress(f"events of {one.info.name}", seq - one.info.first + 1, one.events))
    return size


async def _cut(backend: Backend, planned: Sequence[Planned], cid: str | None, ids: Callable[[], bytes], progress: Told) -> dict[str, str]:
    """Cut them, some streams at a time; of which nothing went, and why."""
    held: dict[str, str] = {}
    done = 0
    for start in range(0, len(planned), CUTS_A_GROUP):
        some = planned[start : start + CUTS_A_GROUP]
        at_us = await backend.now_us()
        for step in _steps(some):
            commits = [_commit(one, first, cid, ids(), at_us) for one, first in step if one.info.name not in held]
            answers = (await backend.commit(commits)).answers if commits else []
            for (one, _), answer in zip([pair for pair in step if pair[0].info.name not in held], answers, strict=True):
                if isinstance(answer, Conflict):
                    held[one.info.name] = str(answer)
                elif not isinstance(answer, Committed):
                    raise answer
        done += len(some)
        progress(Progress("streams cut", done, len(planned)))
    return held


def _steps(planned: Sequence[Planned]) -> Iterable[list[tuple[Planned, int]]]:
    """What is cut with each flush: of no stream more than may go at once."""
    left: Mapping[str, int] = {one.info.name: one.info.first for one in planned}
    while step := [(one, min(one.first, left[one.info.name] + CUT_EVENTS)) for one in planned if left[one.info.name] < one.first]:
        yield step
        left = {**left, **{one.info.name: first for one, first in step}}


def _commit(one: Planned, first: int, cid: str | None, id: bytes, at_us: int) -> Commit:
    return propose([Cut(one.info.name, first, cid if one.archive else None)], id=id, at_us=at_us, own=True)


# -- all the time ----------------------------------------------------------------------------


async def keep_up(
    backend: Backend,
    policies: Sequence[Retention],
    *,
    ids: Callable[[], bytes],
    blobs: BlobStore | None = None,
    every_s: float = 3_600,
    tell: Callable[[Retained | PerdureError], object] = lambda _: None,
    limits: Limits = LIMITS,
) -> None:
    """Do it again and again, until cancelled. What a store does not allow now is tried again; *tell* is told of each round."""
    while True:
        try:
            tell(await retain(backend, policies, ids=ids, blobs=blobs, limits=limits))
        except (Unavailable, InDoubt, Full, BlobsUnavailable) as error:
            tell(error)
        await trio.sleep(every_s)
