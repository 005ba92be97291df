"""Stores that are closed while they are being reopened: nothing of them stays open, and nobody is told that it is open."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import cast

import pytest
import trio
import trio.testing

from perdure.backends.conformance.abilities import FailsFlush
from perdure.backends.conformance.doubt import DoubtDesk
from perdure.backends.conformance.law import appending
from perdure.backends.conformance.stores import stores_of
from perdure.backends.errors import Closed
from perdure.backends.reopening import Reopenings


def descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            found.add(f"{name}: {os.readlink(f'/proc/self/fd/{name}')}")
    return found


@pytest.mark.parametrize("url", ["file:", "lmdb:", "lmdb:?log=segments"])
async def test_a_store_closed_while_it_is_reopened_leaves_no_file_open(url, tmp_path):
    with stores_of(url.replace(":", f":{tmp_path}", 1), tmp_path) as stores:
        for steps in range(0, 40, 4):
            before = descriptors()
            async with stores.open(f"s{steps}") as backend, trio.open_nursery() as nursery:
                desk = DoubtDesk(backend, cast(FailsFlush, stores), f"s{steps}", stored=True)
                await desk.fail([appending("a")])
                nursery.start_soon(done_or_closed, backend.reopen)
                nursery.start_soon(done_or_closed, backend.reopen)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                await backend.aclose()
            assert descriptors() - before == set(), f"{steps} steps"


async def done_or_closed(reopen):
    with suppress(Closed):
        await reopen()


async def test_the_end_waits_for_the_reopening_that_is_at_it(autojump_clock):
    reopenings = Reopenings("a store")
    told = list[str]()

    async def reopen(task_status=trio.TASK_STATUS_IGNORED):
        with pytest.raises(Closed):
            async with reopenings.turn():
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await trio.sleep(3)  # what it opened is let go of
                    told.append("let go")

    async with trio.open_nursery() as nursery:
        await nursery.start(reopen)
        await reopenings.end()
        told.append("ended")

    assert told == ["let go", "ended"]


async def test_who_waited_for_its_turn_does_not_begin_after_the_end(autojump_clock):
    reopenings = Reopenings("a store")

    async def reopen(task_status=trio.TASK_STATUS_IGNORED):
        with pytest.raises(Closed, match="a store"):
            async with reopenings.turn():
                task_status.started()
                await trio.sleep_forever()

    async def late():
        with pytest.raises(Closed, match="a store"):
            async with reopenings.turn():
                pytest.fail("it began")

    async with trio.open_nursery() as nursery:
        await nursery.start(reopen)
        nursery.start_soon(late)
        await trio.testing.wait_all_tasks_blocked()
        await reopenings.end()
