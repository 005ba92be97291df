"""The disk as our own files use it: a small protocol, and the real one.

All file IO of perdure's own formats goes through a `Disk` (LMDB does its own), so that a crash and a
recovery are values that a test makes: see `simulated_disk`. Paths are texts with `/` between their
parts. What the system refuses is an `OSError` with its errno; who calls translates it.

A crash may take whatever was not flushed: of a file its bytes (`File.flush`), of a folder its entries
(`Disk.sync_folder`). After a flush that failed nothing is known of what was written since the flush
before, and no later flush makes it known: the bytes may read well and be gone at the next power cut.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import trio

T = TypeVar("T")


class Taken(Exception):
    """Another process has the lock: *pid*, 0 if that is unknown."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"process {pid or 'unknown'}")
        self.pid = pid


class Lock(Protocol):
    """A lock that is held, until it is released or its process dies."""

    def release(self) -> None:
        """Give it back. Idempotent."""
        ...


class File(Protocol):
    """An open file. A call that is cancelled before it began has done nothing; once begun it is not interrupted."""

    async def read(self, offset: int, size: int) -> bytes:
        """*size* bytes from *offset*; fewer at the end of the file."""
        ...

    async def write(self, offset: int, data: bytes) -> None:
        """Write all of *data*. Not durable before a `flush`; a crash may leave any part of it.

        Raises:
          OSError: it, or a part of it, was not written.
        """
        ...

    async def flush(self) -> None:
        """Make durable what was written, and the size that this gave the file.

        Raises:
          OSError: nobody knows what is durable, and asking again does not tell.
        """
        ...

    async def write_flush(self, offset: int, data: bytes, *, in_thread: bool = False) -> None:
        """`write`, then `flush`, in one step; in the loop unless *in_thread*."""
        ...

    def hint(self, offset: int, data: bytes) -> None:
        """Write a few bytes at once, in the loop. Nobody may rely on them: what fails is not told, and nothing is flushed."""
        ...

    async def size(self) -> int:
        """Bytes in the file."""
        ...

    def close(self) -> None:
        """Let go of it; nothing is flushed. Idempotent."""
        ...


class Disk(Protocol):
    """A file system. A call that is cancelled before it began has done nothing; once begun it is not interrupted."""

    async def open(self, path: str, *, create: bool = False, write: bool = True) -> File:
        """The file at *path*; *create*: made if it is not there.

        Raises:
          OSError: FileNotFoundError, and whatever else the system says.
        """
        ...

    async def entries(self, folder: str) -> list[str]:
        """Names in *folder*, sorted.

        Raises:
          FileNotFoundError, NotADirectoryError: it is none.
        """
        ...

    async def exists(self, path: str) -> bool:
        """Whether there is a file or folder."""
        ...

    async def make_folder(self, path: str) -> None:
        """Make a folder whose parent exists; nothing if it is there."""
        ...

    async def rename(self, old: str, new: str) -> None:
        """Give a file another name, in place of what has it. Durable once the folders are synced; a crash leaves the one or the other."""
        ...

    async def remove(self, path: str) -> None:
        """Remove a file; nothing if it is not there."""
        ...

    async def remove_folder(self, path: str) -> None:
        """Remove an empty folder.

        Raises:
          OSError: it is not empty, or not there.
        """
        ...

    async def sync_folder(self, path: str) -> None:
        """Make the entries of a folder durable.

        Raises:
          OSError: nobody knows which entries are.
        """
        ...

    async def lock(self, path: str) -> Lock:
        """Take the lock that the file at *path* stands for, which is made if it is not there; never waits.

        Two holders exclude each other in one process too.

        Raises:
          Taken: another one has it.
        """
        ...

    async def free_bytes(self, folder: str) -> int:
        """Room on the file system of *folder*, for this user."""
        ...

    async def boot(self) -> str:
        """This run of the machine: another text after each power cut; '' where that is unknown."""
        ...


def parent_of(path: str) -> str:
    """The folder that *path* is in."""
    before, slash, _ = path.rstrip("/").rpartition("/")
    return before or ("/" if slash else ".")


async def name_durably(disk: Disk, old: str, new: str) -> None:
    """Give the file *old* the name *new*, which nothing has, durably.

    Raises:
      OSError: then *new* is not there: after a sync that failed it would be seen, and lie, until the next power cut.
    """
    await disk.rename(old, new)
    try:
        await disk.sync_folder(parent_of(new))
    except OSError:
        with trio.CancelScope(shield=True):
            await disk.remove(new)
        raise


async def make_folder_durably(disk: Disk, path: str) -> None:
    """Make a folder, durably; of one that is there, its entry.

    Raises:
      OSError: a folder that was not there is not there.
    """
    there = await disk.exists(path)
    await disk.make_folder(path)
    try:
        await disk.sync_folder(parent_of(path))
    except OSError:
        if not there:
            with trio.CancelScope(shield=True):
                await disk.remove_folder(path)
        raise


# -- the real one ----------------------------------------------------------------------------


class TrioFile:
    """See `File`: a descriptor, used in the loop or in a thread."""

    def __init__(self, path: str, handle: int) -> None:
        self.path = path
        self._handle = handle
        self._pid = os.getpid()

    async def read(self, offset: int, size: int) -> bytes:
        return await _in_thread(self._read, offset, size)

    def _read(self, offset: int, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            part = os.pread(self._handle, min(size, 1 << 30), offset)
            if not part:
                break
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def write(self, offset: int, data: bytes) -> None:
        await _in_thread(self._write, offset, data)

    def _write(self, offset: int, data: bytes) -> None:
        if os.getpid() != self._pid:
            raise OSError(errno.EBADF, "a forked child must open the store itself", self.path)
        written = os.pwrite(self._handle, data, offset)
        while written < len(data):  # a signal, or a disk that is nearly full
            more = os.pwrite(self._handle, data[written:], offset + written)
            if not more:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
            written += more

    async def flush(self) -> None:
        await _in_thread(_fdatasync, self._handle)

    async def write_flush(self, offset: int, data: bytes, *, in_thread: bool = False) -> None:
        if in_thread:
            await _in_thread(self._write_flush, offset, data)
        else:
            self._write_flush(offset, data)

    def _write_flush(self, offset: int, data: bytes) -> None:
        self._write(offset, data)
        _fdatasync(self._handle)

    def hint(self, offset: int, data: bytes) -> None:
        with suppress(OSError):
            os.pwrite(self._handle, data, offset)

    async def size(self) -> int:
        return await _in_thread(lambda: os.fstat(self._handle).st_size)

    def close(self) -> None:
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            os.close(handle)


class TrioLock:
    """See `Lock`: flock on a file that holds the pid of who took it last."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        _locks.append(self)

    def release(self) -> None:
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            os.close(handle)
            _locks.remove(self)


_locks: list[TrioLock] = []


def _release_inherited() -> None:
    """A forked child lets go of its copies: else it would keep its parent's locks when that dies."""
    for lock in _locks.copy():  # release changes the list
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_inherited)


class TrioDisk:
    """See `Disk`: the file system of this machine. Blocking calls run in a thread, except a small write with its flush."""

    async def open(self, path: str, *, create: bool = False, write: bool = True) -> TrioFile:
        flags = os.O_RDWR if write else os.O_RDONLY
        return TrioFile(path, await _in_thread(os.open, path, flags | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644))

    async def entries(self, folder: str) -> list[str]:
        return sorted(await _in_thread(os.listdir, folder))

    async def exists(self, path: str) -> bool:
        return await _in_thread(_exists, path)

    async def make_folder(self, path: str) -> None:
        with suppress(FileExistsError):
            await _in_thread(os.mkdir, path)

    async def rename(self, old: str, new: str) -> None:
        await _in_thread(os.replace, old, new)

    async def remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            await _in_thread(os.unlink, path)

    async def remove_folder(self, path: str) -> None:
        await _in_thread(os.rmdir, path)

    async def sync_folder(self, path: str) -> None:
        await _in_thread(_sync, path)

    async def lock(self, path: str) -> TrioLock:
        return await _in_thread(_lock, path)

    async def free_bytes(self, folder: str) -> int:
        found = await _in_thread(os.statvfs, folder)
        return found.f_bavail * found.f_frsize

    async def boot(self) -> str:
        return await _in_thread(_boot)


async def _in_thread(fn: Callable[..., T], *args: Any) -> T:
    limiter = trio.CapacityLimiter(1)  # its own: a program whose calls use up Trio's would hold us up
    return await trio.to_thread.run_sync(fn, *args, limiter=limiter)


_fdatasync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


def _exists(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _lock(path: str) -> TrioLock:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        text = os.pread(handle, 20, 0)
        os.close(handle)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise Taken(int(text) if text.strip().isdigit() else 0) from None
        raise
    with suppress(OSError):  # it is a hint
        os.pwrite(handle, b"%-20d" % os.getpid(), 0)
    return TrioLock(handle)


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
