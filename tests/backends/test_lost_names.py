"""A sync of a folder that fails leaves names that are seen and gone at the next power cut: nothing may rest on one."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest

from perdure.backends.commit import Committed, Put, propose
from perdure.backends.environment import Environment
from perdure.backends.errors import PerdureError
from perdure.backends.faults import Fault
from perdure.backends.simulated_disk import SimulatedDisk
from perdure.backends.urls import open_backend

URL = "file:/s?segment=16KiB"


async def put(backend, number):
    commit = propose([Put("k", b"%d" % number, b"v" * 2_000)], id=os.urandom(16), at_us=number + 1)
    [answer] = (await backend.commit([commit])).answers
    return isinstance(answer, Committed)


async def write_on(disk, told):
    """Put 40 entries, and open again whatever fails; *told*: which were acknowledged."""
    process = disk.process()
    for _ in range(5):
        with suppress(PerdureError):
            async with open_backend(URL, environment=Environment(disk=process)) as backend:
                while len(told) < 40:
                    try:
                        if await put(backend, len(told)):
                            told.append(len(told))
                    except PerdureError:
                        await backend.reopen()


@pytest.mark.parametrize("nth", range(1, 25))
async def test_a_failed_sync_of_a_folder_loses_nothing_when_the_power_is_cut_later(nth):
    disk = SimulatedDisk(nth)
    told: list[int] = []
    disk.inject(Fault("drop", op="sync_folder", nth=nth))
    await write_on(disk, told)
    async with open_backend(URL, environment=Environment(disk=disk.process())):
        pass  # in the same boot: what it sees may be a lie

    disk.power_cut("lose")

    async with open_backend(URL, environment=Environment(disk=disk.process())) as backend:
        there = [number for number in told if await backend.get("k", b"%d" % number)]
    assert there == told == list(range(40))
