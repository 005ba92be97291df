"""Where LMDB is flushed: a slow disk does not stop the loop for long, and a thread is never abandoned."""

from __future__ import annotations

import pytest
import trio

from perdure.backends.commit import Put
from perdure.backends.conformance.law import Desk, appending
from perdure.backends.lmdb.faulty import faulty_lmdb
from perdure.backends.urls import open_backend

SLOW_S = 0.03


@pytest.fixture
def url(tmp_path):
    return f"lmdb:{tmp_path / 'store'}"


async def longest_gap_while(work):
    """For how long the loop did not turn while *work* was done."""
    gap = 0.0

    async def watch():
        nonlocal gap
        while True:
            began = trio.current_time()
            await trio.sleep(0.001)
            gap = max(gap, trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.sleep(0.005)
        await work()
        await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    return gap


@pytest.mark.parametrize(("how", "stops"), [("inline", True), ("thread", False)])
async def test_a_slow_flush_stops_the_loop_only_inline(url, tmp_path, how, stops):
    with faulty_lmdb(tmp_path) as disk:
        async with open_backend(f"{url}?flush={how}") as backend:
            disk.slow_commit(0.3, times=1)
            gap = await longest_gap_while(lambda: Desk(backend).append("a"))
            assert len(await Desk(backend).log()) == 1

    assert (gap >= 0.3) is stops


async def test_a_disk_that_stays_slow_is_left_to_a_thread(url, tmp_path):
    with faulty_lmdb(tmp_path) as disk:
        async with open_backend(url) as backend:
            disk.slow_commit(SLOW_S, times=1 << 20)
            for _ in range(4):
                await Desk(backend).append("a")
            gap = await longest_gap_while(lambda: Desk(backend).append("a", 1, 4))
            details = (await backend.store_status()).details

    assert details["flushes_in_thread"] >= 1
    assert gap < SLOW_S
    assert details["flush_p50_s"] >= SLOW_S / 2


async def test_reads_go_on_while_a_thread_flushes_and_see_what_was_there(url, tmp_path):
    with faulty_lmdb(tmp_path) as disk:
        async with open_backend(f"{url}?flush=thread") as backend:
            desk, seen = Desk(backend), []
            await desk.append("a")
            disk.slow_commit(0.2, times=1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(desk.done, appending("b", type="a new type"), Put("k", b"x", b"1"))
                await trio.sleep(0.05)
                seen += [await backend.head(), await backend.get("k", b"x"), len(await desk.log())]

            assert seen == [1, None, 1]
            assert [record.type for record in await desk.log()] == ["happened", "a new type"]


async def test_a_commit_on_its_way_to_the_thread_is_not_abandoned(url, tmp_path):
    with faulty_lmdb(tmp_path) as disk:
        async with open_backend(f"{url}?flush=thread") as backend:
            disk.slow_commit(0.2, times=1)
            with trio.move_on_after(0.05) as scope:
                await Desk(backend).append("a")

            assert not scope.cancelled_caught
            assert await backend.head() == 1
