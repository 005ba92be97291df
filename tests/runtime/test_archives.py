"""What was cut is in its archive, and read with the log as if it had never been cut."""

from __future__ import annotations

import random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.backends import archive
from perdure.backends.blobs.urls import open_blobs
from perdure.backends.commit import Append, Cut
from perdure.backends.conformance.cuts import tidy
from perdure.backends.conformance.law import Desk, draft
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Corrupt, Misuse, Truncated
from perdure.backends.event import START, Position
from perdure.backends.faulty import FaultyBackend
from perdure.backends.memory import open_memory
from perdure.backends.selector import EVERYTHING
from perdure.backends.simulated_disk import SimulatedDisk
from perdure.runtime.archives import Archived, open_archive, write_archive

DAY_US = 86_400_000_000


@pytest.fixture
async def blobs():
    async with open_blobs("directory:/blobs", environment=Environment(disk=SimulatedDisk().process(), threads=InlineThreads())) as store:
        yield store


async def history(seed, size=20):
    """A store with commits to several streams, a day ago."""
    draw = random.Random(seed)
    desk = Desk(open_memory(environment=Environment(threads=InlineThreads())))
    at_us = await desk.backend.now_us() - DAY_US
    for _ in range(60):
        streams = draw.sample(["a-1", "a-2", "b-1", "c"], draw.randint(1, 3))
        drafts = {name: [draft(bytes(size), type=f"t{draw.randint(0, 2)}", tags=["x"]) for _ in range(draw.randint(1, 4))] for name in streams}
        await desk.done(*[Append(name, events) for name, events in drafts.items()], at_us=at_us)
    return desk, draw


async def cut(desk, blobs, firsts):
    infos = {name: await desk.backend.stream(name) for name in firsts}
    cid = await write_archive(desk.backend, blobs, {name: (infos[name], first) for name, first in firsts.items()})
    await desk.done(*[Cut(name, first, cid) for name, first in firsts.items()])
    await tidy(desk)
    return cid


async def cut_often(desk, blobs, draw, rounds=3):
    for _ in range(rounds):
        firsts = {}
        for name in draw.sample(["a-1", "a-2", "b-1", "c"], draw.randint(1, 3)):
            info = await desk.backend.stream(name)
            if info.first <= info.last:
                firsts[name] = draw.randint(info.first + 1, info.last + 1)
        if firsts:
            await cut(desk, blobs, firsts)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("block_bytes", [300, 3_000, 256 << 10])
async def test_the_log_is_read_as_if_nothing_had_been_cut(blobs, seed, block_bytes, monkeypatch, autojump_clock):
    monkeypatch.setattr(archive, "BLOCK_BYTES", block_bytes)
    desk, draw = await history(seed)
    before = await desk.log()
    await cut_often(desk, blobs, draw)
    whole = Desk(Archived(desk.backend, blobs))

    for limit in (1, 7, 1_000):
        assert await whole.log(limit=limit) == before
    for where in (EVERYTHING.within(categories=["a"]), EVERYTHING.within(types=["t1"]), EVERYTHING.within(streams=["c"], tags=["x"])):
        for after in (0, 40, 90):
            wanted = [r for r in before if r.position > after and where.matches(r.stream, r.type, r.tags)]
            assert await whole.log(where=where, after=Position(after), limit=9) == wanted


@pytest.mark.parametrize("seed", range(4))
async def test_pages_with_archives_hold_whole_commits(blobs, seed, monkeypatch, autojump_clock):
    monkeypatch.setattr(archive, "BLOCK_BYTES", 500)
    desk, draw = await history(seed)
    before = await desk.log()
    await cut_often(desk, blobs, draw)
    seen: set[bytes] = set()
    whole, cursor = Archived(desk.backend, blobs), START

    while cursor < before[-1].position:
        page = await whole.read_log(after=cursor, limit=5, bytes_max=1 << 20)
        commits = {record.commit for record in page.records}
        assert not commits & seen
        seen |= commits
        assert page.examined > cursor
        cursor = page.examined


@pytest.mark.parametrize("seed", range(4))
async def test_a_stream_is_read_as_if_nothing_had_been_cut(blobs, seed, autojump_clock):
    desk, draw = await history(seed)
    before = {name: await desk.stream(name) for name in ("a-1", "a-2", "b-1", "c")}
    await cut_often(desk, blobs, draw)
    whole = Archived(desk.backend, blobs)

    for name, records in before.items():
        for after in (0, 1, len(records) // 2):
            found, cursor = [], after
            while part := await whole.read_stream(name, after=cursor, limit=7, bytes_max=1 << 20):
                found += part
                cursor = part[-1].seq
            assert found == records[after:]
        back = await whole.read_stream(name, after=0, limit=7, bytes_max=1 << 20, backward=True)
        while back[-1].seq > 1:
            back += await whole.read_stream(name, after=back[-1].seq, limit=7, bytes_max=1 << 20, backward=True)
        assert back == records[::-1]


async def test_what_no_archive_has_stays_truncated(blobs, autojump_clock):
    desk, _ = await history(1)
    await cut(desk, blobs, {"a-1": 5})
    await desk.done(Cut("a-1", 8))
    await cut(desk, blobs, {"a-1": 11})
    whole = Desk(Archived(desk.backend, blobs))

    with pytest.raises(Truncated):
        await whole.log()
    with pytest.raises(Truncated):
        await whole.stream("a-1", after=4)
    assert [record.seq for record in await whole.stream("a-1", after=0)] == [1, 2, 3, 4]
    assert [record.seq for record in await whole.stream("a-1", after=7)] == [8, 9, 10]
    assert await whole.log(where=EVERYTHING.within(categories=["b"])) != []


async def test_an_archive_that_is_not_there_says_so(blobs, autojump_clock):
    desk, _ = await history(1)
    await blobs.delete(await cut(desk, blobs, {"a-1": 5}))

    with pytest.raises(Misuse, match="is not in this blob store"):
        await Desk(Archived(desk.backend, blobs)).log()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_flipped_byte_of_an_archive_is_found(data):
    async def main():
        desk, _ = await history(2, size=data.draw(st.sampled_from([0, 30])))
        records = await desk.log()
        writer = archive.ArchiveWriter(desk.backend.id, 1, {"a-1": None})
        return records, b"".join([writer.begin(), *writer.add(records), *writer.finish()])

    records, value = trio.run(main)
    place = data.draw(st.integers(0, 1 << 20)) % len(value)
    flipped = bytearray(value)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    damaged = bytes(flipped)

    with pytest.raises(Corrupt):
        archive.read_header("x", damaged[: archive.HEADER.size])
        footer = damaged[-archive.FOOTER.size :]
        offset, size = archive.read_footer("x", footer)
        index = archive.read_index("x", damaged[offset : offset + size], footer)
        for block in index.blocks:
            archive.read_block("x", damaged[block.offset : block.offset + block.size_bytes])
    assert len(records) > 60


async def test_an_archive_says_what_it_has(blobs, autojump_clock):
    desk, _ = await history(3)
    first = await cut(desk, blobs, {"a-1": 5, "b-1": 4})
    second = await cut(desk, blobs, {"a-1": 9})

    index = (await open_archive(blobs, second)).index

    assert index.store == desk.backend.id
    assert {name: (part.first, part.last, part.previous) for name, part in index.streams.items()} == {"a-1": (5, 8, first)}


# -- while others cut ------------------------------------------------------------------------


async def test_a_cut_further_ahead_does_not_hide_one_that_comes_later(blobs, autojump_clock):
    """How far the log was cut is the same after it."""
    desk = Desk(open_memory(environment=Environment(threads=InlineThreads())))
    for name in ("a-1", "a-2", "a-2", "a-1"):
        await desk.append(name)
    before = await desk.log()
    whole = Desk(Archived(desk.backend, blobs))
    await cut(desk, blobs, {"a-1": 3})
    assert await whole.log() == before

    await cut(desk, blobs, {"a-2": 3})

    assert await whole.log() == before


async def test_what_is_cut_under_the_hands_of_a_reader_is_not_missed(blobs, autojump_clock):
    """A cut before each call of the store, once."""
    desk, _ = await history(1)
    before = await desk.log()
    await cut(desk, blobs, {"a-1": 5})
    for nth in range(6):
        whole = Desk(Archived(_CutBefore(desk, blobs, {"a-2": 5 + nth, "c": 3 + nth}, nth), blobs))

        assert await whole.log() == before


class _CutBefore(FaultyBackend):
    """Cuts before a call."""

    def __init__(self, desk, blobs, firsts, nth):
        super().__init__(desk.backend)
        self._cut = lambda: cut(desk, blobs, firsts)
        self._left = nth

    async def _before(self, inner, *args, **more):
        if self._left == 0:
            await self._cut()
        self._left -= 1
        return await inner(*args, **more)

    async def read_log(self, **more):
        return await self._before(super().read_log, **more)

    async def cuts(self):
        return await self._before(super().cuts)

    async def stream(self, name):
        return await self._before(super().stream, name)

    async def streams(self, **more):
        return await self._before(super().streams, **more)
