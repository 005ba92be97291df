"""What only a store in a PostgreSQL database has: tables that people query, and all the ways in which it cannot be opened."""

from __future__ import annotations

import subprocess
import sys

import pytest
import trio

from perdure.backends.commit import Append, Put
from perdure.backends.conformance.law import Desk, appending, draft
from perdure.backends.environment import Environment
from perdure.backends.errors import Corrupt, MissingExtra, Misuse, TooNew, Unavailable, Unsupported
from perdure.backends.event import Position, Unknown
from perdure.backends.postgres import Options, open_postgres
from perdure.backends.postgres.backend import PostgresBackend
from perdure.backends.urls import open_backend
from perdure.runtime import NewEvent, open_runtime
from pgfaults.proxy import Proxy
from postgres_server import Server, run, running


async def fails(kind, url, **how):
    """The error of opening the store at *url*."""
    with pytest.raises(kind) as caught:
        async with open_backend(url, **how):
            pass
    return str(caught.value)


# -- tables for people -----------------------------------------------------------------------


async def test_people_may_query_events_as_json(database):
    async with open_runtime(database) as rt:
        await rt.append("order-1", [NewEvent({"total": 12, "items": ["a", "b"]}, type="placed", tags=["customer:7"])])
        await rt.append("order-2", [NewEvent({"total": 30, "items": []}, type="placed")])

    rows = run(database, "SELECT stream, seq, data->>'total', tags FROM perdure.events WHERE (data->>'total')::int > 10 ORDER BY position")

    assert rows == [("order-1", 1, "12", ["customer:7"]), ("order-2", 1, "30", None)]


@pytest.mark.parametrize("text", ["nul \x00 inside", "\x00", "\\u0000", "ünïcödé 𝄞", "\ud7ff\ue000\U0010ffff"])
async def test_any_text_in_a_payload_is_stored_whole(database, text):
    async with open_runtime(database) as rt:
        await rt.append("a", [NewEvent({"text": text}, type="said")])

        assert [event.data async for event in rt.read("a")] == [Unknown("said", 1, {"text": text})]
    assert run(database, "SELECT data->>'text' FROM perdure.events") == [(None if "\x00" in text else text,)]


@pytest.mark.parametrize(
    "payload", [b"no msgpack", b"\xc1", b"", b"\x91" * 4_000 + b"\x01", b"\xcb\x7f\xf0" + bytes(6), b"\x81\xc4\x01\xff\x01", b"\xa1\xff", b"\xcf" + b"\xff" * 8]
)
async def test_what_has_no_form_for_people_is_stored_all_the_same(database, payload):
    async with open_backend(database) as backend:
        desk = Desk(backend)
        await desk.done(Append("a", [draft(payload), draft(b"\x01")]))

        assert await desk.payloads("a") == [payload, b"\x01"]


def of_another_collation(postgres):
    """A database whose texts are not ordered by their bytes, where the server has such a collation."""
    found = postgres.run("SELECT collname FROM pg_collation WHERE collprovider = 'c' AND collname ~* '^[a-z]{2}_.*utf' LIMIT 1")
    if not found:
        pytest.skip("this server orders all texts by their bytes")
    return postgres.new_database(f"LOCALE '{found[0][0]}' ENCODING 'UTF8' TEMPLATE template0")


@pytest.mark.parametrize("make", [lambda postgres: postgres.new_database(), of_another_collation], ids=["default", "other"])
async def test_names_and_keys_are_ordered_by_their_bytes_whatever_the_collation(postgres, make):
    names = sorted(["a", "B", "b", "Z", "å", "ä", "z", "a-1", "a_1", "ab", "𝄞", "ﬀ"], key=str.encode)

    async with open_backend(make(postgres)) as backend:
        desk = Desk(backend)
        for name in reversed(names):
            await desk.done(appending(name), Put("k", name.encode(), b""))

        assert [info.name for info in await backend.streams(limit=99)] == names
        assert [info.name for info in await backend.streams(prefix="a", limit=99)] == [name for name in names if name.startswith("a")]
        assert [entry.key for entry in await backend.scan("k", limit=99)] == [name.encode() for name in names]


async def test_several_stores_share_a_database(database):
    async with open_backend(database) as one, open_backend(f"{database}&schema=other") as other:
        await Desk(one).append("a", 3)

        assert one.id != other.id
        assert (await one.head(), await other.head()) == (3, 0)
        assert "schema=other" in (await other.store_status()).url


async def test_a_record_that_was_changed_is_corrupt_and_found(database):
    async with open_backend(database) as backend:
        desk = Desk(backend)
        await desk.append("a", 3)
        run(database, "UPDATE perdure.runs SET payload = 'changed' WHERE position = 2")

        with pytest.raises(Corrupt, match="position 2"):
            await desk.log()
        while await backend.scrub():
            pass
        assert [problem for problem in await backend.verify() if "position 2" in problem]
        assert len((await backend.store_status()).damages) == 1


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("DELETE FROM perdure.runs WHERE seq = 2", "stream 'a'"),
        ("UPDATE perdure.names SET first = 9", "stream 'a'"),
        ("DELETE FROM perdure.names", "stream 'a'"),
        ("DELETE FROM perdure.tags", "tag 't'"),
        ("UPDATE perdure.head SET position = 2", "the head is 2"),
        ("UPDATE perdure.kv SET revision = 99", "the entry x"),
        ("UPDATE perdure.runs SET at = '1999-01-01' WHERE seq = 3", "position 3"),
        ("UPDATE perdure.runs SET commit_end = 9 WHERE seq = 1", "position"),
    ],
)
async def test_what_does_not_fit_together_is_found(database, damage, found):
    async with open_backend(database) as backend:
        desk = Desk(backend)
        for _ in range(3):
            await desk.done(appending("a", tags=["t"]), Put("k", b"x", b""))
        assert await backend.verify() == []
        run(database, damage)

        assert [problem for problem in await backend.verify() if found in problem]


# -- what cannot be opened -------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *("postgresql://u@h:notaport/db", "postgresql://u@h/db?nosuch=1", "postgresql://[::1/db", "postgresql://u@h:0/db", "postgresql://u@h:99999/db"),
        *("postgresql://u@h/db?sslmode=sometimes", "postgresql://u@h/db%00"),
    ],
)
async def test_a_wrong_url_is_misuse(url):
    assert "postgresql://USER@HOST/DATABASE" in await fails(Misuse, url)


@pytest.mark.parametrize("url", ["postgresql:u:secr3t@h/db", "postgresql://u:secr3t@[::1/db", "postgresql://u:secr3t@h:notaport/db", "postgresql://u:secr3t@h/db?nosuch=1"])
async def test_a_wrong_url_is_told_without_its_password(url):
    assert "secr3t" not in await fails(Misuse, url)


async def test_what_a_url_says_reaches_the_server_as_it_is_written(database):
    async with open_backend(f"{database}&options=-c%20work_mem%3D4242kB&application_name=a+b%20c%2Bd") as backend:
        assert isinstance(backend, PostgresBackend)
        await Desk(backend).append("a")
        assert backend._writer is not None
        assert await backend._writer.ask("SHOW work_mem", "SHOW application_name", within_s=5) == [[("4242kB",)], [("a+b c+d",)]]


@pytest.mark.parametrize("option", ["mode=up", "schema=Robert'); DROP", "schema=pg_catalog", "schema="])
async def test_a_wrong_option_is_misuse(database, option):
    await fails(Misuse, f"{database}&{option}")


async def test_a_server_that_is_not_there_is_unavailable(tmp_path):
    assert "cannot be reached" in await fails(Unavailable, "postgresql://u@127.0.0.1:1/db")
    assert "cannot be reached" in await fails(Unavailable, f"postgresql://u@/db?host={tmp_path}")


async def test_a_host_that_nobody_knows_is_unavailable():
    assert "host name" in await fails(Unavailable, "postgresql://u@no-such-host.invalid/db")


async def test_a_role_that_may_not_log_in_or_only_read_is_misuse_one_that_has_no_room_is_unavailable(own_postgres):
    own_postgres.run("CREATE ROLE barred NOLOGIN")
    own_postgres.run("CREATE ROLE crowded LOGIN CONNECTION LIMIT 0")
    own_postgres.run("CREATE ROLE looker LOGIN")
    own_postgres.run("ALTER ROLE looker SET default_transaction_read_only = on")

    assert "not permitted to log in" in await fails(Misuse, own_postgres.url(user="barred"))
    assert "too many connections" in await fails(Unavailable, own_postgres.url(user="crowded"))
    assert "mode=ro" in await fails(Misuse, own_postgres.url(user="looker"))


async def test_a_connection_that_must_be_encrypted_and_cannot_be_is_misuse():
    with running() as server:
        async with trio.open_nursery() as nursery:
            await nursery.start((proxy := Proxy(server.socket)).run)

            assert "SSL" in await fails(Misuse, f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?sslmode=require")
            nursery.cancel_scope.cancel()


async def test_a_server_that_does_not_answer_is_unavailable(monkeypatch, tmp_path):
    from perdure.backends.postgres import session

    monkeypatch.setattr(session, "CONNECT_S", 0.2)
    with trio.socket.socket(trio.socket.AF_UNIX) as socket:
        await socket.bind(str(tmp_path / ".s.PGSQL.5432"))
        socket.listen(1)

        assert "did not answer within" in await fails(Unavailable, f"postgresql://u@/db?host={tmp_path}")


async def test_a_database_or_role_that_is_not_there_is_misuse(postgres):
    assert "no_such" in await fails(Misuse, postgres.url("no_such"))
    assert "nobody_at_all" in await fails(Misuse, postgres.url(user="nobody_at_all"))


async def test_a_wrong_password_is_misuse_and_not_shown(own_postgres):
    own_postgres.run("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    own_postgres.run("CREATE DATABASE of_guarded OWNER guarded")

    url_of = own_postgres.url
    for url in (url_of("of_guarded", "guarded:wr0ng"), url_of("of_guarded", "guarded", password="wr0ng"), url_of("of_guarded", "guarded")):
        assert "wr0ng" not in await fails(Misuse, url)
    async with open_backend(own_postgres.url("of_guarded", "guarded:right")) as backend:
        assert "right" not in repr(backend)


async def test_another_encoding_is_misuse(postgres):
    url = postgres.new_database("ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")

    assert "UTF8" in await fails(Misuse, url)


async def test_a_newer_schema_is_too_new_and_left_alone(database):
    async with open_backend(database):
        pass
    run(database, "UPDATE perdure.head SET format = 99")

    assert "format 99" in await fails(TooNew, database)
    assert run(database, "SELECT format FROM perdure.head") == [(99,)]


async def test_a_missing_privilege_is_misuse_and_says_what_to_grant(own_postgres):
    url = own_postgres.new_database()
    own_postgres.run("CREATE ROLE guest LOGIN")
    guest = url.replace("postgres@", "guest@")

    assert "GRANT CREATE ON DATABASE" in await fails(Misuse, guest)
    async with open_backend(url):
        pass
    assert "GRANT" in await fails(Misuse, guest)
    run(url, "GRANT USAGE ON SCHEMA perdure TO guest")
    run(url, "GRANT SELECT ON ALL TABLES IN SCHEMA perdure TO guest")
    assert "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES" in await fails(Misuse, guest)
    async with open_backend(f"{guest}&mode=ro") as reader:
        assert await reader.head() == 0
        with pytest.raises(Unsupported):
            await Desk(reader).append("a")
    run(url, "GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA perdure TO guest")
    async with open_backend(guest) as backend:
        await Desk(backend).append("a")


async def test_a_right_that_is_taken_away_is_a_typed_error(own_postgres):
    url = own_postgres.new_database()
    own_postgres.run("CREATE ROLE fallen LOGIN")
    fallen = url.replace("postgres@", "fallen@")
    async with open_backend(url):
        pass
    run(url, "GRANT USAGE ON SCHEMA perdure TO fallen")
    run(url, "GRANT ALL ON ALL TABLES IN SCHEMA perdure TO fallen")
    async with open_backend(fallen) as backend:
        desk = Desk(backend)
        await desk.append("a")
        run(url, "REVOKE INSERT ON perdure.runs FROM fallen")

        with pytest.raises(Misuse, match="GRANT"):
            await desk.append("a")
        run(url, "GRANT INSERT ON perdure.runs TO fallen")
        await desk.append("a")
        assert len(await desk.log()) == 2


async def test_a_read_only_replica_is_misuse_unless_it_is_only_read():
    with running() as server:
        url = server.new_database()
        async with open_backend(url) as backend:
            await Desk(backend).append("a", 2)
        server.stop()
        (server.data / "standby.signal").touch()
        server.start()

        assert "mode=ro" in await fails(Misuse, url)
        async with open_backend(f"{url}&mode=ro") as reader:
            desk = Desk(reader)
            assert await desk.payloads("a") == [b"1", b"2"]
            with trio.move_on_after(0.2):
                await reader.wait_beyond(Position(2))


async def test_there_must_be_a_store_where_none_may_be_made(database):
    assert "there is no store" in await fails(Misuse, database, create=False)
    assert "there is no store" in await fails(Misuse, f"{database}&mode=ro")


async def test_a_server_that_does_not_flush_is_refused_unless_one_insists():
    with running(settings=["fsync=off"]) as server:
        url = server.new_database()

        assert "fsync" in await fails(Misuse, url)
        async with open_backend(f"{url}&insist=1"):
            pass


async def test_a_database_that_does_not_wait_for_its_flushes_is_told_to(postgres):
    url = postgres.new_database()
    run(url, f"ALTER DATABASE {run(url, 'SELECT current_database()')[0][0]} SET synchronous_commit = off")

    async with open_backend(url) as backend:
        await Desk(backend).append("a")
        assert isinstance(backend, PostgresBackend) and backend._writer is not None
        assert await backend._writer.ask("SHOW synchronous_commit", within_s=5) == [[("on",)]]


def test_a_missing_extra_says_what_to_install():
    code = """
import sys, trio
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'psycopg':
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
from perdure.backends.urls import open_backend
async def main():
    async with open_backend('postgresql://u@h/db'):
        pass
trio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert f"{MissingExtra.__name__}: postgresql:// needs an extra: pip install 'perdure[postgres]'" in done.stderr


async def test_an_older_postgresql_keeps_a_store_too():
    with running(16) as server:
        async with open_backend(server.new_database()) as backend:
            desk = Desk(backend)
            await desk.append("a", 2)
            await desk.append("a", 2, 2)
            assert (await backend.verify(), len(await desk.log())) == ([], 4)


async def test_two_who_make_a_store_at_once_make_one(database):
    ids = []

    async def make():
        backend = await open_postgres(database, Options(), environment=Environment())
        ids.append(backend.id)
        await backend.aclose()

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(make)

    assert len(set(ids)) == 1


def test_the_servers_programs_are_those_of_the_wheel(own_postgres):
    assert isinstance(own_postgres, Server)
    assert own_postgres.run("SHOW fsync") == [("on",)]
