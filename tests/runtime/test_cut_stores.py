"""Stores with cuts, backed up, restored, exported and imported: what was cut stays cut, and nobody takes what is left for the whole."""

from __future__ import annotations

import pytest

from perdure.backends.commit import Append, Cut
from perdure.backends.conformance.cuts import tidy
from perdure.backends.conformance.law import Desk, draft
from perdure.backends.disk import TrioDisk
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Misuse, Truncated
from perdure.backends.event import START
from perdure.backends.memory import open_memory
from perdure.runtime.backup import back_up
from perdure.runtime.exchange import export, import_new
from perdure.runtime.restore import restore

DISK = TrioDisk()
DAY_US = 86_400_000_000


def new_store():
    return open_memory(environment=Environment(threads=InlineThreads()))


async def left(backend):
    page = await backend.read_log(after=START, limit=1_000, bytes_max=1 << 30, over_cuts=True)
    return page.records, await backend.streams(limit=99), sorted(await backend.cuts(), key=str)


@pytest.fixture(params=[False, True], ids=["unswept", "swept"])
async def desk(request):
    """Positions 1 to 20; of `a` seqs 1 to 4 and of `b` all 5 are cut, the newest at position 10; then there are 10 more."""
    desk = Desk(new_store())
    at_us = await desk.backend.now_us() - DAY_US
    for number in range(5):
        await desk.done(Append("a", [draft(b"%d" % number, tags=["t"])]), Append("b", [draft(b"x", type=f"type-{number % 2}")]), at_us=at_us)
    await desk.done(Cut("a", 5, "bafya"), Cut("b", 6, "bafyb"))
    if request.param:
        await tidy(desk)
    for _ in range(10):
        await desk.done(Append("a", [draft()]))
    return desk


@pytest.mark.parametrize("position", [None, 12, 10])
async def test_a_restored_store_is_cut_as_it_was(desk, tmp_path, position):
    records, streams, bounds = await left(desk.backend)
    await back_up(desk.backend, str(tmp_path / "b"), disk=DISK, made_us=Environment().clock())
    backend = new_store()

    await restore(str(tmp_path / "b"), backend, disk=DISK, position=position)

    found, infos, told = await left(backend)
    assert found == [record for record in records if record.position <= (position or 99)]
    assert [(info.name, info.first, info.cut, info.archive) for info in infos] == [(info.name, info.first, info.cut, info.archive) for info in streams]
    assert told == bounds
    assert await backend.verify() == []
    with pytest.raises(Truncated) as caught:
        await Desk(backend).stream("b")
    assert (caught.value.first, caught.value.archive) == (6, "bafyb")
    assert (await Desk(backend).append("b", 1, 5)).last == 6


async def test_a_store_is_not_restored_to_before_what_was_cut(desk, tmp_path):
    await back_up(desk.backend, str(tmp_path / "b"), disk=DISK, made_us=Environment().clock())

    with pytest.raises(Misuse, match="end at position 10 or later, or take an older backup"):
        await restore(str(tmp_path / "b"), new_store(), disk=DISK, position=8)


async def test_an_export_says_what_is_missing(desk):
    lines: list[bytes] = []

    with pytest.raises(Truncated):
        await export(desk.backend, lines.append)
    assert lines == []
    await export(desk.backend, lines.append, over_cuts=True)

    assert len(lines) == 11


async def test_what_is_left_is_imported_as_what_is_left(desk):
    lines: list[bytes] = []
    await export(desk.backend, lines.append, over_cuts=True)
    backend = new_store()

    await import_new(backend, _one(lines))

    records, streams, _ = await left(backend)
    assert records == (await left(desk.backend))[0]
    assert [(info.name, info.first, info.last) for info in streams] == [("a", 5, 15)]
    with pytest.raises(Truncated):
        await Desk(backend).log()
    assert await backend.verify() == []


async def _one(lines):
    yield lines
