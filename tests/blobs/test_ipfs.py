"""Blobs in an IPFS node that lies, loses, is slow or is not there: one typed error each, and nothing that it says is believed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from random import Random

import pytest
import trio

from blobnodes.fake import Fake
from perdure.backends.blobs.cid import DAG_PB, RAW, Cid
from perdure.backends.blobs.ipfs import IpfsBlobs
from perdure.backends.blobs.protocol import BlobStore
from perdure.backends.blobs.ref import BlobRef
from perdure.backends.blobs.source import WINDOW_CHUNKS
from perdure.backends.blobs.urls import open_blobs
from perdure.backends.errors import BlobMissing, BlobsUnavailable, Closed, Corrupt, Misuse

MIB = 1 << 20
DATA = Random("ipfs").randbytes(5 * MIB + 77)
LEAVES = [str(Cid.of(RAW, DATA[at : at + MIB])) for at in range(0, len(DATA), MIB)]


@asynccontextmanager
async def stored(node: Fake, options: str = "") -> AsyncIterator[tuple[BlobStore, BlobRef]]:
    """An open store, and a blob of several chunks in it."""
    async with open_blobs(node.url + options) as blobs:
        ref = await blobs.put(DATA)
        node.asked.clear()
        yield blobs, ref


# -- reading ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lie", [lambda data: data[:7] + bytes([data[7] ^ 1]) + data[8:], lambda data: data[:-1], lambda data: b"", lambda data: data + b"x"])
@pytest.mark.parametrize("block", ["root", *LEAVES[::2]])
async def test_a_block_with_other_bytes(node, block, lie):
    async with stored(node) as (blobs, ref):
        node.faults.blocks[ref.cid if block == "root" else block] = lie

        with pytest.raises(Corrupt, match="another digest"):
            await blobs.verify(ref)


async def test_another_block_in_place_of_one(node):
    """Even one that is whole: the digest is that of what was asked for."""
    async with stored(node) as (blobs, ref):
        node.faults.blocks[LEAVES[1]] = lambda _: DATA[:MIB]

        with pytest.raises(Corrupt):
            await blobs.verify(ref)


async def test_not_a_byte_of_a_wrong_block_is_given(node):
    async with stored(node) as (blobs, ref):
        node.faults.blocks[LEAVES[-1]] = lambda data: data[:-1] + b"!"
        got = b""

        with pytest.raises(Corrupt):
            async for piece in blobs.get(ref):
                got += piece

    assert DATA.startswith(got)


async def test_a_block_without_end(node):
    async with stored(node) as (blobs, ref):
        node.faults.blocks[LEAVES[0]] = lambda _: bytes(64 * MIB)

        with pytest.raises(Corrupt, match="more than 2,097,152 bytes"):
            await blobs.verify(ref)


@pytest.mark.parametrize("block", ["root", *LEAVES[::2]])
async def test_a_missing_block(node, block):
    async with stored(node) as (blobs, ref):
        cid = ref.cid if block == "root" else block
        node.path(Cid.parse(cid)).unlink()

        with pytest.raises(BlobMissing) as caught:
            await blobs.get(ref).read()

    assert caught.value.block == (None if block == "root" else block)


async def test_what_is_not_pinned_is_not_there(node):
    """Its blocks may be, until the next garbage collection."""
    async with stored(node) as (blobs, ref):
        await blobs.delete(ref)

        with pytest.raises(BlobMissing):
            await blobs.get(ref).read()
        async with open_blobs(node.url + "?network=1") as network:
            assert await network.get(ref).read() == DATA

        node.collect()
        assert list(node.folder.iterdir()) == []


async def test_a_blob_outlives_garbage_collection(node):
    async with stored(node) as (blobs, ref):
        node.collect()

        assert await blobs.get(ref).read() == DATA


async def test_a_tree_that_is_none(node):
    """Whoever made the CID, what it leads to is read as a file or not at all."""
    async with open_blobs(node.url) as blobs:
        for block in (b"", b"no dag-pb", b"\x0a\x02\x08\x01"):
            cid = Cid.of(DAG_PB, block)
            node.path(cid).write_bytes(block)
            node.pins.add(str(cid))

            with pytest.raises(Corrupt, match="none of a blob"):
                await blobs.verify(str(cid))


# -- putting ---------------------------------------------------------------------------------


async def test_a_node_that_names_another_block(node):
    node.faults.forgets_key = True
    async with open_blobs(node.url) as blobs:
        with pytest.raises(Corrupt, match="says that it stored"):
            await blobs.put(b"x")

        assert await blobs.cids() == []


async def test_a_node_that_pins_nothing(node):
    node.faults.pins_nothing = True
    async with open_blobs(node.url) as blobs:
        with pytest.raises(Corrupt, match="does not say that it pinned"):
            await blobs.put(DATA)


async def test_a_put_that_was_cut_off_is_garbage(node):
    async with open_blobs(node.url + "?timeout=1") as blobs:
        node.faults.silent.add("pin/add")

        with pytest.raises(BlobsUnavailable):
            await blobs.put(DATA)

        assert await blobs.cids() == []
    node.collect()
    assert list(node.folder.iterdir()) == []


async def test_few_blocks_are_under_way(node, monkeypatch):
    """However large a blob is, so many are asked for at once."""
    running, most = 0, 0
    answer = Fake.answer

    async def counted(self, call, params, body, send):
        nonlocal running, most
        running += call in ("block/put", "block/get")
        most = max(most, running)
        try:
            await trio.sleep(0.01)
            await answer(self, call, params, body, send)
        finally:
            running -= call in ("block/put", "block/get")

    monkeypatch.setattr(Fake, "answer", counted)
    async with open_blobs(node.url) as blobs:
        ref = await blobs.put(DATA * 3)
        assert sha256(await blobs.get(ref).read(1 << 30)).digest() == sha256(DATA * 3).digest()

    assert most == WINDOW_CHUNKS


async def test_pinning_may_take_long_while_it_gets_on(node, monkeypatch):
    """The time-out is for standing still."""

    async def slowly(self, params, send):
        for number in range(8):
            await send(json.dumps({"Progress": number}).encode() + b"\n")
            await trio.sleep(0.2)
        self.pins.add(params["arg"])
        await send(json.dumps({"Pins": [params["arg"]]}).encode() + b"\n")

    monkeypatch.setattr(Fake, "_pin_add", slowly)
    async with open_blobs(node.url + "?timeout=0.8") as blobs:
        ref = await blobs.put(b"x")
        assert await blobs.has(ref)


# -- a node that does not answer as it should ------------------------------------------------

CALLS = {
    "block/put": lambda blobs, ref: blobs.put(DATA),
    "block/get": lambda blobs, ref: blobs.verify(ref),
    "block/stat": lambda blobs, ref: _stat_small(blobs),
    "pin/add": lambda blobs, ref: blobs.put(DATA),
    "pin/ls": lambda blobs, ref: blobs.has(ref),
    "pin/rm": lambda blobs, ref: blobs.delete(ref),
}


async def _stat_small(blobs):
    ref = await blobs.put(b"small")
    return await blobs.stat(ref)


@pytest.mark.parametrize("call", CALLS)
async def test_a_slow_node(node, call):
    async with stored(node, "?timeout=1") as (blobs, ref):
        node.faults.silent.add(call)

        with trio.fail_after(10), pytest.raises(BlobsUnavailable, match=f"no answer to {call} within 1 s"):
            await CALLS[call](blobs, ref)


async def test_a_node_that_trickles(node):
    """Each byte comes in time, the block does not."""
    async with stored(node, "?timeout=1") as (blobs, ref):
        node.faults.trickles = 0.05

        with trio.fail_after(10), pytest.raises(BlobsUnavailable, match="within 1 s"):
            await blobs.verify(ref)


async def test_a_node_that_stands_still_while_it_pins(node):
    node.faults.stalls_at = 7
    async with open_blobs(node.url + "?timeout=1") as blobs:
        with trio.fail_after(10), pytest.raises(BlobsUnavailable, match="pin/add"):
            await blobs.put(b"x")


@pytest.mark.parametrize("call", CALLS)
async def test_a_node_that_hangs_up(node, call):
    async with stored(node) as (blobs, ref):
        node.faults.drops.add(call)

        with pytest.raises(BlobsUnavailable, match="connection broke"):
            await CALLS[call](blobs, ref)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("status", "answer", "error", "text"),
    [
        (403, b"403 - Forbidden", BlobsUnavailable, "refuses"),
        (404, b"404 page not found", BlobsUnavailable, "not that of Kubo's RPC"),
        (502, b"<html>bad gateway</html>", BlobsUnavailable, "502"),
        (302, b"", BlobsUnavailable, "302"),
        (500, b'{"Message": "disk is on fire", "Code": 0, "Type": "error"}', BlobsUnavailable, "disk is on fire"),
        (500, b"x" * 100_000, BlobsUnavailable, "500"),
    ],
)
async def test_a_node_that_refuses(node, call, status, answer, error, text):
    async with stored(node) as (blobs, ref):
        node.faults.answers[call] = status, answer

        with pytest.raises(error, match=text):
            await CALLS[call](blobs, ref)


@pytest.mark.parametrize("call", [call for call in CALLS if call not in ("block/get", "pin/rm")])
@pytest.mark.parametrize("answer", [b"", b"not json", b"[]", b"[" * 50_000, b'"' + b"x" * 200_000, b'{"Type": "error", "Message": "late"}'])
async def test_a_node_that_answers_nonsense(node, call, answer):
    async with stored(node) as (blobs, ref):
        node.faults.answers[call] = 200, answer

        with pytest.raises((Corrupt, BlobsUnavailable)):
            await CALLS[call](blobs, ref)


async def test_a_size_that_is_none(node):
    async with open_blobs(node.url) as blobs:
        ref = await blobs.put(b"small")
        for size in ("-1", "1e400", '"9"', "99999999999", "null"):
            node.faults.answers["block/stat"] = 200, b'{"Key": "x", "Size": %s}' % size.encode()

            with pytest.raises(Corrupt):
                await blobs.stat(ref)


async def test_an_unreachable_node():
    async with open_blobs("ipfs://127.0.0.1:1") as blobs:
        for call in (lambda: blobs.put(b"x"), lambda: blobs.has(LEAVES[0]), blobs.cids, lambda: blobs.verify(LEAVES[0])):
            with pytest.raises(BlobsUnavailable, match="nothing answers there"):
                await call()


async def test_a_node_that_is_started_later(node):
    """A store is opened without asking; a node that went away and came back needs nothing of us."""
    async with stored(node) as (blobs, ref):
        node.faults.drops.add("block/get")
        with pytest.raises(BlobsUnavailable):
            await blobs.verify(ref)
        node.faults.drops.clear()

        assert await blobs.get(ref).read() == DATA


# -- what is asked ---------------------------------------------------------------------------


async def test_it_is_told_to_stay_offline(node, monkeypatch):
    """Unless asked to, a node looks nowhere else; and no proxy of the environment stands in between."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    seen = []
    answer = Fake.answer

    async def noted(self, call, params, body, send):
        seen.append(params.get("offline"))
        await answer(self, call, params, body, send)

    monkeypatch.setattr(Fake, "answer", noted)
    async with stored(node) as (blobs, ref):
        await blobs.verify(ref)
        await blobs.cids()

    assert set(seen) == {"true"}


async def test_the_password_is_sent_and_not_shown(node):
    address = node.url.removeprefix("ipfs://")
    async with open_blobs(f"ipfs://ada:secret@{address}") as blobs:
        assert "secret" not in blobs.url + repr(blobs)
        assert isinstance(blobs, IpfsBlobs)
        await blobs.put(b"x")
    with pytest.raises(Misuse) as caught:
        async with open_blobs(f"ipfs://ada:secret@{address}?nothing=1"):
            pass
    assert "secret" not in str(caught.value)


async def test_a_closed_store_says_so(node):
    async with stored(node) as (blobs, ref):
        pass

    for call in (lambda: blobs.put(b"x"), lambda: blobs.has(ref), lambda: blobs.cids()):
        with pytest.raises(Closed):
            await call()


def test_without_its_extra_it_says_what_to_install(tmp_path):
    code = (
        "import sys, trio; sys.modules['httpx2'] = None\n"
        "from perdure.runtime import MissingExtra, open_blobs\n"
        "async def main():\n"
        "    try:\n"
        "        async with open_blobs('ipfs://127.0.0.1'): pass\n"
        "    except MissingExtra as error: print(error)\n"
        "trio.run(main)"
    )

    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("ipfs:// needs an extra: pip install 'perdure[ipfs]'\n", "")
