"""A store is brought into a folder of its own: one that holds other things is refused, and stays as it is."""

from __future__ import annotations

import os
import shutil

import pytest
import trio

from perdure.backends.conformance.law import Desk
from perdure.backends.errors import Misuse
from perdure.backends.urls import open_backend
from perdure.runtime import NewEvent, open_runtime
from perdure.runtime.__main__ import main
from perdure.runtime.migrate import migrate, migrate_store


async def make_shop():
    async with open_backend("lmdb:shop") as backend:
        await Desk(backend).append("a", 3)


@pytest.fixture(autouse=True)
def shop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trio.run(make_shop)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("precious")
    (tmp_path / "empty").mkdir()


TARGETS = ["file:", "lmdb:", "file:?segment=1MiB", "lmdb:?log=segments"]


def at(target, folder):
    scheme, _, query = target.partition(":")
    return f"{scheme}:{folder}{query}"


@pytest.mark.parametrize("target", TARGETS)
async def test_other_things_are_refused(target):
    with pytest.raises(Misuse, match="there is something in"):
        await migrate_store("lmdb:shop", at(target, "full"))

    assert os.listdir("full") == ["notes.txt"]
    async with open_backend("lmdb:shop") as backend:
        assert str(backend.state) == "open"


@pytest.mark.parametrize("target", TARGETS)
async def test_other_things_are_refused_under_a_live_runtime(target):
    async with open_runtime("memory:") as rt:
        await rt.append("a", [NewEvent({}, type="t")])
        with pytest.raises(Misuse, match="there is something in"):
            await migrate(rt, at(target, "full"))
        await rt.append("a", [NewEvent({}, type="t")])

    assert os.listdir("full") == ["notes.txt"]


def test_the_command_says_so_with_2(capsys):
    assert main(["migrate", "lmdb:shop", "file:full"]) == 2
    assert "name a new folder, or an empty one" in capsys.readouterr().err


@pytest.mark.parametrize("target", TARGETS)
async def test_an_empty_folder_will_do(target):
    done = await migrate_store("lmdb:shop", at(target, "empty"))

    assert done.head == 3


@pytest.mark.parametrize("kind", ["file", "lmdb"])
async def test_what_a_killed_making_has_left_will_do(tmp_path, kind):
    """Locks, a log, a file that had not got its name."""
    async with open_backend(f"{kind}:other"):
        pass
    for name in ("store", "data.mdb"):
        (tmp_path / "other" / name).unlink(missing_ok=True)
    shutil.rmtree(tmp_path / "other" / "log", ignore_errors=True)

    assert (await migrate_store("lmdb:shop", f"{kind}:other")).head == 3


@pytest.mark.parametrize("kind", ["file", "lmdb"])
async def test_where_the_target_is_gone_no_new_one_is_made(tmp_path, kind):
    """The source says that the store is there, and what came in since is there only: an empty store in its place would be a lie."""
    await migrate_store("lmdb:shop", f"{kind}:there")
    (tmp_path / "there").rename(tmp_path / "elsewhere")

    with pytest.raises(Misuse, match="put it back"):
        await migrate_store("lmdb:shop", f"{kind}:there")
    assert not (tmp_path / "there").exists()

    (tmp_path / "elsewhere").rename(tmp_path / "there")
    assert (await migrate_store("lmdb:shop", f"{kind}:there")).head == 3
