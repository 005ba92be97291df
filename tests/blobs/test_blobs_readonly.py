"""Blobs in a folder that this user may not write: all is read, nothing is written, and a put says why."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from random import Random

import pytest
from without_rights import perdure, rights

from perdure.backends.blobs.urls import open_blobs

MIB = 1 << 20
LARGE = Random("readonly").randbytes(2 * MIB + 5)


@pytest.fixture
async def copy():
    """A copy of a blob store with a small and a large blob, for all to read and for its owner alone to write; and their refs."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "b"
        async with open_blobs(f"directory:{folder}") as blobs:
            refs = [await blobs.put(b"a letter"), await blobs.put(LARGE)]
        shutil.rmtree(folder / "incoming")  # a copy needs none
        with rights(folder):
            yield folder, refs


def given(done):
    return done.stdout.encode(errors="surrogateescape")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_a_blob_is_read(copy):
    folder, refs = copy
    before = files(folder)

    small, large = (perdure("blob", "get", f"directory:{folder}", ref.cid) for ref in refs)

    assert (small.returncode, large.returncode) == (0, 0)
    assert (small.stdout, given(large)) == ("a letter", LARGE)
    assert files(folder) == before


async def test_a_blob_is_read_whose_nodes_are_damaged(copy):
    """They are made again in memory."""
    folder, refs = copy
    for node in (folder / "trees").rglob("bafy*"):
        node.chmod(0o644)
        node.write_bytes(b"damaged")
        node.chmod(0o444)
    before = files(folder)

    done = perdure("blob", "get", f"directory:{folder}", refs[1].cid)
    verified = perdure("blob", "verify", f"directory:{folder}", "--json")

    assert (done.returncode, given(done)) == (0, LARGE)
    found = json.loads(verified.stdout)
    assert (verified.returncode, found["problems"], found["mended"]) == (0, [], [])
    assert refs[1].cid in found["left_out"][0]
    assert "may not be written" in found["left_out"][0]
    assert files(folder) == before


async def test_verify_reads_all(copy):
    folder, _ = copy

    done = perdure("blob", "verify", f"directory:{folder}")

    assert (done.returncode, done.stdout) == (0, "blobs read: 2 (2.0 MiB); problems found: 0\n")


@pytest.mark.parametrize("arguments", [("put", "/etc/hostname"), ("delete", "CID")])
async def test_what_writes_says_why_not(copy, arguments):
    folder, refs = copy
    command, what = arguments

    done = perdure("blob", command, f"directory:{folder}", refs[0].cid if what == "CID" else what)

    assert done.returncode == 2
    assert "may not be" in done.stderr
    assert str(folder) in done.stderr
    assert done.stderr.count("\n") == 1


async def test_a_new_store_where_nothing_may_be_made(copy):
    folder, _ = copy

    done = perdure("blob", "put", f"directory:{folder}/new", "/etc/hostname")

    assert (done.returncode, done.stderr.count("try again")) == (2, 0)
    assert "permission denied" in done.stderr


async def test_bytes_that_may_not_be_read(copy):
    folder, refs = copy
    with rights(folder, files=0):
        done = perdure("blob", "get", f"directory:{folder}", refs[0].cid)

    assert (done.returncode, done.stderr.count("try again")) == (2, 0)


# -- where the bytes go ----------------------------------------------------------------------


async def test_a_place_where_no_file_can_be_is_refused_before_a_byte_is_read(copy, tmp_path):
    folder, refs = copy
    for to, text in [("", "empty"), ("/nonexist/f", "no folder /nonexist"), (str(tmp_path), "is a folder"), ("/dev/null", "is no file")]:
        done = perdure("blob", "get", f"directory:{folder}", refs[0].cid, "--out", to)
        damaged = perdure("blob", "get", "directory:/no/such/store", refs[0].cid, "--out", to)

        assert (done.returncode, damaged.returncode) == (2, 2)
        assert text in done.stderr
        assert done.stderr == damaged.stderr  # it did not look at the store
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_for_the_file_that_may_not_be_written(copy):
    folder, refs = copy

    done = perdure("blob", "get", f"directory:{folder}", refs[0].cid, "--out", f"{folder}/letter")

    assert done.returncode == 2
    assert done.stderr == f"perdure: {folder} may not be read or written by this user (permission denied): give it the right, or give another --out FILE\n"
