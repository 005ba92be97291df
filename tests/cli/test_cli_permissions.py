"""What this user may not do is asked wrongly: exit code 2, one line with the path and what to do, wherever it is met."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from without_rights import perdure, rights

from perdure.runtime.__main__ import main

KINDS = ["lmdb", "file"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a store of each kind, and a backup."""
    monkeypatch.chdir(tmp_path)
    for kind in KINDS:
        assert main(["append", f"{kind}:{kind}", "s", "t", "{}"]) == 0
    assert main(["append", "lmdb:logged?log=segments", "s", "t", "{}"]) == 0
    assert main(["backup", "lmdb:lmdb", "saved"]) == 0
    return tmp_path


def refused(here: Path, path: str, *arguments: str) -> str:
    """The command is refused as it should be; what it says."""
    done = perdure(*arguments, cwd=here)
    text = done.stderr
    assert done.returncode == 2, text
    assert f"{path} may not be read or written by this user (permission denied): give it the right, or " in text
    assert text.count("\n") == 1
    assert "try again" not in text
    assert "Errno" not in text
    return text


@pytest.mark.parametrize("url", ["lmdb:lmdb", "file:file", "lmdb:logged"])
@pytest.mark.parametrize("command", [("read", "s"), ("append", "s", "t", "{}"), ("stats",), ("verify",)], ids=lambda command: command[0])
def test_a_store_that_may_only_be_read(here, url, command):
    name, *rest = command
    with rights(here / url.partition(":")[2]):
        refused(here, url.partition(":")[2], name, url, *rest)


def test_of_one_in_lmdb_it_names_the_way_to_read_it(here):
    with rights(here / "lmdb"):
        text = refused(here, "lmdb", "read", "lmdb:lmdb", "s")
        read = perdure("read", "lmdb:lmdb?mode=ro", "s", "--json", cwd=here)

    assert "?mode=ro" in text
    assert (read.returncode, read.stdout.count("\n")) == (0, 1)


def test_it_does_not_name_it_where_that_would_not_do(here):
    with rights(here / "lmdb", files=0):
        assert "mode=ro" not in refused(here, "lmdb", "read", "lmdb:lmdb", "s")


@pytest.mark.parametrize("url", ["lmdb:lmdb", "file:file", "lmdb:lmdb?mode=ro"])
@pytest.mark.parametrize(("folders", "files"), [(0o755, 0), (0, 0)], ids=["files", "folder"])
def test_a_store_that_may_not_be_read(here, url, folders, files):
    name = url.partition(":")[2].partition("?")[0]
    with rights(here / name, folders=folders, files=files):
        refused(here, name, "read", url, "s")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_a_store_that_may_not_be_written(here, kind):
    """The folder may be."""
    with rights(here / kind, folders=0o755):
        refused(here, kind, "read", f"{kind}:{kind}", "s")


@pytest.fixture
def locked():
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "locked").mkdir()
        with rights(Path(place) / "locked"):
            yield Path(place) / "locked"


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_store_where_nothing_may_be_made(here, locked, kind):
    url = f"{kind}:{locked}/new"
    refused(here, f"{locked}/new", "append", url, "s", "t", "{}")
    refused(here, f"{locked}/new", "restore", "saved", url)
    refused(here, f"{locked}/new", "migrate", "lmdb:lmdb", url)
    refused(here, f"{locked}/new", "conformance", url, "--only", "views")
    refused(here, f"{locked}/new", "bench", url, "--seconds", "0.01")
    assert list(locked.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_scratch_stores_in_a_folder_that_may_not_be_written(here, locked, kind):
    refused(here, str(locked), "conformance", f"{kind}:{locked}", "--only", "views")
    refused(here, str(locked), "bench", f"{kind}:{locked}", "--seconds", "0.01")


def test_a_backup_where_nothing_may_be_made(here, locked):
    refused(here, f"{locked}/new", "backup", "lmdb:lmdb", f"{locked}/new")
    refused(here, str(locked), "backup", "lmdb:lmdb", str(locked))


@pytest.mark.parametrize("command", [("--check",), ("lmdb:new",)])
def test_a_backup_that_may_not_be_read(here, command):
    with rights(here / "saved", files=0):
        assert "another backup" in refused(here, "saved", "restore", "saved", *command)
    assert not (here / "new").exists()


def test_a_backup_in_a_folder_that_may_not_be_entered(here):
    with rights(here / "saved", folders=0, files=0):
        refused(here, "saved", "restore", "saved", "--check")
