"""A run on a simulated disk, recorded: what was acknowledged when, what the store said then, and images of the disk in between.

The oracle is the store itself before the fault: after each acknowledgement its whole content is taken as a digest.
Whatever happens to the disk afterwards, what is opened from it must be the content after the last acknowledgement,
or after the one commit that was on its way.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from perdure.backends import file
from perdure.backends.commit import Append, Commit, Committed, Delete, Draft, Put, SaveSnapshot, propose
from perdure.backends.commit_log import CommitLog
from perdure.backends.disk import Disk
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Conflict, Full, InDoubt, Unavailable
from perdure.backends.event import START, Position
from perdure.backends.file import FileMap, open_file
from perdure.backends.limits import LIMITS
from perdure.backends.logged import open_logged
from perdure.backends.ordered import OrderedBackend
from perdure.backends.place import Place
from perdure.backends.protocol import Backend, Capabilities
from perdure.backends.urls import open_backend

SEGMENT_BYTES = 8 << 10
"""Small, so that a short run meets many of them, and images."""
AT_US = 1_700_000_000_000_000


def environment_of(disk: Disk, seed: int) -> Environment:
    """One in which nothing but *seed* decides."""
    draw = random.Random(seed)
    return Environment(clock=lambda: AT_US, elapsed=lambda: 0.0, ids=lambda: draw.randbytes(16), jitter=draw.random, threads=InlineThreads(), disk=disk)


@asynccontextmanager
async def opened(scheme: str, disk: Disk, seed: int = 0) -> AsyncIterator[Backend]:
    """The store `file:`, or `segments`: a commit log before a map that is itself a store on the same disk."""
    environment = environment_of(disk, seed)
    options = file.Options(segment=SEGMENT_BYTES, flush="inline")
    if scheme == "file:":
        backend = await open_file("/store", options, url="file:/store", environment=environment)
    else:
        backend = await _open_segments(disk, options, environment)
    try:
        yield backend
    finally:
        with trio.CancelScope(shield=True):
            await backend.aclose()


async def _open_segments(disk: Disk, options: file.Options, environment: Environment) -> OrderedBackend:
    below = await open_file("/store", options, url="file:/store", environment=environment)
    base = below._store
    assert isinstance(base, FileMap)
    try:
        log = partial(CommitLog, disk, "/store/front", bytes.fromhex(base.id), Place("inline"), SEGMENT_BYTES)
        store = await open_logged(base, log)
    except BaseException:
        with trio.CancelScope(shield=True):
            await below.aclose()
        raise
    return OrderedBackend(store, url="segments:/store", capabilities=Capabilities(durable=True, loads=True, images=True, cuts=True), environment=environment)


async def content(backend: Backend) -> str:
    """A digest of all that the store says; and, behind a `/`, one of its snapshots, which only spare work."""
    digest = hashlib.blake2b(digest_size=16)

    def add(*parts: object) -> None:
        digest.update(repr(parts).encode())

    after, head = START, await backend.head()
    while after < head:
        page = await backend.read_log(after=after, limit=10_000, bytes_max=1 << 30)
        for record in page.records:
            add(record.stream, record.seq, record.position, record.type, record.payload, record.commit)
        after = page.examined
    for info in await backend.streams(limit=10_000):
        add(info)
        records = await backend.read_stream(info.name, after=0, limit=10_000, bytes_max=1 << 30)
        add([(record.seq, record.position) for record in records])
    for bucket in BUCKETS:
        add(await backend.scan(bucket, limit=10_000))
        add(await backend.read_changes(bucket, after=0, limit=10_000))
    add(head, await backend.revision())
    told = digest.hexdigest()
    for name in ("model",):
        add(await backend.snapshots(name), await backend.read_snapshot(name))
    return f"{told}/{digest.hexdigest()}"


BUCKETS = ("a", "b")


async def _empty() -> str:
    async with open_backend("memory:") as backend:
        return await content(backend)


EMPTY = trio.run(_empty)
"""The content of a store in which nothing was ever committed."""


def draw_commit(draw: random.Random, head: Position) -> Commit:
    """Any commit: events, values, deletes, snapshots; small ones mostly."""
    writes: list[Append[Draft] | Put[bytes] | Delete | SaveSnapshot] = []
    for stream in draw.sample(["s-1", "s-2", "t", "u-9"], draw.choice((0, 1, 1, 1, 2))):
        size = draw.choice((10, 40, 200, 1_500)) if draw.random() < 0.95 else 9_000
        writes.append(Append(stream, [Draft("happened", 1, draw.randbytes(size), b"") for _ in range(draw.choice((1, 1, 2, 5)))]))
    for bucket in draw.sample(BUCKETS, draw.choice((0, 0, 1, 2))):
        key = b"k%d" % draw.randrange(6)
        writes.append(Delete(bucket, key) if draw.random() < 0.3 else Put(bucket, key, draw.randbytes(draw.randrange(60))))
    if draw.random() < 0.1 or not writes:
        writes.append(SaveSnapshot("model", head, "f", draw.randbytes(100)))
    name = draw.randbytes(4) if draw.random() < 0.2 else None
    return propose(writes, id=draw.randbytes(16), key=name, at_us=AT_US, limits=LIMITS)


@attrs.define
class Recorded:
    """*contents[n]* is what the store said after n acknowledgements; *in_flight* whether one more commit is on its way."""

    contents: list[str] = attrs.field(factory=lambda: [EMPTY])
    in_flight: bool = False
    reopened: int = 0

    @property
    def acknowledged(self) -> int:
        """How many commits were, by now."""
        return len(self.contents) - 1


async def write_some(backend: Backend, draw: random.Random, commits: int, recorded: Recorded) -> None:
    """So many commits, one after the other, with upkeep in between, each noted when it was acknowledged; what is in doubt is cleared up."""
    for _ in range(commits):
        commit = draw_commit(draw, await backend.head())
        recorded.in_flight = True
        try:
            [answer] = (await backend.commit([commit])).answers
            assert isinstance(answer, Committed | Conflict | Full), answer
        except InDoubt:
            await reopened(backend)
            recorded.reopened += 1
            await backend.answer(commit.id)
        except Unavailable:
            await reopened(backend)
            recorded.reopened += 1
        recorded.contents.append(await content(backend))
        recorded.in_flight = False
        if draw.random() < 0.2:
            try:
                await backend.maintain()
            except Unavailable:
                await reopened(backend)


async def reopened(backend: Backend) -> None:
    """Open it again, as the keeper does: until it works."""
    for _ in range(20):
        try:
            await backend.reopen()
        except Unavailable:
            continue
        return
    raise Unavailable("it does not open again")
