"""Room goes back to the disk where nobody else has the store open, and nothing is lost wherever it is cut off."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
import trio

from perdure.backends.commit import Append, Delete, Put
from perdure.backends.conformance.law import Desk, appending, draft
from perdure.backends.errors import Closed, Unavailable
from perdure.backends.lmdb import shrink
from perdure.backends.lmdb.faulty import faulty_lmdb
from perdure.backends.memory import open_memory
from perdure.backends.protocol import State
from perdure.backends.urls import open_backend
from perdure.runtime import NewEvent, open_runtime
from perdure.runtime.compact import compact


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "s"


async def fill(url):
    async with open_backend(url) as backend:
        desk = Desk(backend)
        for number in range(300):
            await desk.done(Append(f"s-{number % 7}", [draft(b"%d" % number, tags=[f"n:{number % 3}"])]))
        for number in range(60):
            await desk.done(Put("k", b"%d" % number, bytes(100_000)))
        for number in range(1, 60):
            await desk.done(Delete("k", b"%d" % number))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A store that was larger once: 300 events, and entries of some MiB that were deleted."""
    folder = tmp_path_factory.mktemp("template") / "s"
    trio.run(fill, f"lmdb:{folder}")
    return folder


@pytest.fixture
def url(template, folder):
    """A copy of it."""
    shutil.copytree(template, folder)
    return f"lmdb:{folder}"


async def everything(backend):
    return (backend.id, await Desk(backend).log(), await backend.streams(limit=99), await backend.scan("k", limit=99), await backend.revision())


async def test_the_file_becomes_small_and_says_the_same(url, folder):
    size = (folder / "data.mdb").stat().st_size
    async with open_backend(url) as backend:
        before = await everything(backend)

        report = await compact(backend)

        assert report.kept == ""
        assert report.file_after < report.file_before / 5
        assert (folder / "data.mdb").stat().st_size < size / 5
        assert await everything(backend) == before
        assert await backend.verify() == []
        assert backend.state is State.OPEN
        await Desk(backend).append("s-0", 1, 43)
    async with open_backend(url) as backend:
        assert await backend.head() == 301
        assert (await backend.store_status()).recovery.clean
    assert not (folder / shrink.COPY).exists()


async def test_it_goes_on_in_the_new_file(url):
    """Commits, views, another opening, and a second compaction: what is remembered of the old file does not count."""
    async with open_backend(url) as backend:
        desk = Desk(backend)
        for number in range(3):
            assert await backend.shrink() == ""
            await desk.done(appending("more", 2, 2 * number), Put("k", b"0", b"%d" % number))
            async with open_backend(url) as other:
                await Desk(other).append("other", 1, number)
            async with backend.view() as view:
                assert len(await view.read_stream("more", after=0, limit=99, bytes_max=1 << 20)) == 2 * number + 2
        assert await backend.verify() == []


async def test_a_runtime_waits_for_it(url):
    async with open_runtime(url) as rt:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _():
                for number in range(50):
                    await rt.append("run", [NewEvent(number, type="t")])

            await trio.sleep(0.01)
            kept = await rt.backend.shrink()

        assert kept == ""
        assert [event.seq async for event in rt.read("run")] == list(range(1, 51))


OTHER = textwrap.dedent("""
    import sys, trio
    from perdure.backends.urls import open_backend

    async def main():
        async with open_backend(sys.argv[1]) as backend:
            await backend.head()
            print("open", flush=True)
            sys.stdin.readline()
            print(await backend.head(), flush=True)

    trio.run(main)
""")


@pytest.mark.parametrize(("query", "words"), [("", "another process has it open"), ("?mode=ro", "another process reads it")])
async def test_another_process_is_in_the_way(url, folder, query, words):
    child = subprocess.Popen([sys.executable, "-c", OTHER, f"{url}{query}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    inode = (folder / "data.mdb").stat().st_ino
    async with open_backend(url) as backend:
        before = await everything(backend)

        assert words in await backend.shrink()

        assert (folder / "data.mdb").stat().st_ino == inode
        assert await everything(backend) == before
        await Desk(backend).append("a")
        out, _ = await trio.to_thread.run_sync(child.communicate, "\n")
        assert out == "301\n"
        assert await backend.shrink() == ""
    assert not (folder / shrink.COPY).exists()


async def test_a_second_opening_in_this_process_is_in_the_way(url):
    async with open_backend(url) as one, open_backend(url) as other:
        assert "more than once" in await one.shrink()
        await Desk(other).append("a")
        assert await one.head() == 301


async def test_views_are_cut_and_reads_wait(url):
    async with open_backend(url) as backend:
        with pytest.raises(Closed):
            async with backend.view() as view:
                assert await view.head() == 300
                assert await backend.shrink() == ""
                await view.head()
        assert await backend.head() == 300


async def test_a_disk_without_room_for_the_copy_keeps_the_file(url, folder, monkeypatch):
    def full(shared, fresh):
        fresh.write_bytes(b"a part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shrink, "_copy", full)
    async with open_backend(url) as backend:
        assert "No space left" in await backend.shrink()
        await Desk(backend).append("a")
    assert not (folder / shrink.COPY).exists()


async def test_a_store_that_does_not_open_again_is_doubtful_and_comes_back(url):
    with faulty_lmdb() as told:
        async with open_backend(url) as backend:
            told.refuse_open()
            with pytest.raises(Unavailable):
                await backend.shrink()

            assert str(backend.state) == "doubtful"
            await backend.reopen()
            assert str(backend.state) == "open"
            await Desk(backend).append("a")
            assert await backend.verify() == []


CHILD = textwrap.dedent("""
    import os, signal, sys, trio
    from perdure.backends.lmdb import files, shrink
    from perdure.backends.urls import open_backend

    step = int(sys.argv[2])

    def dying(name, module):
        real = getattr(module, name)
        def die(*arguments, **more):
            global step
            if step == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            step -= 1
            return real(*arguments, **more)
        setattr(module, name, die)

    async def main():
        async with open_backend(sys.argv[1]) as backend:
            for name, module in (("_copy", shrink), ("check_pages", shrink), ("_swap", shrink), ("sync", files)):
                dying(name, module)
            await backend.shrink()
            print("done", flush=True)
            os._exit(0)

    trio.run(main)
""")


@pytest.mark.parametrize("step", range(6))
async def test_a_crash_at_any_step_loses_nothing(url, folder, step):
    async with open_backend(url) as backend:
        before = await everything(backend)
    done = await trio.to_thread.run_sync(lambda: subprocess.run([sys.executable, "-c", CHILD, url, str(step)], check=False, capture_output=True, text=True))

    assert done.returncode == (0 if step == 5 else -signal.SIGKILL), done
    async with open_backend(url) as backend:
        assert await everything(backend) == before
        assert await backend.shrink() == ""
        assert await everything(backend) == before
    assert not (folder / shrink.COPY).exists()


async def test_memory_has_no_file():
    assert await open_memory().shrink() == "it has no file"


async def test_upkeep_that_is_due_is_done(url):
    async with open_backend(url) as backend:
        for number in range(40):
            await Desk(backend).append("large", 1, number, type="t" * 100)
            await Desk(backend).done(Append("larger", [draft(bytes(3_000))]))
        told: list[str] = []

        report = await compact(backend, progress=lambda one: told.append(one.what))

        assert report.steps > 0
        assert not await backend.maintain()
        assert told[-1] == "giving room back"
