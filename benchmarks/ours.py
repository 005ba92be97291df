"""perdure on LMDB: the subject of every row.

Each work opens the runtime, does its work, and closes it; only the work is timed, except for catching up, where the time runs
from before opening until after closing, because the last snapshot is written at the close and a state counts when it is durable.
"""

import math
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count as numbers
from pathlib import Path
from time import perf_counter
from typing import Any

import attrs
import lmdb
import trio

from benchmarks.harness import Case, Work, constant
from benchmarks.payload import PAYLOAD_BYTES, Payment, payments, total_of
from benchmarks.sizes import Sizes
from perdure.backends.urls import open_backend
from perdure.runtime import App, Append, Event, Fold, Keyed, Projection, event, of, open_runtime

NAME = "perdure"
TABLES_COUNT_MAX = 64

event("payment-made", version=1)(Payment)
PAYMENTS = of(Payment)
APP = App(events=PAYMENTS)


def step(total: int, event: Event[Payment]) -> int:
    return total + event.data.cents


def account_of(event: Event[Payment]) -> str:
    return event.data.account


TOTAL = Fold(initial=0, step=step)


def url_of(folder: Path) -> str:
    return f"lmdb:{folder / 'store'}"


def in_runtime(folder: Path, body: Callable[[Any], Awaitable[float]], app: App = APP) -> Work:
    """*body* with an open runtime in a Trio run of its own; it times itself, so that neither is counted."""

    async def run() -> float:
        async with open_runtime(url_of(folder), app) as rt:
            return await body(rt)

    return lambda: trio.run(run)


async def append_each(rt: Any, stream: str, data: Sequence[Payment]) -> None:
    for each in data:
        await rt.append(stream, [each])


async def append_all(rt: Any, stream: str, data: Sequence[Payment], commit: int) -> None:
    for start in range(0, len(data), commit):
        await rt.append(stream, data[start : start + commit])


async def _append_interleaved(rt: Any, streams: Sequence[str], each_count: int, commit: int) -> None:
    """*each_count* events for each of *streams*, in turn; a commit takes one event for each of many streams."""
    for turn in range(each_count):
        data = list(payments(len(streams), start=turn * len(streams)))
        for start in range(0, len(streams), commit):
            here = slice(start, start + commit)
            (await rt.transact(*(Append(stream, [each]) for stream, each in zip(streams[here], data[here], strict=True)))).unwrap()


@contextmanager
def one_writer(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """One event for each `append`, one after the other."""
    yield _one_writer(folder, sizes)


def _one_writer(folder: Path, sizes: Sizes) -> Work:
    data = list(payments(sizes.one_writer))
    streams = (f"account-one-{number}" for number in numbers())

    async def body(rt: Any) -> float:
        begun = perf_counter()
        await append_each(rt, next(streams), data)
        return len(data) / (perf_counter() - begun)

    return in_runtime(folder, body)


@contextmanager
def writers(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """Sixty-four tasks, each appending single events to a stream of its own, through stream actors."""
    yield _writers(folder, sizes)


def _writers(folder: Path, sizes: Sizes) -> Work:
    data = [list(payments(sizes.writers_ours // sizes.writers)) for _ in range(sizes.writers)]
    rounds = numbers()

    async def body(rt: Any) -> float:
        number = next(rounds)
        begun = perf_counter()
        async with trio.open_nursery() as nursery:
            for writer, each in enumerate(data):
                nursery.start_soon(append_each, rt, f"account-{writer}-{number}", each)
        return sizes.writers_ours / (perf_counter() - begun)

    return in_runtime(folder, body)


@contextmanager
def bulk(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """A thousand events for each `append`."""
    yield _bulk(folder, sizes)


def _bulk(folder: Path, sizes: Sizes) -> Work:
    data = list(payments(sizes.bulk_fast))
    streams = (f"account-bulk-{number}" for number in numbers())

    async def body(rt: Any) -> float:
        begun = perf_counter()
        await append_all(rt, next(streams), data, sizes.bulk_commit)
        return len(data) / (perf_counter() - begun)

    return in_runtime(folder, body)


@contextmanager
def replay(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """`fold` over one stream that holds everything."""
    copy_filled(folder, sizes.replay, sizes)

    async def body(rt: Any) -> float:
        begun = perf_counter()
        total, last = await rt.fold("account-1", TOTAL)
        rate = sizes.replay / (perf_counter() - begun)
        assert (total, last) == (total_of(sizes.replay), sizes.replay)
        return rate

    yield in_runtime(folder, body)


@contextmanager
def read_all(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """`async for` over the whole log, event by event, into the same fold."""
    copy_filled(folder, sizes.replay, sizes)
    yield _read_all(folder, sizes.replay)


def _read_all(folder: Path, events_min: int) -> Work:
    async def body(rt: Any) -> float:
        total = seen = 0
        begun = perf_counter()
        while seen < events_min:  # a short log is read again and again
            async for each in rt.read_all(PAYMENTS):
                total = step(total, each)
                seen += 1
        return seen / (perf_counter() - begun)

    return in_runtime(folder, body)


def _run(folder: Path, body: Callable[[Any], Awaitable[None]]) -> None:
    """*body* with an open runtime, to prepare."""

    async def run() -> None:
        async with open_runtime(url_of(folder), APP) as rt:
            await body(rt)

    trio.run(run)


def _fill(folder: Path, count: int, commit: int) -> None:
    async def body(rt: Any) -> None:
        await append_all(rt, "account-1", list(payments(count)), commit)

    _run(folder, body)


def copy_filled(folder: Path, count: int, sizes: Sizes) -> None:
    _copy_template(folder, f"one-stream-{count}", lambda place: _fill(place, count, sizes.bulk_commit))


def _copy_template(folder: Path, name: str, fill: Callable[[Path], None]) -> None:
    """A copy of the store that *fill* makes, in *folder*; made once in a run, beside the folders of the rows."""
    template = folder.parent.parent / "templates" / name
    if not template.exists():
        template.mkdir(parents=True)
        fill(template)
    shutil.copytree(template, folder, dirs_exist_ok=True)


@contextmanager
def catch_up_single(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """A single-value projection from nothing to the head, its last snapshot durable."""

    async def check(rt: Any, projection: Any) -> int:
        return int((await rt.model(projection).refresh()).state)

    yield _catch_up(folder, sizes, partial(Projection, version=1, initial=0, step=step, events=PAYMENTS), check)


@contextmanager
def catch_up_keyed(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """A keyed projection of 10,000 keys from nothing to the head, all states durable."""

    async def check(rt: Any, projection: Any) -> int:
        return sum([entry.state async for entry in rt.model(projection).scan()])

    yield _catch_up(folder, sizes, partial(Keyed, version=1, initial=0, step=step, events=PAYMENTS, key=account_of), check)


def _catch_up(folder: Path, sizes: Sizes, projection_of: Callable[..., Any], check: Callable[[Any, Any], Awaitable[int]]) -> Work:
    copy_filled(folder, sizes.catch_up, sizes)
    names = (f"total-{number}" for number in numbers())

    async def run() -> float:
        projection = projection_of(next(names))
        begun = perf_counter()
        async with open_runtime(url_of(folder), App(projections=[projection])) as rt:
            await rt.model(projection).wait_for(await rt.head())
        rate = sizes.catch_up / (perf_counter() - begun)
        async with open_runtime(url_of(folder), APP) as rt:  # nobody runs it here: what is read is what is durable
            assert await check(rt, projection) == total_of(sizes.catch_up)
        return rate

    return lambda: trio.run(run)


@contextmanager
def fold_streams(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """`fold` of each of 10,000 streams whose events lie interleaved in the log."""
    streams = [f"account-{number}" for number in range(sizes.fold_streams)]

    async def fill(rt: Any) -> None:
        await _append_interleaved(rt, streams, sizes.fold_stream_events, sizes.bulk_commit)

    _run(folder, fill)
    yield _fold_streams(folder, streams, sizes.fold_stream_events)


def _fold_streams(folder: Path, streams: Sequence[str], each_count: int) -> Work:
    async def body(rt: Any) -> float:
        events = 0
        begun = perf_counter()
        for stream in streams:
            _, last = await rt.fold(stream, TOTAL)
            events += last
        rate = events / (perf_counter() - begun)
        assert events == len(streams) * each_count
        return rate

    return in_runtime(folder, body)


def _streams_of(count: int, sizes: Sizes) -> list[str]:
    return [f"base-{number}" for number in range(math.ceil(count / sizes.fold_stream_events))]


def _grown_fold_streams(folder: Path, sizes: Sizes) -> Work:
    return _fold_streams(folder, _streams_of(sizes.small, sizes), sizes.fold_stream_events)


def _grown_read_all(folder: Path, sizes: Sizes) -> Work:
    return _read_all(folder, 10 * sizes.small)


@contextmanager
def _standing_on(folder: Path, sizes: Sizes, *, events: Callable[[Sizes], int], work: Callable[[Path, Sizes], Work]) -> Iterator[Work]:
    """*work* on a store that holds so many events already, interleaved in streams of 20."""

    count = events(sizes)

    async def fill(rt: Any) -> None:
        await _append_interleaved(rt, _streams_of(count, sizes), sizes.fold_stream_events, sizes.bulk_commit)

    _copy_template(folder, f"interleaved-{count}", lambda place: _run(place, fill))
    yield work(folder, sizes)


def grown(work: Callable[[Path, Sizes], Work]) -> tuple[Case, Case]:
    """*work* on a store of 1,000,000 events, and on one of 10,000."""
    return (
        Case("perdure at 1M", partial(_standing_on, events=lambda sizes: sizes.grown, work=work)),
        Case("perdure at 10k", partial(_standing_on, events=lambda sizes: sizes.small, work=work)),
    )


@contextmanager
def disk_bulk(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """Bytes in use for each event appended a thousand at a time, after merging."""

    def work() -> float:
        _fill(folder, sizes.disk_bulk, sizes.bulk_commit)
        trio.run(_merge_all, folder)
        return used_bytes(folder) / sizes.disk_bulk

    yield work


@contextmanager
def disk_interleaved(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """Bytes in use for each event appended by 64 writers at once, before anything is merged."""
    count = sizes.disk_interleaved

    def work() -> float:
        _writers(folder, attrs.evolve(sizes, writers_ours=count))()
        return used_bytes(folder) / count

    yield work


@contextmanager
def disk_interleaved_merged(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """The same after merging."""
    count = sizes.disk_interleaved

    def work() -> float:
        _writers(folder, attrs.evolve(sizes, writers_ours=count))()
        trio.run(_merge_all, folder)
        return used_bytes(folder) / count

    yield work


async def _merge_all(folder: Path) -> None:
    async with open_backend(url_of(folder)) as backend:
        while await backend.maintain():
            pass


def used_bytes(folder: Path) -> int:
    """Pages in use in the LMDB file of a closed store; free pages, which later writes take, are not counted."""
    with lmdb.open(str(folder / "store"), readonly=True, lock=False, max_dbs=TABLES_COUNT_MAX) as env, env.begin() as txn:
        names = [name for name, _ in txn.cursor()]
        stats = [env.stat(), *(txn.stat(env.open_db(name, txn=txn, create=False)) for name in names)]
    return sum(stat["psize"] * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]) for stat in stats)


ONE_WRITER = Case(NAME, one_writer, fresh=True)
WRITERS = Case(NAME, writers, fresh=True)
BULK = Case(NAME, bulk, fresh=True)
REPLAY = Case(NAME, replay)
READ_ALL = Case(NAME, read_all)
CATCH_UP_SINGLE = Case(NAME, catch_up_single)
CATCH_UP_KEYED = Case(NAME, catch_up_keyed)
FOLD_STREAMS = Case(NAME, fold_streams)
GROWTH = {
    "one-writer": grown(_one_writer),
    "64-writers": grown(_writers),
    "bulk-1000": grown(_bulk),
    "read-all": grown(_grown_read_all),
    "fold-streams": grown(_grown_fold_streams),
}
DISK_BULK = Case(NAME, disk_bulk, fresh=True)
DISK_INTERLEAVED = Case(NAME, disk_interleaved, fresh=True)
DISK_INTERLEAVED_MERGED = Case(NAME, disk_interleaved_merged, fresh=True)
PAYLOAD = constant("payload bytes", PAYLOAD_BYTES)
