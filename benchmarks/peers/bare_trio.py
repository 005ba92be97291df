"""Trio by hand: what an actor and a wake-up are made of, without perdure."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic_ns

import trio

from benchmarks.figures import PAUSE_S, p50_us, settled_bytes, traced
from benchmarks.harness import Case, Work
from benchmarks.sizes import Sizes
from benchmarks.worker import started

MAILBOX = 256


@contextmanager
def hop(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """p50 of one byte over a Unix socket to another process, from before it is sent until it is in hand there."""
    yield lambda: trio.run(_hop, sizes.wake_ups)


async def _hop(count: int) -> float:
    here, there = socket.socketpair()
    sent: list[tuple[int, int]] = []
    async with trio.SocketStream(trio.socket.from_stdlib_socket(here)) as stream, started("receive", there.fileno(), count, pass_fds=[there.fileno()]) as other:
        there.close()
        for number in range(count):
            await trio.sleep(PAUSE_S)
            sent.append((number, monotonic_ns()))
            await stream.send_all(b".")
        return p50_us(sent, json.loads(await other.line()))


@contextmanager
def idle_task(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """Bytes of a task that waits at a memory channel, and of the channel's ends."""
    yield lambda: trio.run(_idle_tasks, sizes.actors)


async def _idle_tasks(count: int) -> float:
    with traced():
        async with trio.open_nursery() as nursery:
            ends = [_start(nursery) for _ in range(count)]
            live = await settled_bytes()
            while ends:
                ends.pop().close()
        return (live - await settled_bytes()) / count


def _start(nursery: trio.Nursery) -> trio.MemorySendChannel[None]:
    send, receive = trio.open_memory_channel[None](MAILBOX)
    nursery.start_soon(_idle, receive)
    return send


async def _idle(receive: trio.MemoryReceiveChannel[None]) -> None:
    async for _ in receive:
        pass


HOP = Case("bare Unix socket", hop, fresh=True)
IDLE_TASK = Case("bare Trio task", idle_task, fresh=True)
