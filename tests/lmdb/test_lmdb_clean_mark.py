"""The clean mark of `lmdb:`: only who closed all, and had verified it, leaves one; nobody leaves a file open."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import trio

from perdure.backends.conformance.law import Desk
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Unavailable
from perdure.backends.lmdb import files
from perdure.backends.urls import open_backend
from programs import WRITER, fill, run, start


async def test_the_mark_is_there_only_after_a_clean_close(folder, url):
    async with open_backend(url) as backend:
        assert not (folder / "clean").exists()
        async with open_backend(url):
            pass
        assert not (folder / "clean").exists()
        assert (await backend.store_status()).verified
    assert files.left_clean(folder)


async def test_the_mark_of_another_boot_does_not_count(folder, url):
    await fill(url)
    (folder / "clean").write_text("another boot")

    assert not files.left_clean(folder)
    async with open_backend(url) as backend:
        assert (await backend.store_status()).verified == "all pages and rows, at opening"


async def test_a_reader_in_another_process_leaves_no_mark_while_this_one_goes_on(folder, url):
    async with open_backend(url) as backend:
        await Desk(backend).append("a")
        run(
            """
            async def main():
                async with open_backend(sys.argv[1]) as backend:
                    assert await backend.head() == 1
            trio.run(main)
            """,
            url,
        )
        assert not (folder / "clean").exists()


async def test_a_store_that_was_not_verified_is_not_left_clean(folder, url):
    await fill(url)
    (folder / "clean").unlink()

    async with open_backend(f"{url}?verify=off") as backend:
        assert "not since" in (await backend.store_status()).verified
    assert not files.left_clean(folder)
    async with open_backend(f"{url}?verify=off") as backend:
        assert await backend.verify() == []
    assert files.left_clean(folder)
    (folder / "clean").unlink()
    async with open_backend(f"{url}?verify=off"):
        pass
    async with open_backend(url) as backend:
        assert (await backend.store_status()).verified == "all pages and rows, at opening"
    assert files.left_clean(folder)


async def test_who_closes_last_leaves_no_mark_for_who_opened_without_verifying(folder, url):
    await fill(url)
    (folder / "clean").unlink()
    with start(WRITER, f"{url}?verify=off") as first:
        assert first.stdout.readline() == "ready\n"
        async with open_backend(url) as backend:
            first.stdin.write("\n")
            first.stdin.flush()
            assert first.wait(10) == 0
            assert await backend.head() == 12

    assert not files.left_clean(folder)


async def test_after_an_unclean_stop_the_file_is_flushed_before_it_is_read(folder, url):
    code = """
        opened = []
        sys.addaudithook(lambda event, args: event == "open" and str(args[0]).endswith("data.mdb") and opened.append(args[1]))
        async def main():
            async with open_backend(sys.argv[1]):
                pass
        trio.run(main)
        print(json.dumps(opened))
    """
    await fill(url)
    assert json.loads(run(code, url)) == ["r"]  # its first two pages, which say how long it has to be
    (folder / "clean").unlink()

    by_handle, *walked = json.loads(run(code, url))

    assert by_handle is None  # os.open, as for fsync; the walk opens it with a mode
    assert len(walked) > 1


def open_files(folder):
    """What this process has open below *folder*."""
    found = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [path for name in found if os.path.islink(name) and (path := os.readlink(name)).startswith(str(folder))]


async def test_a_folder_that_went_away_is_unavailable_and_leaves_nothing_open(folder, url):
    async with open_backend(url) as backend:
        await Desk(backend).append("a")
        shutil.rmtree(folder)
        await trio.sleep(0.6)
        with pytest.raises(Unavailable) as caught:
            await Desk(backend).append("a", 1, 1)
        assert "cannot be looked at" in str(caught.value)

    assert open_files(folder) == []


class CancellingThreads(InlineThreads):
    """Cancels *scope* before the second call."""

    def __init__(self, scope):
        self.scope = scope
        self.calls = 0

    async def run_sync(self, fn, *args):
        self.calls += 1
        if self.calls == 2:
            self.scope.cancel()
        return await super().run_sync(fn, *args)


async def test_an_opening_that_is_cancelled_while_it_verifies_leaves_nothing_open(folder, url):
    await fill(url)

    with trio.CancelScope() as scope:
        async with open_backend(f"{url}?verify=full", environment=Environment(threads=CancellingThreads(scope))):
            raise AssertionError("opened")

    assert scope.cancelled_caught
    assert open_files(folder) == []
    assert files.left_clean(folder)
