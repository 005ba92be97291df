"""`file:` and `lmdb:?log=segments` as their users meet them: files, images, options, and what is told when something is missing."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from contextlib import aclosing, nullcontext, suppress
from pathlib import Path
from random import Random

import pytest
import trio

from perdure.backends import errors, file
from perdure.backends.commit import Append, Committed, Delete, Draft, Put, propose
from perdure.backends.conformance.law import now_us
from perdure.backends.disk import TrioDisk
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Corrupt, Misuse, PerdureError, Unavailable, WrongStore
from perdure.backends.limits import Limits
from perdure.backends.lmdb.files import FileLock
from perdure.backends.simulated_disk import SimulatedDisk
from perdure.backends.urls import open_backend

SMALL = "segment=16KiB"


async def put(backend, *writes):
    [answer] = (await backend.commit([propose(writes, id=os.urandom(16), at_us=now_us())])).answers
    assert isinstance(answer, Committed), answer


def event(payload=b"payload"):
    return Append("s-1", [Draft("happened", 1, payload)])


async def events(backend):
    return [record.payload for record in await backend.read_stream("s-1", after=0, limit=1_000, bytes_max=1 << 30)]


def log_files(folder):
    return sorted(path.name for path in (folder / "log").glob("*.log"))


async def test_values_that_are_written_over_take_no_room_for_long(tmp_path):
    async with open_backend(f"file:{tmp_path / 's'}?{SMALL}") as backend:
        for number in range(400):
            await put(backend, Put("k", b"x", b"%d" % number * 200))
        files = sum(path.stat().st_size for path in (tmp_path / "s").rglob("*") if path.is_file())

    assert files < 16 * (16 << 10)  # 400 times 800 bytes were put


async def test_an_image_and_the_log_after_it_are_all_there_is(tmp_path):
    async with open_backend(f"file:{tmp_path / 's'}?{SMALL}") as backend:
        for number in range(60):
            await put(backend, event(b"%d" % number * 600))
        await put(backend, Put("k", b"gone", b"1"))
        await put(backend, Delete("k", b"gone"))
        status = await backend.store_status()

    assert status.details["image_batch"] > 0
    assert len([path for path in (tmp_path / "s").glob("image-*") if path.suffix != ".new"]) == 1
    async with open_backend(f"file:{tmp_path / 's'}?{SMALL}") as backend:
        assert await events(backend) == [b"%d" % number * 600 for number in range(60)]
        assert await backend.get("k", b"gone") is None
        assert (await backend.store_status()).recovery.clean


async def test_a_clean_close_goes_on_in_the_same_file(tmp_path):
    for number in range(3):
        async with open_backend(f"file:{tmp_path / 's'}") as backend:
            await put(backend, event(b"%d" % number))

    assert len(log_files(tmp_path / "s")) == 1


@pytest.mark.parametrize("url", ["file:{}", "lmdb:{}?log=segments"])
async def test_another_process_is_told_who_has_it(url, tmp_path):
    url = url.format(tmp_path / "s")
    async with open_backend(url):
        program = Path(__file__).with_name("file_child.py")
        done = subprocess.run([sys.executable, program, url], capture_output=True, text=True, check=False)

    assert f"process {os.getpid()} has" in done.stderr
    assert "Unavailable" in done.stderr


async def test_a_store_whose_log_is_gone_is_not_opened_as_if_it_were_whole(tmp_path):
    async with open_backend(f"file:{tmp_path / 's'}") as backend:
        await put(backend, event())
    for name in log_files(tmp_path / "s"):
        (tmp_path / "s" / "log" / name).unlink()

    with pytest.raises(Corrupt, match="restore it from a backup"):
        async with open_backend(f"file:{tmp_path / 's'}"):
            pass


async def test_a_log_without_the_file_that_says_whose_it_is_is_kept(tmp_path):
    async with open_backend(f"file:{tmp_path / 's'}") as backend:
        await put(backend, event())
    (tmp_path / "s" / "store").unlink()

    with pytest.raises(Corrupt, match="restore"):
        async with open_backend(f"file:{tmp_path / 's'}"):
            pass
    assert log_files(tmp_path / "s")


async def test_another_stores_log_is_refused(tmp_path):
    for name in "ab":
        async with open_backend(f"file:{tmp_path / name}") as backend:
            await put(backend, event())
    (tmp_path / "a" / "log" / log_files(tmp_path / "a")[0]).write_bytes((tmp_path / "b" / "log" / log_files(tmp_path / "b")[0]).read_bytes())

    with pytest.raises(WrongStore):
        async with open_backend(f"file:{tmp_path / 'a'}"):
            pass


async def test_a_folder_that_holds_the_other_kind_is_named(tmp_path):
    async with open_backend(f"lmdb:{tmp_path / 's'}"):
        pass

    for query in ("", "?create=0"):
        with pytest.raises(Misuse, match="lmdb:"):
            async with open_backend(f"file:{tmp_path / 's'}{query}"):
                pass


async def test_a_mistaken_kind_leaves_a_file_store_as_it_was(tmp_path):
    folder = tmp_path / "s"
    async with open_backend(f"file:{folder}") as backend:
        await put(backend, event())
    before = sorted(folder.rglob("*"))

    for query in ("", "?log=segments", "?create=0", "?mode=ro"):
        with pytest.raises(Misuse, match="open it as file:"):
            async with open_backend(f"lmdb:{folder}{query}"):
                pass
    assert sorted(folder.rglob("*")) == before


async def test_a_commit_log_whose_lmdb_data_are_gone_is_corrupt_and_nothing_is_made(tmp_path):
    folder = tmp_path / "s"
    async with open_backend(f"lmdb:{folder}?log=segments") as backend:
        await put(backend, event())
    (folder / "data.mdb").unlink()

    for query in ("", "?mode=ro"):
        with pytest.raises(Corrupt, match="it is missing"):
            async with open_backend(f"lmdb:{folder}{query}"):
                pass
    assert not (folder / "data.mdb").exists()


@pytest.mark.parametrize("url", ["file:{}", "lmdb:{}?log=segments"])
async def test_an_opening_that_fails_leaves_nothing_open(url, tmp_path):
    url = url.format(tmp_path / "s")
    async with open_backend(url) as backend:
        await put(backend, event())
    before = len(os.listdir("/proc/self/fd"))

    for nth in range(5):
        with pytest.raises(Unavailable):
            async with open_backend(url, environment=Environment(disk=Failing(nth))):
                pass
    assert len(os.listdir("/proc/self/fd")) == before


class Failing(TrioDisk):
    """A disk that opens no file any more after so many."""

    def __init__(self, left: int) -> None:
        self.left = left

    async def open(self, path, *, create=False, write=True):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.EIO, "it fails")
        return await super().open(path, create=create, write=write)


async def test_a_close_that_fails_lets_go_of_all(tmp_path):
    url = f"lmdb:{tmp_path / 's'}?log=segments"
    with pytest.raises(trio.TooSlowError):
        async with open_backend(url, environment=Environment(disk=(disk := Slow()))) as backend:
            await put(backend, event())
            disk.sleeps = True
            with trio.fail_after(0.01):
                await backend.aclose()

    async with open_backend(url) as backend:
        assert await events(backend) == [b"payload"]


class Slow(TrioDisk):
    """A disk that does not say how much room it has."""

    sleeps = False

    async def free_bytes(self, folder):
        if self.sleeps:
            await trio.sleep_forever()
        return await super().free_bytes(folder)


def test_a_forked_child_is_refused_and_changes_nothing(tmp_path):
    """It has the parent's tables and loop, and would write over what the parent writes."""
    for url in (f"file:{tmp_path / 'f'}", f"lmdb:{tmp_path / 'l'}?log=segments"):
        told = tmp_path / "told"
        trio.run(fork_and_go_on, url, told)

        assert told.read_text().split() == ["Misuse"] * 5, url


async def fork_and_go_on(url, told):
    async with open_backend(url) as backend:
        await put(backend, event(b"1"))
        pid = os.fork()
        if not pid:
            try:
                said = [await refused(lambda: backend.commit([propose([event()], id=os.urandom(16), at_us=now_us())]))]
                said += [await refused(call) for call in (backend.maintain, backend.shrink, backend.head, backend.verify)]
                told.write_text(" ".join(said))
                with suppress(PerdureError):
                    await backend.reopen()
                with suppress(PerdureError):
                    await backend.aclose()
            finally:
                os._exit(0)
        await put(backend, event(b"2"))
        os.waitpid(pid, 0)
        await put(backend, event(b"3"))
    async with open_backend(url) as backend:
        assert await events(backend) == [b"1", b"2", b"3"]
        assert (await backend.store_status()).recovery.clean


async def refused(call):
    try:
        await call()
    except PerdureError as error:
        return type(error).__name__
    return "nothing"


@pytest.mark.parametrize("seed", range(1))
async def test_a_full_store_with_a_commit_log_takes_deletes_and_opens_again(seed, tmp_path):
    """What was acknowledged waits for a map that touches a page for nearly every row: it is not to wait for ever."""
    url, draw = f"lmdb:{tmp_path / 's'}?size=1MiB", Random(seed)
    async with open_backend(f"{url}&log=segments&segment=64KiB") as backend:
        there: list[bytes] = []
        while len(there) < 5_000:
            key = b"%06d" % draw.randrange(1_000_000)
            commit = propose([Put("k", key, b"v" * 200)], id=os.urandom(16), at_us=now_us())
            if not isinstance((await backend.commit([commit])).answers[0], Committed):
                break
            there.append(key)
        for key in draw.sample(there, len(there)):
            await put(backend, Delete("k", key))
        while await backend.maintain():
            pass
        shutil.copytree(tmp_path / "s", tmp_path / "crashed")

        assert (await backend.store_status()).details["batches_waiting"] <= 1
    async with open_backend(url) as backend:
        assert await backend.scan("k", limit=9) == []
        assert await backend.verify() == []
    async with open_backend(f"lmdb:{tmp_path / 'crashed'}?size=1MiB") as backend:
        assert await backend.scan("k", limit=9) == []


@pytest.mark.parametrize("kind", ["file", "lmdb"])
async def test_a_log_file_larger_than_any_use_is_refused_before_a_disk_is_filled(kind, tmp_path):
    with pytest.raises(Misuse, match="at most 1GiB"):
        async with open_backend(f"{kind}:{tmp_path / 's'}?segment=100TiB"):
            pass


async def test_a_store_remembers_its_commit_log_and_can_be_rid_of_it(tmp_path):
    folder = tmp_path / "s"
    async with open_backend(f"lmdb:{folder}") as backend:
        await put(backend, event(b"before"))
    async with open_backend(f"lmdb:{folder}?log=segments") as backend:
        await put(backend, event(b"logged"))
    async with open_backend(f"lmdb:{folder}") as backend:
        assert not backend.capabilities.shared_writes
        await put(backend, event(b"logged still"))
    async with open_backend(f"lmdb:{folder}?log=none") as backend:
        await put(backend, event(b"after"))
    async with open_backend(f"lmdb:{folder}") as backend:
        assert backend.capabilities.shared_writes
        assert await events(backend) == [b"before", b"logged", b"logged still", b"after"]
    assert not (folder / "log").exists()


class Dying(TrioDisk):
    """A disk that refuses to remove the file of that number, and all after it."""

    def __init__(self, left: int) -> None:
        self.left = left

    async def remove(self, path):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.EIO, "it died")
        await super().remove(path)


@pytest.mark.parametrize("query", ["", "?log=none", "?log=segments"])
@pytest.mark.parametrize("removed", range(4))
async def test_a_crash_while_a_commit_log_is_ended_loses_nothing(removed, query, tmp_path):
    url = f"lmdb:{tmp_path / 's'}"
    async with open_backend(f"{url}?log=segments") as backend:
        await put(backend, event(b"logged"))
    with pytest.raises(Unavailable):
        async with open_backend(f"{url}?log=none", environment=Environment(disk=Dying(removed))):
            pass

    async with open_backend(url + query) as backend:
        await put(backend, event(b"after"))
    async with open_backend(url) as backend:
        assert await events(backend) == [b"logged", b"after"]


@pytest.mark.parametrize("again", ["", "?log=segments"])
async def test_an_ended_commit_log_that_comes_back_after_a_power_cut_is_known_for_what_it_is(again, tmp_path):
    folder = tmp_path / "s"
    async with open_backend(f"lmdb:{folder}?log=segments") as backend:
        await put(backend, event(b"logged"))
    shutil.copytree(folder / "log", tmp_path / "kept")
    async with open_backend(f"lmdb:{folder}?log=none") as backend:
        await put(backend, event(b"after"))
    shutil.copytree(tmp_path / "kept", folder / "log")

    async with open_backend(f"lmdb:{folder}{again}") as backend:
        await put(backend, event(b"later"))
    async with open_backend(f"lmdb:{folder}") as backend:
        assert await events(backend) == [b"logged", b"after", b"later"]


async def test_a_commit_log_that_knows_more_than_the_map_is_never_removed(tmp_path):
    """Whoever puts back an older data.mdb is told so."""
    folder = tmp_path / "s"
    for query in ("?log=segments", "?log=none"):
        async with open_backend(f"lmdb:{folder}{query}") as backend:
            await put(backend, event(query.encode()))
    older = (folder / "data.mdb").read_bytes()
    async with open_backend(f"lmdb:{folder}?log=segments") as backend:
        await put(backend, event(b"newer"))
    (folder / "data.mdb").write_bytes(older)

    for query in ("", "?log=segments", "?log=none"):
        with pytest.raises(Corrupt, match="restore"):
            async with open_backend(f"lmdb:{folder}{query}"):
                pass
    assert log_files(folder)


async def test_a_log_that_cannot_be_ended_for_want_of_room_is_unavailable(tmp_path):
    folder = tmp_path / "s"
    async with open_backend(f"lmdb:{folder}?log=segments") as backend:
        await put(backend, event())
        shutil.copytree(folder, tmp_path / "crashed")

    with pytest.raises(Unavailable, match="no room"):
        async with open_backend(f"lmdb:{tmp_path / 'crashed'}?log=none", environment=Environment(disk=Full())):
            pass


class Full(TrioDisk):
    """A disk without room."""

    async def free_bytes(self, folder):
        return 0


class Mumbling(TrioDisk):
    """A disk that says so many times that it has no room, and then nothing."""

    def __init__(self) -> None:
        self.left: int | None = None

    async def free_bytes(self, folder):
        if self.left is None:
            return await super().free_bytes(folder)
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.EIO, "it does not say")
        return 0


@pytest.mark.parametrize("left", range(4))
async def test_a_disk_that_does_not_say_how_much_is_free_is_written_or_full(left, tmp_path, autojump_clock):
    disk = Mumbling()
    async with open_backend(f"file:{tmp_path / 's'}", environment=Environment(disk=disk, threads=InlineThreads())) as backend:
        await put(backend, event())
        await trio.sleep(60)  # so that it looks again
        disk.left = left
        [answer] = (await backend.commit([propose([event()], id=os.urandom(16), at_us=now_us())])).answers
        assert isinstance(answer, Committed | errors.Full)
        assert len(await events(backend)) == 1 + isinstance(answer, Committed)


async def test_an_lmdb_store_whose_commit_log_is_gone_is_corrupt(tmp_path):
    folder = tmp_path / "s"
    async with open_backend(f"lmdb:{folder}?log=segments") as backend:
        await put(backend, event())
    for name in log_files(folder):
        (folder / "log" / name).unlink()

    with pytest.raises(Corrupt, match="restore"):
        async with open_backend(f"lmdb:{folder}"):
            pass


@pytest.mark.parametrize("lets_go", [True, False])
async def test_who_was_killed_may_let_go_a_moment_later(lets_go, tmp_path, monkeypatch):
    url = f"lmdb:{tmp_path / 's'}?log=segments"
    async with open_backend(url) as backend:
        await put(backend, event())
    lock = FileLock(tmp_path / "s" / "users.lock")
    assert lock.take()
    monkeypatch.setattr("perdure.backends.lmdb.shared.time.sleep", lambda _: lock.close() if lets_go else None)

    with nullcontext() if lets_go else pytest.raises(Unavailable, match="only one may"):
        async with open_backend(url) as backend:
            assert await events(backend) == [b"payload"]
    lock.close()


@pytest.mark.parametrize("url", ["file:{}", "lmdb:{}?log=segments"])
async def test_a_killed_writer_leaves_all_that_it_was_told(url, tmp_path):
    url = url.format(tmp_path / "s")
    program = Path(__file__).with_name("file_child.py")
    with subprocess.Popen([sys.executable, program, url], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        told = [next(child.stdout) for _ in range(30)]
        child.send_signal(signal.SIGKILL)

    async with open_backend(url) as backend:
        assert [b"%d" % int(line) for line in told] == (await events(backend))[: len(told)]
        status = await backend.store_status()
        assert not status.recovery.clean
        assert status.recovery.lost_nothing


async def test_many_views_see_one_state_each_while_batches_are_applied(tmp_path):
    patient = Limits(view_s=60)  # it is open while more than a thousand batches are flushed, by whatever disk there is
    async with open_backend(f"lmdb:{tmp_path / 's'}?log=segments&{SMALL}", limits=patient) as backend:
        await put(backend, Put("k", b"x", b"0"))
        async with backend.view() as before:
            for number in range(1, 1_100):
                await put(backend, Put("k", b"x", b"%d" % number))
            await backend.maintain()
            async with backend.view() as after:
                old, new = await before.get("k", b"x"), await after.get("k", b"x")
                assert old is not None
                assert new is not None
                assert (old.value, new.value) == (b"0", b"1099")
        assert (await backend.store_status()).details["times_applied"] >= 1


@pytest.mark.parametrize("name", ["segment=0", "flush=never", "log=none"])
async def test_an_option_that_there_is_not_is_refused(name, tmp_path):
    with pytest.raises(Misuse):
        async with open_backend(f"file:{tmp_path / 's'}?{name}"):
            pass


async def test_a_folder_that_may_not_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises((Misuse, Unavailable)):
        async with open_backend(f"file:{tmp_path / 'file'}"):
            pass


async def test_upkeep_on_a_disk_that_others_filled_comes_to_an_end(autojump_clock):
    disk = SimulatedDisk(1)
    process = disk.process()
    backend = await file.open_file("/s", file.Options(segment=16 << 10), url="file:/s", environment=Environment(disk=process))
    async with aclosing(backend):
        for number in range(100):
            await put(backend, event(b"%d" % number * 600))
        for free in (0, 5_000, 20_000, 40_000):
            disk.resize(disk.used_bytes + free)
            for _ in range(100):
                if not await backend.maintain():
                    break
            else:
                pytest.fail(f"with {free} bytes free upkeep has always more to do")
