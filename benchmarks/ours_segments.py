"""perdure behind a commit log: `lmdb:?log=segments`, and `file:`, which has nothing else."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count as numbers
from pathlib import Path
from time import perf_counter
from typing import Any

import trio

from benchmarks.figures import settled_bytes, traced
from benchmarks.harness import Case, Work
from benchmarks.ours import APP, append_all, append_each
from benchmarks.payload import PAYLOAD_BYTES, Payment, payments
from benchmarks.sizes import Sizes
from perdure.backends.urls import open_backend
from perdure.runtime import open_runtime


def in_store(url: str, body: Callable[[Any, int, Sizes], Any]) -> Callable[[Path, Sizes], AbstractContextManager[Work]]:
    """*body* with an open runtime on a store of that kind; it times itself."""

    @contextmanager
    def case(folder: Path, sizes: Sizes) -> Iterator[Work]:
        rounds = numbers()

        async def run() -> float:
            async with open_runtime(url.format(folder / "store"), APP) as rt:
                figure: float = await body(rt, next(rounds), sizes)
                return figure

        yield lambda: trio.run(run)

    return case


async def one_writer(rt: Any, number: int, sizes: Sizes) -> float:
    """One event for each `append`, one after the other."""
    data = list(payments(sizes.one_writer))
    begun = perf_counter()
    await append_each(rt, f"account-one-{number}", data)
    return len(data) / (perf_counter() - begun)


async def writers(rt: Any, number: int, sizes: Sizes) -> float:
    """Sixty-four tasks, each appending single events to a stream of its own."""
    data: Sequence[Sequence[Payment]] = [list(payments(sizes.writers_ours // sizes.writers)) for _ in range(sizes.writers)]
    begun = perf_counter()
    async with trio.open_nursery() as nursery:
        for writer, each in enumerate(data):
            nursery.start_soon(append_each, rt, f"account-{writer}-{number}", each)
    return sizes.writers_ours / (perf_counter() - begun)


async def bulk(rt: Any, number: int, sizes: Sizes) -> float:
    """A thousand events for each `append`."""
    data = list(payments(sizes.bulk_fast))
    begun = perf_counter()
    await append_all(rt, f"account-bulk-{number}", data, sizes.bulk_commit)
    return len(data) / (perf_counter() - begun)


async def _fill(url: str, sizes: Sizes) -> None:
    async with open_runtime(url, APP) as rt:
        for start in range(0, sizes.grown, 100_000):
            await append_all(rt, "account-1", list(payments(min(100_000, sizes.grown - start), start=start)), sizes.bulk_commit)


@contextmanager
def file_opening(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """Milliseconds until a store of a million events is open."""
    url = f"file:{folder / 'store'}"
    trio.run(_fill, url, sizes)

    async def run() -> float:
        begun = perf_counter()
        async with open_backend(url):
            return (perf_counter() - begun) * 1_000

    yield lambda: trio.run(run)


@contextmanager
def file_memory(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """Bytes of memory for each event of it."""
    url = f"file:{folder / 'store'}"
    trio.run(_fill, url, sizes)

    async def run() -> float:
        with traced():
            before = await settled_bytes()
            async with open_backend(url):
                return (await settled_bytes() - before) / sizes.grown

    yield lambda: trio.run(run)


@contextmanager
def payload(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """What a payload weighs."""
    yield lambda: float(PAYLOAD_BYTES)


SEGMENTS, FILE = "lmdb:{}?log=segments", "file:{}"
ONE_WRITER = Case("perdure, commit log", in_store(SEGMENTS, one_writer))
WRITERS = Case("perdure, commit log", in_store(SEGMENTS, writers))
BULK = Case("perdure, commit log", in_store(SEGMENTS, bulk))
FILE_ONE_WRITER = Case("perdure, file:", in_store(FILE, one_writer))
FILE_WRITERS = Case("perdure, file:", in_store(FILE, writers))
FILE_OPENING = Case("perdure, file:", file_opening)
FILE_MEMORY = Case("perdure, file:", file_memory)
PAYLOAD = Case("payload", payload)
