"""A process that is killed at any moment loses nothing acknowledged, and shows no half commit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from perdure.runtime import START, open_runtime
from perdure.runtime.testing import fold

CYCLES = 200
CHECKED_EVERY = 20
"""In each cycle what was acknowledged is compared; so often also every model and the whole store."""


@contextmanager
def lives(script: Path, folder: Path) -> Iterator[subprocess.Popen[Any]]:
    """The process whose children are killed."""
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    with process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def one_life(process, cycle: int, draw: random.Random, acknowledged: dict[tuple[str, str], int]) -> int:
    """Let a child write for a moment, kill it, and note what it told."""
    process.stdin.write(b"%d\n" % cycle)
    process.stdin.flush()
    told, pid, opened = 0, 0, False
    while not (pid and opened):
        line = process.stdout.readline()
        assert line, "the child could not begin"
        opened = opened or line == b"open\n"
        if line.startswith(b"pid "):
            pid = int(line[4:])
    time.sleep(draw.random() * 0.06)  # the moment of a kill is real time
    os.kill(pid, signal.SIGKILL)
    while (line := process.stdout.readline()) != b"end\n":
        kind, name, value = line.decode().split()  # nothing at all: it ended by itself
        acknowledged[kind, name] = int(value)
        told += 1
    return told


async def check_acknowledged(rt, acknowledged):
    """What was told is there; what is there may be one step ahead of what was told, and from now on must stay."""
    for (kind, name), value in list(acknowledged.items()):
        if kind == "stream":
            found = await rt.backend.stream(name)
            assert found is not None and value <= found.last <= value + 4, (name, found, value)
            acknowledged[kind, name] = found.last
        else:
            entry = await rt.kv("pairs" if kind == "pair" else "values", int).get(name)
            assert entry is not None and value <= entry.value <= value + 1, (name, entry, value)
            acknowledged[kind, name] = entry.value
    pair = await rt.backend.stream("pair-1")
    entry = await rt.kv("pairs", int).get("seq")
    assert (pair.last if pair else 0) == (entry.value if entry else 0)


async def check_models(rt, child):
    events = [found async for found in rt.read_all()]
    total, last = rt.model(child.TOTAL), rt.model(child.LAST)
    head = await rt.head()
    await total.wait_for(head)
    await last.wait_for(head)
    assert total.state == fold(child.TOTAL, events)
    assert {entry.key: entry.state async for entry in last.scan()} == fold(child.LAST, events)
    seqs: dict[str, int] = {}
    for found in events:
        assert found.seq == seqs.get(found.stream, 0) + 1 == found.data.number
        seqs[found.stream] = found.seq
    for position in {position for position in await rt.backend.snapshots("total") if position > START}:
        snapshot = await rt.backend.read_snapshot("total", at_most=position)
        assert snapshot.state == rt._codec.encoder(int)(fold(child.TOTAL, [found for found in events if found.position <= position]))
    assert await rt.backend.verify() == []


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_by_kill(load, root, tmp_path):
    child = load("tests/runtime/kill_child.py")
    draw, acknowledged, told = random.Random(7), dict[tuple[str, str], int](), 0
    script, folder = root / "tests/runtime/kill_child.py", tmp_path / "store"

    with lives(script, folder) as process:
        for cycle in range(1, CYCLES + 1):
            told += one_life(process, cycle, draw, acknowledged)
            if cycle % CHECKED_EVERY == 0:
                async with open_runtime(f"lmdb:{folder}", child.APP) as rt:
                    await check_acknowledged(rt, acknowledged)
                    await check_models(rt, child)
            else:
                async with open_runtime(f"lmdb:{folder}") as rt:
                    await check_acknowledged(rt, acknowledged)

    assert told > CYCLES
