"""What `perdure blob verify` tells of nodes that were damaged, of bytes that are gone, and of how much it read."""

from __future__ import annotations

import json
from random import Random

import pytest
import trio

from perdure.backends.blobs import unixfs
from perdure.backends.blobs.urls import open_blobs
from perdure.runtime.__main__ import main

MIB = 1 << 20
LARGE = Random("told").randbytes(5 * MIB)
SMALL = b"a letter"


@pytest.fixture
def refs(tmp_path, monkeypatch):
    """Of a small and of a large blob, in `directory:b`."""
    monkeypatch.chdir(tmp_path)
    return trio.run(put, [SMALL, LARGE])


async def put(sources):
    async with open_blobs("directory:b") as blobs:
        return [await blobs.put(source) for source in sources]


def verified(capsys):
    """The exit code and the report."""
    capsys.readouterr()
    code = main(["blob", "verify", "directory:b", "--json"])
    return code, json.loads(capsys.readouterr().out)


def file_of(tmp_path, kind, ref):
    [path] = (tmp_path / "b" / kind).rglob(ref.cid)
    return path


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_nodes_that_were_mended(tmp_path, refs, capsys, how):
    node = file_of(tmp_path, "trees", refs[1])
    sound = node.read_bytes()
    node.unlink() if how == "missing" else node.write_bytes(bytes([sound[0] ^ 1]) + sound[1:])

    code, found = verified(capsys)

    assert (code, found["problems"], len(found["mended"])) == (0, [], 1)
    assert refs[1].cid in found["mended"][0]
    assert node.read_bytes() == sound
    assert verified(capsys)[1]["mended"] == []


def test_it_is_told_to_people(tmp_path, refs, capsys):
    file_of(tmp_path, "trees", refs[1]).unlink()

    assert main(["blob", "verify", "directory:b"]) == 0

    mended, total = capsys.readouterr().out.splitlines()
    assert mended.startswith("mended: the nodes of blob")
    assert total == "blobs read: 2 (5.0 MiB); problems found: 0"


def test_bytes_that_are_gone(tmp_path, refs, capsys):
    file_of(tmp_path, "blobs", refs[1]).unlink()

    code, found = verified(capsys)

    assert (code, found["blobs"], found["size_bytes"]) == (1, 1, len(SMALL))
    assert found["problems"] == [f"the bytes of blob {refs[1].cid} are gone from directory:b: put the same bytes again, or delete it"]


@pytest.mark.parametrize("how", ["put", "delete"])
def test_what_the_problem_names_ends_it(tmp_path, refs, capsys, how):
    file_of(tmp_path, "blobs", refs[1]).unlink()

    if how == "put":
        trio.run(put, [LARGE])
    else:
        assert main(["blob", "delete", "directory:b", refs[1].cid]) == 0

    assert verified(capsys)[0] == 0


def test_of_a_tree_of_several_levels_the_root_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unixfs.Builder.__init__, "__defaults__", (2,))
    [ref] = trio.run(put, [LARGE])
    file_of(tmp_path, "blobs", ref).unlink()

    code, found = verified(capsys)

    assert code == 1
    assert len(list((tmp_path / "b" / "trees").rglob("bafy*"))) > 3
    assert [ref.cid in problem for problem in found["problems"]] == [True]


def test_a_ref_to_what_is_gone_is_told_once(tmp_path, refs, capsys):
    code = main(["append", "lmdb:s", "photo", "added", json.dumps({"of": {"cid": refs[1].cid, "size_bytes": refs[1].size_bytes, "media_type": "image/png"}})])
    file_of(tmp_path, "blobs", refs[1]).unlink()
    capsys.readouterr()

    assert (code, main(["blob", "verify", "directory:b", "--store", "lmdb:s", "--json"])) == (0, 1)

    [problem] = json.loads(capsys.readouterr().out)["problems"]
    assert "event 1 of stream 'photo'" in problem


def test_a_put_that_is_cut_off_is_no_loss(tmp_path, monkeypatch, capsys):
    """Nodes that have their names before the blob has its own would look like one whose bytes are gone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unixfs.Builder.__init__, "__defaults__", (2,))

    async def cut_off():
        async def source():
            yield LARGE
            raise RuntimeError("cut off")

        async with open_blobs("directory:b") as blobs:
            with pytest.raises(RuntimeError):
                await blobs.put(source())

    trio.run(cut_off)

    code, found = verified(capsys)
    assert (code, found["blobs"], found["problems"]) == (0, 0, [])


def test_the_bytes_of_damaged_blobs_count(tmp_path, refs, capsys):
    for ref, data in zip(refs, (SMALL, LARGE), strict=True):
        file_of(tmp_path, "blobs", ref).write_bytes(b"!" + data[1:])

    code, found = verified(capsys)

    assert (code, len(found["problems"])) == (1, 2)
    assert (found["blobs"], found["size_bytes"]) == (2, len(SMALL) + len(LARGE))


def test_mending_a_damaged_blob_writes_no_nodes(tmp_path, refs, capsys):
    """They would be those of other bytes."""
    file_of(tmp_path, "trees", refs[1]).unlink()
    file_of(tmp_path, "blobs", refs[1]).write_bytes(LARGE[:-1] + b"!")

    code, found = verified(capsys)

    assert (code, len(found["problems"])) == (1, 1)
    assert not list((tmp_path / "b" / "trees").rglob("bafy*"))
