"""perdure on LMDB: how long until an append is answered and seen, alone and while the same loop does other work.

A single append is made after the answer to the last one. Under load they come at fixed instants, and each is timed from the
instant at which it was due, so that a loop held up before the call counts as one held up after it.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count as numbers
from pathlib import Path
from time import perf_counter

import trio

from benchmarks.figures import p50_ms, p99_ms
from benchmarks.harness import Case, Work
from benchmarks.ours import NAME, PAYMENTS, account_of, copy_filled, in_runtime, step
from benchmarks.payload import payments
from benchmarks.sizes import Sizes
from perdure.runtime import App, Keyed, Projection, Runtime

STREAM = "account-1"
REQUEST_EVERY_S = 0.005

accounts = partial(Keyed, version=1, initial=0, step=step, events=PAYMENTS, key=account_of)
ACCOUNTS = accounts("accounts")
TOTAL = Projection("total", version=1, initial=0, step=step, events=PAYMENTS)


@contextmanager
def visible_durable(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """p50 from an append until `get` of a keyed model, which shows only what is durable, gives the new state."""

    async def body(rt: Runtime) -> float:
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

    yield in_runtime(folder, body, App(projections=[ACCOUNTS]))


@contextmanager
def visible_memory(folder: Path, sizes: Sizes, *, seen: bool) -> Iterator[Work]:
    """p50 from an append until its answer or, *seen*, until a single-value model shows it; what the program does is the same in both."""

    async def body(rt: Runtime) -> float:
        model, took_s, total = rt.model(TOTAL), [], 0
        for each in payments(sizes.visible):
            total += each.cents
            begun = perf_counter()
            appended = await rt.append(STREAM, [each])
            answered = perf_counter()
            assert appended.position is not None
            await model.wait_for(appended.position)
            state = model.state
            took_s.append((perf_counter() if seen else answered) - begun)
            assert state == total
        return p50_ms(took_s)

    yield in_runtime(folder, body, App(projections=[TOTAL]))


@contextmanager
def one_writer(folder: Path, sizes: Sizes, *, projection: bool) -> Iterator[Work]:
    """One event for each `append`, one after the other; with a durable *projection* until it shows the last of them."""
    data = list(payments(sizes.one_writer))

    async def body(rt: Runtime) -> float:
        begun = perf_counter()
        for each in data:
            await rt.append(STREAM, [each])
        if projection:
            await rt.model(ACCOUNTS).wait_for(await rt.head())
        return len(data) / (perf_counter() - begun)

    yield in_runtime(folder, body, App(events=PAYMENTS, projections=[ACCOUNTS] if projection else []))


# -- while the loop does other work ----------------------------------------------------------------


@contextmanager
def p99_append(folder: Path, sizes: Sizes, *, beside: Callable[[], Callable[[Runtime], Awaitable[None]]]) -> Iterator[Work]:
    """p99 of single appends, one each 5 ms, *beside* other work in the same loop, on a log that holds much already."""
    copy_filled(folder, sizes.behind, sizes)
    other_work = beside()

    async def body(rt: Runtime) -> float:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other_work, rt)
            took_s = await _requests(rt, sizes.requests)
            nursery.cancel_scope.cancel()
        return p99_ms(took_s)

    yield in_runtime(folder, body)


async def _requests(rt: Runtime, count: int) -> list[float]:
    took_s = []
    for each in payments(count):
        due = trio.current_time() + REQUEST_EVERY_S
        await trio.sleep_until(due)
        await rt.append("request-1", [each])
        took_s.append(trio.current_time() - due)
    return took_s


def nothing() -> Callable[[Runtime], Awaitable[None]]:
    async def work(rt: Runtime) -> None:
        await trio.sleep_forever()

    return work


def replay() -> Callable[[Runtime], Awaitable[None]]:
    """The whole log by `read_all`, again and again."""

    async def work(rt: Runtime) -> None:
        while True:
            total = 0
            async for each in rt.read_all(PAYMENTS):
                total = step(total, each)

    return work


def catch_up() -> Callable[[Runtime], Awaitable[None]]:
    """A keyed projection from nothing to the head, then another one, and so on."""
    names = (f"accounts-{number}" for number in numbers())

    async def work(rt: Runtime) -> None:
        for name in names:
            async with trio.open_nursery() as nursery:
                model = await nursery.start(rt.project, accounts(name))
                await model.wait_for(await rt.head())
                nursery.cancel_scope.cancel()

    return work


VISIBLE_DURABLE = Case(NAME, visible_durable, fresh=True)
VISIBLE_MEMORY = Case(NAME, partial(visible_memory, seen=True), fresh=True)
ANSWERED = Case("the append itself", partial(visible_memory, seen=False), fresh=True)
WRITER_WITH_PROJECTION = Case(NAME, partial(one_writer, projection=True), fresh=True)
WRITER_ALONE = Case("perdure without", partial(one_writer, projection=False), fresh=True)
P99_IDLE = Case("perdure idle", partial(p99_append, beside=nothing))
P99_UNDER_REPLAY = Case(NAME, partial(p99_append, beside=replay))
P99_UNDER_CATCH_UP = Case(NAME, partial(p99_append, beside=catch_up))
