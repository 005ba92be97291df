"""An ordered backend when something fails in the middle of a group: each commit is told its own fate."""

from __future__ import annotations

import pytest

from perdure.backends.commit import Append, Appended, Committed
from perdure.backends.conformance.law import Desk, appending, draft, is_a
from perdure.backends.environment import Environment
from perdure.backends.errors import Corrupt, Full, InDoubt, TooLarge, Unavailable
from perdure.backends.lmdb.map import LmdbMap
from perdure.backends.memory import MemoryMap, open_memory
from perdure.backends.ordered import OrderedBackend
from perdure.backends.ordered_map import MapFull
from perdure.backends.protocol import Capabilities
from perdure.backends.tables import Cache
from perdure.backends.urls import open_backend


class FailingMap(MemoryMap):
    """A map whose next writes fail as *errors* says, one each; None is a write that does not."""

    def __init__(self, *errors):
        super().__init__("00" * 16)
        self.errors = list(errors)

    def write(self, fn, *, small=False, size_bytes=0):
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return super().write(fn, small=small, size_bytes=size_bytes)

    def damage(self, number):
        """Change a byte of the frame with that number."""
        key, found = self._tables.reader.scan("frames", b"", None, number + 1)[number]
        value = bytearray(found)
        value[70] ^= 0xFF
        self._tables.apply({"frames": {key: bytes(value)}})


def over(store):
    return OrderedBackend(store, url="test:", capabilities=Capabilities(), environment=Environment())


def kinds(group):
    return [type(answer) for answer in group.answers]


async def test_a_group_larger_than_the_cache_of_streams_keeps_every_stream(monkeypatch):
    monkeypatch.setattr(Cache, "STREAMS_MAX", 2)
    backend = open_memory()
    desk = Desk(backend)
    for _ in range(2):
        for stream in "abc":
            await desk.append(stream)

    await desk.group([appending("a")], [appending("c")])
    await desk.group([appending("a")], [appending("b")], [appending("c")], [appending("new")])

    assert [len(await desk.stream(stream)) for stream in ("a", "b", "c", "new")] == [4, 3, 4, 1]
    assert await backend.verify() == []
    await desk.append("d")
    await desk.append("e")
    await desk.append("f")
    assert len(backend._cache.streams) <= 2


async def test_what_a_run_left_in_the_cache_is_forgotten_when_the_map_grows(tmp_path):
    url = f"lmdb:{tmp_path}/store"
    for spare in (2, 6, 12, 16):
        async with open_backend(url) as backend:
            assert isinstance(backend, OrderedBackend)
            assert isinstance(backend._store, LmdbMap)
            desk, shared = Desk(backend), backend._store._shared
            old, before = await desk.append("old"), await backend.head()
            shared.size = (shared.env.info()["last_pgno"] + spare) * 4096
            shared.env.set_mapsize(shared.size)
            large = [draft(b"x" * 20_000, type=f"new-{spare}")] * 2

            group = await desk.group([Append(f"s-{spare}", large)], [Append("old", large)])

            assert group.follows == before
            parts = [is_a(answer, Committed).parts[0] for answer in group.answers]
            assert [is_a(part, Appended).last for part in parts] == [2, old.last + 2]
            assert shared.env.info()["map_size"] > (shared.env.info()["last_pgno"] + 1) * 4096
        async with open_backend(url) as backend:
            assert await backend.head() == before + 4
            assert await Desk(backend).payloads(f"s-{spare}") == [b"x" * 20_000] * 2
            assert await backend.verify() == []


@pytest.mark.parametrize("error", [Unavailable("gone"), InDoubt(b"", None)])
async def test_an_error_of_the_second_half_is_not_told_to_the_first(error):
    store = FailingMap(MapFull(), None, error)
    backend = over(store)

    group = await Desk(backend).group([appending("a")], [appending("b")], [appending("c")], [appending("d")])

    assert kinds(group) == [Committed, Committed, type(error), type(error)]
    assert group.answers[2] is not group.answers[3]
    assert [info.name for info in await backend.streams(limit=9)] == ["a", "b"]


async def test_a_damaged_stream_fails_its_own_commits_only():
    store = FailingMap()
    await Desk(over(store)).append("x")
    await Desk(over(store)).append("y")
    store.damage(0)
    desk = Desk(over(store))

    group = await desk.group([appending("y")], [appending("z")], [appending("x")], [appending("y")])

    assert kinds(group) == [Committed, Committed, Corrupt, Committed]
    assert [record.position for record in await desk.stream("y")] == [2, 3, 5]


async def test_a_full_map_is_told_to_the_commit_alone():
    store = FailingMap(MapFull(), None, MapFull())

    assert kinds(await Desk(over(store)).group([appending("a")], [appending("b")])) == [Committed, Full]


async def test_the_type_that_has_no_number_is_too_large_for_its_commit_alone():
    desk = Desk(open_memory())
    for begin in range(0, 65_536, 8_192):
        await desk.done(Append("s", [draft(type=f"t{number}") for number in range(begin, begin + 8_192)]))

    group = await desk.group([appending("a", type="t1")], [appending("b", type="one more")], [appending("c", type="t65535")])

    assert kinds(group) == [Committed, TooLarge, Committed]
    error = is_a(group.answers[1], TooLarge)
    assert (error.size, error.limit) == (65_537, 65_536)
    assert "'one more'" in str(error)
    assert [record.type for record in await desk.stream("c")] == ["t65535"]
