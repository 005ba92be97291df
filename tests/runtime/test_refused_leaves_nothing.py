"""A restore that is refused, or fails, leaves nothing behind that was not there."""

from __future__ import annotations

import subprocess
import sys

import pytest
import trio

from perdure.backends.commit import Append, Cut, Put
from perdure.backends.conformance.law import Desk, draft
from perdure.backends.errors import Full
from perdure.backends.undone import undone
from perdure.backends.urls import open_backend
from perdure.runtime.__main__ import main

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
