"""Three processes on one store: `python examples/three_processes.py [SECONDS]`.

A writer books on a hundred accounts, a daemon keeps two models of them, a follower audits every event.
While they run each of them is killed (SIGKILL) again and again and started anew, and once the writer is
frozen (SIGSTOP) for a moment. At the end the proof: nothing acknowledged is lost, the follower saw
everything once and in order in each of its runs, and both models equal the fold of the log.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path

import attrs
import trio

from perdure.runtime import START, App, Event, Keyed, Projection, event, of, open_runtime

ACCOUNTS = 100
CLERKS = 8


@event("booked", version=1)
@attrs.frozen
class Booked:
    cents: int


def add(cents: int, event: Event[Booked]) -> int:
    return cents + event.data.cents


BALANCES = Keyed("balances", version=1, initial=0, step=add, events=of(Booked), key=lambda event: event.stream)
TOTAL = Projection("total", version=1, initial=0, step=add, events=of(Booked))
APP = App(projections=[BALANCES, TOTAL])


# -- the three -------------------------------------------------------------------------------


async def write(url: str, journal: int) -> None:
    """Book for ever; what is acknowledged is noted before the clerk goes on."""
    async with open_runtime(url) as rt, trio.open_nursery() as clerks:

        async def clerk(number: int) -> None:
            draw = random.Random(os.getpid() + number)
            while True:
                answer = await rt.append(f"account-{draw.randrange(ACCOUNTS)}", [Booked(draw.randrange(-500, 1_000))])
                os.write(journal, b"%d\n" % (answer.position or 0))

        for number in range(CLERKS):
            clerks.start_soon(clerk, number)


async def project(url: str, journal: int) -> None:
    """Keep the models; the supervisor does the work."""
    async with open_runtime(url, APP):
        await trio.sleep_forever()


async def follow(url: str, journal: int) -> None:
    """Audit: note each event's position. The name keeps the place: a new run goes on where the last was done."""
    async with open_runtime(url) as rt, rt.subscribe(of(Booked), after=START, name="audit") as events:
        async for booked in events:
            os.write(journal, b"%d\n" % booked.position)


ROLES = {"writer": write, "daemon": project, "follower": follow}


async def play(role: str, folder: Path) -> None:
    """Run one role until SIGTERM, then close in order."""
    journal = os.open(folder / f"{role}-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with trio.open_signal_receiver(signal.SIGTERM) as stopped:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ROLES[role], f"lmdb:{folder / 'store'}", journal)
            await anext(stopped)
            nursery.cancel_scope.cancel()


# -- what is done to them --------------------------------------------------------------------


class Cast:
    """The processes, each started again when it was killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.starts: Counter[str] = Counter()
        self.running = {role: self._start(role) for role in ROLES}

    def _start(self, role: str) -> subprocess.Popen[bytes]:
        self.starts[role] += 1
        return subprocess.Popen([sys.executable, __file__, "--play", role, str(self.folder)])

    def kill(self, role: str) -> None:
        """End it as a power button would, and start it again."""
        self.running[role].kill()
        self.running[role].wait()
        self.running[role] = self._start(role)

    async def freeze(self, role: str, seconds: float) -> None:
        """Stop it in its tracks for a while."""
        self.running[role].send_signal(signal.SIGSTOP)
        await trio.sleep(seconds)
        self.running[role].send_signal(signal.SIGCONT)

    async def stop(self, role: str) -> None:
        """Let it close in order."""
        process = self.running[role]
        process.terminate()
        with trio.fail_after(30):
            await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)


@asynccontextmanager
async def cast(folder: Path) -> AsyncIterator[Cast]:
    """The three processes; none outlives this."""
    players = Cast(folder)
    try:
        yield players
    finally:
        for process in players.running.values():
            process.send_signal(signal.SIGCONT)
            process.kill()


def noted(folder: Path, role: str) -> list[list[int]]:
    """What each run of a role noted; a last line that was cut short by a kill does not count."""
    return [[int(line) for line in file.read_bytes().split(b"\n")[:-1]] for file in sorted(folder.glob(f"{role}-*"))]


async def main(seconds: float) -> int:
    """Run, kill, freeze, stop, prove; 1 if the proof fails."""
    folder, draw = Path(tempfile.mkdtemp(prefix="three-processes-")), random.Random(7)
    try:
        async with cast(folder) as players:
            until = trio.current_time() + seconds
            for role in cycle(ROLES):
                await trio.sleep(draw.uniform(0.6, 1.4))
                if trio.current_time() >= until:
                    break
                print(f"  {role} is killed and started again", flush=True)
                players.kill(role)
            print("  the writer is frozen for a moment", flush=True)
            await players.freeze("writer", 0.5)
            await players.stop("writer")
            await caught_up(folder)
            await players.stop("daemon")
            await players.stop("follower")
            starts = players.starts
        return await prove(folder, starts)
    finally:
        shutil.rmtree(folder)


async def caught_up(folder: Path) -> None:
    """Return when the models and the audit stand at the head; all of it is seen from this fourth process."""
    async with open_runtime(f"lmdb:{folder / 'store'}") as rt:
        head = await rt.head()
        with trio.fail_after(60):
            while (await rt.model(BALANCES).refresh()).position < head or max(map(max, filter(None, noted(folder, "follower"))), default=0) < head:
                await trio.sleep(0.05)


async def prove(folder: Path, starts: Counter[str]) -> int:
    """Compare what was acknowledged, seen and projected with the log itself."""
    acknowledged = [position for run in noted(folder, "writer") for position in run]
    async with open_runtime(f"lmdb:{folder / 'store'}") as rt:
        log = [(booked.position, booked.stream, booked.data.cents) async for booked in rt.read_all(of(Booked))]
        positions, balances = [position for position, _, _ in log], Counter[str]()
        for _, account, cents in log:
            balances[account] += cents
        balance_model, total_model = rt.model(BALANCES), await rt.model(TOTAL).refresh()
        kept = {entry.key: entry.state async for entry in balance_model.scan()}
        problems = [
            *(f"position {lost} was acknowledged and is lost" for lost in sorted(set(acknowledged) - set(positions))),
            *("two acknowledgements of one position" for _ in range(len(acknowledged) - len(set(acknowledged)))),
            *("the audit saw something twice, or out of order" for run in noted(folder, "follower") if run != sorted(set(run))),
            *("the audit missed something" for _ in [0] if {position for run in noted(folder, "follower") for position in run} != set(positions)),
            *("the balances differ" for _ in [0] if kept != dict(balances)),
            *("the total differs" for _ in [0] if total_model.state != sum(balances.values())),
        ]
    print(f"starts: {', '.join(f'{role} {count}' for role, count in starts.items())}")
    print(f"{len(log):,} events, {len(acknowledged):,} of them acknowledged before their writer died or stopped")
    print("\n".join(problems) or f"equal: {len(positions):,} events audited, {len(kept)} balances, one total")
    return 1 if problems else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--play"]:
        trio.run(play, sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(trio.run(main, float(sys.argv[1]) if len(sys.argv) > 1 else 10.0))
