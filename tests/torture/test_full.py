"""The row of full disks can fail: what it looks for is found in a store that has something else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from perdure.runtime import open_runtime
from torment.faults.full import Disk, Filled


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk("memory:", tmp_path, random.Random(7))


async def test_what_was_acknowledged_is_looked_for(disk: Disk) -> None:
    async with open_runtime("memory:") as rt:
        assert await disk.goes_on(rt) == ""
        assert await disk.wrong(rt) == []

        disk.ledger.streams["s-0"].append(1)
        disk.ledger.entries["k0 1"] = 7

        stream, entries = await disk.wrong(rt)
        assert stream.startswith("s-0 has 1 events, 2 were acknowledged")
        assert entries.startswith("1 entries are not as acknowledged")


async def test_what_was_not_acknowledged_is_found(disk: Disk) -> None:
    async with open_runtime("memory:") as rt:
        await disk.goes_on(rt)
        await rt.append("s-0", [Filled(2, b"refused, and stored")])
        await rt.kv("k", bytes).put("k1 1", b"refused, and stored")

        assert len(await disk.wrong(rt)) == 2
