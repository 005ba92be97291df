"""Migrations that cannot be: one typed error each, and nothing is changed, neither at the source nor at what was named as the target."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

import lmdb
import pytest
import trio
from moving import Writes

from perdure.backends.commit import Put
from perdure.backends.conformance.law import Desk, appending
from perdure.backends.errors import Full, Misuse, StoreMoved, TooNew, Unavailable
from perdure.backends.protocol import State
from perdure.backends.urls import open_backend
from perdure.runtime import open_runtime
from perdure.runtime.carry import digest_of
from perdure.runtime.migrate import migrate, migrate_store, roll_back
from torment.small_disk import small_disk, ways, why_none

NOBODY = 65534
PROGRAM = """
import sys, trio
from perdure.backends.urls import open_backend
from perdure.runtime.carry import Carrier
from perdure.runtime.migrate import migrate_store
async def hold():
    async with open_backend(sys.argv[2]) as backend:
        print("there", flush=True)
        await trio.sleep_forever()
async def stuck(self):
    print("there", flush=True)
    await trio.sleep_forever()
Carrier.catch_up = stuck
trio.run(hold if sys.argv[1] == "open" else lambda: migrate_store(*sys.argv[2:]))
"""


@contextmanager
def beside(*arguments):
    """Another process that has a store open, or is in the middle of a migration; its pid."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "there\n"
            yield child.pid
        finally:
            child.send_signal(signal.SIGKILL)


@pytest.fixture
def place(tmp_path, request):
    """`place(kind, name)`: the URL of a place where there may be a store."""
    return lambda kind, name: request.getfixturevalue("postgres").new_database() if kind == "postgresql" else f"{kind}:{tmp_path}/{name}"


async def written(url, count=20, seed=1):
    """A store with everything in it; its digests."""
    async with open_backend(url) as backend:
        await Writes(seed).many(Desk(backend), count)
        return await digest_of(backend)


async def digests(url):
    """Those of the store there."""
    async with open_backend(url) as backend:
        return await digest_of(backend)


async def refused(kind, source, target, match=None):
    """The migration fails so; whatever was at *source* is as it was."""
    before = await digests(source)
    with pytest.raises(kind, match=match):
        await migrate_store(source, target)
    async with open_backend(source) as backend:
        assert backend.state is State.OPEN
        assert await digest_of(backend) == before


@pytest.mark.parametrize("kind", ["lmdb", "file", "postgresql"])
async def test_a_target_that_is_another_store_is_refused(place, kind):
    here, there = place("lmdb", "here"), place(kind, "there")
    await written(here)
    other = await written(there, seed=2)

    await refused(Misuse, here, there, "another one")

    assert await digests(there) == other


async def test_a_target_that_is_a_copy_in_use_is_refused(tmp_path):
    here = f"lmdb:{tmp_path}/here"
    await written(here)
    shutil.copytree(tmp_path / "here", tmp_path / "copy")

    await refused(Misuse, here, f"lmdb:{tmp_path}/copy", "holds data already")


async def test_an_earlier_state_that_went_another_way_is_refused(tmp_path):
    """The target was moved from the source once; since then it has been given a history of its own, by a copy of the files."""
    here, there = f"lmdb:{tmp_path}/here", f"lmdb:{tmp_path}/there"
    await written(here)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    async with open_backend(there) as target:
        await Desk(target).append("s-0", 3)
        async with target.hold_commits() as held:
            await held.mark("lmdb:/elsewhere")
    async with open_backend(here) as source:
        await Desk(source).append("another", 9)

    await refused(Misuse, here, there, "another event")


async def test_a_disk_without_room_for_it_is_told_before_anything_is_made(tmp_path, monkeypatch):
    here, there = f"lmdb:{tmp_path}/here", f"lmdb:{tmp_path}/deep/there"
    await written(here)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type(usage)(usage.total, usage.total - 100, 100))

    await refused(Full, here, there)

    assert not (tmp_path / "deep").exists()


async def test_a_target_that_turns_out_too_small_is_full_and_can_be_gone_on_with(tmp_path):
    here = f"lmdb:{tmp_path}/here"
    async with open_backend(here) as backend:
        for number in range(60):
            await Desk(backend).append("a", 1, number, type="large" * 20)
            await Desk(backend).done(Put("b", b"%d" % number, bytes(100_000)))

    await refused(Full, here, f"lmdb:{tmp_path}/there?size=2MiB")
    await migrate_store(here, f"lmdb:{tmp_path}/there")

    assert await digests(here) == await digests(f"lmdb:{tmp_path}/there")


async def test_a_place_that_cannot_be_is_refused(tmp_path):
    """A file stands in the way of the folder, as does a missing right for who is not root."""
    here = f"lmdb:{tmp_path}/here"
    await written(here)
    (tmp_path / "file").write_text("")

    await refused((Unavailable, Misuse), here, f"lmdb:{tmp_path}/file/there")


async def test_a_role_without_rights_is_refused(postgres, tmp_path):
    here = f"lmdb:{tmp_path}/here"
    await written(here)
    database = postgres.new_database()
    postgres.run("DROP ROLE IF EXISTS poor")
    postgres.run("CREATE ROLE poor LOGIN")

    await refused(Misuse, here, database.replace("postgres@", "poor@"), "may not make")


async def test_a_store_that_is_elsewhere_is_not_migrated_from_where_it_was(tmp_path):
    here, there = f"lmdb:{tmp_path}/here", f"file:{tmp_path}/there"
    await written(here)
    await migrate_store(here, there)

    with pytest.raises(StoreMoved, match="there"):
        await migrate_store(here, f"file:{tmp_path}/elsewhere")

    assert not (tmp_path / "elsewhere").exists()


async def test_nothing_to_roll_back_is_told(tmp_path):
    here = f"lmdb:{tmp_path}/here"
    await written(here)

    with pytest.raises(Misuse, match="nothing to take back"):
        await roll_back(here, f"lmdb:{tmp_path}/there")

    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(("source", "target"), [("memory:", "lmdb:x"), ("lmdb:x", "memory:"), ("lmdb:x", "nonsense"), ("jetstream:x", "lmdb:y")])
async def test_places_that_are_none_are_refused(source, target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(Misuse):
        await migrate_store(source, target)

    assert list(tmp_path.iterdir()) == []


async def test_a_file_store_in_use_can_be_migrated_by_its_process_only(tmp_path):
    here = f"file:{tmp_path}/here"
    async with open_backend(here) as backend:
        await Desk(backend).append("a")
        with pytest.raises(Unavailable, match=r"migrate\(rt, URL\)"):
            await migrate_store(here, f"lmdb:{tmp_path}/there")
        await Desk(backend).ask(appending("a"))


# -- the same store --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lmdb", "file"])
@pytest.mark.parametrize("spelled", ["{}/here", "{}/./here/", "{}//here", "//{}/here", "{}/link", "{}/link/../here", "{}/here?flush=inline"])
async def test_the_source_as_its_own_target_is_refused(tmp_path, kind, spelled):
    here = f"{kind}:{tmp_path}/here"
    await written(here)
    (tmp_path / "link").symlink_to(tmp_path / "here")

    await refused(Misuse, here, f"{kind}:{spelled.format(tmp_path)}", "source itself")


async def test_the_source_named_from_another_folder_is_refused(tmp_path, monkeypatch):
    here = f"lmdb:{tmp_path}/here"
    await written(here)
    monkeypatch.chdir(tmp_path)

    await refused(Misuse, here, "lmdb:here", "source itself")


@pytest.mark.parametrize(("source", "target"), [("lmdb", "file"), ("file", "lmdb")])
async def test_the_folder_of_the_source_as_another_backend_is_refused(tmp_path, source, target):
    await written(f"{source}:{tmp_path}/here")
    before = {path.name for path in (tmp_path / "here").iterdir()}

    await refused(Misuse, f"{source}:{tmp_path}/here", f"{target}:{tmp_path}/here", r"holds an? ")

    assert {path.name for path in (tmp_path / "here").iterdir()} - before <= {"moving.lock"}


async def test_the_same_database_by_another_name_is_refused(postgres):
    here = postgres.new_database()
    await written(here)

    await refused(Misuse, here, here + "&application_name=another", "source itself")


# -- too new, no right, no room --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lmdb", "file", "postgresql"])
async def test_a_source_of_a_newer_perdure_is_left_alone(tmp_path, place, postgres, kind):
    here, there = place(kind, "here"), f"lmdb:{tmp_path}/there"
    await written(here)
    make_newer(kind, here, tmp_path / "here", postgres)

    with pytest.raises(TooNew):
        await migrate_store(here, there)

    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("kind", ["lmdb", "file", "postgresql"])
async def test_a_target_of_a_newer_perdure_is_left_alone(tmp_path, place, postgres, kind):
    here, there = f"lmdb:{tmp_path}/here", place(kind, "there")
    await written(here)
    await written(there, seed=2)
    make_newer(kind, there, tmp_path / "there", postgres)

    await refused(TooNew, here, there)


def make_newer(kind, url, folder, postgres):
    """Let the store name a format of later."""
    match kind:
        case "lmdb":
            with lmdb.open(str(folder / "data.mdb"), subdir=False, max_dbs=32) as env, env.begin(write=True) as txn:
                meta = env.open_db(b"meta", txn=txn)
                for name in (b"format", b"readable_from"):
                    txn.put(name, (99).to_bytes(8, "big"), db=meta)
        case "file":
            raw = bytearray((folder / "store").read_bytes())
            raw[4:12] = (99).to_bytes(4, "little") * 2
            raw[-4:] = crc32(bytes(raw[:-4])).to_bytes(4, "little")
            (folder / "store").write_bytes(bytes(raw))
        case "postgresql":
            import psycopg

            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("UPDATE perdure.head SET format = 99")


@contextmanager
def as_nobody(*owned):
    """Without any rights but to the folders that are *owned*: for root as for anybody else."""
    if os.geteuid() != 0:
        yield
        return
    for path in owned:
        for one in (path, *path.rglob("*")):
            os.chown(one, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("kind", ["lmdb", "file"])
async def test_a_folder_that_may_not_be_written_is_refused(kind):
    with tempfile.TemporaryDirectory() as folder:
        outer = Path(folder)
        outer.chmod(0o755)
        (outer / "locked").mkdir(mode=0o755)
        here = f"lmdb:{outer}/mine/here"
        (outer / "mine").mkdir()
        await written(here)
        (outer / "locked").chmod(0o555)

        with as_nobody(outer / "mine"):
            await refused(Misuse, here, f"{kind}:{outer}/locked/there", "permission denied")

        assert list((outer / "locked").iterdir()) == []


async def test_a_source_that_may_only_be_read_is_refused():
    with tempfile.TemporaryDirectory() as folder:
        outer = Path(folder)
        outer.chmod(0o755)
        (outer / "mine").mkdir()
        here = f"lmdb:{outer}/here"
        before = await written(here)
        (outer / "here").chmod(0o555)
        for path in (outer / "here").iterdir():
            path.chmod(0o444)

        with as_nobody(outer / "mine"), pytest.raises(Misuse, match="permission denied"):
            await migrate_store(here, f"lmdb:{outer}/mine/there")

        assert list((outer / "mine").iterdir()) == []
        (outer / "here").chmod(0o755)
        for path in (outer / "here").iterdir():
            path.chmod(0o644)
        assert await digests(here) == before


@pytest.mark.parametrize("kind", ["lmdb", "file"])
async def test_a_real_disk_that_is_full_is_full_and_can_be_gone_on_with(tmp_path, kind):
    """The room is gone while it is being brought: what was there to begin with was enough."""
    if not (how := ways(tmp_path)):
        pytest.skip(why_none(tmp_path))
    here = f"lmdb:{tmp_path}/here"
    async with open_backend(here) as backend:
        for number in range(100):
            await Desk(backend).done(Put("b", b"%d" % number, bytes(500_000)))
    with small_disk(how[0], tmp_path / "small") as disk:
        (disk / "there").mkdir()

        await refused(Full, here, f"{kind}:{disk}/there")
        await refused(Full, here, f"{kind}:{disk}/there")


# -- somebody else ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lmdb", "postgresql"])
async def test_a_second_migration_of_the_same_store_is_refused(tmp_path, place, kind):
    here = place(kind, "here")
    await written(here)
    with beside("migrate", here, f"lmdb:{tmp_path}/first") as pid:
        await refused(Unavailable, here, f"lmdb:{tmp_path}/there", f"process {pid} is bringing" if kind == "lmdb" else "another process is bringing")
        with pytest.raises(Unavailable, match="bringing"):
            await roll_back(here, f"lmdb:{tmp_path}/there")
        async with open_runtime(here) as rt:
            with pytest.raises(Unavailable, match="bringing"):
                await migrate(rt, f"lmdb:{tmp_path}/there")
            await rt.append("a", [])
        assert not (tmp_path / "there").exists()

    await migrate_store(here, f"lmdb:{tmp_path}/there")


@pytest.mark.parametrize("kind", ["lmdb", "postgresql"])
async def test_a_copy_of_the_source_to_the_same_target_is_refused(tmp_path, place, kind):
    here, there = f"lmdb:{tmp_path}/here", place(kind, "there")
    await written(here)
    shutil.copytree(tmp_path / "here", tmp_path / "copy")
    with beside("migrate", here, there):
        await refused(Unavailable, f"lmdb:{tmp_path}/copy", there, "bringing")


@pytest.mark.parametrize(("kind", "error"), [("file", Unavailable), ("lmdb", Misuse), ("postgresql", Misuse)])
async def test_a_target_that_is_in_use_is_refused(tmp_path, place, kind, error):
    here, there = f"lmdb:{tmp_path}/here", place(kind, "there")
    await written(here)
    with beside("open", there) as pid:
        await refused(error, here, there, f"process {pid}" if kind == "file" else "another one")


@pytest.mark.parametrize("kind", ["lmdb", "postgresql"])
async def test_a_program_that_waits_for_the_target_has_nothing_until_it_is_there(tmp_path, place, kind):
    """It has opened the empty store that a killed migration has made, before the next one began."""
    here, there = f"lmdb:{tmp_path}/here", place(kind, "there")
    await written(here)
    async with open_backend(here) as source:
        store = source.id
    async with open_backend(there, id=store) as early:
        with beside("migrate", here, there):
            await trio.sleep(0.3)
            with pytest.raises(Unavailable, match="loaded"):
                await Desk(early).ask(appending("a"))
        await migrate_store(here, there)
        await Desk(early).append("a")
    async with open_backend(here) as old, open_backend(there) as new:
        assert (old.state, new.state, await new.head()) == (State.MOVED, State.OPEN, await old.head() + 1)
