"""The flights move from a file to LMDB, PostgreSQL and LMDB again, beside a program that writes and follows; whoever moves them is killed again and again.

`make test-moves` does it with all flights and twenty kills, and prints what each way took.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from subprocess import PIPE

import attrs
import pytest
import trio
from flights_csv import read_rows, tail_of
from flights_domain import CATEGORY
from flights_feed import to_event
from traffic import APP

from perdure.backends.conformance.law import Desk
from perdure.backends.protocol import State
from perdure.backends.urls import open_backend
from perdure.runtime import open_runtime
from perdure.runtime.carry import digest_of
from perdure.runtime.verify_models import verify_models
from postgres_server import Given

ROWS = int(os.environ.get("PERDURE_TEST_MIGRATE_ROWS", "4000"))
KILLS = int(os.environ.get("PERDURE_TEST_MIGRATE_KILLS", "4"))
SEED = int(os.environ.get("PERDURE_TEST_SEED", "6"))
PER_S = 200
PAUSE_S = 0.5
START_S = 0.4
"""What a Python takes to begin: a kill before that kills nothing."""
TRAFFIC = Path(__file__).with_name("traffic.py")
KILLED = -9


@attrs.define
class Moves:
    """Migrations of one store beside its program, and how they went."""

    journal: Path
    random: random.Random
    whole_s: float
    """What a migration takes that nobody kills, about."""
    killed: int = 0
    runs: int = 0
    told: list[str] = attrs.field(factory=list)

    # -- the program -------------------------------------------------------------------------

    @asynccontextmanager
    async def traffic(self, url: str, target: str = "") -> AsyncIterator[subprocess.Popen[str]]:
        """The program on the store at *url*, which it has opened; at the end it is asked to stop, unless it was killed."""
        self.runs += 1
        line = [sys.executable, str(TRAFFIC), url, str(self.journal), str(PER_S), f"live{self.runs}n", *([target] if target else [])]
        with self.journal.with_name("said").open("a") as log, subprocess.Popen(line, stdin=PIPE, stdout=PIPE, stderr=log, text=True) as program:
            try:
                await said(program)
                yield program
                await trio.to_thread.run_sync(program.communicate)
                assert program.returncode in (0, KILLED)
            finally:
                program.kill()

    async def move_itself(self, source: str, target: str, kills: int) -> None:
        """Let the program bring the store elsewhere under itself, killed so often, or until it was faster than that."""
        began, arrived, before = trio.current_time(), "", self.killed
        while not arrived:
            async with self.traffic(source, target) as program:
                with trio.move_on_after(self.delay_s() if self.killed < before + kills else 60):
                    arrived = await said(program)
                if not arrived and program.poll() is None:
                    program.kill()
                    self.killed += 1
            if self.journal.read_text().endswith("run\nmoved\n"):  # it was killed behind the mark
                arrived = str((await self.command(source, target))["log_digest"])
        pause_s = max([float(line.split()[1]) for line in self.journal.read_text().splitlines() if line.startswith("arrived")], default=0.0)
        self.note(source, target, self.killed - before, trio.current_time() - began, pause_s)
        async with open_backend(source) as old:
            assert (await digest_of(old)).log == arrived.strip()

    # -- the command -------------------------------------------------------------------------

    async def command(self, source: str, target: str, *options: str, kill: bool = False) -> dict[str, object]:
        """`perdure migrate`, which may be killed; what it says, nothing if it was."""
        line = [sys.executable, "-m", "perdure.runtime", "migrate", source, target, *options, "--json"]
        with subprocess.Popen(line, stdout=PIPE, stderr=PIPE, text=True) as child:
            if kill:
                with trio.move_on_after(START_S + self.delay_s(0.5)):
                    while child.poll() is None:  # noqa: ASYNC110 - it is no child of Trio's
                        await trio.sleep(0.02)
                child.kill()
            out, err = await trio.to_thread.run_sync(child.communicate)
        if child.returncode == KILLED:
            self.killed += 1
            return {}
        assert child.returncode == 0, err
        return dict(json.loads(out))

    async def move(self, source: str, target: str, kills: int) -> None:
        """Let the command bring it there, killed so often; after the first time that it arrives, and wherever it was too fast, it is taken back."""
        began, before, pauses, done = trio.current_time(), self.killed, list[float](), dict[str, object]()
        while not done:
            async with self.traffic(source):
                while not done:
                    done = await self.command(source, target, kill=self.killed < before + kills)
            pauses.append(float(str(done["longest_pause_s"])))
            await self.check(source, target, str(done["log_digest"]))
            if len(pauses) == 1 or self.killed < before + kills:
                await self.command(source, target, "--rollback")
                done = {}
        self.note(source, target, kills, trio.current_time() - began, max(pauses), f", rolled back {len(pauses) - 1} times")

    async def check(self, source: str, target: str, digest: str) -> None:
        """Both places hold the same, and one alone takes commits."""
        async with open_backend(source) as old, open_backend(target) as new:
            assert (old.state, new.state) == (State.MOVED, State.OPEN)
            here, there = await digest_of(old), await digest_of(new)
        assert here == there
        assert digest in ("", here.log)

    # -- both --------------------------------------------------------------------------------

    def delay_s(self, more_s: float = 0.0) -> float:
        """When the next kill comes."""
        return self.random.random() * (self.whole_s + more_s)

    def note(self, source: str, target: str, kills: int, took_s: float, pause_s: float, more: str = "") -> None:
        """Keep how a way went."""
        way = f"{source.partition(':')[0]} to {target.partition(':')[0]}"
        self.told.append(f"{way}: {took_s:.1f} s, killed {kills} times{more}, writers waited for {pause_s * 1e3:.0f} ms at most")
        assert pause_s < PAUSE_S


async def said(program: subprocess.Popen[str]) -> str:
    """Its next line; nothing at its end."""
    assert program.stdout is not None
    return await trio.to_thread.run_sync(program.stdout.readline, abandon_on_cancel=True)


async def fill(url: str) -> None:
    """The flights, as they come."""
    left_to_read = read_rows(ROWS)
    async with open_runtime(url) as rt:
        while rows := list(islice(left_to_read, 12_000)):
            by_stream = defaultdict(list)
            for row in rows:
                by_stream[f"{CATEGORY}-{tail_of(row)}"].append(to_event(row))
            async with trio.open_nursery() as nursery:
                for stream, events in by_stream.items():
                    nursery.start_soon(rt.append, stream, events)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
async def test_the_flights_move_however_often_who_moves_them_is_killed(tmp_path: Path, postgres: Given, capsys: pytest.CaptureFixture[str]) -> None:
    places = [f"file:{tmp_path}/a", f"lmdb:{tmp_path}/b", postgres.new_database(), f"lmdb:{tmp_path}/c"]
    moves = Moves(tmp_path / "journal", random.Random(SEED), whole_s=ROWS / 30_000)
    await fill(places[0])

    await moves.move_itself(places[0], places[1], KILLS // 4)
    await moves.move(places[1], places[2], (KILLS - moves.killed) // 2)
    await moves.move(places[2], places[3], KILLS - moves.killed)
    async with moves.traffic(places[3]):
        await trio.sleep(1)

    waits_s = await check_journal(moves.journal, places[3])
    with capsys.disabled():
        print("", *moves.told, f"killed {moves.killed} times; {len(waits_s):,} appends, the longest took {max(waits_s) * 1e3:.0f} ms", sep="\n")
    assert moves.killed >= KILLS


async def check_journal(journal: Path, url: str) -> list[float]:
    """What was acknowledged is there, once; the follower saw all, in order, in each of its runs; models are what they say. How long appends took."""
    appended: dict[int, str] = {}
    waits_s, seen, farthest = list[float](), 0, 0
    for line in journal.read_text(encoding="utf-8").splitlines():
        what, *rest = line.split()
        if what == "run":
            seen = 0
        elif what == "seen":
            position = int(rest[0])
            assert position == seen + 1 if seen else position <= farthest + 1
            seen, farthest = position, max(position, farthest)
        elif what == "append":
            assert int(rest[0]) not in appended
            appended[int(rest[0])] = rest[1]
            waits_s.append(float(rest[2]))
    async with open_backend(url) as backend:
        records = await Desk(backend).log()
        assert await backend.verify() == []
        reports = await verify_models(backend, APP)
    assert [record.position for record in records] == list(range(1, len(records) + 1))
    assert {position: records[position - 1].stream for position in appended} == appended
    assert farthest == len(records)
    assert all(report.checked and not report.problems for report in reports)
    return waits_s
