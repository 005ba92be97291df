"""Backups while others write, and the stores that are made of them: whole, cut, damaged, cut off."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta

import attrs
import pytest
import trio

from perdure.actors.model import bucket_of
from perdure.backends import faulty, keys, tables
from perdure.backends.commit import BEATS, CHECKPOINTS, LEASES, Append, Delete, Fence, Put, SaveSnapshot, key_id
from perdure.backends.conformance.law import Desk, appending, draft
from perdure.backends.disk import TrioDisk
from perdure.backends.environment import Environment
from perdure.backends.errors import Compacted, Conflict, Corrupt, Misuse, TooNew, Unavailable, Unsupported
from perdure.backends.event import Position, to_datetime
from perdure.backends.memory import open_memory
from perdure.backends.protocol import Capabilities, State
from perdure.backends.urls import open_backend
from perdure.runtime import App, Event, Keyed, Projection, event, of, open_runtime
from perdure.runtime.backup import back_up, check_backup, read_manifest
from perdure.runtime.restore import restore
from perdure.runtime.rewind import RAISE

DISK = TrioDisk()


async def everything(backend):
    desk = Desk(backend)
    return {
        "head": await backend.head(),
        "log": await desk.log(),
        "streams": await backend.streams(limit=99),
        "scan": await backend.scan("k", limit=99),
        "snapshots": await backend.snapshots("s"),
        "answers": [await backend.answer(key_id(b"key-%d" % number)) for number in range(1, 13)],
    }


async def fill(desk):
    """12 commits at positions 2, 4, ... 24, a second apart, each with a key and an entry."""
    now = (await desk.backend.now_us()) // 1_000_000 * 1_000_000
    for number in range(1, 13):
        events = [draft(b"%d" % number, tags=[f"n:{number}"]), draft(b"x", type=f"type-{number % 3}")]
        await desk.done(
            Append(f"s-{number % 2}", events),
            Put("k", b"%d" % (number % 5), b"%d" % number),
            SaveSnapshot("s", Position(2 * number), "f", b"%d" % number),
            key=b"key-%d" % number,
            at_us=now + number * 1_000_000,
        )
    await desk.done(Delete("k", b"0"))
    return now


@pytest.fixture
async def desk():
    desk = Desk(open_memory())
    await fill(desk)
    return desk


async def backed_up(backend, folder):
    return await back_up(backend, str(folder), disk=DISK, made_us=Environment().clock())


async def restored(folder, **more):
    """A store in memory from the backup, and the report."""
    backend = open_memory()
    report = await restore(str(folder), backend, disk=DISK, **more)
    return backend, report


# -- backups ---------------------------------------------------------------------------------


async def test_a_restored_store_is_the_one_that_was_backed_up(desk, tmp_path):
    manifest = await backed_up(desk.backend, tmp_path / "b")

    backend, report = await restored(tmp_path / "b")

    assert await everything(backend) == await everything(desk.backend)
    assert await backend.verify() == []
    assert (manifest.store, manifest.head, manifest.revision) == (desk.backend.id, 24, 13)
    assert (report.of, report.store, report.position) == (desk.backend.id, backend.id, 24)
    assert report.kv_entries == 4
    assert backend.id != desk.backend.id


async def test_the_manifest_says_what_the_backup_is(desk, tmp_path):
    await backed_up(desk.backend, tmp_path / "b")

    manifest = json.loads((tmp_path / "b" / "manifest.json").read_bytes())

    assert manifest["store"] == desk.backend.id
    assert manifest["files"][0]["size_bytes"] == (tmp_path / "b" / "image").stat().st_size
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["image", "manifest.json"]
    assert (await check_backup(DISK, str(tmp_path / "b"))).head == 24


async def test_a_backup_overwrites_nothing(desk, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").touch()
    (tmp_path / "file").touch()
    await backed_up(desk.backend, tmp_path / "b")

    for name in ("b", "full", "file", "no/such"):
        with pytest.raises(Misuse):
            await backed_up(desk.backend, tmp_path / name)


async def test_a_backup_that_was_cut_off_is_none_and_is_made_again(desk, tmp_path):
    await backed_up(desk.backend, tmp_path / "b")
    (tmp_path / "b" / "manifest.json").unlink()
    (tmp_path / "b" / "image.new").write_bytes(b"x" * 100_000)

    with pytest.raises(Misuse, match="cut off"):
        await read_manifest(DISK, str(tmp_path / "b"))
    with pytest.raises(Misuse, match="check the path"):
        await read_manifest(DISK, str(tmp_path / "c"))
    await backed_up(desk.backend, tmp_path / "b")

    assert (await check_backup(DISK, str(tmp_path / "b"))).head == 24


async def test_no_damaged_byte_of_a_backup_is_restored(desk, tmp_path):
    await backed_up(desk.backend, tmp_path / "b")
    image = tmp_path / "b" / "image"
    sound = image.read_bytes()

    for place in range(0, len(sound), 97):
        image.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with pytest.raises(Corrupt, match="image"):
            await check_backup(DISK, str(tmp_path / "b"))
    for wrong in (sound[:-1], sound + b"\0", b""):
        image.write_bytes(wrong)
        with pytest.raises(Corrupt, match="bytes"):
            await restored(tmp_path / "b")
    image.unlink()
    with pytest.raises(Corrupt, match="missing"):
        await restored(tmp_path / "b")


async def test_a_manifest_that_was_changed_is_refused(desk, tmp_path):
    await backed_up(desk.backend, tmp_path / "b")
    path = tmp_path / "b" / "manifest.json"
    sound = json.loads(path.read_bytes())

    for change, error in (({"format": 2}, TooNew), ({"store": "0" * 32}, Corrupt), ({"files": []}, Corrupt), ({"head": "x"}, Corrupt)):
        path.write_text(json.dumps({**sound, **change}))
        with pytest.raises(error):
            await restored(tmp_path / "b")
    path.write_bytes(b"\xff")
    with pytest.raises(Corrupt):
        await restored(tmp_path / "b")


async def test_a_backup_is_of_one_moment_while_others_write(tmp_path):
    """Whole commits only: two streams and an entry that always move together."""
    url, done = f"lmdb:{tmp_path}/s", False

    async def write():
        async with open_backend(url) as mine:
            number = 0
            while not done:
                number += 1
                await Desk(mine).done(appending("a"), appending("b"), Put("k", b"n", b"%d" % number))
                await trio.sleep(0.001)  # a commit need not yield

    async with open_backend(url) as backend:
        await Desk(backend).append("large", 2_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            for number in range(5):
                await trio.sleep(0.05)
                await backed_up(backend, tmp_path / f"b-{number}")
            done = True

    await check_moments(tmp_path)


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
                await Desk(backend).done(appending("a"), appending("b"), Put("k", b"n", b"%d" % number))
                await trio.sleep(0.001)

    trio.run(main)
""")


async def test_a_backup_is_of_one_moment_while_another_process_writes_and_dies(tmp_path):
    url = f"lmdb:{tmp_path}/s"
    async with open_backend(url) as backend:
        await Desk(backend).append("large", 2_000)
    child = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    async with open_backend(url) as backend:
        for number in range(5):
            await trio.sleep(0.05)
            if number == 4:
                child.send_signal(signal.SIGKILL)
            await backed_up(backend, tmp_path / f"b-{number}")
    child.communicate()

    await check_moments(tmp_path)


async def check_moments(tmp_path):
    heads = []
    for number in range(5):
        copy, report = await restored(tmp_path / f"b-{number}")
        counts = [len(await Desk(copy).stream(name)) for name in ("a", "b")]
        entry = await copy.get("k", b"n")
        assert counts == [int(entry.value if entry else b"0")] * 2
        assert report.position == 2_000 + 2 * counts[0]
        heads.append(report.position)
    assert heads == sorted(heads)
    assert heads[-1] > heads[0]


async def test_what_gives_no_images_is_not_backed_up(desk, tmp_path):
    desk.backend.capabilities = Capabilities()

    with pytest.raises(Unsupported):
        await backed_up(desk.backend, tmp_path / "b")


async def test_a_cancelled_backup_is_none(desk, tmp_path):
    with trio.CancelScope() as scope:
        await back_up(desk.backend, str(tmp_path / "b"), disk=DISK, made_us=0, progress=lambda _: scope.cancel())

    assert scope.cancelled_caught
    with pytest.raises(Misuse, match="cut off"):
        await read_manifest(DISK, str(tmp_path / "b"))
    await desk.append("s-0")


async def test_a_backup_ends_when_the_store_has_to_be_reopened(tmp_path):
    from perdure.backends.lmdb.faulty import faulty_lmdb

    with faulty_lmdb() as told:
        async with open_backend(f"lmdb:{tmp_path}/s") as backend:
            desk = Desk(backend)
            await fill(desk)

            async def fail(_):
                told.fail_commit()
                with pytest.raises(Exception, match="doubt"):
                    await desk.append("a")

            with pytest.raises(Unavailable):
                async with backend.moment() as moment:
                    async for _ in moment:
                        await fail(None)
            await backend.reopen()
            await backed_up(backend, tmp_path / "b")


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


# -- restoring: a log that is cut ------------------------------------------------------------


@pytest.mark.parametrize(("position", "stands"), [(0, 0), (1, 0), (2, 2), (11, 10), (12, 12), (23, 22), (24, 24)])
async def test_a_log_is_cut_at_a_position(desk, tmp_path, position, stands):
    await backed_up(desk.backend, tmp_path / "b")
    before = await desk.log()

    backend, report = await restored(tmp_path / "b", position=position)

    copy = Desk(backend)
    assert await copy.log() == [record for record in before if record.position <= stands]
    assert await backend.snapshots("s") == [place for place in await desk.backend.snapshots("s") if place <= stands]
    for stream in ("s-0", "s-1"):
        assert await copy.stream(stream) == [record for record in before if record.stream == stream and record.position <= stands]
    assert (report.position, report.backup_head, report.events_left_out) == (stands, 24, 24 - stands)
    assert report.snapshots_dropped == 12 - stands // 2
    assert await backend.scan("k", limit=9) == await desk.backend.scan("k", limit=9)
    assert await backend.verify() == []


async def test_a_cut_in_a_merged_frame_is_exact(desk, tmp_path):
    while await desk.backend.maintain():
        pass
    await backed_up(desk.backend, tmp_path / "b")

    backend, _ = await restored(tmp_path / "b", position=14)

    assert await Desk(backend).log() == [record for record in await desk.log() if record.position <= 14]
    assert await backend.verify() == []


@pytest.mark.parametrize(("seconds", "stands"), [(-5, 0), (0.5, 0), (1, 2), (7.5, 14), (12, 24), (99, 24)])
async def test_a_log_is_cut_at_a_time(tmp_path, seconds, stands):
    desk = Desk(open_memory())
    now = await fill(desk)
    await backed_up(desk.backend, tmp_path / "b")

    _, report = await restored(tmp_path / "b", time=to_datetime(now) + timedelta(seconds=seconds))

    assert report.position == stands


async def test_a_commit_that_was_cut_off_is_not_known_and_is_stored_anew(desk, tmp_path):
    await backed_up(desk.backend, tmp_path / "b")

    backend, _ = await restored(tmp_path / "b", position=10)

    answers = [await backend.answer(key_id(b"key-%d" % number)) for number in range(1, 13)]
    assert [answer is not None for answer in answers] == [True] * 5 + [False] * 7
    again = await Desk(backend).done(appending("s-0", 2), key=b"key-6")
    assert again.position == 12


async def test_positions_and_seqs_go_on_after_the_cut(desk, tmp_path):
    await backed_up(desk.backend, tmp_path / "b")

    backend, _ = await restored(tmp_path / "b", position=10)

    copy = Desk(backend)
    assert (await copy.append("s-0", 1, 4)).position == 11
    assert (await copy.append("new", 1, 0)).position == 12


async def test_the_report_says_how_much_of_kv_is_newer_than_the_cut(desk, tmp_path):
    """The entries 1 to 4 were put last by the commits 11, 12, 8 and 9: their keys say when."""
    await backed_up(desk.backend, tmp_path / "b")

    _, cut = await restored(tmp_path / "b", position=16)
    _, whole = await restored(tmp_path / "b")

    assert (cut.kv_entries, cut.kv_newer_least, cut.kv_newer_most) == (4, 3, 3)
    assert (whole.kv_newer_least, whole.kv_newer_most) == (0, 0)


async def test_where_nothing_says_when_an_entry_was_put_the_report_says_that(tmp_path):
    desk = Desk(open_memory())
    for number in range(5):
        await desk.done(appending("a"), Put("k", b"%d" % number, b""))
    await backed_up(desk.backend, tmp_path / "b")

    _, report = await restored(tmp_path / "b", position=2)

    assert (report.kv_entries, report.kv_newer_least, report.kv_newer_most) == (5, 0, 5)


async def test_what_is_asked_wrongly_is_refused(desk, tmp_path):
    await backed_up(desk.backend, tmp_path / "b")
    now = datetime.now(UTC)

    for more in ({"position": 25}, {"position": -1}, {"position": 1, "time": now}, {"time": now.replace(tzinfo=None)}):
        with pytest.raises(Misuse):
            await restored(tmp_path / "b", **more)


# -- models ----------------------------------------------------------------------------------


@event("backup-paid")
@attrs.frozen
class Paid:
    who: str
    cents: int


@attrs.frozen
class Total:
    cents: int = 0
    events: int = 0


def add(total: Total, event: Event[Paid]) -> Total:
    return Total(total.cents + event.data.cents, total.events + 1)


SUM = Projection("sum", version=1, initial=Total(), step=add, events=of(Paid))
BY_WHO = Keyed("by-who", version=1, initial=Total(), step=add, events=of(Paid), key=lambda event: event.data.who)
APP = App(projections=[SUM, BY_WHO])


async def kept_models(url):
    """20 events; the models are kept at 10 and at 20, and a subscription at 15."""
    for _ in range(2):
        async with open_runtime(url, APP) as rt:
            for number in range(10):
                await rt.append("order-1", [Paid(f"w-{number % 3}", number)])
            await rt.model(SUM).wait_for(await rt.head())
            await rt.model(BY_WHO).wait_for(await rt.head())
    async with open_runtime(url) as rt, rt.subscribe(of(Paid), after=Position(0), name="mails") as events:
        async for one in events:
            if one.position == 16:
                break


async def models_of(url):
    async with open_runtime(url, APP) as rt:
        head = await rt.head()
        await rt.model(SUM).wait_for(head)
        await rt.model(BY_WHO).wait_for(head)
        states = {entry.key: entry.state.cents async for entry in rt.model(BY_WHO).scan()}
        return rt.model(SUM).state, states


@pytest.mark.parametrize(("position", "events"), [(None, 20), (20, 20), (14, 14), (10, 10), (3, 3)])
async def test_models_go_on_from_what_stands_at_the_cut(tmp_path, position, events):
    source, target = f"lmdb:{tmp_path}/s", f"lmdb:{tmp_path}/r"
    await kept_models(source)
    async with open_backend(source) as backend:
        await backed_up(backend, tmp_path / "b")
    async with open_backend(target, loading=True) as backend:
        report = await restore(str(tmp_path / "b"), backend, disk=DISK, position=position)
        mails = await backend.get(CHECKPOINTS, b"subscription mails")

    total, states = await models_of(target)

    assert total == Total(sum((number % 10) for number in range(events)), events)
    assert states == {f"w-{who}": sum(n % 10 for n in range(events) if n % 10 % 3 == who) for who in range(3) if any(n % 10 % 3 == who for n in range(events))}
    assert mails is not None and mails.revision >= RAISE
    moved = {name for name in ("sum", "subscription mails") if name in report.moved}
    assert moved == {None: set(), 20: set(), 14: {"sum", "subscription mails"}, 10: {"sum", "subscription mails"}, 3: {"subscription mails"}}[position]
    assert set(report.rebuilt) == {None: set(), 20: set(), 14: {"by-who"}, 10: {"by-who"}, 3: {"by-who", "sum"}}[position]


async def test_a_subscription_goes_on_at_the_cut_and_not_beyond(tmp_path):
    await kept_models(f"lmdb:{tmp_path}/s")
    async with open_backend(f"lmdb:{tmp_path}/s") as backend:
        await backed_up(backend, tmp_path / "b")
    async with open_backend(f"lmdb:{tmp_path}/r", loading=True) as backend:
        await restore(str(tmp_path / "b"), backend, disk=DISK, position=12)

    async with open_runtime(f"lmdb:{tmp_path}/r") as rt:
        await rt.append("order-2", [Paid("x", 1)])
        async with rt.subscribe(of(Paid), name="mails") as events:
            one = await anext(aiter(events))

    assert (one.stream, one.position) == ("order-2", 13)


async def test_states_of_a_model_that_is_built_anew_are_gone(tmp_path):
    await kept_models(f"lmdb:{tmp_path}/s")
    async with open_backend(f"lmdb:{tmp_path}/s") as backend:
        await backed_up(backend, tmp_path / "b")

    backend, _ = await restored(tmp_path / "b", position=5)

    assert await backend.scan(bucket_of("by-who"), limit=9) == []
    assert await backend.get(CHECKPOINTS, b"by-who") is None


async def test_a_checkpoint_of_another_store_is_left_as_it_is(desk, tmp_path):
    from perdure.actors.cursor import Checkpoint, pack

    foreign = pack(Checkpoint("f" * 32, 99))
    await desk.done(Put(CHECKPOINTS, b"theirs", foreign))
    await desk.done(Put(CHECKPOINTS, b"nonsense", b"\xc1"))
    await backed_up(desk.backend, tmp_path / "b")

    backend, _ = await restored(tmp_path / "b", position=4)

    assert (await backend.get(CHECKPOINTS, b"theirs")).value == foreign
    assert (await backend.get(CHECKPOINTS, b"nonsense")).value == b"\xc1"


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
