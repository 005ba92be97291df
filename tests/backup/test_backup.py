"""Backups while others write: whole, damaged, cut off."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap

import pytest
import trio

from copies import DISK, backed_up, fill, restored
from perdure.backends.commit import Put, key_id
from perdure.backends.conformance.law import Desk, appending
from perdure.backends.errors import Corrupt, Misuse, TooNew, Unavailable, Unsupported
from perdure.backends.protocol import Capabilities
from perdure.backends.urls import open_backend
from perdure.runtime.backup import back_up, check_backup, read_manifest


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
