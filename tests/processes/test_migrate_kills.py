"""A migration that is killed again and again, beside a process that writes: nothing is lost, nothing is there twice, and one place alone takes commits."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from perdure.backends.conformance.law import Desk
from perdure.backends.protocol import State
from perdure.backends.urls import open_backend
from perdure.runtime import open_runtime
from perdure.runtime.carry import digest_of
from perdure.runtime.migrate import roll_back
from postgres_server import Given

KILLS = 20
MIGRATE = """
import sys, trio
import perdure.runtime.pages as pages
from perdure.runtime.migrate import migrate_store
pages.PAGE_EVENTS, pages.PAGE_ROWS = 40, 20
print("begun", flush=True)
print(trio.run(lambda: migrate_store(sys.argv[1], sys.argv[2])).longest_pause_s, flush=True)
"""
KILLED_AT_ONCE = """
import os, signal, sys, trio
from perdure.runtime.carry import Carrier
from perdure.runtime.migrate import migrate_store
Carrier.begin = lambda self: os.kill(os.getpid(), signal.SIGKILL)
trio.run(lambda: migrate_store(sys.argv[1], sys.argv[2]))
"""
WRITER = """
import sys, trio
from perdure.runtime import NewEvent, open_runtime
from perdure.backends.errors import RuntimeFailed, StoreMoved
async def main():
    number = 0
    try:
        async with open_runtime(sys.argv[1]) as rt:
            while True:
                event = NewEvent({"n": number, "by": sys.argv[2]}, type="noted")
                answer = await rt.append(f"s-{number % 7}", [event], key=b"%s %d" % (sys.argv[2].encode(), number))
                print(answer.position, flush=True)
                number += 1
                await trio.sleep(0.005)
    except* (StoreMoved, RuntimeFailed):
        print("moved", flush=True)
trio.run(main)
"""


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)


async def written(url: str) -> None:
    """Enough for a migration to take a while."""
    async with open_backend(url) as backend:
        for number in range(400):
            await Desk(backend).append(f"old-{number % 9}", 10)


async def kill_some(here: str, there: str, kills: int, draw: random.Random) -> bool:
    """Begin the migration so often, and kill it; whether it came to its end before."""
    for _ in range(kills):
        child = start(MIGRATE, here, there)
        assert child.stdout is not None
        await trio.to_thread.run_sync(child.stdout.readline)
        await trio.sleep(draw.random() * 1.2)
        child.send_signal(signal.SIGKILL)
        await trio.to_thread.run_sync(child.communicate)
        if child.returncode == 0:
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lmdb", "postgresql"])
async def test_a_migration_that_is_killed_twenty_times(kind: str, tmp_path: Path, postgres: Given) -> None:
    here = f"lmdb:{tmp_path}/here"
    there = f"lmdb:{tmp_path}/there" if kind == "lmdb" else postgres.new_database()
    draw = random.Random(6)
    await written(here)
    acknowledged: list[int] = []
    killed = 0
    writer = start(WRITER, here, "a")

    while killed < KILLS:
        if await kill_some(here, there, KILLS - killed, draw):
            killed += 1
            acknowledged += [int(line) for line in writer.communicate()[0].split()[:-1]]
            await roll_back(here, there)  # nobody has written there yet: once more
            writer = start(WRITER, here, f"b{killed}")
        else:
            killed = KILLS
    last = start(MIGRATE, here, there)
    longest_pause_s = float((await trio.to_thread.run_sync(last.communicate))[0].split()[-1])
    acknowledged += [int(line) for line in writer.communicate()[0].split()[:-1]]

    assert longest_pause_s < 0.5
    async with open_backend(here) as old, open_backend(there) as new:
        assert (old.state, new.state) == (State.MOVED, State.OPEN)
        assert await digest_of(old) == await digest_of(new)
        assert await new.verify() == []
        records = await Desk(new).log()
    mine = [record.position for record in records if record.type == "noted"]
    assert set(acknowledged) <= set(mine)
    assert len(acknowledged) == len(set(acknowledged))
    async with open_runtime(there) as rt:
        await rt.append("goes-on", [])


@pytest.mark.parametrize("kind", ["lmdb", "file", "logged", "postgresql"])
async def test_a_target_that_was_made_and_not_begun_is_gone_on_with(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Between its making and the beginning of the load it is an empty store of that id, open, whose maker is gone."""
    here = f"lmdb:{tmp_path}/here"
    there = {"lmdb": f"lmdb:{tmp_path}/there", "file": f"file:{tmp_path}/there", "logged": f"lmdb:{tmp_path}/there?log=segments"}.get(kind)
    there = there or request.getfixturevalue("postgres").new_database()
    async with open_backend(here) as backend:
        await Desk(backend).append("a", 3)
    child = start(KILLED_AT_ONCE, here, there)
    await trio.to_thread.run_sync(child.communicate)
    assert child.returncode == -signal.SIGKILL
    async with open_backend(there, create=False) as made, open_backend(here) as source:
        assert (made.id, made.state, await made.head()) == (source.id, State.OPEN, 0)
        await Desk(source).append("a")

    last = start(MIGRATE, here, there)
    await trio.to_thread.run_sync(last.communicate)

    assert last.returncode == 0
    async with open_backend(here) as old, open_backend(there) as new:
        assert (old.state, new.state) == (State.MOVED, State.OPEN)
        assert await digest_of(old) == await digest_of(new)
