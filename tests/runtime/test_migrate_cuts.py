"""A store of which something was cut is brought elsewhere as it is; while it is brought nothing is cut."""

from __future__ import annotations

import pytest

from perdure.backends.commit import Append, Cut
from perdure.backends.conformance.cuts import tidy
from perdure.backends.conformance.law import Desk, drafts
from perdure.backends.errors import Truncated, Unavailable
from perdure.backends.urls import open_backend
from perdure.runtime.carry import Carrier, digest_of
from perdure.runtime.migrate import bring, migrate_store

LONG_AGO_US = 1_700_000_000_000_000


@pytest.fixture
def place(tmp_path, request):
    """`place(kind, name)`: the URL of a place where there may be a store."""
    return lambda kind, name: request.getfixturevalue("postgres").new_database() if kind == "postgresql" else f"{kind}:{tmp_path}/{name}"


async def _cut_store(backend):
    desk = Desk(backend)
    for _ in range(20):
        await desk.done(Append("a-1", drafts(5)), Append("a-2", drafts(3)), Append("b", drafts(2)), at_us=LONG_AGO_US)
    await desk.done(Cut("a-1", 33, "bafyone"))
    await tidy(desk)
    await desk.done(Cut("a-2", 61, "bafytwo"), Cut("b", 2))
    return desk


@pytest.mark.parametrize(("source", "target"), [("lmdb", "file"), ("file", "lmdb"), ("lmdb", "postgresql"), ("postgresql", "lmdb")])
async def test_what_was_cut_stays_cut(place, source, target):
    here, there = place(source, "here"), place(target, "there")
    async with open_backend(here) as backend:
        await _cut_store(backend)
        before, infos = await digest_of(backend), await backend.streams(limit=9)

    done = await migrate_store(here, there)

    assert done.log_digest == before.log
    async with open_backend(there) as backend:
        assert await digest_of(backend) == before
        assert await backend.streams(limit=9) == infos
        assert await backend.verify() == []
        with pytest.raises(Truncated, match="a-1"):
            await Desk(backend).stream("a-1")
        assert (await Desk(backend).append("a-2", 1, 60)).last == 61


@pytest.mark.parametrize("target", ["lmdb", "postgresql"])
async def test_what_is_cut_between_two_attempts_is_cut_at_the_target_too(place, target):
    there = place(target, "there")
    async with open_backend(place("lmdb", "here")) as source:
        desk = await _cut_store(source)
        async with open_backend(there, loading=True, id=source.id) as half:
            carrier = Carrier(source, half)
            async with source.claim_move():
                await carrier.begin()
                await carrier.catch_up()
        await desk.done(Cut("a-1", 50))
        before = await digest_of(source)

        async with open_backend(there, loading=True, id=source.id) as backend, source.claim_move():
            await bring(source, backend)

            assert (await digest_of(backend)).log == before.log
            assert [info.first for info in await backend.streams(limit=9)] == [50, 61, 2]
            assert await backend.verify() == []


async def test_a_cut_while_it_is_brought_elsewhere_waits(place):
    async with open_backend(place("lmdb", "here")) as source, open_backend(place("lmdb", "here")) as other, source.claim_move():
        await Desk(source).append("a", 5)
        with pytest.raises(Unavailable, match=r"is bringing .* elsewhere"):
            await Desk(other).done(Cut("a", 3))
