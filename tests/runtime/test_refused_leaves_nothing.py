"""What is refused, or fails, leaves nothing behind that was not there: restores, backups, writes, blobs, retention."""

from __future__ import annotations

import subprocess
import sys

import pytest
import trio

from perdure.backends.commit import Append, Cut, Put
from perdure.backends.conformance.law import Desk, draft
from perdure.backends.disk import TrioDisk
from perdure.backends.errors import Full, Unavailable, Unsupported
from perdure.backends.faults import Fault
from perdure.backends.faulty import FaultyBackend
from perdure.backends.memory import open_memory
from perdure.backends.simulated_disk import SimulatedDisk
from perdure.backends.undone import undone
from perdure.backends.urls import open_backend
from perdure.runtime.__main__ import main
from perdure.runtime.backup import back_up

KINDS = ["lmdb", "file"]


def perdure(*arguments):
    """The exit code of a command, which runs here."""
    return main(list(arguments))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cut_backup(here):
    """A backup of a store of which the front has been cut."""

    async def make():
        async with open_backend("lmdb:shop") as backend:
            for number in range(8):
                await Desk(backend).done(Append("s", [draft(b"%d" % number)]), Put("k", b"x", b"%d" % number))
            await Desk(backend).done(Cut("s", 6))

    trio.run(make)
    assert perdure("backup", "lmdb:shop", "saved") == 0
    return "saved"


def names(here):
    return sorted(path.name for path in here.iterdir())


# -- restores --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("there", [False, True])
def test_a_restore_to_before_a_cut(here, cut_backup, kind, there):
    if there:
        (here / "new").mkdir()
    before = names(here)

    assert perdure("restore", cut_backup, f"{kind}:new", "--position", "4") == 2

    assert names(here) == before
    assert not there or not list((here / "new").iterdir())
    assert perdure("restore", cut_backup, f"{kind}:new") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_restore_of_a_damaged_backup(here, cut_backup, kind):
    image = here / cut_backup / "image"
    image.write_bytes(image.read_bytes()[:-20] + bytes(20))

    assert perdure("restore", cut_backup, f"{kind}:new") == 4

    assert names(here) == ["saved", "shop"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_restore_into_a_folder_with_other_things(here, cut_backup, kind, capsys):
    (here / "full").mkdir()
    (here / "full" / "notes.txt").write_text("precious")

    assert perdure("restore", cut_backup, f"{kind}:full") == 2

    assert "notes.txt" in capsys.readouterr().err
    assert names(here / "full") == ["notes.txt"]


def test_a_restore_into_a_store_is_refused_before_the_backup_is_read(here, cut_backup, capsys):
    assert perdure("append", "lmdb:used", "a", "t", "{}") == 0
    (here / cut_backup / "image").write_bytes(b"damaged")

    assert perdure("restore", cut_backup, "lmdb:used") == 2
    assert perdure("restore", cut_backup, "lmdb:new") == 4

    assert "makes a new store" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_is_full_while_it_is_loaded_is_gone(here, kind):
    """Where it can only be found later: the store was made, and its load had begun."""

    async def load():
        with pytest.raises(Full):
            async with undone(f"{kind}:new"), open_backend(f"{kind}:new", loading=True) as backend:
                await backend.begin_load()
                assert names(here / "new")
                raise Full("a test", 1, 1)

    trio.run(load)

    assert names(here) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_was_there_stays(here, kind):
    """One that is being loaded, too: another command has begun it."""

    async def load():
        async with open_backend(f"{kind}:new", loading=True) as backend:
            await backend.begin_load()
        with pytest.raises(Full):
            async with undone(f"{kind}:new"), open_backend(f"{kind}:new", loading=True):
                raise Full("a test", 1, 1)
        async with open_backend(f"{kind}:new", loading=True) as backend:
            assert str(backend.state) == "loading"

    trio.run(load)


HOLDER = """
import sys, trio
from perdure.backends.urls import open_backend
async def main():
    async with open_backend(sys.argv[1], loading=True):
        print("there", flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


def test_a_store_that_another_process_has_open_stays(here):
    async def load():
        with pytest.raises(Full):
            async with undone("lmdb:new"), open_backend("lmdb:new", loading=True) as backend:
                await backend.begin_load()
                child = subprocess.Popen([sys.executable, "-c", HOLDER, "lmdb:new"], stdout=subprocess.PIPE)
                assert child.stdout is not None
                assert child.stdout.readline() == b"there\n"
                children.append(child)
                raise Full("a test", 1, 1)

    children: list[subprocess.Popen[bytes]] = []
    try:
        trio.run(load)
        assert (here / "new" / "data.mdb").exists()
    finally:
        for child in children:
            child.kill()
            child.communicate()


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_was_loaded_to_its_end_stays(here, kind):
    async def load():
        with pytest.raises(Full):
            async with undone(f"{kind}:new"), open_backend(f"{kind}:new", loading=True) as backend:
                await backend.begin_load()
                await backend.end_load()
                raise Full("a test", 1, 1)

    trio.run(load)

    assert names(here) == ["new"]


# -- backups ---------------------------------------------------------------------------------


class Imageless(FaultyBackend):
    """A store without images, as a daemon's is."""

    def moment(self):
        raise Unsupported("images", "a test")


async def test_a_backup_of_a_store_without_images(here):
    with pytest.raises(Unsupported):
        await back_up(Imageless(open_memory()), "saved", disk=TrioDisk(), made_us=0)

    assert names(here) == []


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("op", ["write", "flush", "rename", "sync_folder"])
async def test_a_backup_that_the_disk_refuses(op, there):
    disk = (world := SimulatedDisk()).process()
    if there:
        await disk.make_folder("/saved")
    world.inject(Fault("fail", op))

    with pytest.raises(Unavailable):
        await back_up(open_memory(), "/saved", disk=disk, made_us=0)

    assert await disk.entries("/") == (["saved"] if there else [])
    assert not there or await disk.entries("/saved") == []


# -- what is written -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "refused",
    [
        ("append", "URL", "", "t", "{}"),
        ("append", "URL", "$own", "t", "{}"),
        ("append", "URL", "s", "t", f'"{"x" * 1_100_000}"'),
        ("append", "URL", "s", "t", "{}", "--key", "k" * 1000),
        ("kv", "put", "URL", "", "k", "1"),
        ("kv", "put", "URL", "b", "", "1"),
        ("kv", "put", "URL", "b", "k", f'"{"x" * 1_100_000}"'),
    ],
    ids=lambda given: " ".join(given)[:24],
)
def test_a_write_that_no_store_takes(here, kind, refused):
    assert perdure(*(f"{kind}:new" if part == "URL" else part for part in refused)) == 2

    assert names(here) == []


def test_a_blob_that_cannot_be_put(here):
    (here / "file").write_text("a letter")

    assert perdure("blob", "put", "directory:new", "no-such-file") == 2
    assert perdure("blob", "put", "directory:new", "file", "--type", "nonsense") == 2
    assert names(here) == ["file"]
    assert perdure("blob", "put", "directory:new", "file") == 0
    assert perdure("blob", "put", "directory:new", "no-such-file") == 2
    assert names(here / "new") == ["blobs", "format", "incoming", "trees"]


def test_a_retention_that_is_refused_makes_no_blob_store(here):
    (here / "one_kept.py").write_text("from perdure.runtime import App, Retention\napp = App(retention=[Retention(categories=['s'], count=1)])\n")
    assert perdure("append", "lmdb:shop", "s-1", "t", "{}") == 0
    assert perdure("append", "lmdb:shop", "s-1", "t", "{}") == 0

    assert perdure("retain", "lmdb:shop?mode=ro", "--app", "one_kept:app", "--blobs", "directory:new") == 2

    assert "new" not in names(here)
