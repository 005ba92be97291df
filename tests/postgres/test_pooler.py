"""A pooler in transaction mode is found, nothing is left to its sessions, and followers poll: the laws are kept through it."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest
import trio

from perdure.backends.conformance import run_checks, stores_of
from perdure.backends.conformance.law import Desk
from perdure.backends.errors import PerdureError
from perdure.backends.postgres import session
from perdure.backends.urls import open_backend
from perdure.runtime import conformance as runtime_laws
from pgfaults.pooler import missing, pooling
from postgres_server import Server

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is one")
PARTS = ["kv", "views", "sharing", "strangers", "leases", "doubt"]
RUNTIME_PARTS = ["leases"]


@pytest.fixture(scope="module")
def pool(own_postgres: Server) -> Iterator[str]:
    """The URL of a database behind a pooler."""
    with pooling(own_postgres.folder) as url:
        yield url


async def test_it_is_found_and_followers_poll(pool, own_postgres):
    async with open_backend(f"{pool}&schema=found") as pooled, open_backend(f"{own_postgres.url()}&schema=found") as straight:
        assert ((await pooled.store_status()).details["pooled"], (await pooled.store_status()).details["told by"]) == (True, "polling")
        assert (await straight.store_status()).details["pooled"] is False

        for writer, reader in ((straight, pooled), (pooled, straight)):
            head = await reader.head()
            with trio.fail_after(2):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(reader.wait_beyond, head)
                    await trio.sleep(0.1)
                    await Desk(writer).append("a")


async def test_a_pooler_of_sessions_is_taken_for_one_too(own_postgres):
    with pooling(own_postgres.folder, mode="session") as url:
        async with open_backend(f"{url}&schema=sessions") as backend:
            await Desk(backend).append("a")

            assert (await backend.store_status()).details["pooled"] is True


async def test_few_sessions_are_enough_for_many(own_postgres):
    with pooling(own_postgres.folder, sessions=2) as url:
        await use(f"{url}&schema=few")
        async with open_backend(f"{url}&schema=few") as backend:
            assert (await backend.head(), await backend.verify()) == (64, [])


async def test_who_takes_a_pooler_for_a_server_is_told_of_damage(own_postgres, monkeypatch):
    """So it must be found: this is what happens else."""
    check = session.check_server

    async def trust(*what):
        server, there = await check(*what)
        return attrs.evolve(server, pooled=False), there

    monkeypatch.setattr(session, "check_server", trust)

    with pooling(own_postgres.folder, sessions=2) as url:
        with pytest.raises((PerdureError, ExceptionGroup)), trio.fail_after(60):
            await use(f"{url}&schema=trusting")


async def use(url):
    """Open and write, again and again: what one left in a session the next one meets."""
    for _ in range(4):
        async with open_backend(url) as one, open_backend(url) as other:
            async with trio.open_nursery() as nursery:
                for number in range(16):
                    nursery.start_soon(Desk((one, other)[number % 2]).append, f"a-{number}")


@pytest.mark.slow
async def test_the_laws_are_kept_through_it(pool):
    with stores_of(pool) as stores:
        board = await run_checks(stores, only=PARTS)
        runtimes = await runtime_laws.run_checks(stores, only=RUNTIME_PARTS)

    assert [(score.law.name, score.broken) for score in (*board.failed, *runtimes.failed)] == []
