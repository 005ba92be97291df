"""A process of a simulated disk: its way to the files, until it is killed.

Each call is a point: it arrives (a Trio checkpoint, where it can be cancelled), is told to the hook, may
be struck by a fault, acts at once, and is told again. What it acts on is `filesystem`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, TypeVar
from uuid import UUID

import outcome
import trio

from perdure.backends.disk import Taken
from perdure.backends.faults import Fault, Op
from perdure.backends.filesystem import FileSystem, refusal
from perdure.backends.nodes import FileNode

if TYPE_CHECKING:
    from perdure.backends.simulated_disk import SimulatedDisk

T = TypeVar("T")
State = Literal["running", "frozen", "killed", "buried"]


class SimulatedProcess:
    """One process of a `SimulatedDisk`, and its way to the files: see `Disk`."""

    def __init__(self, disk: SimulatedDisk, pid: int) -> None:
        self.disk = disk
        self.pid = pid
        self.state: State = "running"
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
        del self.disk._processes[self]
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

    def _move(self, state: State) -> None:
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
        await self._arrive(begun)
        if self.state != "running":
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

    async def _arrive(self, begun: bool) -> None:
        """Take the time that a call takes, where it can be cancelled unless *begun*."""
        low, high = self.disk._latency_s
        if high:
            with trio.CancelScope(shield=begun):
                await trio.sleep(self.disk._draw.uniform(low, high))
        elif begun:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await trio.lowlevel.checkpoint()

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
        """See `File.write_flush`: two points; others run between them."""
        await self._process._call("write", self.path, lambda fault: self._write(offset, data, fault))
        await self._process._call("flush", self.path, self._flush, begun=True)

    def hint(self, offset: int, data: bytes) -> None:
        """See `File.hint`: no point, but no process that does not run writes any."""
        if self._open and self._process.state == "running":
            with suppress(OSError):
                self._process._files.write(self._node, offset, bytes(data), self.path)

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
