"""Stores to hold the laws against, from the URL of a backend that comes with perdure."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path

from perdure.backends.conformance.law import Stores
from perdure.backends.denied import check_denied
from perdure.backends.environment import Environment, Threads, TrioThreads, wall_us
from perdure.backends.errors import Misuse, Unavailable
from perdure.backends.faulty import FaultyBackend, in_doubt
from perdure.backends.limits import Limits
from perdure.backends.protocol import Backend
from perdure.backends.urls import open_backend, split_url

KIT_LIMITS = Limits(view_s=3, gate_s=1)
"""Views are cut sooner than by default, and the right to write is waited for shorter, so that their laws need not wait for long."""
KIT_SEGMENT = "256KiB"
"""Log files are smaller than by default, so that the laws meet more of them."""


class Later:
    """A wall clock that can be moved on."""

    def __init__(self) -> None:
        self.ahead_us = 0

    def __call__(self) -> int:
        return wall_us() + self.ahead_us


class MemoryStores:
    """`memory:`, where each opening is a new store."""

    def __init__(self, limits: Limits, threads: Threads) -> None:
        self._clock = Later()
        self._environment = Environment(clock=self._clock, threads=threads)
        self._limits = limits

    def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
        return open_backend("memory:", environment=self._environment, limits=self._limits)

    def advance(self, seconds: float) -> None:
        """Move the wall clock of all stores."""
        self._clock.ahead_us += int(seconds * 1e6)


class FaultyMemoryStores(MemoryStores):
    """The same, whose flushes fail when they are told to."""

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[Backend]:
        async with super().open(name) as inner:
            yield FaultyBackend(inner)

    def fail_flush(self, backend: Backend, *, stored: bool) -> None:
        """Let the next flush of *backend* fail."""
        assert isinstance(backend, FaultyBackend)
        backend.fail("commit", in_doubt, after=stored)


@contextmanager
def stores_of(url: str, folder: Path | None = None, *, limits: Limits = KIT_LIMITS, threads: Threads | None = None, faults: bool = True) -> Iterator[Stores]:
    """Stores for `memory:`, `file:DIR` or `lmdb:DIR`, in folders of their own below *folder* (default: DIR), removed afterwards.

    For `postgresql://...` each is a schema of its own in that database, dropped afterwards. For `http://...` the daemon
    makes them beside its own store, if the token has the scope `scratch`, and removes them when it ends.

    Under a virtual clock give `InlineThreads()`: it does not wait for real threads. Without *faults* nothing
    stands between the laws and the store, and it cannot be told to fail.

    Raises:
      Misuse: the URL names no such store, or the folder does not exist.
    """
    threads = threads or TrioThreads()
    scheme, rest, query = split_url(url)
    if scheme == "memory":
        yield FaultyMemoryStores(limits, threads) if faults else MemoryStores(limits, threads)
        return
    if scheme == "file":
        from perdure.backends.conformance import folders
        from perdure.backends.faulty_disk import FaultyDisk

        with _scratch(folder or Path(rest)) as below:
            text = "&".join(f"{name}={value}" for name, value in {"segment": KIT_SEGMENT, **query}.items())
            disk = FaultyDisk()
            file_how = (scheme, below, text, Later(), limits, threads, disk if faults else None)
            yield folders.FaultyFileStores(*file_how, faults=disk) if faults else folders.FolderStores(*file_how)
        return
    if scheme in ("http", "https"):
        from perdure.backends.conformance.remote import remote_stores

        yield remote_stores(url, limits, faults=faults)
        return
    if scheme in ("postgresql", "postgres"):
        from perdure.backends.conformance.databases import scratch_databases

        with scratch_databases(url, limits, threads, faults=faults) as databases:
            yield databases
        return
    if scheme != "lmdb":
        kinds = "memory:, file:DIR, lmdb:DIR, postgresql://... and http://..."
        raise Misuse(f"{url!r}: the laws can be held against {kinds}; for others give `run_checks` your own Stores")
    from perdure.backends.conformance import folders  # it loads LMDB
    from perdure.backends.lmdb.faulty import faulty_lmdb

    if query.get("log") == "segments":
        from perdure.backends.faulty_disk import FaultyDisk

        query.setdefault("segment", KIT_SEGMENT)
        with _scratch(folder or Path(rest)) as below:
            disk = FaultyDisk()
            text = "&".join(f"{name}={value}" for name, value in query.items())
            file_how = (scheme, below, text, Later(), limits, threads, disk if faults else None)
            yield folders.FaultyFileStores(*file_how, faults=disk) if faults else folders.FolderStores(*file_how)
        return
    with _scratch(folder or Path(rest)) as below:
        how = (scheme, below, "&".join(f"{name}={value}" for name, value in query.items()), Later(), limits, threads)
        if faults:
            with faulty_lmdb(below) as told:
                yield folders.FaultyLmdbStores(*how, faults=told)
        else:
            yield folders.SharedStores(*how)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A folder of our own below *parent*; both are removed if we made them."""
    made = not parent.exists()
    if made and not parent.parent.is_dir():
        raise Misuse(f"the folder {parent.parent} does not exist: make it first")
    try:
        parent.mkdir(exist_ok=True)
        below = Path(tempfile.mkdtemp(prefix="conformance-", dir=parent))
    except FileExistsError:
        raise Misuse(f"{parent} is a file: name a folder, in which stores are made and removed") from None
    except OSError as error:
        check_denied(error, parent)
        raise Unavailable(f"{parent} cannot be written: {error.strerror or error}") from error
    try:
        yield below
    finally:
        shutil.rmtree(below, ignore_errors=True)
        if made and not any(parent.iterdir()):
            parent.rmdir()
