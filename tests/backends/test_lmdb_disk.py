"""A disk that is nearly full: who writes is told of the disk, deletes go through, and upkeep does not try what would need room first."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from perdure.backends.commit import Delete, Put
from perdure.backends.conformance.law import Desk, appending
from perdure.backends.errors import Full
from perdure.backends.lmdb import map as lmdb_map
from perdure.backends.protocol import State
from perdure.backends.urls import open_backend

BLOCKS = 25_000


@pytest.fixture
def free(monkeypatch):
    """Says how many blocks of 4 KiB are free, from now on."""
    left = [BLOCKS]

    def look(_):
        return os.statvfs_result((4096, 4096, BLOCKS, left[0], left[0], 1, 1, 1, 0, 255))

    monkeypatch.setattr(lmdb_map, "os", SimpleNamespace(statvfs=look, getpid=os.getpid))
    monkeypatch.setattr(lmdb_map, "_DISK_LOOK_S", 0.0)

    def free(blocks):
        left[0] = blocks

    return free


async def test_a_full_disk_is_told_and_deletes_go_through(free, tmp_path):
    async with open_backend(f"lmdb:{tmp_path / 'store'}") as backend:
        desk = Desk(backend)
        await desk.done(Put("k", b"x", b"1"))
        free(100)

        answer = await desk.ask(appending("a"))
        deleted = await desk.store(Delete("k", b"x"))
        free(BLOCKS)
        await desk.append("a")

    assert isinstance(answer, Full)
    assert str(answer).startswith(f"the disk of lmdb:{tmp_path / 'store'} is full ({(BLOCKS - 100) * 4096:,} of {BLOCKS * 4096:,} bytes)")
    assert deleted == 2


async def test_upkeep_merges_nothing_where_there_is_no_room_for_it(free, tmp_path):
    async with open_backend(f"lmdb:{tmp_path / 'store'}") as backend:
        for _ in range(600):
            await Desk(backend).append("a")
        free(10)

        nothing = await backend.maintain()
        free(BLOCKS)
        merged = await backend.maintain()

        assert (nothing, merged, backend.state) == (False, True, State.OPEN)
