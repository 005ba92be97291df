"""What cannot be backed up or written makes no folder, no store and no blob store."""

from __future__ import annotations

import pytest

from perdure.backends.disk import TrioDisk
from perdure.backends.errors import Unavailable, Unsupported
from perdure.backends.faults import Fault
from perdure.backends.faulty import FaultyBackend
from perdure.backends.memory import open_memory
from perdure.backends.simulated_disk import SimulatedDisk
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


def names(here):
    return sorted(path.name for path in here.iterdir())


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
