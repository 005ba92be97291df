"""The blob stores that the laws are held against."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from blobnodes.fake import Fake, fake_node
from perdure.backends.blobs.protocol import BlobStore
from perdure.backends.blobs.urls import open_blobs


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Fake]:
    """A fake IPFS node with an empty folder."""
    (tmp_path / "node").mkdir()
    async with fake_node(tmp_path / "node") as node:
        yield node


@pytest.fixture(params=["directory", "ipfs"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    """An open store of each kind."""
    async with opened(request.param, tmp_path) as blobs:
        yield blobs


@asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncIterator[BlobStore]:
    """A store of *kind* in *folder*."""
    if kind == "directory":
        async with open_blobs(f"directory:{folder}/blobs") as blobs:
            yield blobs
    else:
        (folder / "node").mkdir(exist_ok=True)
        async with fake_node(folder / "node") as node, open_blobs(node.url) as blobs:
            yield blobs
