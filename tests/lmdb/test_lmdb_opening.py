"""Opening `lmdb:`: what cannot be opened says why, and what was opened says what was found."""

from __future__ import annotations

import os

import lmdb
import pytest

from perdure.backends.commit import Put
from perdure.backends.conformance.law import Desk
from perdure.backends.errors import Corrupt, Misuse, TooNew
from perdure.backends.urls import open_backend
from programs import fill, refused

# -- what cannot be opened -------------------------------------------------------------------


async def test_a_missing_parent_is_named(tmp_path):
    error = await refused(f"lmdb:{tmp_path}/no/store", Misuse)

    assert f"{tmp_path}/no does not exist" in str(error)
    assert not (tmp_path / "no").exists()


async def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")

    assert "is a file" in str(await refused(f"lmdb:{file}", Misuse))
    assert file.read_text() == "mine"


async def test_an_empty_name_is_misuse():
    await refused("lmdb:", Misuse)


async def test_nothing_is_made_when_nothing_may_be(folder, url):
    assert "there is no store" in str(await refused(url, Misuse, create=False))
    assert not folder.exists()


async def test_what_is_no_store_is_corrupt_and_stays(folder, url):
    folder.mkdir()
    (folder / "data.mdb").write_bytes(b"something else" * 1000)

    await refused(url, Corrupt)

    assert (folder / "data.mdb").read_bytes() == b"something else" * 1000


@pytest.mark.parametrize("size", [0, 1, 4096, 8192])
async def test_a_file_that_was_cut_short_is_corrupt(folder, url, size):
    await fill(url)
    (folder / "clean").unlink()
    os.truncate(folder / "data.mdb", size)

    await refused(url, Corrupt)


@pytest.mark.parametrize("clean", [True, False], ids=["closed", "killed"])
@pytest.mark.parametrize("kept", [0.3, 0.95])
async def test_a_file_that_ends_in_the_middle_of_a_value_is_corrupt(folder, url, clean, kept):
    async with open_backend(url) as backend:
        await Desk(backend).done(Put("k", b"v", bytes(300_000)))
    if not clean:
        (folder / "clean").unlink()
    os.truncate(folder / "data.mdb", int((folder / "data.mdb").stat().st_size * kept))

    assert "data.mdb" in str(await refused(url, Corrupt))


async def test_after_an_unclean_stop_a_row_that_went_back_is_found_at_opening(folder, url):
    await fill(url)
    env = lmdb.open(str(folder / "data.mdb"), subdir=False, max_dbs=20)
    with env.begin(write=True) as txn:
        kv = env.open_db(b"kv", txn=txn)
        [first, *_] = [bytes(key) for key, _ in txn.cursor(db=kv)]
        txn.delete(first, db=kv)
    env.close()
    (folder / "clean").unlink()

    error = await refused(url, Corrupt)

    assert "lost, or older" in str(error)
    assert "?verify=tree" in str(error)
    async with open_backend(f"{url}?verify=tree") as backend:
        assert "not" not in (await backend.store_status()).verified


async def test_a_newer_format_is_too_new_and_changes_nothing(folder, url):
    await fill(url)
    env = lmdb.open(str(folder / "data.mdb"), subdir=False, max_dbs=20)
    with env.begin(write=True) as txn:
        txn.put(b"readable_from", (9).to_bytes(8, "big"), db=env.open_db(b"meta", txn=txn))
    env.close()
    before = (folder / "data.mdb").read_bytes()

    error = await refused(url, TooNew)

    assert (error.format, error.known) == (9, 1)
    assert (folder / "data.mdb").read_bytes() == before


async def test_a_store_whose_making_was_cut_is_made_anew(folder, url):
    folder.mkdir()
    (folder / "data.mdb.new").write_bytes(b"half")

    await fill(url)

    assert not list(folder.glob("*.new*"))


async def test_a_store_is_made_in_an_empty_folder_that_exists(folder, url):
    folder.mkdir()

    await fill(url)

    async with open_backend(url, create=False) as backend:
        assert await backend.head() == 10


# -- what opening found ----------------------------------------------------------------------


async def test_a_store_that_was_closed_says_so_and_one_that_was_not(tmp_path):
    url = f"lmdb:{tmp_path}/s"
    reports = []
    for clean in (True, True, False):
        if not clean:
            (tmp_path / "s" / "clean").unlink()
        async with open_backend(url) as backend:
            reports.append((await backend.store_status()).recovery)

    assert [report.clean for report in reports] == [True, True, False]
    assert reports[2].checked == "all pages"
    assert reports[2].checked_bytes > 0
    assert all(report.lost_nothing for report in reports)
