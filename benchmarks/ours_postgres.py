"""perdure on PostgreSQL, on the same server as its peers."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from itertools import count as numbers
from pathlib import Path
from time import monotonic_ns, perf_counter
from typing import Any

import trio

from benchmarks.figures import p50_ms
from benchmarks.harness import Case, Work
from benchmarks.ours import APP, NAME, PAYMENTS, TOTAL, account_of, append_all, step
from benchmarks.ours_latency import ACCOUNTS, STREAM
from benchmarks.ours_processes import START_AFTER_S
from benchmarks.ours_segments import bulk, one_writer, writers
from benchmarks.payload import payments, total_of
from benchmarks.server import database_of
from benchmarks.sizes import Sizes
from benchmarks.worker import started
from perdure.runtime import App, Keyed, Projection, Runtime, open_runtime


@contextmanager
def case(folder: Path, sizes: Sizes, *, body: Callable[[Runtime, int, Sizes], Awaitable[float]], app: App = APP) -> Iterator[Work]:
    """*body* with an open runtime; it times itself."""
    url, rounds = database_of(folder), numbers()

    async def run() -> float:
        async with open_runtime(url, app) as rt:
            return await body(rt, next(rounds), sizes)

    yield lambda: trio.run(run)


async def _fill(url: str, count: int, commit: int) -> None:
    async with open_runtime(url, APP) as rt:
        await append_all(rt, STREAM, list(payments(count)), commit)


@contextmanager
def replay(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """`fold` over one stream that holds everything."""
    url, count = database_of(folder), sizes.replay // 5
    trio.run(_fill, url, count, sizes.bulk_commit)

    async def run() -> float:
        async with open_runtime(url, APP) as rt:
            begun = perf_counter()
            total, last = await rt.fold(STREAM, TOTAL)
            rate = count / (perf_counter() - begun)
            assert (total, last) == (total_of(count), count)
            return rate

    yield lambda: trio.run(run)


@contextmanager
def catch_up(folder: Path, sizes: Sizes, *, projection_of: Callable[..., Any]) -> Iterator[Work]:
    """A projection from nothing to the head, all of it durable: from before opening until after closing."""
    url, count = database_of(folder), sizes.catch_up // 5
    trio.run(_fill, url, count, sizes.bulk_commit)
    names = (f"total-{number}" for number in numbers())

    async def run() -> float:
        projection = projection_of(next(names))
        begun = perf_counter()
        async with open_runtime(url, App(projections=[projection])) as rt:
            await rt.model(projection).wait_for(await rt.head())
        return count / (perf_counter() - begun)

    yield lambda: trio.run(run)


async def visible(rt: Runtime, number: int, sizes: Sizes) -> float:
    """p50 from an append until `get` of a keyed model, which shows only what is durable, gives the new state."""
    model, took_s = rt.model(ACCOUNTS), []
    for each in payments(sizes.visible):  # each of another account
        begun = perf_counter()
        appended = await rt.append(STREAM, [each])
        assert appended.position is not None
        await model.wait_for(appended.position)
        state = await model.get(each.account)
        took_s.append(perf_counter() - begun)
        assert state == each.cents
    return p50_ms(took_s)


@contextmanager
def processes(folder: Path, sizes: Sizes, *, role: str, count: int, tasks: int) -> Iterator[Work]:
    """So many tasks in each of so many processes; the rate of them all."""
    url = database_of(folder)
    yield lambda: trio.run(_acknowledged, role, url, count, tasks, sizes.seconds) / sizes.seconds


async def _acknowledged(role: str, url: str, count: int, tasks: int, seconds: float) -> int:
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(started(role, url, number, tasks, seconds)) for number in range(count)]
        begin_ns = monotonic_ns() + int(START_AFTER_S * 1e9)
        for worker in workers:
            await worker.tell(str(begin_ns))
        return sum([int(await worker.line()) for worker in workers])


ONE_WRITER = Case(NAME, partial(case, body=one_writer), fresh=True)
WRITERS = Case(NAME, partial(case, body=writers), fresh=True)
BULK = Case(NAME, partial(case, body=bulk), fresh=True)
REPLAY = Case(NAME, replay)
CATCH_UP_SINGLE = Case(NAME, partial(catch_up, projection_of=partial(Projection, version=1, initial=0, step=step, events=PAYMENTS)))
CATCH_UP_KEYED = Case(NAME, partial(catch_up, projection_of=partial(Keyed, version=1, initial=0, step=step, events=PAYMENTS, key=account_of)))
VISIBLE = Case(NAME, partial(case, body=visible, app=App(projections=[ACCOUNTS])), fresh=True)
EIGHT_PROCESSES = Case(NAME, partial(processes, role="write", count=8, tasks=8), fresh=True)
ONE_PROCESS = Case("perdure in one process", partial(processes, role="write", count=1, tasks=8), fresh=True)
