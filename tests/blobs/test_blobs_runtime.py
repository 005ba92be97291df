"""Blobs as a program and a person use them: `rt.blobs`, refs in events and values, `perdure blob`."""

from __future__ import annotations

import io
import json
import sys
from random import Random

import attrs
import pytest

from perdure.backends.blobs.urls import open_blobs
from perdure.runtime import App, BlobMissing, BlobRef, Event, Keyed, Misuse, NewEvent, Projection, TooLarge, event, of, open_backend, open_runtime
from perdure.runtime.__main__ import main
from perdure.runtime.verify_blobs import verify_blobs

IMAGE = Random("image").randbytes(3_000_000)
STORES = ["memory:", "lmdb:{}/s", "lmdb:{}/s?log=segments", "file:{}/s"]


@event("photo-added", version=1)
@attrs.frozen
class PhotoAdded:
    name: str
    image: BlobRef


@attrs.frozen
class Latest:
    image: BlobRef | None = None


def newest(_: Latest, event: Event[PhotoAdded]) -> Latest:
    return Latest(event.data.image)


NEWEST = Projection("newest", version=1, initial=Latest(), step=newest, events=of(PhotoAdded))
LAST_OF = Keyed("last-of", version=1, initial=Latest(), step=newest, events=of(PhotoAdded), key=lambda event: event.data.name)
APP = App(projections=[NEWEST, LAST_OF])


# -- in a program ----------------------------------------------------------------------------


@pytest.mark.parametrize("url", STORES)
async def test_a_photo_and_its_event(tmp_path, url):
    (tmp_path / "photo.png").write_bytes(IMAGE)
    async with open_runtime(url.format(tmp_path), APP, blobs=f"directory:{tmp_path}/blobs") as rt:
        ref = await rt.blobs.put(tmp_path / "photo.png", media_type="image/png")
        await rt.append("photo-1", [PhotoAdded("a", ref)])
        await rt.kv("covers", BlobRef).put("album", ref)

        await rt.model(NEWEST).wait_for(await rt.head())
        found = rt.model(NEWEST).state.image

        assert found == ref
        assert await rt.blobs.get(found).read() == IMAGE


async def test_an_open_blob_store_stays_open(tmp_path):
    async with open_blobs(f"directory:{tmp_path}/blobs") as blobs:
        async with open_runtime("memory:", blobs=blobs) as rt:
            ref = await rt.blobs.put(IMAGE)

        assert await blobs.has(ref)


async def test_without_a_blob_store(tmp_path):
    async with open_runtime("memory:") as rt:
        with pytest.raises(Misuse, match="blobs='directory:DIR'"):
            _ = rt.blobs


async def test_a_blob_store_that_cannot_be_opened_leaves_the_store_as_it_was(tmp_path):
    (tmp_path / "blobs").write_text("a file")
    with pytest.raises(Misuse):
        async with open_runtime("memory:", blobs=f"directory:{tmp_path}/blobs"):
            pass


@pytest.mark.parametrize("size", [1 << 20, 5 << 20])
async def test_large_data_is_refused_with_the_hint(size):
    async with open_runtime("memory:") as rt:
        for write in (lambda: rt.append("s", [NewEvent(bytes(size), type="raw")]), lambda: rt.kv("b", bytes).put("k", bytes(size))):
            with pytest.raises(TooLarge, match=r"put the bytes in a blob store \(rt.blobs.put\)"):
                await write()


# -- what refers to what ---------------------------------------------------------------------


@pytest.mark.parametrize("url", STORES[1:])
async def test_refs_are_found_wherever_they_stand(tmp_path, url):
    """In payloads, in meta, in values, in states and snapshots: nothing of them is told as unreferenced."""
    async with open_runtime(url.format(tmp_path), APP, blobs=f"directory:{tmp_path}/blobs") as rt:
        refs = [await rt.blobs.put(b"%d" % number) for number in range(6)]
        await rt.append("photo-1", [PhotoAdded("a", refs[0]), PhotoAdded("b", refs[1])])
        await rt.append("plain-1", [NewEvent({"deep": [{"er": attrs.asdict(refs[2])}]}, type="plain", meta={"why": attrs.asdict(refs[3])})])
        await rt.kv("covers", BlobRef).put("album", refs[4])
        await rt.model(LAST_OF).wait_for(await rt.head())

    async with open_blobs(f"directory:{tmp_path}/blobs") as blobs, open_backend(url.format(tmp_path)) as store:
        report = await verify_blobs(blobs, [store])

    assert report.unreferenced == (refs[5].cid,)
    assert (report.blobs, report.refs, report.problems, report.left_out) == (6, 5, (), ())


async def test_refs_without_bytes(tmp_path):
    url = f"lmdb:{tmp_path}/s"
    async with open_runtime(url, APP, blobs=f"directory:{tmp_path}/blobs") as rt:
        gone, wrong = await rt.blobs.put(b"gone"), await rt.blobs.put(b"wrong")
        await rt.append("photo-1", [PhotoAdded("a", gone), PhotoAdded("b", BlobRef(wrong.cid, 77))])
        await rt.append("photo-2", [PhotoAdded("a", gone)])
        await rt.blobs.delete(gone)

        report = await verify_blobs(rt.blobs, [rt.backend])

    assert len(report.problems) == 2
    assert f"blob {gone.cid} (4 bytes) is not in" in report.problems[0]
    assert "event 1 of stream 'photo-1'" in report.problems[0]
    assert "has 77 bytes, it has 5" in report.problems[1]


async def test_damaged_blobs(tmp_path):
    async with open_blobs(f"directory:{tmp_path}/blobs") as blobs:
        ref = await blobs.put(IMAGE)
        (path,) = [path for path in (tmp_path / "blobs" / "blobs").rglob("*") if path.is_file()]
        path.write_bytes(IMAGE[:-1])

        report = await verify_blobs(blobs)

    assert len(report.problems) == 1
    assert ref.cid in report.problems[0]


async def test_what_is_put_while_it_is_verified_is_no_problem(tmp_path):
    """The blobs are listed first: a ref that is appended later is asked for once more."""
    async with open_runtime("memory:", APP, blobs=f"directory:{tmp_path}/blobs") as rt:
        await rt.blobs.put(b"first")
        listed = rt.blobs.cids

        async def and_another(**page):
            found = await listed(**page)
            if not found:
                await rt.append("photo-1", [PhotoAdded("a", await rt.blobs.put(b"meanwhile"))])
            return found

        rt.blobs.cids = and_another  # type: ignore[method-assign]  # for this test
        report = await verify_blobs(rt.blobs, [rt.backend])

    assert report.problems == ()


# -- at the command line ---------------------------------------------------------------------


def perdure(capfdbinary: pytest.CaptureFixture[bytes], *arguments: object) -> tuple[int, bytes, str]:
    """Exit code, standard output and standard error."""
    code = main([str(argument) for argument in arguments])
    out, err = capfdbinary.readouterr()
    return code, out, err.decode()


def test_in_and_out(tmp_path, capfdbinary, monkeypatch):
    blobs = f"directory:{tmp_path}/b"
    (tmp_path / "photo.png").write_bytes(IMAGE)

    code, out, _ = perdure(capfdbinary, "blob", "put", blobs, tmp_path / "photo.png", "--json")
    ref = json.loads(out)
    assert (code, ref["size_bytes"], ref["media_type"]) == (0, len(IMAGE), "image/png")

    assert perdure(capfdbinary, "blob", "get", blobs, ref["cid"]) == (0, IMAGE, "")
    code, out, _ = perdure(capfdbinary, "blob", "get", blobs, ref["cid"], "--out", tmp_path / "copy", "--json")
    assert (code, json.loads(out)["size_bytes"]) == (0, len(IMAGE))
    assert (tmp_path / "copy").read_bytes() == IMAGE

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(IMAGE)))
    code, out, _ = perdure(capfdbinary, "blob", "put", blobs, "-")
    assert (code, out.decode().strip()) == (0, ref["cid"])


def test_what_goes_wrong_has_its_exit_code(tmp_path, capfdbinary):
    blobs, absent = f"directory:{tmp_path}/b", "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    assert perdure(capfdbinary, "blob", "get", blobs, absent)[0] == 2  # there is no blob store, and none is made
    assert not (tmp_path / "b").exists()
    (tmp_path / "f").write_bytes(IMAGE)
    cid = perdure(capfdbinary, "blob", "put", blobs, tmp_path / "f")[1].decode().strip()

    assert perdure(capfdbinary, "blob", "get", blobs, absent)[0] == 1
    assert perdure(capfdbinary, "blob", "delete", blobs, absent)[0] == 1
    assert perdure(capfdbinary, "blob", "get", blobs, "bafy")[0] == 2
    assert perdure(capfdbinary, "blob", "get", blobs, cid, "--json")[0] == 2
    assert perdure(capfdbinary, "blob", "put", blobs, tmp_path / "nothing")[0] == 2
    assert perdure(capfdbinary, "blob", "put", "ipfs://127.0.0.1:1", tmp_path / "f")[0] == 3

    (path,) = [path for path in (tmp_path / "b" / "blobs").rglob("*") if path.is_file()]
    path.write_bytes(b"x" + IMAGE[1:])
    code, _, err = perdure(capfdbinary, "blob", "get", blobs, cid, "--out", tmp_path / "copy")
    assert (code, "put the same bytes again" in err) == (4, True)
    assert not list(tmp_path.glob("*copy*"))
    assert perdure(capfdbinary, "blob", "verify", blobs)[0] == 1


async def test_missing_is_an_error_of_its_own(tmp_path):
    async with open_runtime("memory:", blobs=f"directory:{tmp_path}/blobs") as rt:
        with pytest.raises(BlobMissing):
            await rt.blobs.get(BlobRef("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", 0)).read()
