"""Another process of a row: how it is started and spoken with, and what it does (`python -m benchmarks.worker ROLE ...`).

It says "ready", is told a line where it has to wait for one, does its part, and says what it saw as a line of JSON.
Instants are those of `time.monotonic_ns`, which is one clock for all processes of a machine.
"""

import gc
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from time import monotonic_ns
from typing import Any

import attrs
import trio

from benchmarks.ours import APP, PAYMENTS
from benchmarks.payload import payments
from perdure.runtime import Runtime, open_runtime

ANSWER_S = 60
"""A worker that says nothing for so long has failed."""
PAYMENTS_COUNT = 1_000

# -- the side that starts it -----------------------------------------------------------------------


class WorkerFailed(Exception):
    """The other process ended before it had said what it was to say; its standard error has the reason."""


@attrs.define
class Worker:
    """A process under way."""

    _process: trio.Process
    _rest: bytes = b""

    async def line(self) -> str:
        """The next line that it says.

        Raises:
          WorkerFailed: it ended instead.
          TooSlowError: it says nothing.
        """
        assert self._process.stdout is not None
        with trio.fail_after(ANSWER_S):
            while b"\n" not in self._rest:
                more = await self._process.stdout.receive_some()
                if not more:
                    raise WorkerFailed(f"{self._process.args!r} ended with code {await self._process.wait()}")
                self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    async def tell(self, text: str) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(f"{text}\n".encode())


@asynccontextmanager
async def started(role: str, *arguments: object, pass_fds: Sequence[int] = ()) -> AsyncIterator[Worker]:
    """A worker in *role*, ready; it is killed if it has not ended by itself when the body is left."""
    command = [sys.executable, "-m", "benchmarks.worker", role, *map(str, arguments)]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=pass_fds)
    try:
        worker = Worker(process)
        assert await worker.line() == "ready"
        yield worker
        with trio.move_on_after(ANSWER_S):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


# -- the other side --------------------------------------------------------------------------------


def say(what: object) -> None:
    print(what, flush=True)


def say_ready() -> None:
    """What was prepared is not the collector's business any more, as on the side that starts it."""
    gc.collect()
    gc.freeze()
    say("ready")


async def write(url: str, name: str, writers: str, seconds: str) -> None:
    """So many tasks append single events from the instant told on, for so long; says how many were acknowledged in that time."""
    acknowledged, data = 0, list(payments(PAYMENTS_COUNT))

    async def writer(rt: Runtime, stream: str, end_ns: int) -> None:
        nonlocal acknowledged
        for each in cycle(data):
            await rt.append(stream, [each])
            if monotonic_ns() >= end_ns:
                return
            acknowledged += 1

    async with open_runtime(url, APP) as rt:
        say_ready()
        begin_ns = int(await trio.to_thread.run_sync(sys.stdin.readline))
        await trio.sleep((begin_ns - monotonic_ns()) / 1e9)
        async with trio.open_nursery() as nursery:
            for number in range(int(writers)):
                nursery.start_soon(writer, rt, f"account-{name}-{number}", begin_ns + int(float(seconds) * 1e9))
    say(acknowledged)


async def follow(url: str, count: str) -> None:
    """Subscribe, and say of each of so many events its position and when it was in hand."""
    held: list[tuple[int, int]] = []
    async with open_runtime(url, APP) as rt, rt.subscribe(PAYMENTS) as events:
        say_ready()
        async for each in events:
            held.append((each.position, monotonic_ns()))
            if len(held) == int(count):
                break
    say(json.dumps(held))


async def receive(fd: str, count: str) -> None:
    """Receive so many single bytes from a socket, and say of each its number and when it was in hand."""
    held: list[tuple[int, int]] = []
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=int(fd))))
    say_ready()
    for number in range(int(count)):
        await stream.receive_some(1)
        held.append((number, monotonic_ns()))
    say(json.dumps(held))


async def write_eventsourcing(*arguments: str) -> None:
    """As `write`, by eventsourcing on PostgreSQL."""
    from benchmarks.peers import postgres  # late: the other roles need no peer

    await postgres.write_ledger(*arguments)


async def write_eventsource(*arguments: str) -> None:
    """As `write`, by eventsource-py on PostgreSQL."""
    from benchmarks.peers import postgres

    await postgres.write_store(*arguments)


ROLES: dict[str, Callable[..., Awaitable[Any]]] = {
    "write": write,
    "follow": follow,
    "receive": receive,
    "write-eventsourcing": write_eventsourcing,
    "write-eventsource": write_eventsource,
}

if __name__ == "__main__":
    trio.run(ROLES[sys.argv[1]], *sys.argv[2:])
