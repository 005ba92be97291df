"""perdure's LMDB backend alone, without actors and runtime: shows how much of a row's time is spent below them. No goals here."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from os import urandom
from pathlib import Path
from time import perf_counter, time_ns

import trio

from benchmarks.harness import Case, Work
from benchmarks.payload import Payment, add_payment, decode_payment, encode_payment, payments, total_of
from benchmarks.sizes import Sizes
from perdure.backends.commit import Append, Commit, Committed, Draft, propose
from perdure.backends.event import START
from perdure.backends.protocol import Backend
from perdure.backends.urls import open_backend

NAME = "perdure backend"
PAGE_RECORDS = 1_000
PAGE_BYTES = 1 << 20


def _in_backend(folder: Path, body: Callable[[Backend], Awaitable[float]]) -> Work:
    """*body* with an open backend in a Trio run of its own; it times itself."""

    async def run() -> float:
        async with open_backend(f"lmdb:{folder / 'store'}") as backend:
            return await body(backend)

    return lambda: trio.run(run)


def commit_of(stream: str, data: Sequence[Payment]) -> Commit:
    drafts = [Draft("payment-made", 1, encode_payment(each)) for each in data]
    return propose([Append(stream, drafts)], id=urandom(16), at_us=time_ns() // 1_000)


async def append_all(backend: Backend, data: Sequence[Payment], commit: int) -> None:
    for start in range(0, len(data), commit):
        (answer,) = (await backend.commit([commit_of("account-1", data[start : start + commit])])).answers
        assert isinstance(answer, Committed)


def _appending(folder: Path, count: int, commit: int) -> Work:
    data = list(payments(count))

    async def body(backend: Backend) -> float:
        begun = perf_counter()
        await append_all(backend, data, commit)
        return count / (perf_counter() - begun)

    return _in_backend(folder, body)


@contextmanager
def one_writer(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """One commit of one event for each flush."""
    yield _appending(folder, sizes.one_writer, 1)


@contextmanager
def bulk(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """One commit of a thousand events for each flush."""
    yield _appending(folder, sizes.bulk_fast, sizes.bulk_commit)


@contextmanager
def replay(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """`read_log` page by page, each payload decoded by msgspec directly into the same fold."""
    count = sizes.replay

    async def body(backend: Backend) -> float:
        total, after, head = 0, START, await backend.head()
        begun = perf_counter()
        while after < head:
            page = await backend.read_log(after=after, limit=PAGE_RECORDS, bytes_max=PAGE_BYTES)
            for record in page.records:
                total = add_payment(total, decode_payment(record.payload))
            after = page.examined
        rate = count / (perf_counter() - begun)
        assert total == total_of(count)
        return rate

    _appending(folder, count, sizes.bulk_commit)()
    yield _in_backend(folder, body)


ONE_WRITER = Case(NAME, one_writer, fresh=True)
BULK = Case(NAME, bulk, fresh=True)
REPLAY = Case(NAME, replay)
