"""Eight processes write to one store in PostgreSQL, four follow: order and seqs hold, and each follower sees everything once, in order."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack

import pytest
import trio

from perdure.backends.urls import open_backend

EVENTS = int(os.environ.get("PERDURE_TEST_POSTGRES_EVENTS", "20000"))
"""100,000 where there is time for it."""
WRITERS, FOLLOWERS, PER_COMMIT = 8, 4, 5

WRITER = """
import sys, trio
from perdure.runtime import NewEvent, open_runtime
async def main(url, name, count, per):
    async with open_runtime(url) as rt:
        async def write(task):
            for number in range(count // 4 // per):
                data = [NewEvent([name, task, number * per + place], type='noted') for place in range(per)]
                answer = await rt.append(f'own-{name}-{task}', data, expected=number * per)
                answer.unwrap()
                if number % 10 == 0:
                    await rt.append('shared', [NewEvent([name, task, number], type='noted')])
        async with trio.open_nursery() as nursery:
            for task in range(4):
                nursery.start_soon(write, task)
trio.run(main, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
"""
FOLLOWER = """
import sys, trio, hashlib
from perdure.runtime import START, open_runtime
from perdure.backends.selector import EVERYTHING
async def main(url, count):
    seen, digest, last = 0, hashlib.sha256(), 0
    async with open_runtime(url) as rt:
        async with rt.subscribe(EVERYTHING, after=START) as events:
            async for one in events:
                assert one.position > last, (one.position, last)
                last = one.position
                digest.update(f'{one.position} {one.stream} {one.seq};'.encode())
                seen += 1
                if seen == count:
                    break
    print(seen, digest.hexdigest())
trio.run(main, sys.argv[1], int(sys.argv[2]))
"""


@pytest.mark.slow
async def test_eight_writers_and_four_followers(postgres):
    url = postgres.new_database()
    each = EVENTS // WRITERS
    total = WRITERS * 4 * (each // 4 // PER_COMMIT) * PER_COMMIT + WRITERS * 4 * -(-(each // 4 // PER_COMMIT) // 10)
    async with open_backend(url):
        pass
    with ExitStack() as stack:
        followers = [_start(stack, FOLLOWER, url, total) for _ in range(FOLLOWERS)]
        writers = [_start(stack, WRITER, url, name, each, PER_COMMIT) for name in range(WRITERS)]
        for writer in writers:
            assert await trio.to_thread.run_sync(writer.communicate, None, 300) == ("", None)
            assert writer.returncode == 0
        said = {(await trio.to_thread.run_sync(follower.communicate, None, 120))[0] for follower in followers}

    async with open_backend(url) as backend:
        assert await backend.verify() == []
        assert await backend.head() == total
        infos = await backend.streams(limit=99)
    assert len(said) == 1 and said.pop().startswith(f"{total} ")
    assert sorted({info.last for info in infos if info.name != "shared"}) == [each // 4 // PER_COMMIT * PER_COMMIT]
    assert len(infos) == WRITERS * 4 + 1


def _start(stack, code, *arguments):
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    stack.callback(process.kill)
    return process
