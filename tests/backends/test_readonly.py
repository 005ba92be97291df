"""`lmdb:DIR?mode=ro`: reads all, writes nothing, not even a lock; beside writers where LMDB can be told, and never where it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import trio

from perdure.backends.commit import Append, Put, SaveSnapshot
from perdure.backends.conformance.law import Desk, appending, draft
from perdure.backends.errors import Closed, Corrupt, Misuse, Unavailable, Unsupported
from perdure.backends.event import Position
from perdure.backends.limits import Limits
from perdure.backends.lmdb.files import FileLock
from perdure.backends.urls import open_backend
from perdure.runtime import App, NewEvent, Projection, open_runtime


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "s"


@pytest.fixture
async def url(folder):
    """A store with events, entries and a snapshot."""
    url = f"lmdb:{folder}"
    async with open_backend(url) as backend:
        desk = Desk(backend)
        await desk.done(Append("a", [draft(b"1", tags=["t"]), draft(b"2")]), Put("k", b"x", b"1"), key=b"once")
        await desk.done(appending("b", 30), SaveSnapshot("s", Position(2), "f", b"state"))
    return url


async def everything(backend):
    return {
        "id": backend.id,
        "log": await Desk(backend).log(),
        "streams": await backend.streams(limit=9),
        "scan": await backend.scan("k", limit=9),
        "snapshot": await backend.read_snapshot("s"),
        "revision": await backend.revision(),
        "verify": await backend.verify(),
    }


def listing(folder):
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()}


async def test_all_is_read(url):
    async with open_backend(url) as backend:
        before = await everything(backend)

    async with open_backend(f"{url}?mode=ro") as backend:
        assert await everything(backend) == before
        async with backend.view() as view:
            assert await view.head() == 32
        async with backend.moment() as moment:
            assert [slice async for slice in moment]


async def test_nothing_is_made_or_written(url, folder):
    before = listing(folder)

    async with open_backend(f"{url}?mode=ro") as backend:
        await everything(backend)
        assert not await backend.maintain()

    lock = "data.mdb-lock"  # LMDB keeps its readers in it
    assert {name: what for name, what in listing(folder).items() if name != lock} == {name: what for name, what in before.items() if name != lock}
    assert listing(folder)[lock][0] == before[lock][0]


async def test_what_would_write_is_unsupported(url):
    async with open_backend(f"{url}?mode=ro") as backend:
        with pytest.raises(Unsupported) as caught:
            await Desk(backend).ask(appending("a"))
        with pytest.raises(Unsupported):
            await backend.begin_load()
        with pytest.raises(Unsupported):
            await backend.load_rows("kv", [])

        assert caught.value.capability == "writes"
        assert backend.capabilities.declared() == ("durable", "views", "shared_reads", "images", "upkeep")
        await backend.reopen()
        assert (await backend.store_status()).details["mode"] == "read only"


async def test_a_runtime_reads_and_an_app_needs_to_write(url):
    async with open_runtime(f"{url}?mode=ro") as rt:
        assert len([event async for event in rt.read("b", limit=9)]) == 9
        with pytest.raises(Unsupported):
            await rt.append("a", [NewEvent({"x": 1}, type="t")])
        with pytest.raises(Unsupported):
            await rt.kv("k", int).put("y", 1)
        assert await rt.head() == 32

    with pytest.raises(Misuse, match="mode=ro"):
        async with open_runtime(f"{url}?mode=ro", App(projections=[Projection("p", version=1, initial=0, step=lambda n, _: n + 1)])):
            pass


async def test_a_store_that_is_not_there_is_not_made(tmp_path):
    for name in ("no", "no/such"):
        with pytest.raises(Misuse, match="there is no store"):
            async with open_backend(f"lmdb:{tmp_path}/{name}?mode=ro"):
                pass
    (tmp_path / "file").touch()
    with pytest.raises(Misuse, match="is a file"):
        async with open_backend(f"lmdb:{tmp_path}/file?mode=ro"):
            pass
    with pytest.raises(Misuse, match="mode"):
        async with open_backend(f"lmdb:{tmp_path}/no?mode=x"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_a_closed_one_says_so(url):
    async with open_backend(f"{url}?mode=ro") as backend:
        pass

    with pytest.raises(Closed):
        await backend.head()
    await backend.aclose()


# -- beside writers --------------------------------------------------------------------------

WRITER = textwrap.dedent("""
    import sys, trio
    from perdure.backends.commit import Put
    from perdure.backends.conformance.law import Desk, appending
    from perdure.backends.urls import open_backend

    async def main():
        async with open_backend(sys.argv[1]) as backend:
            number = 0
            print("writes", flush=True)
            while True:
                number += 1
                await Desk(backend).done(appending("w", 1, number - 1), Put("k", b"n", b"%d" % number))
                await trio.sleep(0.0005)

    trio.run(main)
""")


@pytest.fixture
def writer(url):
    child = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    yield child
    child.kill()
    child.communicate()


async def test_it_follows_what_another_process_writes(url, writer):
    async with open_backend(f"{url}?mode=ro") as backend:
        position = Position(32)
        for _ in range(20):
            with trio.fail_after(5):
                await backend.wait_beyond(position)
            position = await backend.head()
            records = await Desk(backend).stream("w")
            entry = await backend.get("k", b"n")
            assert [record.seq for record in records] == list(range(1, len(records) + 1))
            assert entry is not None and int(entry.value) >= len(records)
        assert await backend.verify() == []


async def test_a_commit_log_that_was_put_before_it_meanwhile_is_told(url):
    """Its end is not in LMDB: what is read would be older than what was acknowledged."""
    async with open_backend(f"{url}?mode=ro") as backend, trio.open_nursery() as nursery:
        nursery.start_soon(backend_says_no, backend)
        with subprocess.Popen([sys.executable, "-c", WRITER, f"{url}?log=segments"], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            await trio.to_thread.run_sync(child.stdout.readline)
            with pytest.raises(Misuse, match="commit log"):
                await backend.get("k", b"x")
            child.kill()


async def backend_says_no(backend):
    with pytest.raises(Misuse, match="commit log"), trio.fail_after(10):
        await backend.wait_beyond(Position(32))


async def test_a_store_without_its_commit_log_is_not_read(url, folder):
    async with open_backend(f"{url}?log=segments"):
        shutil.copytree(folder, folder.with_name("copy"))
    shutil.rmtree(folder.with_name("copy") / "log")

    with pytest.raises(Misuse, match="commit log"):
        async with open_backend(f"lmdb:{folder.with_name('copy')}?mode=ro"):
            pass


async def test_it_goes_on_where_the_file_was_swapped(url, folder):
    async with open_backend(f"{url}?mode=ro") as backend:
        before = await Desk(backend).log()
        async with backend.view() as view:
            shutil.copy(folder / "data.mdb", folder / "data.mdb.copy")
            (folder / "data.mdb.copy").rename(folder / "data.mdb")
            assert await view.head() == 32

        assert await Desk(backend).log() == before


async def test_one_process_may_read_and_write_if_it_opens_to_write_first(url):
    async with open_backend(url) as writer, open_backend(f"{url}?mode=ro") as reader, open_backend(f"{url}?mode=ro") as other:
        await Desk(writer).append("a", 1, 2)

        assert await reader.head() == await other.head() == 33
        with pytest.raises(Unsupported):
            await Desk(reader).ask(appending("a"))
    async with open_backend(f"{url}?mode=ro") as reader, open_backend(f"{url}?mode=ro"):
        with pytest.raises(Misuse, match="open for reading only"):
            async with open_backend(url):
                pass
        assert await reader.head() == 33
    async with open_backend(url) as writer:
        await Desk(writer).append("a", 1, 3)


async def test_it_waits_for_who_opens_and_not_for_ever(url, folder):
    lock = FileLock(folder / "opening.lock")
    assert lock.take()
    try:
        with pytest.raises(Unavailable, match="opening or closing"):
            async with open_backend(f"{url}?mode=ro", limits=Limits(gate_s=0.05)):
                pass
    finally:
        lock.close()
    async with open_backend(f"{url}?mode=ro", limits=Limits(gate_s=0.05)) as backend:
        assert await backend.head() == 32


# -- what is damaged -------------------------------------------------------------------------


async def test_pages_are_walked_after_an_unclean_stop(url, folder):
    (folder / "clean").unlink()
    async with open_backend(f"{url}?mode=ro") as backend:
        status = await backend.store_status()
        assert (status.verified, status.recovery.clean) == ("all pages and rows, at opening", False)
    assert not (folder / "clean").exists()

    data = folder / "data.mdb"
    data.write_bytes(data.read_bytes()[: 2 * 4096] + b"\xff" * (len(data.read_bytes()) - 2 * 4096))
    with pytest.raises(Corrupt):
        async with open_backend(f"{url}?mode=ro"):
            pass


# -- without the right to write --------------------------------------------------------------

STRANGER = textwrap.dedent("""
    import os, sys, trio
    import perdure.backends.lmdb, perdure.backends.urls
    from perdure.backends.conformance.law import Desk
    from perdure.backends.errors import PerdureError

    async def main(url):
        async with perdure.backends.urls.open_backend(url) as backend:
            print(len(await Desk(backend).log()), await backend.verify(), (await backend.store_status()).details["mode"], flush=True)
            async with backend.view() as view:
                print(await view.head(), flush=True)
            sys.stdin.readline()
            try:
                print(await backend.head())
            except PerdureError as error:
                print(type(error).__name__, error)

    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        trio.run(main, sys.argv[1])
    except* PerdureError as group:
        print(*[f"{type(error).__name__} {error}" for error in group.exceptions])
""")


@pytest.fixture
async def foreign(url, folder):
    """The store, for all to read, and for its owner alone to write."""
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(folder, Path(place) / "s")
        for path in (Path(place), Path(place) / "s"):
            path.chmod(0o755)
        for path in (Path(place) / "s").iterdir():
            path.chmod(0o644)
        if os.getuid() != 0:
            for path in (Path(place) / "s").iterdir():
                path.chmod(0o444)
            (Path(place) / "s").chmod(0o555)
        yield Path(place) / "s"
        (Path(place) / "s").chmod(0o755)


def stranger(folder):
    return subprocess.Popen([sys.executable, "-c", STRANGER, f"lmdb:{folder}?mode=ro"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def test_a_stranger_reads_while_nobody_has_it_open(foreign):
    before = listing(foreign)
    out, _ = await trio.to_thread.run_sync(stranger(foreign).communicate, "\n")

    assert out.splitlines() == ["32 [] read only, while nobody has it open", "32", "32"]
    assert listing(foreign) == before


async def test_a_stranger_reads_a_copy_without_any_lock_file(foreign):
    for path in foreign.iterdir():
        if path.name != "data.mdb":
            path.unlink()

    out, _ = await trio.to_thread.run_sync(stranger(foreign).communicate, "\n")

    assert out.splitlines()[0] == "32 [] read only, while nobody has it open"
    assert [path.name for path in foreign.iterdir()] == ["data.mdb"]


@pytest.mark.skipif(os.getuid() != 0, reason="the owner cannot write here either")
async def test_a_stranger_stops_reading_when_somebody_opens_it(foreign):
    reading = stranger(foreign)
    assert reading.stdout is not None
    reading.stdout.readline()
    reading.stdout.readline()
    async with open_backend(f"lmdb:{foreign}") as backend:
        await Desk(backend).append("a")
        out, _ = await trio.to_thread.run_sync(reading.communicate, "\n")
        later, _ = await trio.to_thread.run_sync(lambda: stranger(foreign).communicate("\n"))

    for text in (out, later):
        assert text.startswith("Unavailable the store is unavailable: another process has")
        assert "read a backup" in text
