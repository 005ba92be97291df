"""Without faults the simulated disk answers as this machine's does, and stands where one is asked for."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.backends.disk import Disk, File, Lock, Taken, TrioDisk
from perdure.backends.environment import Environment
from perdure.backends.simulated_disk import SimulatedDisk

PATHS = ["a", "b", "d", "e", "d/a", "d/b", "d/e", "e/a", "d/e/a", "a/b", "."]
OFFSETS = [0, 1, 100, 511, 512, 4_095, 4_096, 5_000, 9_000, -1]

paths = st.sampled_from(PATHS)
names = st.sampled_from(PATHS[:-1])  # nobody renames a root
handles = st.integers(0, 2)
offsets = st.sampled_from(OFFSETS)
data = st.binary(max_size=20) | st.builds(lambda byte, size: byte * size, st.binary(min_size=1, max_size=1), st.sampled_from([0, 1, 600, 4_096, 9_000]))

operations = st.one_of(
    st.tuples(st.just("open"), handles, paths, st.booleans(), st.booleans()),
    st.tuples(st.just("close"), handles),
    st.tuples(st.just("read"), handles, offsets, st.sampled_from([0, 10, 4_096, 20_000])),
    st.tuples(st.sampled_from(["write", "write_flush"]), handles, offsets, data),
    st.tuples(st.sampled_from(["flush", "size"]), handles),
    st.tuples(st.sampled_from(["entries", "exists", "make_folder", "remove", "sync_folder", "free_bytes"]), paths),
    st.tuples(st.just("rename"), names, names),
    st.tuples(st.just("lock"), handles, paths),
    st.tuples(st.just("release"), handles),
)


@attrs.define
class Hand:
    """A disk, and what was opened and locked on it."""

    disk: Disk
    base: str
    files: dict[int, File] = attrs.field(factory=dict)
    locks: dict[int, Lock] = attrs.field(factory=dict)

    async def do(self, what: str, *args: Any) -> object:
        """Carry out one operation: its answer, or its error as a value."""
        try:
            return await self._do(what, *args)
        except OSError as error:
            return type(error), error.errno
        except Taken as error:
            return "taken", error.pid

    async def _do(self, what: str, *args: Any) -> object:
        match what, args:
            case "open", (handle, path, create, write):
                if not write and not create and await self._is_folder(path):
                    return None  # Linux opens a folder for reading, and nobody needs that
                await self._do("close", handle)
                self.files[handle] = await self.disk.open(self._at(path), create=create, write=write)
            case "close", (handle,):
                if handle in self.files:
                    self.files.pop(handle).close()
            case (("read" | "write" | "write_flush" | "flush" | "size"), (handle, *rest)):
                return await getattr(self.files[handle], what)(*rest) if handle in self.files else None
            case "sync_folder", (path,):
                if await self._is_folder(path) or not await self.disk.exists(self._at(path)):  # a file has no entries
                    await self.disk.sync_folder(self._at(path))
            case "rename", (old, new):
                await self.disk.rename(self._at(old), self._at(new))
            case "lock", (handle, path):
                lock = await self.disk.lock(self._at(path))
                await self._do("release", handle)
                self.locks[handle] = lock
            case "release", (handle,):
                if handle in self.locks:
                    self.locks.pop(handle).release()
            case "free_bytes", (path,):
                return await self.disk.free_bytes(self._at(path)) > 0
            case _, (path,):
                return await getattr(self.disk, what)(self._at(path))
        return None

    async def look(self) -> dict[str, object]:
        """Every name with what it holds."""
        return {path: await self._look_at(path) for path in PATHS}

    async def _look_at(self, path: str) -> object:
        with suppress(OSError):
            return await self.disk.entries(self._at(path))
        try:
            file = await self.disk.open(self._at(path), write=False)
        except OSError as error:
            return error.errno
        try:
            return await file.size(), await file.read(0, 1 << 20)
        finally:
            file.close()

    async def _is_folder(self, path: str) -> bool:
        with suppress(OSError):
            await self.disk.entries(self._at(path))
            return True
        return False

    def _at(self, path: str) -> str:
        return f"{self.base}/{path}"

    def let_go(self) -> None:
        for held in self.files.values():
            held.close()
        for lock in self.locks.values():
            lock.release()


@settings(max_examples=150)
@given(st.lists(operations, max_size=30))
def test_it_answers_as_this_machine_does(operations):
    async def compare() -> None:
        with tempfile.TemporaryDirectory() as folder:
            real, simulated = Hand(TrioDisk(), folder), Hand(SimulatedDisk().process(os.getpid()), "")
            try:
                for operation in operations:
                    assert await simulated.do(*operation) == await real.do(*operation), operation
                assert await simulated.look() == await real.look()
            finally:
                real.let_go()
                simulated.let_go()

    trio.run(compare)


async def test_a_process_stands_where_a_disk_is_asked_for():
    environment = Environment(disk=SimulatedDisk().process())

    file = await environment.disk.open("a", create=True)
    await file.write_flush(0, b"here")

    assert await file.read(0, 10) == b"here"


async def test_a_closed_file_is_refused():
    file = await SimulatedDisk().process().open("a", create=True)
    file.close()
    file.close()

    for call in (file.read(0, 1), file.write(0, b"x"), file.flush(), file.size()):
        with pytest.raises(OSError, check=lambda error: error.errno == errno.EBADF):
            await call


async def test_two_processes_see_the_same_files():
    disk = SimulatedDisk()
    one, other = disk.process(), disk.process()

    await (await one.open("a", create=True)).write(0, b"from one")

    assert await (await other.open("a")).read(0, 8) == b"from one"
    assert one.pid != other.pid


async def test_a_file_removed_while_open_is_read_on():
    process = SimulatedDisk(capacity_bytes=4_096).process()
    file = await process.open("a", create=True)
    await file.write(0, b"still here")
    await process.remove("a")

    assert await file.read(0, 10) == b"still here"
    assert await process.free_bytes("/") == 0

    file.close()
    assert await process.free_bytes("/") == 4_096


async def test_a_full_disk_says_so_and_ends_being_full():
    process = SimulatedDisk(capacity_bytes=3 * 4_096).process()
    file, other = await process.open("a", create=True), await process.open("b", create=True)
    await other.write(0, b"b")

    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOSPC):
        await file.write(0, b"a" * 10_000)

    assert await file.size() == 8_192
    assert await process.free_bytes("/") == 0

    other.close()
    await process.remove("b")
    await file.write(0, b"a" * 10_000)
    assert await file.size() == 10_000


async def test_who_sees_no_room_left_overwrites_all_the_same():
    process = SimulatedDisk(capacity_bytes=4_096).process()
    file = await process.open("a", create=True)
    await file.write(0, b"x" * 4_096)

    await file.write(100, b"y")

    assert await file.read(99, 3) == b"xyx"


async def test_changes_stand_still_only_while_all_images_are_the_same():
    disk = SimulatedDisk()
    process = disk.process()
    file = await process.open("a", create=True)

    async def moves(call: Awaitable[object]) -> bool:
        before = disk.changes
        await call
        return disk.changes > before

    assert await moves(process.sync_folder("/"))
    assert await moves(file.write(0, b"x"))
    assert not await moves(file.read(0, 1))
    assert await moves(file.flush())
    assert not await moves(file.flush())
    assert await moves(process.rename("a", "b"))
    assert await moves(process.sync_folder("/"))
    assert not await moves(process.sync_folder("/"))
    await process.make_folder("d")
    await process.sync_folder("/")
    await process.rename("b", "d/b")
    assert not await moves(process.sync_folder("/"))
    assert await moves(process.sync_folder("d"))


async def test_a_file_put_there_is_durable_with_its_folders(tmp_path):
    disk = SimulatedDisk()

    disk.write_file("/d/e/a", b"one")
    disk.write_file("d/e/a", b"other")

    left = disk.image("lose")
    assert {path: left.read_file(path) for path in left.paths()} == {"/d/e/a": b"other"}
    left.copy_to(tmp_path)
    assert (tmp_path / "d" / "e" / "a").read_bytes() == b"other"


async def test_another_capacity_counts_what_is_there():
    disk = SimulatedDisk()
    disk.write_file("a", b"x" * 5_000)
    process = disk.process()

    disk.resize(4_096)
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOSPC):
        await (await process.open("b", create=True)).write(0, b"y")
    disk.resize(4 * 4_096)

    assert await process.free_bytes("/") == 2 * 4_096
    assert await disk.image().process().free_bytes("/") == 2 * 4_096
