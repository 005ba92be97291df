"""Stores to hold the laws against, from the URL of a backend that comes with perdure."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path

from perdure.backends.conformance.law import Stores
from perdure.backends.environment import Environment, Threads, TrioThreads, wall_us
from perdure.backends.errors import Misuse
from perdure.backends.limits import Limits
from perdure.backends.protocol import Backend
from perdure.backends.urls import open_backend, split_url

KIT_LIMITS = Limits(view_s=1)
"""Views are cut sooner than by default, so that their law need not wait for long."""
SMALL = "2MiB"


class _Later:
    """A wall clock that can be moved on."""

    def __init__(self) -> None:
        self.ahead_us = 0

    def __call__(self) -> int:
        return wall_us() + self.ahead_us


class MemoryStores:
    """`memory:`, where each opening is a new store."""

    def __init__(self, limits: Limits, threads: Threads) -> None:
        self._clock = _Later()
        self._environment = Environment(clock=self._clock, threads=threads)
        self._limits = limits

    def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
        return open_backend("memory:", environment=self._environment, limits=self._limits)

    def advance(self, seconds: float) -> None:
        """Move the wall clock of all stores."""
        self._clock.ahead_us += int(seconds * 1e6)


class FolderStores:
    """`lmdb:DIR`, each named store in a folder of its own below *folder*."""

    def __init__(self, scheme: str, folder: Path, query: str, limits: Limits, threads: Threads) -> None:
        self._scheme = scheme
        self._folder = folder
        self._query = query
        self._clock = _Later()
        self._environment = Environment(clock=self._clock, threads=threads)
        self._limits = limits

    def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
        return self._open(name, self._query)

    def open_small(self, name: str) -> AbstractAsyncContextManager[Backend]:
        """A store with room for little."""
        return self._open(name, f"size={SMALL}")

    def advance(self, seconds: float) -> None:
        """Move the wall clock of all stores."""
        self._clock.ahead_us += int(seconds * 1e6)

    @asynccontextmanager
    async def _open(self, name: str, query: str) -> AsyncIterator[Backend]:
        url = f"{self._scheme}:{self._folder / name}" + (f"?{query}" if query else "")
        async with open_backend(url, environment=self._environment, limits=self._limits) as backend:
            yield backend


@contextmanager
def stores_of(url: str, folder: Path | None = None, *, limits: Limits = KIT_LIMITS, threads: Threads | None = None) -> Iterator[Stores]:
    """Stores for `memory:` or `lmdb:DIR`, in folders of their own below *folder* (default: DIR), removed afterwards.

    Under a virtual clock give `InlineThreads()`: it does not wait for real threads.

    Raises:
      Misuse: the URL names no such store, or the folder does not exist.
    """
    threads = threads or TrioThreads()
    scheme, rest, query = split_url(url)
    if scheme == "memory":
        yield MemoryStores(limits, threads)
        return
    if scheme != "lmdb":
        raise Misuse(f"{url!r}: the laws can be held against memory: and lmdb:DIR; for others give `run_checks` your own Stores")
    parent = folder or Path(rest)
    made = not parent.exists()
    if made and not parent.parent.is_dir():
        raise Misuse(f"the folder {parent.parent} does not exist: make it first")
    parent.mkdir(exist_ok=True)
    below = Path(tempfile.mkdtemp(prefix="conformance-", dir=parent))
    try:
        yield FolderStores(scheme, below, "&".join(f"{name}={value}" for name, value in query.items()), limits, threads)
    finally:
        shutil.rmtree(below, ignore_errors=True)
        if made and not any(parent.iterdir()):
            parent.rmdir()
