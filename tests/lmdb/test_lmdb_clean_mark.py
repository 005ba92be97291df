"""`lmdb:` as files: what cannot be opened says why, what is damaged never gives wrong data, what is killed loses nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
from contextlib import contextmanager

import lmdb
import pytest
import trio

from perdure.backends.commit import Delete, Put, SaveSnapshot
from perdure.backends.conformance.law import Desk, appending, is_a
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Corrupt, Full, Misuse, TooNew, Unavailable
from perdure.backends.event import Position
from perdure.backends.limits import Limits
from perdure.backends.lmdb import files
from perdure.backends.lmdb.files import FileLock
from perdure.backends.urls import open_backend

PRELUDE = """
import json, os, sys
import trio
from perdure.backends.commit import *
from perdure.backends.conformance.law import Desk, appending
from perdure.backends.errors import *
from perdure.backends.event import *
from perdure.backends.limits import Limits
from perdure.backends.urls import open_backend
"""


def run(code, *args):
    """Run *code* in a process of its own; what it printed."""
    done = subprocess.run([sys.executable, "-c", PRELUDE + textwrap.dedent(code), *map(str, args)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def start(code, *args):
    """The same, in the background; killed at the end, if it is still there."""
    command = [sys.executable, "-u", "-c", PRELUDE + textwrap.dedent(code), *map(str, args)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def url(folder):
    return f"lmdb:{folder}"


async def refused(url, kind, **more):
    """The error of opening *url*."""
    with pytest.raises(kind) as caught:
        async with open_backend(url, **more):
            pass
    return caught.value


async def fill(url, commits=5):
    async with open_backend(url) as backend:
        for number in range(commits):
            save = SaveSnapshot("s", Position(number), "f", b"x" * 30)
            await Desk(backend).done(appending(f"s-{number % 3}", 2), Put("k", b"%d" % (number % 4), b"%d" % number), save)


# -- what cannot be opened -------------------------------------------------------------------


async def test_a_missing_parent_is_named(tmp_path):
    error = await refused(f"lmdb:{tmp_path}/no/store", Misuse)

    assert f"{tmp_path}/no does not exist" in str(error)
    assert not (tmp_path / "no").exists()


async def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")

    assert "is a file" in str(await refused(f"lmdb:{file}", Misuse))
    assert file.read_text() == "mine"


async def test_an_empty_name_is_misuse():
    await refused("lmdb:", Misuse)


async def test_nothing_is_made_when_nothing_may_be(folder, url):
    assert "there is no store" in str(await refused(url, Misuse, create=False))
    assert not folder.exists()


async def test_what_is_no_store_is_corrupt_and_stays(folder, url):
    folder.mkdir()
    (folder / "data.mdb").write_bytes(b"something else" * 1000)

    await refused(url, Corrupt)

    assert (folder / "data.mdb").read_bytes() == b"something else" * 1000


@pytest.mark.parametrize("size", [0, 1, 4096, 8192])
async def test_a_file_that_was_cut_short_is_corrupt(folder, url, size):
    await fill(url)
    (folder / "clean").unlink()
    os.truncate(folder / "data.mdb", size)

    await refused(url, Corrupt)


@pytest.mark.parametrize("clean", [True, False], ids=["closed", "killed"])
@pytest.mark.parametrize("kept", [0.3, 0.95])
async def test_a_file_that_ends_in_the_middle_of_a_value_is_corrupt(folder, url, clean, kept):
    async with open_backend(url) as backend:
        await Desk(backend).done(Put("k", b"v", bytes(300_000)))
    if not clean:
        (folder / "clean").unlink()
    os.truncate(folder / "data.mdb", int((folder / "data.mdb").stat().st_size * kept))

    assert "data.mdb" in str(await refused(url, Corrupt))


async def test_after_an_unclean_stop_a_row_that_went_back_is_found_at_opening(folder, url):
    await fill(url)
    env = lmdb.open(str(folder / "data.mdb"), subdir=False, max_dbs=20)
    with env.begin(write=True) as txn:
        kv = env.open_db(b"kv", txn=txn)
        [first, *_] = [bytes(key) for key, _ in txn.cursor(db=kv)]
        txn.delete(first, db=kv)
    env.close()
    (folder / "clean").unlink()

    error = await refused(url, Corrupt)

    assert "lost, or older" in str(error)
    assert "?verify=tree" in str(error)
    async with open_backend(f"{url}?verify=tree") as backend:
        assert "not" not in (await backend.store_status()).verified


async def test_a_newer_format_is_too_new_and_changes_nothing(folder, url):
    await fill(url)
    env = lmdb.open(str(folder / "data.mdb"), subdir=False, max_dbs=20)
    with env.begin(write=True) as txn:
        txn.put(b"readable_from", (9).to_bytes(8, "big"), db=env.open_db(b"meta", txn=txn))
    env.close()
    before = (folder / "data.mdb").read_bytes()

    error = await refused(url, TooNew)

    assert (error.format, error.known) == (9, 1)
    assert (folder / "data.mdb").read_bytes() == before


async def test_a_store_whose_making_was_cut_is_made_anew(folder, url):
    folder.mkdir()
    (folder / "data.mdb.new").write_bytes(b"half")

    await fill(url)

    assert not list(folder.glob("*.new*"))


async def test_a_store_is_made_in_an_empty_folder_that_exists(folder, url):
    folder.mkdir()

    await fill(url)

    async with open_backend(url, create=False) as backend:
        assert await backend.head() == 10


# -- processes -------------------------------------------------------------------------------


async def test_a_second_opener_in_this_process_shares(url):
    async with open_backend(url) as one, open_backend(url) as other:
        await Desk(one).append("a", 1, 0)
        await Desk(other).append("a", 1, 1)

        assert one.id == other.id
        assert len(await Desk(one).stream("a")) == 2


async def test_a_second_opener_by_another_name_shares(tmp_path, folder, url):
    await fill(url, 1)
    (tmp_path / "link").symlink_to(folder)

    async with open_backend(url) as one, open_backend(f"lmdb:{tmp_path}/link") as other:
        await Desk(one).append("a")

        assert (await Desk(other).append("a", 1, 1)).last == 2


def test_a_forked_child_is_refused_and_the_parent_goes_on(url):
    out = run(
        """
        async def main():
            async with open_backend(sys.argv[1]) as backend:
                await Desk(backend).append("a")
                child = os.fork()
                if not child:
                    said = []
                    for call in (backend.head, lambda: Desk(backend).append("a"), lambda: backend.get("k", b"x"), backend.view().__aenter__):
                        try:
                            await call()
                        except Misuse as error:
                            said.append("inherited by a fork" in str(error))
                    print(json.dumps(said), flush=True)
                    os._exit(0)
                os.waitpid(child, 0)
                await Desk(backend).append("a", 1, 1)
                print(await backend.head())
        trio.run(main)
        """,
        url,
    )

    assert out.split("\n")[:2] == ["[true, true, true, true]", "2"]


WRITER = """
    async def main():
        async with open_backend(sys.argv[1]) as backend:
            await Desk(backend).append("a")
            print("ready")
            await trio.to_thread.run_sync(sys.stdin.readline)
            await Desk(backend).append("a")
    trio.run(main)
"""


async def test_two_processes_write_in_turns(url):
    with start(WRITER, url) as first:
        assert first.stdout.readline() == "ready\n"
        async with open_backend(url) as backend:
            assert await Desk(backend).payloads("a") == [b"1"]

            first.stdin.write("\n")
            first.stdin.flush()
            await backend.wait_beyond(Position(1))
            assert len(await Desk(backend).stream("a")) == 2
            assert (await Desk(backend).append("a", 1, 2)).last == 3
            assert first.wait(10) == 0


@pytest.mark.parametrize("name", ["next.lock", "gate.lock"])
async def test_who_has_the_right_to_write_and_keeps_it_is_named_and_nothing_happens_later(url, folder, name):
    async with open_backend(url, limits=Limits(gate_s=0.1)) as backend:
        await Desk(backend).append("a")
        lock = FileLock(folder / name)
        assert lock.take()
        lock.write_pid()

        with pytest.raises(Unavailable, match=f"process {os.getpid()} "):
            await Desk(backend).append("a")
        assert await Desk(backend).payloads("a") == [b"1"]
        lock.close()

        assert (await Desk(backend).append("b")).position == 2
        assert len(await Desk(backend).log()) == 2


# -- full ------------------------------------------------------------------------------------


async def test_a_full_store_says_so_takes_deletes_and_goes_on(folder):
    url = f"lmdb:{folder}?size=1MiB"
    async with open_backend(url) as backend:
        desk, stored = Desk(backend), 0
        while not isinstance(answer := await desk.ask(Put("k", b"%03d" % stored, b"x" * 9_000)), Full):
            stored += 1
        assert is_a(answer, Full).limit_bytes == 1 << 20
        before = await backend.scan("k", limit=999)
        assert len(before) == stored > 20

        for number in range(stored // 2):
            await desk.done(Delete("k", b"%03d" % number))
        await desk.done(Put("k", b"again", b"x" * 9_000))
        assert await backend.verify() == []
    async with open_backend(url) as backend:
        assert [entry.key for entry in await backend.scan("k", limit=999)] == [*(b"%03d" % number for number in range(stored // 2, stored)), b"again"]


async def test_events_are_refused_too_and_nothing_is_lost(folder):
    async with open_backend(f"lmdb:{folder}?size=1MiB") as backend:
        desk, stored = Desk(backend), 0
        while not isinstance(await desk.ask(appending("a", 100)), Full):
            stored += 100
        for _ in range(3):
            assert isinstance(await desk.ask(appending("a", 100)), Full)

        assert len(await desk.stream("a")) == stored
        assert await backend.verify() == []


async def test_a_larger_size_helps(folder):
    async with open_backend(f"lmdb:{folder}?size=1MiB") as backend:
        while not isinstance(await Desk(backend).ask(Put("k", b"%d" % await backend.revision(), b"x" * 9_000)), Full):
            pass
    async with open_backend(f"lmdb:{folder}?size=2MiB") as backend:
        await Desk(backend).done(Put("k", b"more", b"x" * 9_000))


def test_a_map_that_cannot_grow_is_unavailable_and_reads_say_so_too(url):
    out = run(
        """
        import resource
        async def main():
            async with open_backend(sys.argv[1], limits=Limits(commit_s=0.1)) as backend:
                shared = backend._store._shared
                shared.size = 1 << 30
                shared.env.set_mapsize(1 << 21)
                await Desk(backend).append("a")
                pages = int(open("/proc/self/statm").read().split()[0])
                resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (64 << 20), resource.RLIM_INFINITY))
                for call in (lambda: Desk(backend).done(Put("k", b"x", b"x" * 900_000), Put("k", b"y", b"y" * 900_000)), backend.head):
                    try:
                        while True:
                            await call()
                    except PerdureError as error:
                        print(type(error).__name__)
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            async with open_backend(sys.argv[1]) as backend:
                print(await backend.head(), await backend.verify())
        trio.run(main)
        """,
        url,
    )

    assert out.split("\n")[:3] == ["Unavailable", "Unavailable", "1 []"]


# -- the clean mark --------------------------------------------------------------------------


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


# -- killed ----------------------------------------------------------------------------------

KILLED = """
    async def main():
        async with open_backend(sys.argv[1]) as backend:
            desk = Desk(backend)
            number = await backend.revision()
            while True:
                number += 1
                value = b"%d" % number
                await desk.group([appending("a", 2), appending("b", 1), Put("k", b"x", value)], [SaveSnapshot("s", Position(number), "f", value)])
                print(number)
                if number % 20 == 0:
                    await backend.maintain()
    trio.run(main)
"""


async def test_kill_loses_nothing_acknowledged_and_shows_no_half(url, folder):
    last = 0
    for round in range(5):
        with start(KILLED, url) as process:
            for _ in range(random.Random(round).randrange(1, 60)):
                last = int(process.stdout.readline())
            process.kill()
            rest = process.stdout.read().split("\n")[:-1]
        last = int(rest[-1]) if rest else last

        assert not (folder / "clean").exists()
        async with open_backend(url) as backend:
            revision = await backend.revision()
            assert revision in (last, last + 1)
            assert (len(await Desk(backend).stream("a")), len(await Desk(backend).stream("b"))) == (2 * revision, revision)
            entry, snapshot = await backend.get("k", b"x"), await backend.read_snapshot("s")
            assert entry and snapshot
            assert entry.value == snapshot.state == b"%d" % revision
            assert await backend.verify() == []
            last = revision


# -- damage ----------------------------------------------------------------------------------

READ_ALL = """
    import hashlib, random, shutil
    from pathlib import Path
    from perdure.backends.selector import EVERYTHING

    async def everything(backend):
        said = [await Desk(backend).log(), await backend.streams(limit=999), await backend.scan("k", limit=999), await backend.snapshots("s")]
        said += [await Desk(backend).stream(f"s-{number}") for number in range(3)]
        said += [await Desk(backend).stream(f"s-{number}", backward=True) for number in range(3)]
        said += [await Desk(backend).log(where=EVERYTHING.within(streams=["s-1"])), await Desk(backend).log(where=EVERYTHING.within(tags=["t"]))]
        said += [await backend.read_snapshot("s"), await backend.read_changes("k", after=0, limit=999), await backend.revision(), await backend.head()]
        return hashlib.sha256(repr(said).encode()).hexdigest()

    async def ask(folder):
        try:
            async with open_backend(f"lmdb:{folder}") as backend:
                return await everything(backend)
        except PerdureError as error:
            return type(error).__name__

    async def main(good, data, tries):
        right = await ask(good)
        for place, mask in tries:
            damaged = Path(good).parent / "damaged"
            shutil.rmtree(damaged, ignore_errors=True)
            damaged.mkdir()
            raw = bytearray(data)
            raw[place] ^= mask
            (damaged / "data.mdb").write_bytes(raw)
            said = await ask(damaged)
            print("right" if said == right else said if len(said) < 64 else "WRONG", place, mask)

    good, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    data = (Path(good) / "data.mdb").read_bytes()
    chance = random.Random(seed)
    trio.run(main, good, data, [(chance.randrange(len(data)), 1 << chance.randrange(8)) for _ in range(count)])
"""


@pytest.mark.parametrize("seed", range(2))
async def test_damage_is_corrupt_or_harmless_and_never_wrong(url, folder, seed):
    async with open_backend(url) as backend:
        for number in range(60):
            await Desk(backend).done(
                appending(f"s-{number % 3}", 1 + number % 4, tags=["t"] if number % 5 == 0 else []),
                Put("k", b"%d" % (number % 20), b"%d" % number),
                SaveSnapshot("s", Position(number), "f", b"state %d" % number, (Position(number - 3),) if number > 3 else ()),
            )

    lines = [line.split() for line in run(READ_ALL, folder, seed, 150).splitlines()]

    assert len(lines) == 150
    assert [line for line in lines if line[0] not in ("right", "Corrupt", "TooNew")] == []
    assert [line for line in lines if line[0] == "Corrupt"]


def records_of(folder):
    """Where the payloads of stream s-1 lie in the file."""
    data = (folder / "data.mdb").read_bytes()
    return [place for place in range(len(data)) if data.startswith(b"needle", place)]


async def test_verify_finds_planted_damage(folder, url):
    async with open_backend(url) as backend:
        await Desk(backend).done(appending("a", 3), Put("k", b"x", b"needle in kv"), SaveSnapshot("s", Position(1), "f", b"needle in a state"))
        assert await backend.verify() == []
    places = records_of(folder)
    assert len(places) >= 2
    with (folder / "data.mdb").open("r+b") as file:
        for place in places:
            file.seek(place)
            file.write(b"noodle")

    async with open_backend(url) as backend:
        problems = await backend.verify()

        assert any("kv entry" in problem for problem in problems)
        assert any("snapshot 's'" in problem for problem in problems)
        with pytest.raises(Corrupt):
            await backend.get("k", b"x")
        with pytest.raises(Corrupt):
            await backend.read_snapshot("s")


async def test_verify_full_refuses_what_is_damaged(folder, url):
    async with open_backend(url) as backend:
        await Desk(backend).done(Put("k", b"x", b"needle"))
    with (folder / "data.mdb").open("r+b") as file:
        for place in records_of(folder):
            file.seek(place)
            file.write(b"noodle")

    await refused(f"{url}?verify=full", Corrupt)


# -- what opening found ----------------------------------------------------------------------


async def test_a_store_that_was_closed_says_so_and_one_that_was_not(tmp_path):
    url = f"lmdb:{tmp_path}/s"
    reports = []
    for clean in (True, True, False):
        if not clean:
            (tmp_path / "s" / "clean").unlink()
        async with open_backend(url) as backend:
            reports.append((await backend.store_status()).recovery)

    assert [report.clean for report in reports] == [True, True, False]
    assert reports[2].checked == "all pages"
    assert reports[2].checked_bytes > 0
    assert all(report.lost_nothing for report in reports)
