"""How a figure is drawn from many: percentiles, instants of two processes compared, memory."""

import gc
import math
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio.testing

PAUSE_S = 0.005
"""Between two events of which each is to find its follower waiting."""

Instants = Sequence[tuple[int, int]]
"""Numbers, each with the `time.monotonic_ns` of what happened to it: one clock for all processes of a machine."""


def percentile(values: Sequence[float], share: float) -> float:
    """The least of *values* that so large a share of them does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def p50_ms(took_s: Sequence[float]) -> float:
    return percentile(took_s, 0.5) * 1_000


def p99_ms(took_s: Sequence[float]) -> float:
    return percentile(took_s, 0.99) * 1_000


def p50_us(sent: Instants, held: Instants) -> float:
    """From the one to the other of the same number; negative where the other process was first."""
    assert [number for number, _ in sent] == [number for number, _ in held]
    return percentile([(later - earlier) / 1_000 for (_, earlier), (_, later) in zip(sent, held, strict=True)], 0.5)


@contextmanager
def traced() -> Iterator[None]:
    """Memory that Python allocates meanwhile is counted."""
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


async def settled_bytes() -> int:
    """What is allocated once every task waits and garbage is gone."""
    await trio.testing.wait_all_tasks_blocked()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
