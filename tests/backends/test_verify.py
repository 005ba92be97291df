"""`verify` finds damage of every kind in a store's rows, and names what is lost; it finds nothing in what is sound."""

from __future__ import annotations

import random

import pytest
import trio

from perdure.backends import keys
from perdure.backends.commit import Append, Delete, Put, SaveSnapshot, key_id
from perdure.backends.conformance.law import Desk, appending, draft
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Unavailable
from perdure.backends.event import Position
from perdure.backends.memory import open_memory
from perdure.backends.progress import Progress


@pytest.fixture
async def desk():
    """A store with all kinds of rows: frames at positions 1, 3, 13, 14 (of `b` alone), 34."""
    desk = Desk(open_memory(environment=Environment(threads=InlineThreads())))
    await desk.done(Append("a", [draft(b"one", tags=["t"]), draft(b"two")]), key=b"first")
    await desk.done(Append("a", [draft(b"%d" % number, tags=[f"n:{number}"]) for number in range(5)]), Append("c", [draft(b"c")] * 5))
    await desk.done(appending("b", 1, type="other"))
    await desk.done(Append("c", [draft(b"uniform")] * 20), Put("k", b"x", b"1"))
    await desk.done(appending("a"), Put("k", b"y", b"2"), Put("$checkpoints", b"p", b"3"), key=b"last")
    await desk.done(Delete("k", b"x"), SaveSnapshot("s", Position(9), "f", b"state"))
    return desk


def tables(desk):
    found = desk.backend._store._tables
    return getattr(found, "_tables", found)


def frame_key(position):
    return keys.number(position)


def flip(rows, key, place):
    value = bytearray(rows[key])
    value[place] ^= 4
    rows[key] = bytes(value)


async def test_a_sound_store_has_no_problem(desk):
    while await desk.backend.maintain():
        pass

    assert await desk.backend.verify() == []


async def test_it_says_how_far_it_is(desk):
    told: list[Progress] = []

    await desk.backend.verify(told.append)

    assert told
    assert all(one.total is None or one.done <= one.total for one in told)


def damage(rows, what):
    """Plant it; the words that the report must have."""
    streams = {key.decode(): keys.read_stream_row(value)[0] for key, value in rows["streams"].items()}
    match what:
        case "a frame is lost":
            del rows["frames"][frame_key(3)]
            return ["no positions 3 to 12: they are lost", "'a': seqs 3 to 7 are lost", "'c': seqs 1 to 5 are lost", "missing"]
        case "the last frame is lost":
            del rows["frames"][frame_key(34)]
            return ["stream 'a': seq 8 is lost", "a frame at position 34 that is missing"]
        case "all of a stream is lost":
            del rows["frames"][frame_key(13)]
            return ["no positions 13 to 13", "stream 'b': seq 1 is lost"]
        case "a frame's header is damaged":
            flip(rows["frames"], frame_key(3), 9)
            return ["the frame at position", "is lost", "'a': seqs 3 to 7 are lost"]
        case "a payload is damaged":
            flip(rows["frames"], frame_key(3), rows["frames"][frame_key(3)].index(b"c" * 5))
            return ["checksum", "stream 'c': seq 1 is lost"]
        case "a payload of a uniform run is damaged":
            flip(rows["frames"], frame_key(14), rows["frames"][frame_key(14)].index(b"uniform") + 7)
            return ["checksum", "stream 'c': seq 7 is lost"]
        case "a frame is cut":
            rows["frames"][frame_key(14)] = rows["frames"][frame_key(14)][:-3]
            return ["position 33 is damaged", "stream 'c': seq 25 is lost"]
        case "a run is not indexed":
            del rows["runs"][keys.run(streams["a"], 3)]
            return ["stream 'a': the index does not lead to seqs 3 to 7"]
        case "a run is indexed that there is not":
            rows["runs"][keys.run(streams["b"], 2)] = keys.run_row(13, 68, 1)
            return ["stream 'b': seq 2 is lost", "leads seqs 2 to 2 to another run"]
        case "a run of no stream is indexed":
            rows["runs"][keys.run(77, 2)] = keys.run_row(13, 68, 1)
            return ["a stream that has no row (number 77)"]
        case "the index leads elsewhere":
            rows["runs"][keys.run(streams["a"], 3)] = keys.run_row(1, 68, 5)
            return ["stream 'a': the index does not lead to seqs 3 to 7"]
        case "a stream's row is lost":
            del rows["streams"][b"c"]
            return ["stream 'c' has events and no row"]
        case "a stream's number is another's":
            rows["streams"][b"c"] = rows["streams"][b"a"]
            return ["two streams have one number", "stream 'c': the index does not lead"]
        case "a stream has nothing":
            rows["streams"][b"z"] = keys.stream_row(99, 1)
            return ["stream 'z' has a row and no events: all of it is lost"]
        case "a tag is not indexed":
            del rows["tags"][keys.tag("n:2", 5)]
            return ["the event at position 5 (stream 'a', seq 5) is not found by its tag 'n:2'"]
        case "a tag leads to an event without it":
            rows["tags"][keys.tag("n:2", 6)] = b""
            return ["tag 'n:2' leads to the event at position 6, which has it not"]
        case "a tag leads nowhere":
            rows["tags"][keys.tag("n:2", 900)] = b""
            return ["tag 'n:2' leads to position 900, where no event can be read"]
        case "a type is lost":
            rows["types"].popitem()
            return ["the frame at position 13", "stream 'b': seq 1 is lost"]
        case "a type in the middle is lost":
            del rows["types"][(0).to_bytes(2, "big")]
            return ["1 of 2 rows of the table of types is missing", "'a': seqs 1 to 8 are lost"]
        case "an entry is damaged":
            flip(rows["kv"], b"k\0y", 14 - 1)
            return ["kv entry b'k\\x00y'", "checksum"]
        case "an entry is lost":
            del rows["kv"][b"k\0y"]
            return ["a change of kv entry b'k\\x00y' at revision 2 leads nowhere"]
        case "an entry is from the future":
            rows["meta"][b"revision"] = rows["meta"][b"streams"]
            return ["the store's number 'revision' is damaged"]
        case "a change is lost":
            del rows["changes"][keys.change("k", 2, b"y")]
            return ["kv entry b'k\\x00y' at revision 2 is missing among the changes"]
        case "a kept answer is damaged":
            flip(rows["keys"], key_id(b"first"), 8)
            return [f"the row of commit {key_id(b'first').hex()}", "stored a second time"]
        case "a kept answer is lost":
            del rows["keys"][key_id(b"first")]
            return ["1 of 2 kept idempotency keys are missing"]
        case "a kept answer is of no commit":
            rows["ages"].clear()
            return ["would never be forgotten"]
        case "a snapshot is damaged":
            flip(rows["snapshots"], keys.snapshot("s", 9), 12)
            return ["snapshot 's' at position 9", "checksum"]
        case "a snapshot is from the future":
            rows["snapshots"][keys.snapshot("s", 99)] = rows["snapshots"][keys.snapshot("s", 9)]
            return ["snapshot 's' stands at position 99, the log ends at 34"]
        case "an entry's key is no text":
            rows["kv"][b"\xff\0x"] = rows["kv"][b"k\0y"]
            return ["kv entry"]
    raise AssertionError(what)


KINDS = [
    *("a frame is lost", "the last frame is lost", "all of a stream is lost", "a frame's header is damaged", "a payload is damaged"),
    *("a payload of a uniform run is damaged", "a frame is cut", "a run is not indexed", "a run is indexed that there is not"),
    *("a run of no stream is indexed", "the index leads elsewhere", "a stream's row is lost", "a stream's number is another's", "a stream has nothing"),
    *("a tag is not indexed", "a tag leads to an event without it", "a tag leads nowhere", "a type is lost", "a type in the middle is lost"),
    *("an entry is damaged", "an entry is lost", "an entry is from the future", "a change is lost", "a kept answer is damaged"),
    *("a kept answer is lost", "a kept answer is of no commit", "a snapshot is damaged", "a snapshot is from the future", "an entry's key is no text"),
]


@pytest.mark.parametrize("what", KINDS)
async def test_it_finds_and_names(what, desk):
    assert await desk.backend.verify() == []

    words = damage(tables(desk), what)

    report = "\n".join(await desk.backend.verify())
    assert [word for word in words if word not in report] == [], report


async def test_no_damaged_row_of_the_log_is_overlooked(desk):
    """One bit, anywhere in frames, runs, kv, keys, snapshots and sealed numbers."""
    draw, missed = random.Random(5), []
    for table in ("frames", "runs", "kv", "keys", "snapshots"):
        rows = tables(desk)[table]
        for key, value in list(rows.items()):
            for place in range(0, len(value), 1 + len(value) // 40):
                rows[key] = value[:place] + bytes([value[place] ^ (1 << draw.randrange(8))]) + value[place + 1 :]
                if not await desk.backend.verify():
                    missed.append((table, key, place))
            rows[key] = value

    assert missed == []


async def test_a_check_that_is_cancelled_ends(autojump_clock):
    desk = Desk(open_memory())
    await desk.append("a", 5_000)
    with trio.CancelScope() as scope:
        await desk.backend.verify(lambda _: scope.cancel())

    assert scope.cancelled_caught or await desk.backend.verify() == []


async def test_a_store_that_is_closed_meanwhile_is_unavailable():
    desk = Desk(open_memory())
    await desk.append("a", 3)

    def close(_):
        desk.backend._closed = True  # type: ignore[attr-defined]  # as aclose does

    with pytest.raises(Unavailable):
        await desk.backend.verify(close)
