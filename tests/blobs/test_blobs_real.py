"""perdure's blobs against real IPFS code: Kubo's library and a genuine RPC server, both without a network. `make test-ipfs`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from random import Random

import httpx2 as httpx
import pytest

from blobnodes import js
from blobnodes.js import JsNode, js_node
from blobnodes.kubo import Kubo, kubo
from perdure.backends.blobs import conformance
from perdure.backends.blobs.unixfs import CHUNK_BYTES, Block, Builder, Link, leaf
from perdure.backends.blobs.urls import open_blobs
from perdure.backends.errors import BlobMissing, BlobsUnavailable, Corrupt

SIZES = (0, 1, 255 << 10, 1 << 20, 5 << 20, 300 << 20)

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.environ.get("PERDURE_TEST_IPFS") != "1", reason="needs real IPFS code: make test-ipfs installs it and runs these"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubo]:
    """Kubo's library on an empty repository."""
    with kubo(tmp_path_factory.mktemp("kubo") / "repo") as library:
        yield library


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JsNode]:
    """js-ipfs with an empty repository."""
    with js_node(tmp_path_factory.mktemp("js")) as server:
        yield server


def content(path: Path, size_bytes: int) -> Path:
    """A file of so many bytes, drawn."""
    with path.open("wb") as file:
        for number in range(0, size_bytes, CHUNK_BYTES):
            file.write(Random(f"real {size_bytes} {number}").randbytes(min(CHUNK_BYTES, size_bytes - number)))
    return path


def give(library: Kubo, file: Path) -> Link:
    """Put the blocks of *file*, as perdure makes them, where Kubo looks for them; the root."""
    builder = Builder()

    def keep(block: Block) -> None:
        library.give(block.cid.digest, block.data)

    with file.open("rb") as source:
        while (chunk := source.read(CHUNK_BYTES)) or not source.tell():
            link = leaf(sha256(chunk).digest(), len(chunk))
            keep(Block(link.cid, chunk))
            for block in builder.add(link):
                keep(block)
            if not chunk:
                break
    root, blocks = builder.finish()
    for block in blocks:
        keep(block)
    return root


# -- Kubo ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_kubo_reads_what_perdure_made(library, tmp_path, size):
    file = content(tmp_path / "file", size)
    root = give(library, file)

    answered = library.ask(do="cat", cid=str(root.cid), to=str(tmp_path / "back"))

    assert answered == 0
    assert (tmp_path / "back").read_bytes() == file.read_bytes()
    assert library.ask(do="pin", cid=str(root.cid)) == 0


def test_kubo_would_find_a_wrong_block(tmp_path, library, monkeypatch):
    """Kubo takes a block with other bytes for one that is missing, and waits for somebody to bring it."""
    monkeypatch.setattr("blobnodes.kubo.ANSWER_S", 5.0)
    with kubo(tmp_path / "repo") as other:
        root = give(other, content(tmp_path / "file", 3 * CHUNK_BYTES + 1))
        chunk = (tmp_path / "file").read_bytes()[:CHUNK_BYTES]
        other.give(sha256(chunk).digest(), b"x" + chunk[1:])

        try:
            answered = other.ask(do="cat", cid=str(root.cid), to=str(tmp_path / "back"))
        except TimeoutError:
            answered = None

    assert answered != 0


def test_kubo_names_the_same_bytes_otherwise(library, tmp_path):
    """A node's own root is no identity: that is why addresses are computed by perdure."""
    file = content(tmp_path / "file", 5 << 20)

    assert library.ask(do="hash", file=str(file)) != str(give(library, file).cid)


def test_kubo_has_nobody_to_talk_to(library):
    sockets = [line for kind in ("tcp", "tcp6", "udp", "udp6") for line in _sockets(library.child.pid, kind)]
    if not library.apart:
        own = {os.readlink(fd) for fd in Path(f"/proc/{library.child.pid}/fd").iterdir() if fd.is_symlink()}
        sockets = [line for line in sockets if f"socket:[{line.split()[9]}]" in own]

    assert sockets == []


def _sockets(pid: int, kind: str) -> list[str]:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]
    return []


# -- an RPC server ---------------------------------------------------------------------------


@pytest.mark.parametrize("law", conformance.CHECKS, ids=lambda law: law.__name__)
async def test_law_against_the_server(server, law):
    async with open_blobs(f"{server.url}?timeout=60") as blobs:
        await law(blobs)


@pytest.mark.parametrize("size", SIZES)
async def test_the_server_reads_what_perdure_put(server, tmp_path, size):
    file = content(tmp_path / "file", size)
    async with open_blobs(f"{server.url}?timeout=60") as blobs:
        ref = await blobs.put(file)
        own, theirs = sha256(), sha256()

        async for piece in blobs.get(ref):
            own.update(piece)
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            async with client.stream("POST", f"http://127.0.0.1:{server.port}/api/v0/cat", params={"arg": ref.cid}) as answer:
                async for part in answer.aiter_raw():
                    theirs.update(part)

    expected = sha256(file.read_bytes()).hexdigest()
    assert own.hexdigest() == expected
    assert theirs.hexdigest() == expected


@pytest.mark.parametrize("size", [0, 1, 255 << 10, 1 << 20, (1 << 20) + 1, 5 << 20])
async def test_the_server_gives_the_same_address(server, tmp_path, size):
    """js-ipfs, told of the same profile, computes our CIDs."""
    file = content(tmp_path / "file", size)
    async with open_blobs(server.url) as blobs:
        ref = await blobs.put(file)

    params = {"cid-version": "1", "cid-base": "base32", "raw-leaves": "true", "chunker": f"size-{CHUNK_BYTES}", "pin": "false", "max-children-per-node": "1024"}
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.post(f"http://127.0.0.1:{server.port}/api/v0/add", params=params, files={"data": ("file", file.read_bytes())})

    assert answer.json()["Hash"] == ref.cid


async def test_what_was_damaged_in_the_server_is_found(server, tmp_path):
    """Of a block that is damaged on the server's disk not a byte is given; of one that is gone neither."""
    data = content(tmp_path / "file", 3 * CHUNK_BYTES + 9).read_bytes()
    async with open_blobs(f"{server.url}?timeout=5") as blobs:
        ref = await blobs.put(data)
        last = _block_file(server, sha256(data[3 * CHUNK_BYTES :]).digest())
        whole = last.read_bytes()

        last.write_bytes(whole[:-1] + b"!")
        with pytest.raises(Corrupt):
            await blobs.verify(ref)
        last.write_bytes(whole[:-1])
        with pytest.raises(Corrupt):
            await blobs.verify(ref)
        last.unlink()
        with pytest.raises((BlobMissing, BlobsUnavailable)):  # js-ipfs waits for somebody to bring it
            await blobs.verify(ref)


def _block_file(server: JsNode, digest: bytes) -> Path:
    return next(path for path in (server.repo / "blocks").rglob("*.data") if sha256(path.read_bytes()).digest() == digest)


def test_the_server_dialled_nobody(server):
    assert server.dialled.read_text() == ""


def test_dialling_would_be_seen(server, tmp_path):
    dialled = tmp_path / "dialled"
    environment = {**os.environ, "DIALLED": str(dialled), "NODE_OPTIONS": f"--require={js.HERE / 'watch.cjs'}"}

    for code in (
        'require("net").connect(4001, "192.0.2.1")',
        'require("dns").lookup("example.invalid", () => {})',
        'fetch("http://192.0.2.1/").catch(() => {})',
    ):
        subprocess.run([js.executable(), "-e", code], env=environment, check=False, capture_output=True, timeout=60)

    assert len(dialled.read_text().splitlines()) == 3
