# mypy: disable-error-code="arg-type,union-attr,attr-defined,var-annotated,call-overload"
# Positions are written as plain numbers here, and payloads of any type are looked into.
"""Subscriptions: no gap, in order, once per run, and a place that is kept."""

from __future__ import annotations

import random

import attrs
import pytest
import trio

from perdure.actors import cursor
from perdure.backends.commit import CHECKPOINTS
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.faulty import FaultyBackend
from perdure.backends.memory import open_memory
from perdure.runtime import HEAD, START, AlreadyRunning, Limits, Misuse, NewEvent, Rewound, Unavailable, Unreadable, event, of, open_runtime


@event("followed")
@attrs.frozen
class Happened:
    number: int


INLINE = Environment(threads=InlineThreads())


@pytest.fixture
def backend():
    return FaultyBackend(open_memory(environment=INLINE))


async def kept(backend, name):
    entry = await backend.get(CHECKPOINTS, f"subscription {name}".encode())
    return None if entry is None else cursor.unpack(name, entry.value, backend.id).position


@pytest.mark.parametrize("ring", [1, 700, 1 << 20], ids=["log", "both", "ring"])
@pytest.mark.parametrize("page", [1, 3, 1_000])
async def test_no_gap_in_order_once(ring, page, backend, autojump_clock):
    draw, got = random.Random(f"{ring} {page}"), []
    async with open_runtime(backend, limits=Limits(ring_bytes=ring, page_records=page)) as rt, trio.open_nursery() as nursery:

        async def follow():
            async with rt.subscribe(of(Happened), after=START) as events:
                async for found in events:
                    got.append(found.data.number)
                    if draw.random() < 0.1:
                        await trio.sleep(draw.random())
                    if len(got) == 300:
                        return

        async def write():
            number = 0
            while number < 300:
                count = min(draw.randint(1, 5), 300 - number)
                await rt.append(f"a-{draw.randint(1, 3)}", [Happened(number + n) for n in range(count)])
                number += count
                if draw.random() < 0.2:
                    await trio.sleep(draw.random())

        nursery.start_soon(follow)
        nursery.start_soon(write)
    assert got == list(range(300))


async def test_a_subscriber_that_never_reads_holds_up_nobody(autojump_clock):
    async with open_runtime("memory:", limits=Limits(ring_bytes=2_000)) as rt:
        async with rt.subscribe(of(Happened), after=HEAD) as idle, rt.subscribe(of(Happened), after=HEAD, name="named"):
            with trio.fail_after(5):
                for number in range(500):
                    await rt.append("a-1", [Happened(number)])
            assert rt.status().ring_bytes <= 2_000
            assert [(await anext(idle)).data.number for _ in range(500)] == list(range(500))  # nothing was lost


async def test_a_slow_follower_holds_one_page(autojump_clock):
    async with open_runtime("memory:", limits=Limits(page_records=10, ring_bytes=1)) as rt:
        await rt.append("a-1", [Happened(number) for number in range(5)])
        for number in range(100):
            await rt.append("a-1", [Happened(number)])
        async with rt.subscribe(of(Happened), after=START) as events:
            await anext(events)
            assert len(events._events) <= 15


async def test_a_follower_of_the_ring_lets_others_have_their_turn(autojump_clock):
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with open_runtime("memory:", limits=Limits(page_records=10)) as rt:
        async with rt.subscribe(of(Happened), after=HEAD) as events, trio.open_nursery() as nursery:
            for number in range(200):
                await rt.append("a-1", [Happened(number)])
            nursery.start_soon(other)
            for _ in range(200):
                await anext(events)
            assert turns >= 15
            nursery.cancel_scope.cancel()
            with trio.CancelScope() as scope:
                scope.cancel()
                await anext(events)
            assert scope.cancelled_caught


async def test_a_named_one_goes_on_from_its_place_which_goes_before_after(backend, autojump_clock):
    async with open_runtime(backend) as rt:
        for number in range(10):
            await rt.append("a-1", [Happened(number)])
        async with rt.subscribe(of(Happened), after=START, name="s") as events:
            for _ in range(5):
                await anext(events)
    async with open_runtime(backend) as rt, rt.subscribe(of(Happened), after=START, name="s") as events:
        assert (await anext(events)).data.number == 4  # the fifth was in hand, not done


async def test_the_place_is_the_last_commit_of_which_all_is_done(backend, autojump_clock):
    async with open_runtime(backend) as rt:
        await rt.append("a-1", [Happened(0)])
        await rt.append("a-1", [Happened(1), Happened(2), Happened(3)])
        async with rt.subscribe(of(Happened), after=START, name="s") as events:
            for _ in range(4):
                await anext(events)
        assert await kept(backend, "s") == 1


async def test_places_are_kept_at_most_every_second_also_within_a_page(backend, autojump_clock):
    async with open_runtime(backend) as rt:
        for number in range(60):
            await rt.append("a-1", [Happened(number)])
        before = backend.calls["commit"]
        async with rt.subscribe(of(Happened), after=START, name="s") as events:
            for _ in range(60):
                await anext(events)
                await trio.sleep(0.1)
            during = backend.calls["commit"] - before
            assert 4 <= during <= 6
            place = await kept(backend, "s")
            assert place is not None and place >= 45


async def test_a_place_is_kept_while_nothing_comes(backend, autojump_clock):
    async with open_runtime(backend) as rt:
        await rt.append("a-1", [Happened(0)])
        async with rt.subscribe(of(Happened), after=START, name="s") as events:
            await anext(events)
            with trio.move_on_after(3):
                await anext(events)
            assert await kept(backend, "s") == 1


async def test_the_stores_trouble_does_not_end_the_iteration(backend, autojump_clock):
    async with open_runtime(backend) as rt:
        for number in range(3):
            await rt.append("a-1", [Happened(number)])
        backend.fail("commit", Unavailable("a test"))
        async with rt.subscribe(of(Happened), after=START, name="s") as events:
            for number in range(3):
                assert (await anext(events)).data.number == number
                await trio.sleep(1.5)
        assert await kept(backend, "s") == 2


async def test_a_place_that_cannot_be_kept_does_not_hide_the_bodys_exception(backend, autojump_clock, caplog):
    bad = ValueError("the body's own")
    async with open_runtime(backend) as rt:
        with pytest.raises(ValueError, match="own") as caught:
            async with rt.subscribe(of(Happened), after=START, name="s"):
                backend.fail("commit", Unavailable("a test"))
                raise bad
        with pytest.raises(Unavailable):
            async with rt.subscribe(of(Happened), after=START, name="s"):
                backend.fail("commit", Unavailable("a test"))
    assert caught.value is bad and "subscription s was not kept" in caplog.text


@pytest.mark.parametrize("page", [1, 3, 1_000])
async def test_a_reader_with_a_limit_stands_at_the_last_event_it_gave(page, autojump_clock):
    async with open_runtime("memory:", limits=Limits(page_records=page)) as rt:
        for number in range(5):
            await rt.append("a-1", [Happened(number), Happened(number), Happened(number), Happened(number)])
        reader = rt.read_all(limit=3)
        assert [found.position async for found in reader] == [1, 2, 3]
        assert reader.position == 3


async def test_a_name_is_used_once_at_a_time(backend, autojump_clock):
    outcomes = []

    async def follow(rt):
        try:
            async with rt.subscribe(of(Happened), name="s"):
                outcomes.append("in")
                await trio.sleep(1)
        except AlreadyRunning:
            outcomes.append("refused")

    async with open_runtime(backend) as rt:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(follow, rt)
        assert sorted(outcomes) == ["in", "refused", "refused", "refused"]
        await follow(rt)


async def test_two_runtimes_do_not_move_one_place(backend, autojump_clock):
    async with open_runtime(backend) as one, open_runtime(backend) as other:
        for number in range(4):
            await one.append("a-1", [Happened(number)])
        with pytest.raises(AlreadyRunning):
            async with one.subscribe(of(Happened), after=START, name="s") as mine:
                async with other.subscribe(of(Happened), after=START, name="s") as theirs:
                    for _ in range(3):
                        await anext(theirs)
                await anext(mine)
                await anext(mine)
                await mine.save()
        assert await kept(backend, "s") == 2


async def test_a_subscription_and_a_projection_of_like_names_are_apart(backend):
    from perdure.runtime import Projection

    with pytest.raises(Misuse):
        Projection("subscription s", version=1, initial=0, step=lambda s, e: s)


async def test_an_unreadable_event_is_told_in_its_place(backend, autojump_clock):
    @event("odd")
    @attrs.frozen
    class Odd:
        number: int

    async with open_runtime(backend) as rt:
        await rt.append("a-1", [Happened(0), NewEvent("text", type="odd"), Happened(2)])
    async with open_runtime(backend) as rt:
        async with rt.subscribe(of(Happened, Odd), after=START) as events:
            readers = [events, rt.read_all(of(Happened, Odd)), rt.read("a-1")]
            for reader in readers:
                assert (await anext(reader)).seq == 1
                with pytest.raises(Unreadable):
                    await anext(reader)
                assert (await anext(reader)).seq == 3


async def test_where_a_subscription_may_begin(backend, autojump_clock):
    async with open_runtime(backend) as rt:
        await rt.append("a-1", [Happened(0)])
        for after, error in ((5, Rewound), (-2, Misuse), (True, Misuse), ("1", Misuse)):
            with pytest.raises(error):
                async with rt.subscribe(of(Happened), after=after):
                    pass
