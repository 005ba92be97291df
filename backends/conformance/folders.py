"""Stores to hold the laws against in folders: `lmdb:DIR` and `file:DIR`, also with flushes that fail when they are told to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from perdure.backends.conformance.stores import Later
from perdure.backends.disk import Disk, TrioDisk
from perdure.backends.environment import Environment, Threads
from perdure.backends.errors import Misuse
from perdure.backends.faulty_disk import FaultyDisk
from perdure.backends.limits import Limits
from perdure.backends.lmdb.faulty import LmdbFaults
from perdure.backends.lmdb.files import FileLock
from perdure.backends.protocol import Backend
from perdure.backends.urls import open_backend

SMALL = "2MiB"


class FolderStores:
    """`lmdb:DIR` or `file:DIR`, each named store in a folder of its own below *folder*."""

    def __init__(self, scheme: str, folder: Path, query: str, clock: Later, limits: Limits, threads: Threads, disk: Disk | None = None) -> None:
        self._scheme = scheme
        self._folder = folder
        self._query = query
        self._clock = clock
        self._environment = Environment(clock=self._clock, threads=threads, disk=disk or TrioDisk())
        self._limits = limits

    def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
        return self._open(name, self._query)

    def open_small(self, name: str) -> AbstractAsyncContextManager[Backend]:
        """A store with room for little."""
        return self._open(name, f"{self._query}&size={SMALL}" if "segment" in self._query else f"size={SMALL}")

    def advance(self, seconds: float) -> None:
        """Move the wall clock of all stores."""
        self._clock.ahead_us += int(seconds * 1e6)

    @asynccontextmanager
    async def _open(self, name: str, query: str) -> AsyncIterator[Backend]:
        url = f"{self._scheme}:{self._folder / name}" + (f"?{query}" if query else "")
        async with open_backend(url, environment=self._environment, limits=self._limits, loading=True) as backend:
            yield backend


class SharedStores(FolderStores):
    """The same where several processes may write: one of them can be frozen."""

    @contextmanager
    def hold_turn(self, name: str) -> Iterator[None]:
        """Keep the right to write to that store, as a frozen process would."""
        gate = FileLock(self._folder / name / "gate.lock")
        try:
            if not gate.take():
                raise Misuse(f"somebody writes to {name!r} just now")
            gate.write_pid()
            yield
        finally:
            gate.close()


class FaultyLmdbStores(SharedStores):
    """The same, whose flushes fail when *faults* are told to."""

    def __init__(self, *how: Any, faults: LmdbFaults) -> None:
        super().__init__(*how)
        self._faults = faults

    def fail_flush(self, backend: Backend, *, stored: bool) -> None:
        """Let the next flush below the folder fail: as the sync of the data does (reading goes on), or as that of the meta page (nothing does)."""
        self._faults.fail_commit(stored=stored, panic=stored)


class FaultyFileStores(FolderStores):
    """The same over a disk whose flushes fail when they are told to."""

    def __init__(self, *how: Any, faults: FaultyDisk) -> None:
        super().__init__(*how)
        self._faults = faults

    def fail_flush(self, backend: Backend, *, stored: bool) -> None:
        """Let the next flush fail."""
        self._faults.fail_flush(stored=stored)
