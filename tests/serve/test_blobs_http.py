"""Blobs over HTTP: whole or not at all, checked before they are sent, and never in memory whole."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
import trio

from daemons import process, running
from perdure.backends.blobs.cid import RAW, Cid

MIB = 1 << 20
OTHER = str(Cid.of(RAW, b"another"))


@asynccontextmanager
async def keeping(tmp_path, **config):
    """A daemon with a blob store in a folder, and a client."""
    async with running(blobs=f"directory:{tmp_path}/blobs", **config) as daemon, daemon.client() as client:
        yield daemon, client


def files(tmp_path):
    """What lies in the blob store, what is being put included."""
    found = [one.name for folder in ("blobs", "trees", "incoming") for one in (tmp_path / "blobs" / folder).rglob("*") if one.is_file()]
    return [one for one in found if not one.endswith(".lock")]  # held while the store is open


def file_of(tmp_path, cid):
    return tmp_path / "blobs" / "blobs" / cid[-2:] / cid


def head_of(daemon, *lines, method="POST", path="/v1/blobs"):
    usual = (f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {daemon.token}")
    return "\r\n".join((*usual, *lines, "", "")).encode()


def connect(daemon):
    return trio.open_tcp_stream("127.0.0.1", int(daemon.url.rpartition(":")[2]))


async def answer_to(daemon, *parts, pause_s=0.0):
    """What comes back for bytes, until the server hangs up."""
    answer = b""
    with trio.fail_after(20):
        async with await connect(daemon) as stream:
            for part in parts:
                await stream.send_all(part)
                await trio.sleep(pause_s)
            try:
                async for part in stream:
                    answer += part
            except trio.BrokenResourceError:
                pass
    return answer


@pytest.mark.parametrize("size_bytes", [0, 1, 256 * 1024, 3 * MIB + 7])
async def test_what_was_put_is_got(tmp_path, size_bytes):
    data = os.urandom(size_bytes)
    async with keeping(tmp_path) as (daemon, client):
        put = await client.post("/v1/blobs", content=data, headers={"content-type": "image/png"})
        ref = put.json()
        got = await client.get(put.headers["location"])
        size = await client.head(put.headers["location"])
        again = await client.get(put.headers["location"], headers={"if-none-match": got.headers["etag"]})
        there = await daemon.service.rt.blobs.get(ref["cid"]).read()

    assert (put.status_code, ref["size_bytes"], ref["media_type"]) == (201, size_bytes, "image/png")
    assert got.content == there == data
    assert (got.headers["etag"], "immutable" in got.headers["cache-control"]) == (f'"{ref["cid"]}"', True)
    assert (size.status_code, size.headers["content-length"], size.content) == (200, str(size_bytes), b"")
    assert (again.status_code, again.content) == (304, b"")


async def test_the_answer_is_a_field_of_an_event(tmp_path):
    async with keeping(tmp_path) as (_, client):
        ref = (await client.post("/v1/blobs", content=b"a cat")).json()
        await client.post("/v1/streams/photo-1", json={"events": [{"type": "added", "data": {"image": ref}}]})
        found = (await client.get("/v1/streams/photo-1")).json()["events"][0]["data"]["image"]

    assert found == ref


@pytest.mark.parametrize(
    ("wanted", "status", "told", "part"),
    [
        ("bytes=0-9", 206, "bytes 0-9/1000000", slice(0, 10)),
        ("bytes=300000-", 206, "bytes 300000-999999/1000000", slice(300_000, None)),
        ("bytes=-5", 206, "bytes 999995-999999/1000000", slice(-5, None)),
        ("bytes=5-9999999", 206, "bytes 5-999999/1000000", slice(5, None)),
        ("bytes=1000000-", 416, "bytes */1000000", None),
        ("bytes=-0", 416, "bytes */1000000", None),
        ("bytes=9-5", 200, None, slice(None)),
        ("bytes=0-1,4-5", 200, None, slice(None)),
        ("lines=1-2", 200, None, slice(None)),
    ],
)
async def test_a_range_is_given(tmp_path, wanted, status, told, part):
    data = os.urandom(1_000_000)
    async with keeping(tmp_path) as (_, client):
        path = (await client.post("/v1/blobs", content=data)).headers["location"]
        answer = await client.get(path, headers={"range": wanted})

    assert (answer.status_code, answer.headers.get("content-range")) == (status, told)
    assert part is None or answer.content == data[part]


async def test_a_range_of_another_blob_is_all_of_this_one(tmp_path):
    async with keeping(tmp_path) as (_, client):
        path = (await client.post("/v1/blobs", content=b"a cat")).headers["location"]
        answer = await client.get(path, headers={"range": "bytes=0-1", "if-range": f'"{OTHER}"'})

    assert (answer.status_code, answer.content) == (200, b"a cat")


@pytest.mark.parametrize("size_bytes", [0, 5, 256 * 1024, 2 * MIB + 1])
async def test_a_known_address_is_checked(tmp_path, size_bytes):
    data = os.urandom(size_bytes)
    async with keeping(tmp_path) as (_, client):
        wrong = await client.put(f"/v1/blobs/{OTHER}", content=data)
        kept = files(tmp_path)
        cid = (await client.post("/v1/blobs", content=data)).json()["cid"]
        right = await client.put(f"/v1/blobs/{cid}", content=data)

    assert (wrong.status_code, wrong.json()["type"], kept) == (409, "urn:perdure:problem:other-blob", [])
    assert cid in wrong.json()["detail"]
    assert (right.status_code, right.json()["cid"]) == (201, cid)


# -- what cannot be --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cid",
    ["x", "..", "..%2f..%2fformat", "%2fetc%2fpasswd", OTHER.upper(), OTHER[:-1], OTHER + "a", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbdG", "b" * 59],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
async def test_what_is_no_cid_reaches_nothing(tmp_path, cid, method):
    async with keeping(tmp_path) as (daemon, _):
        answer = await answer_to(daemon, head_of(daemon, "Connection: close", "Content-Length: 0", method=method, path=f"/v1/blobs/{cid}"))

    assert answer[9:12] in (b"400", b"404", b"405")
    assert files(tmp_path) == []


async def test_an_absent_one_is_404(tmp_path):
    async with keeping(tmp_path) as (_, client):
        answers = [await client.request(method, f"/v1/blobs/{OTHER}") for method in ("GET", "HEAD")]

    assert [one.status_code for one in answers] == [404, 404]
    assert answers[0].headers["content-type"] == "application/problem+json"


async def test_a_daemon_without_a_place_for_them_says_so():
    async with running() as daemon, daemon.client() as client:
        answers = [await client.post("/v1/blobs", content=b"x"), await client.get(f"/v1/blobs/{OTHER}")]

    assert [(one.status_code, one.json()["type"]) for one in answers] == [(404, "urn:perdure:problem:no-blobs")] * 2


@pytest.mark.parametrize(
    ("lines", "body"), [(("Content-Length: 3000000",), b""), (("Transfer-Encoding: chunked",), b"2dc6c0\r\n" + b"a" * 3_000_000 + b"\r\n")]
)
async def test_a_large_one_is_refused_and_nothing_of_it_is_kept(tmp_path, lines, body):
    async with keeping(tmp_path, blob_bytes=2_000_000) as (daemon, _):
        answer = await answer_to(daemon, head_of(daemon, *lines), body)
        kept = files(tmp_path)

    assert (answer[9:12], kept) == (b"413", [])
    assert b"blob_bytes" in answer


async def test_a_media_type_that_is_none_is_refused(tmp_path):
    async with keeping(tmp_path) as (_, client):
        answer = await client.post("/v1/blobs", content=b"x", headers={"content-type": "cat"})

    assert (answer.status_code, files(tmp_path)) == (400, [])


async def test_a_store_that_is_away_is_503():
    async with running(blobs="ipfs://127.0.0.1:1") as daemon, daemon.client() as client:
        answers = [await client.post("/v1/blobs", content=b"x"), await client.get(f"/v1/blobs/{OTHER}")]

    assert [one.status_code for one in answers] == [503, 503]


# -- clients that leave, or are slow ---------------------------------------------------------


@pytest.mark.parametrize("lines", [("Content-Length: 9000000",), ("Transfer-Encoding: chunked",)])
async def test_who_hangs_up_half_way_leaves_nothing(tmp_path, lines):
    async with keeping(tmp_path) as (daemon, client):
        part = b"a" * 3_000_000
        async with await connect(daemon) as stream:
            await stream.send_all(head_of(daemon, *lines) + (b"2dc6c0\r\n" + part + b"\r\n" if "chunked" in lines[0] else part))
            with trio.fail_after(10):
                while not files(tmp_path):
                    await trio.sleep(0.01)
        with trio.fail_after(10):
            while [one for one in (tmp_path / "blobs/incoming").iterdir() if one.suffix != ".lock"]:
                await trio.sleep(0.01)
        known = await daemon.service.rt.blobs.cids()
        after = await client.post("/v1/blobs", content=b"x")

    assert (known, after.status_code) == ([], 201)


async def test_who_is_slow_and_does_come_is_waited_for(tmp_path):
    """`body_s` is for each MiB: a large blob may take longer."""
    async with keeping(tmp_path, body_s=0.6) as (daemon, _):
        began = trio.current_time()
        parts = [b"a" * MIB] * 4
        answer = await answer_to(daemon, head_of(daemon, f"Content-Length: {4 * MIB}", "Connection: close"), *parts, pause_s=0.3)
        took_s = trio.current_time() - began

    assert (answer[9:12], took_s > 0.9) == (b"201", True)


async def test_who_does_not_come_is_408_and_leaves_nothing(tmp_path):
    async with keeping(tmp_path, body_s=0.3) as (daemon, _):
        answer = await answer_to(daemon, head_of(daemon, "Content-Length: 3000000"), b"a" * 2_000_000)
        kept = [one for one in (tmp_path / "blobs/incoming").iterdir() if one.suffix != ".lock"]

    assert (answer[9:12], kept) == (b"408", [])


async def test_who_does_not_read_is_cut_off(tmp_path):
    async with keeping(tmp_path, send_s=0.3, blobs_max=1) as (daemon, client):
        path = (await client.post("/v1/blobs", content=os.urandom(24 * MIB))).headers["location"]
        async with await connect(daemon) as deaf:
            await deaf.send_all(head_of(daemon, method="GET", path=path))
            await trio.sleep(0.1)
            answer = await client.get(path)  # it has its turn when the other is gone

    assert (answer.status_code, len(answer.content)) == (200, 24 * MIB)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_large_ones_need_little_memory(tmp_path):
    """Four of 64 MiB at a time, in and out."""
    with process(tmp_path, "--store", "memory:", "--listen", "127.0.0.1:0", "--set", "tokens=false", "--set", "blobs=directory:blobs") as daemon:
        peak = trio.run(_carry, daemon, tmp_path)

    assert peak < 96, f"{peak:.0f} MiB more"


async def _carry(daemon, tmp_path):
    def resident():
        return int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB

    piece = os.urandom(MIB)

    async def body(number):
        yield bytes([number])
        for _ in range(64):
            yield piece

    async def one(client, number):
        path = (await client.post("/v1/blobs", content=body(number))).headers["location"]
        async with client.stream("GET", path) as answer:
            size_bytes = 0
            async for part in answer.aiter_bytes():
                size_bytes += len(part)
        assert size_bytes == 64 * MIB + 1

    peak = before = resident()
    async with httpx2.AsyncClient(base_url=daemon.url, timeout=60) as client:
        async with trio.open_nursery() as watch:

            async def look():
                nonlocal peak
                while True:
                    peak = max(peak, resident())
                    await trio.sleep(0.05)

            watch.start_soon(look)
            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(one, client, number)
            watch.cancel_scope.cancel()
    return peak - before


# -- damage ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("size_bytes", "at"), [(100_000, 5), (6 * MIB, 5), (6 * MIB, 6 * MIB - 5)])
async def test_damage_is_told_and_no_wrong_byte_is_sent(tmp_path, size_bytes, at):
    """At the beginning by a problem; later by an answer that is cut short of its length."""
    data = os.urandom(size_bytes)
    async with keeping(tmp_path) as (daemon, client):
        ref = (await client.post("/v1/blobs", content=data)).json()
        path = f"/v1/blobs/{ref['cid']}"
        file = file_of(tmp_path, ref["cid"])
        file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        answer = await answer_to(daemon, head_of(daemon, "Connection: close", method="GET", path=path))
        mended = await client.put(path, content=data)
        after = await client.get(path)

    head, _, body = answer.partition(b"\r\n\r\n")
    if at < 4 * MIB:
        assert (head[9:12], b"urn:perdure:problem:corrupt" in body, b"put the same bytes again" in body) == (b"500", True, True)
    else:
        assert (head[9:12], len(body) < size_bytes, data.startswith(body)) == (b"200", True, True)
    assert (mended.status_code, after.content == data) == (201, True)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"more", lambda data: b""])
async def test_a_file_of_another_length_is_no_answer(tmp_path, change):
    data = os.urandom(600_000)
    async with keeping(tmp_path) as (daemon, client):
        ref = (await client.post("/v1/blobs", content=data)).json()
        file_of(tmp_path, ref["cid"]).write_bytes(change(data))
        answer = await answer_to(daemon, head_of(daemon, "Connection: close", method="GET", path=f"/v1/blobs/{ref['cid']}"))

    head, _, body = answer.partition(b"\r\n\r\n")
    told = int(next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")).split()[1])
    assert head[9:12] == b"500" or (len(body) < told and data.startswith(body))
