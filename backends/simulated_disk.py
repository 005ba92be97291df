"""A disk in memory that can be killed, frozen, filled, made to fail and cut off from power, by a seed.

    disk = SimulatedDisk(seed=7, faults=[Fault("drop", op="flush", nth=3)])
    one = disk.process()                                  # a `Disk`, for `Environment(disk=one)`
    ...
    one.kill()                                            # as SIGKILL: the cache stays, its locks go
    disk.power_cut("random")                              # all are killed, what was not flushed is lost or not
    again = disk.process()

    disk.on_point = lambda process, number, op, path: images.append(disk.image("prefix", seed=number))

A `SimulatedDisk` is a machine with one file system; each of its processes sees the same files. What a
kernel's cache holds and what the medium has are two things: see `pages`, `filesystem` and `cuts`.

Each call is a point: a Trio checkpoint (and *latency_s* of Trio's clock), then the hook, then a fault if
one strikes, then the effect at once. `write_flush` is two points; it can be cancelled at the first.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from random import Random
from typing import Literal, TypeVar
from uuid import UUID

import outcome
import trio

from perdure.backends.cuts import Policy, cut
from perdure.backends.damage import Damage
from perdure.backends.disk import Taken
from perdure.backends.faults import Fault, Faults, Op
from perdure.backends.filesystem import FileNode, FileSystem, refusal
from perdure.backends.pages import pages_of

T = TypeVar("T")

Hook = Callable[["SimulatedProcess", int, Op, str], object]
"""Called with the process, the point's number on this disk (from 1), the kind of call and its path."""


class SimulatedDisk:
    """A machine whose disk is in memory; see the module."""

    def __init__(
        self, seed: int = 0, *, faults: Iterable[Fault] = (), capacity_bytes: int | None = None, latency_s: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        """Make an empty disk. Each call takes a time within *latency_s*, drawn; *capacity_bytes* None: it is never full."""
        self.seed = seed
        self.points = 0
        """How many calls have begun, the two of `write_flush` counted each."""
        self.on_point: Hook | None = None
        """Called before each call acts. It may kill, freeze, cut the power, give faults and take images; a process it killed does not act."""
        self.after_point: Hook | None = None
        """Called after each call that has acted, or failed."""
        self._files = FileSystem(capacity_bytes=capacity_bytes)
        self._faults = Faults(faults)
        self._latency_s = latency_s
        self._processes: dict[int, SimulatedProcess] = {}
        self._pids = 1_000
        self._cuts = 0
        self._boot = _drawn(seed, "boot")
        self._draw = Random(seed)

    # -- processes ---------------------------------------------------------------------------

    def process(self, pid: int | None = None) -> SimulatedProcess:
        """A new process: a `Disk`."""
        if pid is None:
            self._pids += 1
            pid = self._pids
        process = self._processes[pid] = SimulatedProcess(self, pid)
        return process

    # -- what goes wrong ---------------------------------------------------------------------

    def inject(self, *faults: Fault) -> None:
        """Give it *faults*: they count calls from now on."""
        self._faults.add(*faults)

    def heal(self) -> None:
        """Forget all faults; what is lost stays lost."""
        self._faults.heal()

    def resize(self, capacity_bytes: int | None) -> None:
        """Give it another capacity; None: it is never full. What is written stays."""
        self._files.capacity_bytes = capacity_bytes

    def evict(self) -> None:
        """Let the cache go of all that is clean: what a failed flush lost reads as the medium has it."""
        for _, node in self._files.files():
            node.pages.evict()

    def power_cut(self, policy: Policy = "lose", seed: int | None = None) -> None:
        """Kill all processes; what was not flushed or synced is kept or lost by *policy*, drawn from *seed* (None: from the disk's). The boot is another."""
        for process in list(self._processes.values()):  # kill changes it
            process.kill()
        self._cuts += 1
        drawn = _drawn(self.seed, f"cut {self._cuts}")
        self._files = cut(self._files, policy, Random(drawn if seed is None else seed))
        self._boot = drawn

    def image(self, policy: Policy = "lose", seed: int = 0) -> SimulatedDisk:
        """The machine as it would be after `power_cut`, without faults or processes; this one goes on and shares nothing with it."""
        made = SimulatedDisk.__new__(SimulatedDisk)
        made.seed, made.points, made.on_point, made.after_point = seed, 0, None, None
        made._files = cut(self._files, policy, Random(seed))
        made._faults, made._latency_s = Faults(), (0.0, 0.0)
        made._processes, made._pids, made._cuts = {}, self._pids, 0
        made._boot = _drawn(self._boot, f"{policy} {seed}")
        made._draw = Random(seed)
        return made

    def damage(self, path: str, damage: Damage, before: bytes = b"") -> None:
        """Do *damage* to the file at *path*, on the medium and in the cache, once all of it is flushed; *before* is what a stale page comes from."""
        node = self._files.file(path)
        self._files.flush(node)
        self._put(node, damage.done_to(self.read_file(path), before))

    # -- for who looks on: no points, no faults ----------------------------------------------

    @property
    def changes(self) -> int:
        """Counts what changed the disk or what a power cut may leave of it: where it stands still, images are the same."""
        return self._files.number

    @property
    def used_bytes(self) -> int:
        """What the files take of a capacity."""
        return self._files.used_bytes

    def digest(self) -> bytes:
        """16 bytes that two images share when they have the same names and bytes, in any run; of what is read now."""
        return self._files.digest()

    def paths(self) -> list[str]:
        """All files, in order."""
        return [path for path, _ in self._files.files()]

    def read_file(self, path: str) -> bytes:
        """The bytes of a file as they are read now."""
        pages = self._files.file(path).pages
        return pages.read(0, pages.size)

    def write_file(self, path: str, data: bytes) -> None:
        """Make, or replace the bytes of, the file at *path*: all of it, and every name, is durable at once."""
        self._put(self._files.open(path, create=True), data)
        for folder in {change_folder for change in self._files.changes for change_folder in change.waits}:
            self._files.sync(folder)

    def page_state(self, path: str, page: int) -> Literal["clean", "dirty", "lost"]:
        """What the cache says of a page and the medium has of it."""
        return self._files.file(path).pages.state(page)

    def _put(self, node: FileNode, data: bytes) -> None:
        self._files.replace(node, pages_of(data), len(data))


class SimulatedProcess:
    """One process of a `SimulatedDisk`, and its way to the files: see `Disk`."""

    def __init__(self, disk: SimulatedDisk, pid: int) -> None:
        self.disk = disk
        self.pid = pid
        self.state: Literal["running", "frozen", "killed", "buried"] = "running"
        self._handles: dict[SimulatedFile, None] = {}
        self._locks: dict[SimulatedLock, None] = {}
        self._moved = trio.Event()

    # -- what happens to it ------------------------------------------------------------------

    def kill(self) -> None:
        """End it as SIGKILL does: it acts no more, each call waits until it is cancelled, its locks are released. Idempotent."""
        if self.state in ("killed", "buried"):
            return
        for lock in list(self._locks):  # both change by it
            lock.release()
        for file in list(self._handles):
            file.close()
        self.disk._processes.pop(self.pid, None)
        self._move("killed")

    def bury(self) -> None:
        """`kill`, and let its calls, also those that wait, fail with EIO: so that cleanup which is shielded from cancellation ends."""
        self.kill()
        self._move("buried")

    def freeze(self) -> None:
        """Stop it as SIGSTOP does: its calls wait until `thaw`, its locks are kept. Whoever freezes a process thaws or kills it."""
        if self.state == "running":
            self._move("frozen")

    def thaw(self) -> None:
        """Let it go on."""
        if self.state == "frozen":
            self._move("running")

    def _move(self, state: Literal["running", "frozen", "killed", "buried"]) -> None:
        self.state = state
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    # -- its calls ---------------------------------------------------------------------------

    async def open(self, path: str, *, create: bool = False, write: bool = True) -> SimulatedFile:
        """See `Disk.open`; a folder cannot be opened."""
        return await self._call("open", path, lambda _: SimulatedFile(self, path, self._files.open(path, create=create), write))

    async def entries(self, folder: str) -> list[str]:
        """See `Disk.entries`."""
        return await self._call("entries", folder, lambda _: sorted(self._files.folder(folder).entries))

    async def exists(self, path: str) -> bool:
        """See `Disk.exists`."""
        return await self._call("exists", path, lambda _: self._files.exists(path))

    async def make_folder(self, path: str) -> None:
        """See `Disk.make_folder`."""
        await self._call("make_folder", path, lambda _: self._files.make_folder(path))

    async def rename(self, old: str, new: str) -> None:
        """See `Disk.rename`."""
        await self._call("rename", old, lambda _: self._files.rename(old, new))

    async def remove(self, path: str) -> None:
        """See `Disk.remove`."""
        await self._call("remove", path, lambda _: self._files.remove(path))

    async def remove_folder(self, path: str) -> None:
        """See `Disk.remove_folder`."""
        await self._call("remove_folder", path, lambda _: self._files.remove_folder(path))

    async def sync_folder(self, path: str) -> None:
        """See `Disk.sync_folder`."""
        await self._call("sync_folder", path, lambda fault: self._sync(path, fault))

    async def lock(self, path: str) -> SimulatedLock:
        """See `Disk.lock`."""
        return await self._call("lock", path, lambda _: self._lock(path))

    async def free_bytes(self, folder: str) -> int:
        """See `Disk.free_bytes`."""
        return await self._call("free_bytes", folder, lambda _: self._files.free_bytes(folder))

    async def boot(self) -> str:
        """See `Disk.boot`."""
        return await self._call("boot", "", lambda _: str(UUID(int=self.disk._boot)))

    @property
    def _files(self) -> FileSystem:
        return self.disk._files

    def _sync(self, path: str, fault: Fault | None) -> None:
        folder = self._files.folder(path)
        if fault is None:
            self._files.sync(folder)
        elif fault.kind == "drop":
            self._files.lose(folder)
            raise refusal(fault.error, path)

    def _lock(self, path: str) -> SimulatedLock:
        node = self._files.open(path, create=True)
        if node.holder is not None:
            text = node.pages.read(0, 20)
            raise Taken(int(text) if text.strip().isdigit() else 0)
        lock = SimulatedLock(self, node)
        with suppress(OSError):  # it is a hint
            self._files.write(node, 0, b"%-20d" % self.pid, path)
        return lock

    # -- points ------------------------------------------------------------------------------

    async def _call(self, op: Op, path: str, act: Callable[[Fault | None], T], *, begun: bool = False) -> T:
        """Let *act* happen as one point; *begun*: what came before it was done, so it is not cancelled."""
        disk = self.disk
        if not begun:
            await self._arrive()
        elif self.state != "running":
            await self._stand(begun)
        disk.points = number = disk.points + 1
        if disk.on_point is not None:
            disk.on_point(self, number, op, path)
            if self.state != "running":
                await self._stand(begun)
        fault: Fault | None = None
        if disk._faults:
            fault, stall_s = disk._faults.strike(op, path, self.pid)
            if stall_s:
                await self._stall(stall_s)
        answer = outcome.capture(self._act, act, fault, path)
        if disk.after_point is not None:
            disk.after_point(self, number, op, path)
            if self.state in ("killed", "buried"):
                await self._stand(begun)
        return answer.unwrap()

    def _act(self, act: Callable[[Fault | None], T], fault: Fault | None, path: str) -> T:
        if fault is not None and fault.kind == "fail":
            raise refusal(fault.error, path)
        return act(fault)

    async def _arrive(self) -> None:
        """Take the time that a call takes, where it can be cancelled."""
        low, high = self.disk._latency_s
        if high:
            await trio.sleep(self.disk._draw.uniform(low, high))
        else:
            await trio.lowlevel.checkpoint()
        if self.state != "running":
            await self._stand(begun=False)

    async def _stall(self, stall_s: float) -> None:
        """Take longer, with the call begun; a process that is killed meanwhile does not act."""
        ends = trio.current_time() + stall_s
        while self.state in ("running", "frozen") and trio.current_time() < ends:
            with trio.move_on_at(ends, shield=True):
                await self._moved.wait()
        if self.state in ("killed", "buried"):
            await self._stand(begun=True)

    async def _stand(self, begun: bool) -> None:
        """Wait while it is frozen, where it can be cancelled unless *begun*; for ever when it is killed."""
        while self.state == "frozen":
            with trio.CancelScope(shield=begun):
                await self._moved.wait()
        while self.state == "killed":
            await self._moved.wait()
        if self.state == "buried":
            raise OSError(errno.EIO, "this simulated process is dead")


class SimulatedFile:
    """See `File`: a handle of a process."""

    def __init__(self, process: SimulatedProcess, path: str, node: FileNode, write: bool) -> None:
        self.path = path
        self._process = process
        self._node = node
        self._write_allowed = write
        self._open = True
        node.handles += 1
        process._handles[self] = None

    async def read(self, offset: int, size: int) -> bytes:
        """See `File.read`."""
        return await self._process._call("read", self.path, lambda _: self._read(offset, size))

    async def write(self, offset: int, data: bytes) -> None:
        """See `File.write`."""
        await self._process._call("write", self.path, lambda fault: self._write(offset, data, fault))

    async def flush(self) -> None:
        """See `File.flush`."""
        await self._process._call("flush", self.path, self._flush)

    async def write_flush(self, offset: int, data: bytes, *, in_thread: bool = False) -> None:
        """See `File.write_flush`: two points."""
        await self._process._call("write", self.path, lambda fault: self._write(offset, data, fault))
        await self._process._call("flush", self.path, self._flush, begun=True)

    async def size(self) -> int:
        """See `File.size`."""
        return await self._process._call("size", self.path, lambda _: self._checked().pages.size)

    def close(self) -> None:
        """See `File.close`."""
        if self._open:
            self._open = False
            del self._process._handles[self]
            self._process._files.close(self._node)

    def _checked(self) -> FileNode:
        if not self._open:
            raise refusal(errno.EBADF, self.path)
        return self._node

    def _read(self, offset: int, size: int) -> bytes:
        node = self._checked()
        if size and min(offset, size) < 0:
            raise refusal(errno.EINVAL, self.path)
        return node.pages.read(offset, size)

    def _write(self, offset: int, data: bytes, fault: Fault | None) -> None:
        node = self._checked()
        if offset < 0 or not self._write_allowed:
            raise refusal(errno.EINVAL if offset < 0 else errno.EBADF, self.path)
        files = self._process._files
        if fault is None:
            files.write(node, offset, bytes(data), self.path)
        else:
            files.write(node, offset, bytes(data[: int(len(data) * fault.part)]), self.path)
            raise refusal(fault.error, self.path)

    def _flush(self, fault: Fault | None) -> None:
        node = self._checked()
        disk = self._process.disk
        if fault is None:
            disk._files.flush(node)
        elif fault.kind == "drop":
            disk._files.fail_flush(node, lambda _: disk._draw.random() < fault.part)
            raise refusal(fault.error, self.path)


class SimulatedLock:
    """See `Lock`: held until it is released or its process is killed."""

    def __init__(self, process: SimulatedProcess, node: FileNode) -> None:
        self._process = process
        self._node = node
        node.holder = self
        node.handles += 1
        process._locks[self] = None

    def release(self) -> None:
        """See `Lock.release`."""
        if self._node.holder is self:
            self._node.holder = None
            del self._process._locks[self]
            self._process._files.close(self._node)


def _drawn(seed: int, what: str) -> int:
    """128 bits for *what*, from the seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {what}".encode(), digest_size=16).digest())
