"""What a restore changes in a store, and what it leaves where it is cut off in the middle."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

from copies import DISK, backed_up, restored
from perdure.backends import faulty, keys, tables
from perdure.backends.commit import BEATS, LEASES, Append, Fence, Put
from perdure.backends.conformance.law import Desk, appending, draft
from perdure.backends.errors import Compacted, Conflict, Corrupt, Misuse, Unavailable
from perdure.backends.memory import open_memory
from perdure.backends.protocol import State
from perdure.backends.urls import open_backend
from perdure.runtime.restore import restore
from perdure.runtime.rewind import RAISE

# -- restoring: what changes -----------------------------------------------------------------


async def test_old_fences_conflict_and_new_ones_hold(desk, tmp_path):
    await desk.done(Put(LEASES, b"job", keys.number(14) + b"me"), Put(BEATS, b"me", b"process 1 on moon"))
    await desk.done(Fence("job", 14), appending("a"))
    await backed_up(desk.backend, tmp_path / "b")

    backend, report = await restored(tmp_path / "b")

    copy = Desk(backend)
    assert isinstance(await copy.ask(Fence("job", 14), appending("a")), Conflict)
    entry = await backend.get(LEASES, b"job")
    assert (entry.revision, entry.value) == (RAISE, keys.number(RAISE) + b"me")
    assert await backend.read_changes(LEASES, after=0, limit=9)
    assert await copy.store(Put(LEASES, b"job", keys.number(RAISE + 1) + b"you", entry.revision)) == RAISE + 1
    await copy.done(Fence("job", RAISE + 1), appending("a"))
    assert report.fences_raised == 1
    assert await backend.scan(BEATS, limit=9) == []  # so that the lease is free
    assert await backend.verify() == []


async def test_revisions_go_on_beyond_all_that_the_old_store_can_have_given(desk, tmp_path):
    await backed_up(desk.backend, tmp_path / "b")
    backend, report = await restored(tmp_path / "b")
    await backed_up(backend, tmp_path / "c")
    again, second = await restored(tmp_path / "c")

    assert (report.revision, second.revision) == (RAISE, 2 * RAISE)
    assert await Desk(again).store(Put("k", b"new", b"", 0)) == 2 * RAISE + 1
    with pytest.raises(Compacted):
        await backend.read_changes("k", after=13, limit=9)
    assert (await backend.read_changes("k", after=RAISE, limit=9)).changes == []


async def test_only_a_new_store_is_restored_into(desk, tmp_path):
    await backed_up(desk.backend, tmp_path / "b")
    used = Desk(open_memory())
    await used.append("a")

    with pytest.raises(Misuse, match="new store"):
        await restore(str(tmp_path / "b"), used.backend, disk=DISK)

    assert (await used.backend.head(), used.backend.state) == (1, State.OPEN)


async def test_damage_that_was_backed_up_is_told_and_can_be_accepted(desk, tmp_path):
    found = desk.backend._store._tables
    rows = getattr(found, "_tables", found)["frames"]
    key = keys.number(5)
    rows[key] = rows[key].replace(b"happened", b"happenee")[:-1] + b"y"
    await backed_up(desk.backend, tmp_path / "b")

    backend = open_memory()
    with pytest.raises(Corrupt, match="an older backup"):
        await restore(str(tmp_path / "b"), backend, disk=DISK)
    assert str(backend.state) == "loading"
    report = await restore(str(tmp_path / "b"), backend, disk=DISK, accept_damage=True)

    assert str(backend.state) == "open"
    assert any("is lost" in problem for problem in report.problems)


# -- cut off in the middle -------------------------------------------------------------------


CHILD = textwrap.dedent("""
    import sys, trio
    from perdure.backends.disk import TrioDisk
    from perdure.backends.urls import open_backend
    from perdure.runtime.restore import restore

    async def main():
        async with open_backend(sys.argv[2], loading=True) as backend:
            told = []
            def progress(one):
                if one.what == "rows loaded":
                    print(one.done, flush=True)
            await restore(sys.argv[1], backend, disk=TrioDisk(), progress=progress)

    trio.run(main)
""")


async def test_a_restore_that_dies_leaves_a_store_that_says_so_and_can_be_begun_anew(tmp_path):
    source = Desk(open_memory())
    for number in range(300):
        await source.done(Append("a", [draft(bytes(10_000))]), Put("k", b"%d" % number, b""))
    await backed_up(source.backend, tmp_path / "b")
    url = f"lmdb:{tmp_path}/r"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path / "b"), url], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for _ in range(4):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.communicate()

    with pytest.raises(Unavailable, match="being loaded"):
        async with open_backend(url):
            pass
    async with open_backend(url, loading=True) as backend:
        await restore(str(tmp_path / "b"), backend, disk=DISK)
    async with open_backend(url) as backend:
        assert await Desk(backend).log() == await source.log()
        assert len(await backend.scan("k", limit=999)) == 300


async def test_a_flush_that_fails_during_a_restore_is_told_and_the_store_stays_loading(desk, tmp_path):
    await backed_up(desk.backend, tmp_path / "b")
    backend = faulty.FaultyBackend(open_memory())
    backend.fail("load_rows", Unavailable("a test"), nth=3)

    with pytest.raises(Unavailable):
        await restore(str(tmp_path / "b"), backend, disk=DISK)

    assert backend.state is State.LOADING
    await restore(str(tmp_path / "b"), backend, disk=DISK)
    assert await Desk(backend).log() == await desk.log()


def test_all_tables_are_thought_of():
    """A new table needs a thought in `rewind`: what becomes of it when the log is cut."""
    assert keys.TABLES == ("meta", "frames", "runs", "streams", "types", "tags", "kv", "changes", "keys", "ages", "snapshots")
    assert tables.SnapshotRow.__struct_fields__ == ("fingerprint", "at_us", "state")
