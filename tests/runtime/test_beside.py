"""What is followed: under the pause only what was changed last is read, however much there is; what a killed migration left is swept."""

from __future__ import annotations

import attrs
import pytest
import trio

from perdure.backends import trace
from perdure.backends.carried import Traced
from perdure.backends.commit import CHECKPOINTS, MODELS, Delete, Put, PutAll
from perdure.backends.conformance.law import Desk
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.faulty import FaultyBackend
from perdure.backends.memory import open_memory
from perdure.backends.urls import open_backend
from perdure.runtime.carry import Carrier, digest_of

STATES = f"{MODELS}m"


class Counting(FaultyBackend):
    """Counts the entries that it gives."""

    given = 0

    async def read_entries(self, **how):
        page = await super().read_entries(**how)
        self.given += len(page.entries)
        return page

    async def read_these(self, keys, *, bytes_max):
        found = await super().read_these(keys, bytes_max=bytes_max)
        self.given += len(found[0])
        return found


@pytest.mark.parametrize("count", [100, 10_000])
@pytest.mark.parametrize("kinds", [("lmdb", "file"), ("postgresql", "lmdb"), ("file", "postgresql")])
async def test_under_the_pause_only_what_was_changed_last_is_read(tmp_path, request, kinds, count):
    urls = [request.getfixturevalue("postgres").new_database() if kind == "postgresql" else f"{kind}:{tmp_path}/{kind}" for kind in kinds]
    async with open_backend(urls[0]) as here, open_backend(urls[1]) as there:
        desk, source, target = Desk(here), Counting(here), Counting(there)
        for first in range(0, count, 1_000):
            await desk.done(PutAll(STATES, [(b"%d" % number, b"x") for number in range(first, min(first + 1_000, count))]))
            await desk.done(Put("users", b"%d" % first, b"x"), Put("users", b"%d gone" % first, b"x"))
        carrier = Carrier(source, target)
        await carrier.begin()
        await carrier.catch_up()
        await desk.done(PutAll(STATES, [(b"%d" % number, b"y") for number in range(7)]), Delete(STATES, b"9"), Put(CHECKPOINTS, b"m", b"7"))
        await desk.done(Put("users", b"0", b"y"), Delete("users", b"0 gone"))
        source.given = target.given = 0

        async with source.hold_commits():
            assert await carrier.finish()
            assert (source.given, target.given) == (9, 9)
        await carrier.aclose()
        await target.end_load()

        assert await digest_of(here) == await digest_of(there)
        assert (await here.read_trace(limit=9)).trace == 0


async def test_a_trace_that_somebody_has_begun_anew_is_no_longer_ours_and_all_is_compared_again():
    source, target = open_memory(), open_memory()
    carrier = Carrier(source, target)
    await Desk(source).done(Put("a", b"1", b"x"))
    await carrier.begin()
    await carrier.catch_up()
    await Desk(source).done(Put("a", b"1", b"y"))
    await source.begin_trace()

    async with source.hold_commits():
        assert not await carrier.finish()
    await carrier.catch_up()
    async with source.hold_commits():
        assert await carrier.finish()

    assert await digest_of(source) == await digest_of(target)


async def test_what_a_killed_migration_left_is_swept_after_a_day(autojump_clock):
    at_us = [1_000_000]
    backend = open_memory(environment=Environment(threads=InlineThreads(), clock=lambda: at_us[0]))
    await Desk(backend).done(Put("a", b"1", b"x"))
    begun = await backend.begin_trace()
    await Desk(backend).done(Put("a", b"1", b"y"))
    await backend.maintain()
    assert [(one.bucket, one.key) for one in (await backend.read_trace(limit=9)).traced] == [("a", b"1")]

    at_us[0] += trace.KEPT_US + begun
    while await backend.maintain():
        await trio.lowlevel.checkpoint()
    await Desk(backend).done(Put("a", b"1", b"z"))

    assert attrs.astuple(await backend.read_trace(limit=9)) == (0, [], None)


async def test_the_same_in_a_database(database):
    async with open_backend(database) as backend:
        await Desk(backend).done(Put("a", b"1", b"x"))
        await backend.begin_trace()
        await Desk(backend).done(Put("a", b"1", b"y"))
        await backend.maintain()
        assert [one.key for one in (await backend.read_trace(limit=9)).traced] == [b"1"]
    await trio.to_thread.run_sync(age, database)
    async with open_backend(database) as backend:
        await backend.maintain()
        await Desk(backend).done(Put("a", b"1", b"z"))

        assert attrs.astuple(await backend.read_trace(limit=9)) == (0, [], None)


def age(url):
    """Let two days go by for the trace."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE perdure.traced SET mark = mark - 172800000000 WHERE bucket = ''")


async def test_writers_with_fewer_rights_go_on_while_their_store_is_followed(postgres, database):
    """The trigger runs with the rights of who made it; who commits need not know of it."""
    async with open_backend(database) as backend:
        await Desk(backend).done(Put("a", b"1", b"x"))
        await trio.to_thread.run_sync(grant, postgres, database)
        async with open_backend(database.replace("postgres@", "writer@")) as other:
            await backend.begin_trace()
            await Desk(other).done(Put("a", b"1", b"y"))
        page = await backend.read_trace(limit=9)
    assert [attrs.evolve(one, mark=0) for one in page.traced] == [Traced("a", b"1", 0)]


def grant(postgres, database):
    """A role that may read and write the store's tables, and nothing else."""
    import psycopg

    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DO $$ BEGIN CREATE ROLE writer LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
        connection.execute("GRANT USAGE ON SCHEMA perdure TO writer")
        connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA perdure TO writer")


async def test_a_table_that_somebody_keeps_is_waited_for_while_writers_go_on(database):
    import psycopg

    async with open_backend(database) as backend:
        await Desk(backend).done(Put("a", b"1", b"x"))
        waits_s = []
        with psycopg.connect(database) as connection:
            connection.execute("LOCK TABLE perdure.kv IN SHARE UPDATE EXCLUSIVE MODE")  # as autovacuum does
            async with trio.open_nursery() as nursery:
                nursery.start_soon(backend.begin_trace)
                for number in range(40):
                    began = trio.current_time()
                    await Desk(backend).done(Put("a", b"%d" % number, b"x"))
                    waits_s.append(trio.current_time() - began)
                    await trio.sleep(0.02)
                connection.rollback()
        assert (await backend.read_trace(limit=1)).trace
        assert max(waits_s) < 0.5
