"""The scrub finds what is damaged, wherever it rests, in slices between which others write."""

from __future__ import annotations

import os
from typing import Any

import pytest

from perdure.backends.commit import Append, Draft, Put, SaveSnapshot, key_id, propose
from perdure.backends.environment import Environment
from perdure.backends.event import Position
from perdure.backends.memory import open_memory
from perdure.backends.scrub import SLICE_BYTES, Place, scrub_some


async def filled():
    backend = open_memory(environment=Environment())
    for number in range(300):
        writes: list[Any] = [Append(f"s-{number % 7}", [Draft("happened", 1, os.urandom(600))] * 3), Put("k", b"%d" % number, b"value")]
        if number % 50 == 0:
            writes.append(SaveSnapshot("m", Position(number), "f", b"state"))
        name = b"key-%d" % number if number % 5 == 0 else None
        await backend.commit([propose(writes, id=key_id(name) if name else os.urandom(16), key=name, at_us=1)])
    return backend


async def scrubbed(backend):
    slices = 1
    while await backend.scrub():
        slices += 1
    return slices, await backend.store_status()


async def test_a_sound_store_is_all_read_and_nothing_is_found():
    backend = await filled()

    slices, status = await scrubbed(backend)

    assert slices > status.bytes_used / SLICE_BYTES / 4
    assert (status.damages, status.verified, status.scrubbed_rows) == ((), "all rows", 0)


@pytest.mark.parametrize("table", ["frames", "kv", "snapshots", "keys"])
async def test_a_damaged_row_is_told_once(table):
    backend = await filled()
    store = backend._store
    key, value = store._tables.reader.scan(table, b"", None, 5)[4]
    store._tables.apply({table: {key: value[:-2] + bytes([value[-2] ^ 1]) + value[-1:]}})

    await scrubbed(backend)
    _, status = await scrubbed(backend)

    assert len(status.damages) == 1
    assert "damaged" in status.verified


async def test_slices_are_small_and_the_next_one_goes_on():
    backend = await filled()
    reader, place, rows = backend._store._tables.reader, Place(), 0

    while not place.done:
        before = place
        place, found = scrub_some(reader, backend._known_types(reader), place)
        assert not found
        assert place.rows - before.rows <= 200
        rows = place.rows

    assert rows == sum(len(reader.scan(name, b"", None, 1 << 20)) for name in backend._store._tables._tables)
