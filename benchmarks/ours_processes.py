"""perdure on LMDB, in several processes: writers of one store, and a follower that another process wakes."""

import json
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import monotonic_ns

import trio

from benchmarks.figures import PAUSE_S, p50_us
from benchmarks.harness import Case, Work
from benchmarks.ours import NAME, in_runtime, url_of
from benchmarks.payload import payments
from benchmarks.sizes import Sizes
from benchmarks.worker import started
from perdure.runtime import Runtime

START_AFTER_S = 0.2


@contextmanager
def writers(folder: Path, sizes: Sizes, *, processes: int) -> Iterator[Work]:
    """Sixty-four tasks in each of so many processes; the rate of them all."""
    yield lambda: sum(trio.run(_acknowledged, folder, sizes, processes)) / sizes.seconds


@contextmanager
def least_share(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """The smaller part of what two such processes reach together."""

    def work() -> float:
        each = trio.run(_acknowledged, folder, sizes, 2)
        return min(each) / sum(each)

    yield work


async def _acknowledged(folder: Path, sizes: Sizes, processes: int) -> list[int]:
    """What each process got acknowledged; all open the store before any writes, and begin at one instant."""
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(started("write", url_of(folder), number, sizes.writers, sizes.seconds)) for number in range(processes)
        ]
        begin_ns = monotonic_ns() + int(START_AFTER_S * 1e9)
        for worker in workers:
            await worker.tell(str(begin_ns))
        return [int(await worker.line()) for worker in workers]


@contextmanager
def wake_up(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """p50 from an append's answer here until a subscription in another process holds the event."""

    async def body(rt: Runtime) -> float:
        answered: list[tuple[int, int]] = []
        async with started("follow", url_of(folder), sizes.wake_ups) as follower:
            for each in payments(sizes.wake_ups):
                await trio.sleep(PAUSE_S)  # the follower waits again
                appended = await rt.append("account-1", [each])
                assert appended.position is not None
                answered.append((appended.position, monotonic_ns()))
            return p50_us(answered, json.loads(await follower.line()))

    yield in_runtime(folder, body)


TWO_PROCESSES = Case(NAME, partial(writers, processes=2), fresh=True)
ONE_PROCESS = Case("perdure in one process", partial(writers, processes=1), fresh=True)
LEAST_SHARE = Case(NAME, least_share, fresh=True)
WAKE_UP = Case(NAME, wake_up, fresh=True)
