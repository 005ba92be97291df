"""What a cut leaves in the tables: frames without what went, records as they were, room that is free again."""

from __future__ import annotations

import os

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from perdure.backends import frame, keys
from perdure.backends.build import Piece, build, trim
from perdure.backends.commit import Append, Committed, Cut, Draft
from perdure.backends.conformance.cuts import tidy
from perdure.backends.conformance.law import Desk, draft
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Corrupt
from perdure.backends.event import START, Extra, Position, pack_extra
from perdure.backends.frame import type_name
from perdure.backends.limits import LIMITS
from perdure.backends.memory import open_memory
from perdure.backends.stream_row import StreamRow, read_row
from perdure.backends.urls import open_backend
from perdure.runtime.compact import compact

HOUR_US = 3_600_000_000
TYPES = [type_name("a", 1), type_name("b", 2)]
NUMBERS = {(type.name, type.version): (number, type.crc) for number, type in enumerate(TYPES)}


# -- frames ----------------------------------------------------------------------------------


@st.composite
def groups(draw):
    """Frames that follow each other, and the first seqs that are left of their streams."""
    seqs: dict[str, int] = {}
    position, frames = 1, []
    for _ in range(draw(st.integers(1, 4))):
        commits, pieces = [], []
        for number in range(draw(st.integers(1, 4))):
            commits.append((os.urandom(16), 1_000 + position))
            for ordinal, stream in enumerate(draw(st.lists(st.sampled_from("xyz"), min_size=1, max_size=3, unique=True))):
                count = draw(st.sampled_from([1, 2, 20]))
                kind = draw(st.sampled_from(TYPES))
                extra = b"" if count == 20 else pack_extra(Extra(tags=("t",)))
                events = [Draft(kind.name, kind.version, b"%d" % place, extra, ("t",) if extra else ()) for place in range(count)]
                pieces.append(Piece(stream, seqs.get(stream, 0) + 1, position, number, ordinal * 100, events))
                seqs[stream] = seqs.get(stream, 0) + count
                position += count
        frames.append(build(commits, pieces, NUMBERS).value)
    return frames, {stream: draw(st.integers(1, last + 1)) for stream, last in seqs.items()}


@given(groups())
@settings(deadline=None, max_examples=200)
def test_a_trimmed_frame_holds_what_is_left_untouched(made):
    frames, firsts = made
    before = [record for value in frames for record in frame.read_frame(value, TYPES)]

    trimmed = trim(frames, firsts.__getitem__, lambda _: False)

    left = [record for record in before if record.seq >= firsts[record.stream]]
    assert frame.read_frame(trimmed.built.value, TYPES) == left
    head = frame.read_head(trimmed.built.value)
    assert (head.first, head.last, head.records) == (before[0].position, before[-1].position, len(left))
    assert {id for id, _, _ in head.commits} == {record.commit for record in left} | {before[-1].commit}
    assert sorted(trimmed.tags) == sorted((tag, record.position) for record in before if record not in left for tag in record.tags)
    assert [run.stream for run in trimmed.built.runs] == [run.stream for run in frame.runs_of(trimmed.built.value, head)]


@given(groups())
@settings(deadline=None, max_examples=50)
def test_trimming_frames_alone_and_then_together_is_trimming_them_together(made):
    frames, firsts = made

    alone = [trim([value], firsts.__getitem__, lambda _: False).built.value for value in frames]

    together = trim(frames, firsts.__getitem__, lambda _: False).built.value
    assert frame.read_frame(trim(alone, firsts.__getitem__, lambda _: False).built.value, TYPES) == frame.read_frame(together, TYPES)


def test_a_uniform_run_stays_one():
    events = [Draft("a", 1, b"%d" % place) for place in range(100)]
    value = build([(b"c" * 16, 1)], [Piece("x", 1, 1, 0, 0, events)], NUMBERS).value

    left = trim([value], lambda _: 31, lambda _: False).built.value

    assert len(left) < len(value) * 0.75
    assert [record.seq for record in frame.read_frame(left, TYPES)] == list(range(31, 101))


def test_commits_with_a_key_stay_named():
    pieces = [Piece("x", seq, seq, seq - 1, 0, [Draft("a", 1, b"")]) for seq in (1, 2, 3)]
    value = build([(b"c" * 16, 1), (b"d" * 16, 1), (b"e" * 16, 1)], pieces, NUMBERS).value

    left = trim([value], lambda _: 4, lambda id: id == b"d" * 16).built.value

    assert [id[:1] for id, _, _ in frame.read_head(left).commits] == [b"d", b"e"]


# -- the row of a stream ---------------------------------------------------------------------


@given(st.integers(1, 2**40), st.integers(1, 2**40), st.integers(0, 2**40), st.booleans(), st.sampled_from([None, "bafy", "x" * 255]))
def test_a_row_comes_back(number, first, cut, emptied, archive):
    row = StreamRow(number, first, Position(cut), emptied and cut > 0, archive if cut else None)

    assert read_row(b"name", row.packed(b"name")) == row
    assert keys.read_stream_row(row.packed(b"name")) == (number, first)


def test_a_flipped_byte_of_a_cut_streams_row_is_found():
    value = StreamRow(3, 7, Position(9), True, "bafy").packed(b"name")

    for place in range(len(value)):
        damaged = bytearray(value)
        damaged[place] ^= 0x10
        with pytest.raises(Corrupt):
            read_row(b"name", bytes(damaged))
    with pytest.raises(Corrupt):
        read_row(b"other", value)


# -- stores ----------------------------------------------------------------------------------


@attrs.define
class Clock:
    """A clock to be moved."""

    now_us: int = 10**15

    def __call__(self) -> int:
        return self.now_us


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def desk(clock):
    return Desk(open_memory(environment=Environment(clock=clock, threads=InlineThreads())))


async def frames_of(desk):
    async with desk.backend.moment() as moment:
        return [value for table, rows in [slice_ async for slice_ in moment] if table == "frames" for _, value in rows]


async def test_a_commit_in_doubt_is_found_for_a_while_after_its_events_were_cut(desk, clock):
    await desk.done(Append("a", [draft(b"1"), draft(b"2")]), id=b"i" * 16)
    await desk.done(Cut("a", 3))
    await tidy(desk)

    assert isinstance(await desk.backend.answer(b"i" * 16), Committed)

    clock.now_us += int(LIMITS.commit_s * 11e6)
    await tidy(desk)
    assert await desk.backend.answer(b"i" * 16) is None
    assert len(b"".join(await frames_of(desk))) < 100


async def test_a_commit_of_which_a_part_was_cut_has_no_answer_any_more(desk, clock):
    await desk.done(Append("a", [draft()]), Append("b", [draft()]), id=b"i" * 16)
    await desk.done(Append("b", [draft()]), Append("a", [draft()]), id=b"j" * 16)
    await desk.done(Cut("a", 2))
    clock.now_us += HOUR_US
    await tidy(desk)

    assert await desk.backend.answer(b"i" * 16) is None
    assert isinstance(await desk.backend.answer(b"j" * 16), Committed)


async def test_streams_cut_in_between_are_merged_with_those_that_are_not(desk, clock):
    for number in range(600):
        await desk.done(Append(f"s-{number % 3}", [draft(b"x" * 500)]))
    clock.now_us += HOUR_US
    await desk.done(Cut("s-1", 150), Cut("s-2", 201))
    await tidy(desk)

    frames = await frames_of(desk)
    left = (await desk.backend.read_log(after=START, limit=9_999, bytes_max=1 << 30, over_cuts=True)).records
    assert len(left) == 200 + 51
    assert len(frames) < 150  # the last ones do not fill a larger one yet
    assert sum(map(len, frames)) < 260 * 600
    assert await desk.backend.verify() == []


async def test_what_was_cut_is_swept_though_a_young_commit_shares_its_frame(desk, clock):
    await desk.done(Append("a", [draft(b"x" * 1000)]))
    for _ in range(6):
        await desk.done(Append("b", [draft(b"x" * 10_000)]))
    clock.now_us += HOUR_US
    await desk.done(Append("b", [draft(b"x" * 10_000)]))
    await tidy(desk)
    assert len(await frames_of(desk)) == 1
    await desk.done(Cut("a", 2))
    await tidy(desk)
    young = sum(map(len, await frames_of(desk)))

    clock.now_us += HOUR_US
    await tidy(desk)

    assert sum(map(len, await frames_of(desk))) < young - 900
    assert await desk.backend.verify() == []


@pytest.mark.parametrize("url", ["lmdb", "log=segments"])
async def test_room_is_free_on_disk_after_compacting(url, tmp_path):
    where = f"lmdb:{tmp_path}/s" + ("?log=segments" if url != "lmdb" else "")
    async with open_backend(where) as backend:
        desk = Desk(backend)
        old = await backend.now_us() - 24 * HOUR_US
        for stream in range(20):
            await desk.done(Append(f"s-{stream}", [draft(os.urandom(2_000)) for _ in range(200)]), at_us=old)
        await compact(backend)
        before = (tmp_path / "s" / "data.mdb").stat().st_size
        await desk.done(*[Cut(f"s-{stream}", 191) for stream in range(20)])

        report = await compact(backend)

        after = (tmp_path / "s" / "data.mdb").stat().st_size
        assert report.kept == ""
        assert before > 20 * 200 * 2_000
        assert after < before * 0.15
        assert await backend.verify() == []
        assert [record.seq for record in await desk.stream("s-7", after=190)] == list(range(191, 201))


