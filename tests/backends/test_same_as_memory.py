"""The same random operations give the same answers on memory and LMDB; memory is the oracle."""

from __future__ import annotations

import tempfile
from contextlib import AsyncExitStack

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.backends.commit import (
    ANY,
    EXISTS,
    LEASES,
    Append,
    Check,
    Delete,
    Draft,
    Fence,
    Put,
    SaveSnapshot,
    Unless,
    key_id,
    propose,
)
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Conflict, Misuse, PerdureError
from perdure.backends.event import Extra, Position, pack_extra
from perdure.backends.limits import Limits
from perdure.backends.selector import Item, Selector
from perdure.backends.urls import open_backend

STREAMS = ["a-1", "a-2", "b", "ä"]
KEYS = [b"x", b"xy", b"\xff", b"\0"]
BUCKETS = ["k", "k2", "$models m"]
TYPES = ["one", "two"]
TAGS = ["t", "u"]
LIMITS = Limits(keys_kept_s=50, tombstones_kept_s=30)

positions = st.integers(0, 40).map(Position)
expected = st.one_of(st.just(ANY), st.just(ANY), st.just(EXISTS), st.integers(0, 6))
tags = st.lists(st.sampled_from(TAGS), unique=True, max_size=2).map(tuple)
drafts = st.builds(
    lambda type, payload, tags, trace: Draft(type, 1, payload, pack_extra(Extra(tags=tags, traceparent=trace)), tags),
    st.sampled_from(TYPES),
    st.binary(max_size=12),
    tags,
    st.none() | st.just("00-1"),
)
items = st.builds(
    Item,
    types=st.lists(st.sampled_from(TYPES), max_size=1),
    streams=st.lists(st.sampled_from(STREAMS), max_size=1),
    categories=st.lists(st.sampled_from(["a", "b", "c"]), max_size=1),
    tags=st.lists(st.sampled_from(TAGS), unique=True, max_size=2),
)
selectors: st.SearchStrategy[Selector] = st.lists(items, min_size=1, max_size=2).map(tuple).map(Selector)
writes = st.one_of(
    st.builds(Append, st.sampled_from(STREAMS), st.lists(drafts, max_size=3), expected),
    st.builds(Append, st.sampled_from(STREAMS), st.lists(drafts, min_size=1, max_size=3)),
    st.builds(Put, st.sampled_from(BUCKETS), st.sampled_from(KEYS), st.binary(max_size=8), expected),
    st.builds(Delete, st.sampled_from(BUCKETS), st.sampled_from(KEYS), expected),
    st.builds(lambda stream, expected: Check(expected, stream=stream), st.sampled_from(STREAMS), expected),
    st.builds(lambda key, expected: Check(expected, bucket="k", key=key), st.sampled_from(KEYS), expected),
    st.builds(lambda query, after: Unless(query, after=after), selectors, positions),
    st.builds(SaveSnapshot, st.sampled_from(["s", "s2"]), positions, st.just("f"), st.binary(max_size=8), st.lists(positions, max_size=2).map(tuple)),
    st.builds(Fence, st.just("job"), st.integers(0, 3)),
    st.builds(lambda fence: Put(LEASES, b"job", fence.to_bytes(8, "big")), st.integers(1, 3)),
)
commits = st.tuples(st.lists(writes, min_size=1, max_size=4), st.none() | st.none() | st.sampled_from([b"once", b"twice"]), st.integers(0, 10**6))
limits = st.integers(1, 6)
operations = st.one_of(
    st.tuples(st.just("commit"), st.lists(commits, min_size=1, max_size=4)),
    st.tuples(st.just("commit"), st.lists(commits, min_size=1, max_size=4)),
    st.tuples(st.just("read_stream"), st.sampled_from(STREAMS), st.integers(0, 12), limits, st.sampled_from([1, 150, 10_000]), st.booleans()),
    st.tuples(st.just("read_log"), positions, limits, st.sampled_from([1, 250, 10_000]), selectors),
    st.tuples(st.just("kv"), st.sampled_from(BUCKETS), st.sampled_from([b"", b"x", b"\xff"]), st.none() | st.sampled_from(KEYS), limits),
    st.tuples(st.just("changes"), st.sampled_from(BUCKETS), st.integers(0, 12), limits),
    st.tuples(st.just("snapshots"), st.sampled_from(["s", "s2", "s3"]), st.none() | positions),
    st.tuples(st.just("streams"), st.sampled_from(["", "a", "a-", "z"]), st.none() | st.sampled_from(STREAMS), limits),
    st.tuples(st.just("maintain"), st.integers(0, 60)),
    st.tuples(st.just("reopen")),
)


class World:
    """A clock and ids that two stores share, each with its own count."""

    def __init__(self):
        self.now_us = 10**6
        self.drawn = 0

    def environment(self):
        return Environment(clock=lambda: self.now_us, ids=lambda: bytes(16), threads=InlineThreads())

    def id(self):
        self.drawn += 1
        return self.drawn.to_bytes(16, "big")


class Side:
    """One store, asked the same as the other."""

    def __init__(self, url, lasting):
        self.url = url
        self.lasting = lasting
        self.world = World()
        self.asked = []
        self.stack = AsyncExitStack()

    async def open(self):
        self.backend = await self.stack.enter_async_context(open_backend(self.url, environment=self.world.environment(), limits=LIMITS))

    async def close(self):
        await self.stack.aclose()

    async def do(self, operation):
        """The answer, as a value that compares."""
        name, *args = operation
        try:
            return await getattr(self, f"_{name}")(*args)
        except PerdureError as error:
            return type(error), str(error)

    async def _commit(self, group):
        made = []
        for writes, key, late_us in group:
            try:
                made.append(propose(writes, id=self.world.id(), at_us=self.world.now_us + late_us, key=key, own=True))
            except Misuse:
                continue
        answered = await self.backend.commit(made)
        self.asked += made
        records = None if answered.records is None else answered.records()
        return answered.follows, [_told(answer) for answer in answered.answers], records, [await self.backend.answer(commit.id) for commit in made]

    async def _read_stream(self, stream, after, limit, bytes_max, backward):
        return await self.backend.read_stream(stream, after=after, limit=limit, bytes_max=bytes_max, backward=backward), await self.backend.stream(stream)

    async def _read_log(self, after, limit, bytes_max, where):
        return await self.backend.read_log(after=after, limit=limit, bytes_max=bytes_max, where=where)

    async def _kv(self, bucket, prefix, after, limit):
        return await self.backend.scan(bucket, prefix=prefix, after=after, limit=limit), [await self.backend.get(bucket, key) for key in KEYS]

    async def _changes(self, bucket, after, limit):
        return await self.backend.read_changes(bucket, after=after, limit=limit)

    async def _snapshots(self, name, at_most):
        return await self.backend.read_snapshot(name, at_most=at_most), await self.backend.snapshots(name)

    async def _streams(self, prefix, after, limit):
        return await self.backend.streams(prefix=prefix, after=after, limit=limit)

    async def _maintain(self, seconds):
        self.world.now_us += seconds * 10**6
        return [await self.backend.maintain() for _ in range(2)]

    async def _reopen(self):
        if self.lasting:
            await self.close()
            await self.open()

    async def everything(self):
        """What the store holds in the end."""
        async with self.backend.view() as view:
            return {
                "log": (await view.read_log(after=Position(0), limit=10**6, bytes_max=10**9)).records,
                "streams": await view.streams(limit=99),
                "kv": [await view.scan(bucket, limit=99) for bucket in (*BUCKETS, LEASES)],
                "revision": await view.revision(),
                "keys": [await view.answer(key_id(key)) for key in (b"once", b"twice")],
                "problems": [problem for problem in await self.backend.verify() if "stands at position" not in problem],  # ours stand anywhere
            }


def _told(answer):
    return answer.facts() if isinstance(answer, Conflict) else (type(answer), str(answer)) if isinstance(answer, PerdureError) else answer


async def _both(given):
    with tempfile.TemporaryDirectory() as folder:
        memory, lmdb = Side("memory:", lasting=False), Side(f"lmdb:{folder}", lasting=True)
        try:
            await memory.open()
            await lmdb.open()
            for operation in given:
                assert await lmdb.do(operation) == await memory.do(operation)
            found = await memory.everything()
            assert await lmdb.everything() == found
            assert found["problems"] == []
        finally:
            await lmdb.close()
            await memory.close()


@given(st.lists(operations, min_size=1, max_size=25))
@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
def test_the_same_operations_give_the_same_answers(given):
    trio.run(_both, given)
