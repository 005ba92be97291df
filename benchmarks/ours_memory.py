"""perdure: what an idle stream actor takes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import trio
import trio.testing

from benchmarks.figures import settled_bytes, traced
from benchmarks.harness import Case, Work
from benchmarks.ours import APP, NAME, url_of
from benchmarks.payload import payment
from benchmarks.sizes import Sizes
from perdure.actors.stream import IDLE_S
from perdure.runtime import Runtime, open_runtime


@contextmanager
def idle_stream_actor(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """Bytes that go when an idle actor ends: what it took. Time stands until it is let pass, so that none ends before all are there."""

    def work() -> float:
        clock = trio.testing.MockClock()
        return trio.run(_idle_stream_actors, folder, sizes, clock, clock=clock)

    yield work


async def _idle_stream_actors(folder: Path, sizes: Sizes, clock: trio.testing.MockClock) -> float:
    streams = [f"account-{number}" for number in range(sizes.actors)]
    async with open_runtime(url_of(folder), APP) as rt:
        with traced():
            async with trio.open_nursery() as nursery:
                for writer in range(sizes.writers):
                    nursery.start_soon(_append_to_each, rt, streams[writer :: sizes.writers])
            live = await settled_bytes()
            before = _live_actors(rt)
            for _ in range(2):
                clock.jump(IDLE_S)
                await trio.testing.wait_all_tasks_blocked()
            gone = await settled_bytes()
        assert (before, _live_actors(rt)) == (sizes.actors, 0)
    return (live - gone) / sizes.actors


async def _append_to_each(rt: Runtime, streams: Sequence[str]) -> None:
    for stream in streams:
        await rt.append(stream, [payment(1)])


def _live_actors(rt: Runtime) -> int:
    streams = rt.status().find("streams")
    return len(streams.children) if streams else 0


IDLE_STREAM_ACTOR = Case(NAME, idle_stream_actor, fresh=True)
