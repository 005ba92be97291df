# mypy: disable-error-code="arg-type,union-attr,var-annotated,possibly-undefined,list-item"
"""What only SQL read models in PostgreSQL have: connections that are lost, servers that are killed, and all the ways in which it cannot be used."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager

import attrs
import pytest
import trio

from perdure.backends.databases import open_database
from perdure.backends.errors import Misuse, Unavailable
from perdure.backends.memory import open_memory
from perdure.backends.postgres import database as postgres_database
from perdure.backends.postgres import transaction
from perdure.backends.postgres.database import PostgresDatabase
from perdure.backends.selector import EVERYTHING
from perdure.backends.sql import Mark
from perdure.runtime import App, ModelFaulted, NewEvent, SqlProjection, event, of, open_runtime
from pgfaults.proxy import Fault, Proxy
from postgres_server import run

MARK = Mark(projection="sums", version=1, fingerprint="f", step="", store="s", position=0)


@event("added")
@attrs.frozen
class Added:
    number: int


def tables(tx):
    tx.execute("CREATE TABLE sums (position bigint PRIMARY KEY, number int)")


def add(event, tx):
    tx.execute("INSERT INTO sums VALUES (%s, %s)", (event.position, event.data.number))


def sums(url, **changes):
    return SqlProjection("sums", **{"version": 1, "database": url, "tables": tables, "handle": add, "events": of(Added), **changes})


def numbers(url):
    return [number for (number,) in run(url, "SELECT number FROM models.sums ORDER BY position")]


def opened(url):
    database = open_database(url, "sums")
    assert database is not None
    return database


@pytest.fixture(autouse=True)
def silent(caplog):
    caplog.set_level(logging.CRITICAL, "perdure")


# -- doubt -----------------------------------------------------------------------------------


@asynccontextmanager
async def behind_proxy(server, url):
    """The URL of the same database, through a proxy."""
    async with trio.open_nursery() as nursery:
        proxy = Proxy(server.socket)
        await nursery.start(proxy.run)
        name = url.partition("?")[0].rpartition("/")[2]
        yield proxy, f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}"
        nursery.cancel_scope.cancel()


async def through(fault, server):
    """Append while that happens to the model's connection; whether it is run here still, and the rows."""
    url = server.new_database()
    async with behind_proxy(server, url) as (proxy, through_it):
        projection = sums(through_it)
        async with open_runtime("memory:", App(sql=[projection])) as rt:
            await rt.model(projection).wait_for((await rt.append("a", [Added(1)])).position)
            await proxy.strike(fault)
            await rt.append("a", [Added(2)])
            with trio.fail_after(10):
                await proxy.struck.wait()
            proxy.heal()
            await trio.sleep(1.5)
            with trio.fail_after(20):
                await rt.model(projection).wait_for((await rt.append("a", [Added(3)])).position)
            status = rt.status().find("sums")
            return status.state, status.restarts, numbers(url)


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.BEFORE, Fault.AFTER, Fault.LATE])
async def test_a_connection_lost_about_a_commit_neither_loses_nor_doubles(own_postgres, fault):
    assert await through(fault, own_postgres) == ("running", 0, [1, 2, 3])


async def test_a_driver_that_reads_the_row_while_its_lost_transaction_commits_is_caught(own_postgres, monkeypatch):
    monkeypatch.setattr(PostgresDatabase, "_changing", without_lock(PostgresDatabase._changing))

    with pytest.raises((trio.TooSlowError, AssertionError, ExceptionGroup)):
        assert await through(Fault.LATE, own_postgres) == ("running", 0, [1, 2, 3])


def without_lock(changing):
    @contextmanager
    def change(self, building) -> Iterator[Mark | None]:
        if sys._getframe(2).f_code.co_name == "mark":
            yield self._first(self._ask(postgres_database._READ, self._projection, building))
        else:
            with changing(self, building) as mark:
                yield mark

    return change


async def test_a_server_that_says_nothing_is_given_up(own_postgres, monkeypatch):
    monkeypatch.setattr(transaction, "ANSWER_S", 0.5)

    assert await through(Fault.SWALLOW, own_postgres) == ("running", 0, [1, 2, 3])


INSERTS = {
    "a statement": lambda tx: tx.execute("INSERT INTO sums VALUES (1, 1)"),
    "with values": lambda tx: tx.execute("INSERT INTO sums VALUES (%s, 1)", (1,)),
    "many": lambda tx: tx.executemany("INSERT INTO sums VALUES (%s, 1)", [(1,), (2,)]),
    "none": lambda tx: None,
}


@pytest.mark.parametrize("insert", INSERTS.values(), ids=INSERTS)
async def test_who_is_frozen_in_a_transaction_is_thrown_out_and_changes_nothing(database, monkeypatch, insert):
    monkeypatch.setitem(transaction._TIMEOUTS, "idle_in_transaction_session_timeout", "300ms")
    frozen, heir = opened(database), opened(database)
    assert frozen.make(MARK, tables)
    after = attrs.evolve(MARK, position=1, fence=3)

    def freeze(tx):
        insert(tx)
        time.sleep(0.6)  # as a stopped process does
        assert heir.move(MARK, after, lambda tx: None)
        tx.execute("INSERT INTO sums VALUES (2, 2)")

    with pytest.raises(Unavailable):
        frozen.move(MARK, attrs.evolve(MARK, position=2), freeze)

    assert numbers(database) == []
    assert heir.mark() == after
    heir.close()
    frozen.close()


# -- a server that is away -------------------------------------------------------------------


async def test_a_killed_server_is_waited_for_and_nobody_else_is_held_up(own_postgres, tmp_path):
    url = own_postgres.new_database()
    here, there = sums(f"sqlite:{tmp_path / 'x'}", handle=lambda event, tx: tx.execute("INSERT INTO sums VALUES (?, 1)", (event.position,))), sums(url)
    here = attrs.evolve(here, name="here")
    async with open_runtime("memory:", App(sql=[here, there])) as rt:
        await rt.model(there).wait_for((await rt.append("a", [Added(1)])).position)
        own_postgres.kill()
        head = (await rt.append("a", [Added(2)])).position
        with trio.fail_after(5):
            await rt.model(here).wait_for(head)
        assert rt.model(there).position < head

        await trio.to_thread.run_sync(own_postgres.start)
        with trio.fail_after(20):
            await rt.model(there).wait_for(head)
        assert rt.status().find("sums").restarts == 0
    assert numbers(url) == [1, 2]


async def test_a_program_opens_though_the_database_of_a_read_model_is_away(own_postgres):
    url = own_postgres.new_database()
    own_postgres.stop()
    projection = sums(url)
    with trio.fail_after(60):
        async with open_runtime("memory:", App(sql=[projection])) as rt:
            head = (await rt.append("a", [Added(1)])).position
            await trio.to_thread.run_sync(own_postgres.start)
            await rt.model(projection).wait_for(head)
    assert numbers(url) == [1]


# -- what people have beside it --------------------------------------------------------------


async def test_a_view_of_somebody_on_the_old_tables_stops_the_swap_and_is_named(database):
    backend = open_memory()
    for version in (1, 2):
        async with open_runtime(backend, App(sql=[sums(database)])) as rt:
            await rt.model(sums(database)).wait_for((await rt.append("a", [Added(version)])).position)
    run(database, "CREATE VIEW public.mine AS SELECT number FROM models.sums")

    async with open_runtime(backend) as rt:
        with pytest.raises(Misuse, match="view mine depends on table"):
            await rt.project(sums(database, version=2))

    assert run(database, "SELECT count(*) FROM public.mine") == [(2,)]


async def test_models_of_several_programs_share_a_database_by_schema(database):
    for number, schema in enumerate(("models", "public", "of_ada"), 1):
        async with open_runtime("memory:", App(sql=[one := sums(f"{database}&schema={schema}")])) as rt:
            await rt.model(one).wait_for((await rt.append("a", [Added(number)])).position)

    assert [run(database, f"SELECT number FROM {schema}.sums") for schema in ("models", "public", "of_ada")] == [[(1,)], [(2,)], [(3,)]]


async def test_a_statement_that_says_one_thing_and_hides_another_is_refused_whole(database):
    one = opened(database)
    assert one.make(MARK, tables)

    with pytest.raises(Exception, match="multiple commands"):
        one.move(MARK, attrs.evolve(MARK, position=1), lambda tx: tx.execute("INSERT INTO sums VALUES (1, 1); COMMIT"))

    assert numbers(database) == []
    one.close()


# -- what cannot be used ---------------------------------------------------------------------


async def refused(url):
    """Why a runtime with a model there does not open."""
    with pytest.raises((Misuse, ModelFaulted)) as caught:
        async with open_runtime("memory:") as rt:
            await rt.project(sums(url))
    return str(caught.value)


@pytest.mark.parametrize("url", ["postgresql://u@h:notaport/db", "postgresql://u@h/db?nosuch=1", "postgresql://[::1/db"])
async def test_a_wrong_url_is_misuse(url):
    assert "postgresql://USER@HOST/DATABASE" in await refused(url)


@pytest.mark.parametrize("option", ["mode=ro", "json=0", "insist=1", "schema=Robert'); DROP", "schema=pg_catalog", "schema="])
async def test_a_wrong_option_is_misuse(database, option):
    assert option.partition("=")[0] in await refused(f"{database}&{option}")


async def test_a_database_or_role_that_is_not_there_is_misuse(postgres):
    assert "no_such" in await refused(postgres.url("no_such"))
    assert "nobody_at_all" in await refused(postgres.url(user="nobody_at_all"))


async def test_a_wrong_password_is_misuse_and_not_shown(own_postgres):
    own_postgres.run("DROP ROLE IF EXISTS guarded")
    own_postgres.run("CREATE ROLE guarded LOGIN PASSWORD 'right'")

    for url in (own_postgres.url(user="guarded:wr0ng"), own_postgres.url(user="guarded", password="wr0ng")):
        assert "wr0ng" not in await refused(url)


async def test_a_server_that_is_not_there_is_unavailable(tmp_path):
    for url in ("postgresql://u@127.0.0.1:1/db", f"postgresql://u@/db?host={tmp_path}"):
        with pytest.raises(Unavailable, match="cannot be reached"):
            await trio.to_thread.run_sync(opened, url)


async def test_a_server_that_does_not_answer_is_unavailable(monkeypatch, tmp_path):
    monkeypatch.setattr(transaction, "CONNECT_S", 2)
    with trio.socket.socket(trio.socket.AF_UNIX) as socket:
        await socket.bind(str(tmp_path / ".s.PGSQL.5432"))
        socket.listen(1)

        with pytest.raises(Unavailable, match="cannot be reached"):
            await trio.to_thread.run_sync(opened, f"postgresql://u@/db?host={tmp_path}")


async def test_another_encoding_is_misuse(postgres):
    assert "UTF8" in await refused(postgres.new_database("ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"))


async def test_an_older_server_is_misuse(database, monkeypatch):
    monkeypatch.setattr(postgres_database, "OLDEST", 990_000)

    assert "99 or later" in await refused(database)


async def test_a_read_only_database_is_misuse(postgres, database):
    name = database.partition("?")[0].rpartition("/")[2]
    postgres.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")

    assert "read-only" in await refused(database)


async def test_a_missing_privilege_is_misuse_and_says_what_to_grant(own_postgres):
    url = own_postgres.new_database()
    own_postgres.run("DROP ROLE IF EXISTS guest")
    own_postgres.run("CREATE ROLE guest LOGIN")
    guest = url.replace("postgres@", "guest@")

    assert "GRANT CREATE ON DATABASE" in await refused(guest)
    opened(url).close()
    own_postgres.run(f"GRANT CREATE ON DATABASE {url.partition('?')[0].rpartition('/')[2]} TO guest")
    assert "GRANT it" in await refused(guest)


def test_without_the_extra_the_error_names_it():
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "import trio\n"
        "from perdure.runtime import MissingExtra, SqlProjection, open_runtime\n"
        "one = SqlProjection('x', version=1, database='postgresql://h/d', tables=print, handle=print)\n"
        "async def main():\n"
        "    async with open_runtime('memory:') as rt: await rt.project(one)\n"
        "try: trio.run(main)\n"
        "except MissingExtra as error: print(error)\n"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)

    assert "pip install 'perdure[postgres]'" in said.stdout, said.stderr


async def test_text_with_nul_stops_the_model_for_postgresql_has_no_such_text(database):
    wide = sums(database, tables=lambda tx: tx.execute("CREATE TABLE said (text text)"), handle=say, events=EVERYTHING)
    async with open_runtime("memory:") as rt:
        await rt.append("a", [NewEvent({"text": "a\0b"}, type="said")])
        with pytest.raises(Exception, match="position 1") as caught:
            await rt.project(wide)

    assert "NUL" in repr(caught.value.__cause__)


def say(event, tx):
    tx.execute("INSERT INTO said VALUES (%s)", (event.data.value["text"],))
