"""Blobs in a folder: every kind of damage is found or mended, a put that was cut off leaves nothing that anybody sees."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
import trio

from perdure.backends.blobs import unixfs
from perdure.backends.blobs.cid import Cid
from perdure.backends.blobs.directory import DirectoryBlobs, open_directory
from perdure.backends.blobs.ref import BlobRef
from perdure.backends.blobs.urls import open_blobs
from perdure.backends.cuts import POLICIES
from perdure.backends.disk import Disk
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import BlobMissing, BlobsUnavailable, Closed, Corrupt, Misuse, PerdureError, TooNew
from perdure.backends.faults import Fault
from perdure.backends.simulated_disk import SimulatedDisk

MIB = 1 << 20
DATA = Random("directory").randbytes(3 * MIB + 77)
CHILD = Path(__file__).with_name("blob_child.py")


@pytest.fixture
async def store(tmp_path):
    async with open_blobs(f"directory:{tmp_path}/b") as store:
        yield store


def blob_file(store: DirectoryBlobs, ref: BlobRef) -> Path:
    return Path(store._blob(Cid.parse(ref.cid)))


def tree_file(store: DirectoryBlobs, ref: BlobRef) -> Path:
    return Path(store._tree(Cid.parse(ref.cid)))


# -- what a person sees ----------------------------------------------------------------------


async def test_a_blob_is_a_file_with_its_bytes(store):
    ref = await store.put(DATA)

    assert blob_file(store, ref).read_bytes() == DATA


async def test_all_sources_give_the_same_blob(store, tmp_path):
    (tmp_path / "file").write_bytes(DATA)

    async def generator():
        yield DATA[:MIB]
        yield DATA[MIB:]

    send, receive = trio.open_memory_channel[bytes](1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, send)
        from_channel = await store.put(receive)
    async with await trio.open_file(tmp_path / "file", "rb") as opened:
        refs = [
            await store.put(source)
            for source in (DATA, bytearray(DATA), memoryview(DATA), tmp_path / "file", trio.Path(tmp_path / "file"), opened, generator())
        ]

    assert {*refs, from_channel} == {refs[0]}


async def test_bytes_that_change_meanwhile(store):
    """What was given is put, whatever happens to it afterwards."""
    given = bytearray(DATA)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_spoil, given)
        ref = await store.put(memoryview(given))
        nursery.cancel_scope.cancel()

    await store.verify(ref)
    assert await store.get(await store.put(memoryview(DATA)[::2])).read() == DATA[::2]


async def _spoil(given: bytearray) -> None:
    while True:
        given[:] = bytes(len(given))
        await trio.sleep(0)


async def _send(channel: trio.MemorySendChannel[bytes]) -> None:
    async with channel:
        for at in range(0, len(DATA), 10_007):
            await channel.send(DATA[at : at + 10_007])


async def test_a_generator_is_finished_when_a_put_fails(store):
    closed = []

    async def generator():
        try:
            yield b"x"
            yield "a text"
        finally:
            closed.append(True)

    with pytest.raises(Misuse, match="not bytes"):
        await store.put(generator())

    assert closed == [True]


async def test_a_file_that_is_not_there_cannot_be_put(store, tmp_path):
    with pytest.raises(Misuse, match="No such file"):
        await store.put(tmp_path / "nothing")


async def test_a_closed_store_says_so(tmp_path):
    async with open_blobs(f"directory:{tmp_path}/b") as store:
        ref = await store.put(b"x")

    for call in (lambda: store.put(b"x"), lambda: store.has(ref), lambda: store.get(ref).read(), lambda: store.cids()):
        with pytest.raises(Closed):
            await call()


# -- damage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, MIB - 1, MIB, 2 * MIB + 9, len(DATA) - 1])
async def test_a_flipped_byte(store, at):
    ref = await store.put(DATA)
    path = blob_file(store, ref)
    path.write_bytes(DATA[:at] + bytes([DATA[at] ^ 1]) + DATA[at + 1 :])

    with pytest.raises(Corrupt, match="another digest"):
        await store.verify(ref)


@pytest.mark.parametrize("size", [0, 1, MIB, len(DATA) - 1])
async def test_a_cut_file(store, size):
    ref = await store.put(DATA)
    blob_file(store, ref).write_bytes(DATA[:size])

    with pytest.raises(Corrupt):
        await store.verify(ref)


async def test_a_file_that_goes_on(store):
    ref = await store.put(DATA)
    blob_file(store, ref).write_bytes(DATA + b"more")

    with pytest.raises(Corrupt, match="its file has"):
        await store.verify(ref)


async def test_a_small_file_that_goes_on(store):
    ref = await store.put(b"small")
    blob_file(store, ref).write_bytes(b"small and more")

    with pytest.raises(Corrupt):
        await store.get(ref).read()


async def test_a_file_that_is_gone(store):
    """Its nodes are there, and do not make it look as if it were."""
    ref = await store.put(DATA)
    blob_file(store, ref).unlink()

    assert not await store.has(ref)
    with pytest.raises(BlobMissing, match=f"blob {ref.cid} is not in"):
        await store.get(ref).read()


@pytest.mark.parametrize("damage", [None, b"", b"other bytes"])
async def test_nodes_are_made_again(store, damage):
    ref = await store.put(DATA)
    path = tree_file(store, ref)
    before = path.read_bytes()
    path.unlink() if damage is None else path.write_bytes(damage)

    assert await store.get(ref).read() == DATA
    assert path.read_bytes() == before


async def test_damaged_bytes_without_nodes(store):
    ref = await store.put(DATA)
    tree_file(store, ref).unlink()
    blob_file(store, ref).write_bytes(b"x" + DATA[1:])

    with pytest.raises(Corrupt, match="not those of its CID"):
        await store.get(ref).read()


async def test_putting_again_mends(store):
    ref = await store.put(DATA)
    blob_file(store, ref).write_bytes(b"x" + DATA[1:])

    await store.put(DATA)

    assert await store.get(ref).read() == DATA


async def test_what_comes_before_the_damage_is_still_read(store):
    ref = await store.put(DATA)
    blob_file(store, ref).write_bytes(DATA[:-1] + b"!")

    assert await store.get(ref, end=MIB).read() == DATA[:MIB]


async def test_deleting_leaves_no_nodes(store, monkeypatch):
    ref = await store.put(DATA)

    await store.delete(ref)

    assert [path for path in (Path(store._folder) / "trees").rglob("*") if path.is_file()] == []


async def test_a_tree_of_several_levels(store, monkeypatch):
    monkeypatch.setattr(unixfs.Builder.__init__, "__defaults__", (2,))
    data = DATA + DATA + DATA
    ref = await store.put(data)
    nodes = [path for path in (Path(store._folder) / "trees").rglob("*") if path.is_file()]
    assert len(nodes) > 8

    for path in nodes:
        path.unlink()

    assert await store.get(ref, start=5, end=9 * MIB).read() == data[5 : 9 * MIB]
    assert await store.delete(ref)
    assert [path for path in (Path(store._folder) / "trees").rglob("*") if path.is_file()] == []


# -- opening ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prepare", "error", "text"),
    [
        (lambda folder: (folder / "b").write_text("x"), Misuse, "no folder"),
        (lambda folder: [(folder / "b").mkdir(), (folder / "b" / "thesis.txt").write_text("x")], Misuse, "thesis.txt"),
        (lambda folder: [(folder / "b").mkdir(), (folder / "b" / "format").write_text('{"format": 2}')], TooNew, "newer perdure"),
        (lambda folder: [(folder / "b").mkdir(), (folder / "b" / "format").write_text("?")], Corrupt, "does not say the format"),
    ],
)
async def test_a_folder_that_is_no_blob_store(tmp_path, prepare, error, text):
    prepare(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(error, match=text):
        async with open_blobs(f"directory:{tmp_path}/b"):
            pass

    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("folder", ["b", "b/c/d"])
async def test_a_folder_that_is_not_there(tmp_path, folder):
    with pytest.raises(Misuse):
        async with open_blobs(f"directory:{tmp_path}/{folder}", create=folder == "b/c/d"):
            pass

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["", "directory", "directory:", "dir:x", "directory:x?y=1", "ipfs:", "ipfs://", "ipfs://h:port", "ipfs://h/path", "ipfs://h?timeout=0"]
)
async def test_a_url_that_names_none(url):
    with pytest.raises(Misuse):
        async with open_blobs(url):
            pass


async def test_what_was_left_over_is_removed(store, tmp_path):
    incoming = tmp_path / "b" / "incoming"
    (incoming / "aaaa.1").write_bytes(b"half")
    (incoming / "aaaa.lock").write_bytes(b"")

    async with open_blobs(f"directory:{tmp_path}/b"):
        assert not list(incoming.glob("aaaa*"))
        assert len(list(incoming.glob("*.lock"))) == 2  # of the two that are open


async def test_what_another_is_putting_stays(store, tmp_path):
    """An opening beside a put that is under way takes nothing of it away."""
    begun, go_on = trio.Event(), trio.Event()

    async def slowly():
        yield DATA[: 2 * MIB]
        yield DATA[2 * MIB :] + bytes(4 * MIB)
        begun.set()
        await go_on.wait()

    refs = []

    async def put():
        refs.append(await store.put(slowly()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put)
        await begun.wait()
        async with open_blobs(f"directory:{tmp_path}/b") as other:
            assert await other.cids() == []
        go_on.set()

    assert await store.get(refs[0]).read() == DATA + bytes(4 * MIB)


# -- the disk --------------------------------------------------------------------------------


def on(disk: Disk) -> Environment:
    numbers = iter(range(1, 1 << 30))
    return Environment(disk=disk, threads=InlineThreads(), ids=lambda: next(numbers).to_bytes(16, "big"))


async def opened(disk: Disk, *, create: bool = True) -> DirectoryBlobs:
    return await open_directory("/b", url="directory:/b", create=create, environment=on(disk))


SMALL = [b"", b"one", DATA[: MIB + 5]]


async def _put_all(disk: Disk, acked: list[BlobRef]) -> None:
    store = await opened(disk)
    for data in SMALL:
        acked.append(await store.put(data))  # noqa: PERF401 - each when it is told
    await store.delete(acked[1])
    await store.aclose()


async def _check(machine: SimulatedDisk, acked: list[BlobRef], deleted: list[BlobRef]) -> None:
    """Whatever was put is there, whatever is there is whole, nothing is left over."""
    store = await opened(machine.process())
    for ref, data in zip(acked, SMALL, strict=False):
        if ref not in deleted:
            assert await store.get(ref).read() == data
    for cid in await store.cids():
        await store.verify(cid)
    assert [path for path in machine.paths() if "/incoming/" in path and not path.endswith(".lock")] == []
    await store.aclose()


@pytest.mark.parametrize("policy", POLICIES)
async def test_power_is_cut_at_every_point(policy):
    images = []
    acked: list[BlobRef] = []
    machine = SimulatedDisk(seed=3)
    machine.on_point = lambda _, number, op, path: images.append((machine.image(policy, seed=number), list(acked)))

    await _put_all(machine.process(), acked)

    assert len(images) > 40
    for image, told in images:
        await _check(image, told, told[1:2])  # its delete may have happened


async def test_a_careless_store_would_be_caught(monkeypatch):
    """Without the flush, bytes are lost that were told to be there."""
    monkeypatch.setattr("perdure.backends.simulated_process.SimulatedFile.flush", lambda self: trio.lowlevel.checkpoint())

    with pytest.raises((AssertionError, PerdureError)):
        await test_power_is_cut_at_every_point("lose")


@pytest.mark.parametrize("kind", ["fail", "drop", "short"])
async def test_every_call_fails_once(kind):
    """What the disk refuses is told once; nothing half is seen, and what was put before and after is there, also when the power is cut then."""
    whole = SimulatedDisk()
    await _put_all(whole.process(), [])
    for number in range(1, whole.points + 1):
        machine = SimulatedDisk(seed=number, faults=[Fault(kind, nth=number)])
        acked: list[BlobRef] = []
        with suppress(BlobsUnavailable, Corrupt):
            await _put_all(machine.process(), acked)
        machine.heal()
        machine.power_cut("lose")

        await _check(machine, acked, acked[1:2])


async def test_a_full_disk():
    machine = SimulatedDisk(seed=1, capacity_bytes=2 * MIB)
    store = await opened(machine.process())

    with pytest.raises(BlobsUnavailable, match="make room"):
        await store.put(DATA)

    assert await store.cids() == []
    ref = await store.put(DATA[:MIB])
    assert await store.get(ref).read() == DATA[:MIB]


async def test_a_put_cancelled_at_every_point():
    """Nothing half is seen, and what had been there stays."""
    number = 0
    while True:
        number += 1
        machine = SimulatedDisk(seed=number)
        store = await opened(machine.process())
        kept = await store.put(b"kept")
        with trio.CancelScope() as scope:
            machine.on_point = lambda _, at, op, path, stop=machine.points + number, scope=scope: scope.cancel() if at == stop else None
            await store.put(SMALL[2])
        machine.on_point = None

        found = await store.cids()
        for cid in found:
            await store.verify(cid)
        assert kept.cid in found
        assert not [path for path in machine.paths() if "/incoming/" in path and not path.endswith(".lock")]
        if not scope.cancelled_caught:
            break
    assert number > 5  # from the first rename on it is put whatever is cancelled


async def test_a_delete_cancelled_at_every_point_leaves_no_node_that_tells_of_lost_bytes(monkeypatch):
    monkeypatch.setattr(unixfs.Builder.__init__, "__defaults__", (2,))
    number = 0
    while True:
        number += 1
        machine = SimulatedDisk(seed=number)
        store = await opened(machine.process())
        ref = await store.put(DATA)
        with trio.CancelScope() as scope:
            machine.on_point = lambda _, at, op, path, stop=machine.points + number, scope=scope: scope.cancel() if at == stop else None
            await store.delete(ref)
        machine.on_point = None

        assert await store.lost() == []
        if not scope.cancelled_caught:
            break
    assert number > 10


# -- killed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_any_moment(tmp_path, seed):
    """SIGKILL while two puts are under way: what was told is there and whole, all that is there is whole, nothing half stays."""
    drawn, told = Random(seed), []
    for life in range(3):
        child = subprocess.Popen([sys.executable, str(CHILD), str(tmp_path / "b"), str(seed)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        told += [child.stdout.readline() for _ in range(drawn.randrange(4))]
        time.sleep(drawn.random() * 0.2)
        child.send_signal(signal.SIGKILL)
        told += child.stdout.read().splitlines(keepends=True)
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL, life

    trio.run(_judge, tmp_path / "b", [line.split() for line in told if line.endswith("\n")])


async def _judge(folder: Path, told: list[list[str]]) -> None:
    async with open_blobs(f"directory:{folder}") as store:
        for cid, size in told:
            assert (await store.verify(cid)).size_bytes == int(size)
        for cid in await store.cids():
            await store.verify(cid)
        assert [path.name for path in (folder / "incoming").iterdir() if path.suffix != ".lock"] == []
