"""`verify_blobs` with archives: streams and newer archives lead to them, and refs in archived events are refs."""

from __future__ import annotations

import attrs
import msgspec
import pytest

from perdure.backends.commit import Append
from perdure.backends.conformance.law import Desk, draft
from perdure.backends.environment import random_id
from perdure.runtime import Retention, open_backend, open_blobs
from perdure.runtime.retention import retain
from perdure.runtime.verify_blobs import verify_blobs


@pytest.fixture
async def blobs(tmp_path):
    async with open_blobs(f"directory:{tmp_path}/blobs") as store:
        yield store


@pytest.fixture(params=["lmdb:{}/s", "file:{}/s"])
async def store(request, tmp_path):
    async with open_backend(request.param.format(tmp_path)) as backend:
        yield backend


async def archived_twice(store, blobs):
    """Events with a ref each, all in archives but the last; the archives, the older one first."""
    for number in range(6):
        ref = attrs.asdict(await blobs.put(b"%d" % number))
        await Desk(store).done(Append("scan-1", [draft(msgspec.msgpack.encode({"image": ref}))]))
    first = await retain(store, [Retention(categories=["scan"], count=4)], ids=random_id, blobs=blobs)
    second = await retain(store, [Retention(categories=["scan"], count=1)], ids=random_id, blobs=blobs)
    return first.archive, second.archive


async def test_archives_and_refs_in_them_are_no_bytes_without_refs(store, blobs):
    await archived_twice(store, blobs)
    loose = await blobs.put(b"loose")

    report = await verify_blobs(blobs, [store])

    assert (report.problems, report.left_out, report.unreferenced) == ((), (), (loose.cid,))
    assert (report.blobs, report.refs) == (9, 8)


@pytest.mark.parametrize("which", [0, 1])
async def test_an_archive_that_is_gone_is_a_problem(store, blobs, which):
    archives = await archived_twice(store, blobs)
    await blobs.delete(archives[which])

    report = await verify_blobs(blobs, [store])

    leads = ["archive " + archives[1], "stream 'scan-1'"][which]
    assert [problem.partition(":")[0] for problem in report.problems] == [f"archive {archives[which]} is not in directory"]
    assert f"{leads} leads to it" in report.problems[0]


async def test_an_archive_that_is_damaged_is_a_problem_once(tmp_path, store, blobs):
    _, newest = await archived_twice(store, blobs)
    (path,) = (tmp_path / "blobs").rglob(f"*{newest}*")
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)

    report = await verify_blobs(blobs, [store])

    assert (len(report.problems), len(report.left_out)) == (1, 1)
    assert newest in report.problems[0] and newest in report.left_out[0]


async def test_a_ref_in_an_archive_without_bytes_is_a_problem(store, blobs):
    await archived_twice(store, blobs)
    gone = await blobs.put(b"2")
    await blobs.delete(gone.cid)

    report = await verify_blobs(blobs, [store])

    assert [problem.partition(" refers")[0].rpartition(", ")[2] for problem in report.problems] == ["event 3 of stream 'scan-1'"]
