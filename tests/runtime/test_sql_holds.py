# mypy: disable-error-code="arg-type"
"""SQL read models keep their place elsewhere: a hold follows it, so that no cut passes what their tables do not have yet."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import paying
import pytest
import trio
from paying import pay, payments

from perdure.actors import hold
from perdure.backends.commit import HOLDS, Put
from perdure.backends.environment import Environment, InlineThreads, random_id
from perdure.backends.errors import Unavailable
from perdure.backends.faulty import FaultyBackend
from perdure.backends.held import held_at
from perdure.backends.memory import open_memory
from perdure.backends.urls import open_backend
from perdure.runtime import App, ProjectionFailed, open_runtime
from perdure.runtime.retention import Retention, retain
from shops import PostgresShop, SqliteShop

INLINE = Environment(threads=InlineThreads())
ALL = [Retention(categories=["paid"], count=0, archive=False)]


@pytest.fixture
def backend():
    class Unclosed(FaultyBackend):
        """Open also after a runtime on it has ended."""

        async def aclose(self):
            await trio.lowlevel.checkpoint()

    return Unclosed(open_memory(environment=INLINE))


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request, tmp_path):
    if request.param == "sqlite":
        return SqliteShop(tmp_path / "shop.sqlite")
    return PostgresShop(request.getfixturevalue("postgres"), request.getfixturevalue("database"))


async def held(backend):
    return {entry.key.decode(): held_at(entry.value) for entry in await backend.scan(HOLDS, limit=99)}


async def cut_all(backend):
    """How many events of the stream are left."""
    await retain(backend, ALL, ids=random_id)
    info = await backend.stream("paid-1")
    assert info is not None
    return info.last - info.first + 1


@pytest.fixture
def moves(backend):
    """Where holds were put, in order."""
    moved: list[int | None] = []
    inner = backend.commit

    async def commit(commits):
        moved.extend(held_at(write.value) for one in commits for write in one.writes if isinstance(write, Put) and write.bucket == HOLDS)
        return await inner(commits)

    backend.commit = commit
    return moved


# -- what it holds ---------------------------------------------------------------------------


async def test_a_cut_stops_where_its_tables_are(backend, shop):
    """It is held where it was left, and a program that begins with it again goes on from there."""
    async with open_runtime(backend, App(sql=[payments(shop)]), environment=INLINE) as rt:
        await rt.model(payments(shop)).wait_for(await pay(rt, 1, 2, 3))
    async with open_runtime(backend, environment=INLINE) as rt:
        await pay(rt, 4, 5)

    assert await held(backend) == {"projection payments": 3}
    assert await cut_all(backend) == 2
    async with open_runtime(backend, App(sql=[payments(shop)]), environment=INLINE) as rt:
        await rt.model(payments(shop)).wait_for(await rt.head())
    assert shop.rows("SELECT sum(cents) FROM payments") == [(15,)]
    assert await cut_all(backend) == 0


async def test_it_holds_all_from_before_its_first_event(backend, shop):
    """A handler that raises at once: nothing goes that it will want when it has been corrected."""
    async with open_runtime(backend, App(sql=[payments(shop)]), environment=INLINE) as rt:
        await pay(rt, -1, 2)
        with suppress(Exception):
            await rt.model(payments(shop)).wait_for(await rt.head())

        assert await held(backend) == {"projection payments": 0}
        assert await cut_all(backend) == 2


async def test_its_hold_follows_a_minute_behind(backend, shop, moves, autojump_clock):
    async with open_runtime(backend, App(sql=[payments(shop)]), environment=INLINE) as rt:
        for cents in range(180):
            await pay(rt, cents)
            await trio.sleep(1)
        await trio.sleep(70)
        assert await held(backend) == {"projection payments": 180}

    assert 3 <= len(moves) <= 7


async def test_a_new_version_holds_what_it_is_built_from(backend, shop):
    """While it is built the hold goes back; then it stands where both are."""
    async with open_runtime(backend, App(sql=[payments(shop)]), environment=INLINE) as rt:
        await rt.model(payments(shop)).wait_for(await pay(rt, 1, 2, 3))

    def failing(event, tx):
        raise ValueError("a test")

    with suppress(ProjectionFailed, BaseExceptionGroup):
        async with open_runtime(backend, App(sql=[payments(shop, 2, failing)]), environment=INLINE) as rt:
            with suppress(Exception):
                await rt.model(payments(shop, 2, failing)).wait_for(await rt.head())
    assert await held(backend) == {"projection payments": 0}
    async with open_runtime(backend, App(sql=[payments(shop, 2)]), environment=INLINE, changed="rebuild") as rt:
        await rt.model(payments(shop, 2)).wait_for(await rt.head())
    assert await held(backend) == {"projection payments": 3}


async def test_one_restored_from_an_older_copy_holds_from_there(backend, shop, moves):
    async with open_runtime(backend, App(sql=[payments(shop)]), environment=INLINE) as rt:
        await rt.model(payments(shop)).wait_for(await pay(rt, 1))
    restore = shop.copy()
    async with open_runtime(backend, App(sql=[payments(shop)]), environment=INLINE) as rt:
        await rt.model(payments(shop)).wait_for(await pay(rt, 2, 3))
    restore()
    moves.clear()

    async with open_runtime(backend, App(sql=[payments(shop)]), environment=INLINE) as rt:
        await rt.model(payments(shop)).wait_for(await rt.head())

    assert moves == [1, 3]


@pytest.mark.parametrize("nth", range(1, 5))
@pytest.mark.parametrize("after", [False, True])
async def test_it_is_never_beyond_its_tables_whatever_fails(backend, shop, nth, after, monkeypatch, autojump_clock):
    monkeypatch.setattr(hold, "EVERY_S", 0.0)
    async with open_runtime(backend, App(sql=[payments(shop)]), environment=INLINE) as rt:
        backend.fail("commit", Unavailable("a test"), nth=nth, after=after)
        for cents in range(6):
            with suppress(Unavailable):
                await pay(rt, cents)
            await trio.sleep(3)
            (place,) = (await held(backend)).values()
            assert place <= shop.rows("SELECT position FROM perdure_checkpoints")[0][0]
    assert await held(backend) == {"projection payments": await backend.head()}


# -- killed ----------------------------------------------------------------------------------

def _child(tmp_path, *how):
    command = [sys.executable, paying.__file__, f"lmdb:{tmp_path}/store", str(tmp_path / "shop.sqlite"), *how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


async def _wrong(tmp_path):
    """What is wrong with the store and the tables after a kill, when all that may go has gone; '' if nothing."""
    shop = SqliteShop(tmp_path / "shop.sqlite")
    async with open_backend(f"lmdb:{tmp_path}/store") as backend:
        places = await held(backend)
        applied = shop.rows("SELECT position FROM perdure_checkpoints")[0][0]
        if places.get("projection payments", -1) > applied:
            return f"the hold is at {places}, the tables are at {applied}"
        await cut_all(backend)
        head = await backend.head()
    async with open_runtime(f"lmdb:{tmp_path}/store", App(sql=[payments(shop)])) as rt:
        await rt.model(payments(shop)).wait_for(head)
    (found,) = shop.rows("SELECT count(*), sum(cents) FROM payments")
    return "" if found == (head, head) else f"{found} of {head} events are in the tables"


async def test_what_its_tables_do_not_have_stays_whenever_it_is_killed(tmp_path):
    draw = random.Random(3)
    for _ in range(5):
        with _child(tmp_path) as child:
            assert child.stdout is not None and child.stdout.readline() == "open\n"
            time.sleep(draw.uniform(0.1, 0.5))  # noqa: ASYNC251 - nothing else runs here
            child.send_signal(signal.SIGKILL)
        assert await _wrong(tmp_path) == ""


async def test_a_kill_between_its_commit_and_its_hold_loses_nothing(tmp_path):
    with _child(tmp_path, "dies") as child:
        assert child.wait() == 9

    assert await _wrong(tmp_path) == ""


async def test_a_hold_that_is_moved_first_is_caught(tmp_path):
    draw, found = random.Random(3), set()
    for _ in range(20):
        with _child(tmp_path, "lies") as child:
            assert child.stdout is not None and child.stdout.readline() == "open\n"
            time.sleep(draw.uniform(0.1, 0.3))  # noqa: ASYNC251 - nothing else runs here
            child.send_signal(signal.SIGKILL)
        if wrong := await _wrong(tmp_path):
            found.add(wrong.partition(" is ")[0])
            break

    assert found == {"the hold"}
