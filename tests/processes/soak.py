"""`make soak-processes`: processes on one store, killed, frozen and restarted from a seed; every law checked while they work and at the end.

Ctrl-C ends it early; what happened until then is checked and told all the same.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import trio

from crowd.chaos import PARTS, Cast
from crowd.domain import VALUES, Done
from crowd.driver import Member, gather, logged
from crowd.ledger import Ledger
from perdure.backends.event import START, Position
from perdure.runtime import of, open_runtime

CHECK_EVERY_S = 10.0
CATCH_UP_S = 15.0
"""So long followers and models may take to get to the end when nobody writes any more."""


async def look(cast: Cast, ledger: Ledger) -> None:
    """Notes first, then the log, so that all that was acknowledged by then must be there; then the verdict."""
    readers_first = sorted(cast.crowd.members, key=writes)  # what they saw was noted by a writer before
    taken = [(member, member.reading.take()) for member in readers_first]
    after = Position(ledger.log[-1].position) if ledger.log else START
    async with open_runtime(f"lmdb:{cast.crowd.store}") as rt:
        async for event in rt.read_all(of(Done), after=after):
            ledger.add(logged(event))
    for member, notes in sorted(taken, key=lambda pair: not writes(pair[0])):
        if (life := cast.lives.get(member.options.by)) is not None:
            ledger.judge(life, notes, member.frozen)
    ledger.counts["looks"] += 1


def writes(member: Member) -> bool:
    """Whether others see what it notes before it acts."""
    return bool({"append", "put"} & set(member.options.jobs))


async def keep_looking(cast: Cast, ledger: Ledger) -> None:
    """From time to time, until it is over."""
    while not cast.over.is_set():
        with trio.move_on_after(CHECK_EVERY_S):
            await cast.over.wait()
            return
        await look(cast, ledger)


async def end_at(cast: Cast, seconds: float) -> None:
    """Over after so long, or when asked to."""
    with trio.move_on_after(seconds), trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            break
    cast.over.set()


async def settle(cast: Cast, ledger: Ledger) -> None:
    """Writers end first; the others get to the end of the log and of the changes; the last one to end marks the store clean."""
    await cast.playing["w1"].end()
    await cast.playing["w2"].end()
    left = [cast.lives[cast.playing[name].options.by] for name in ("f1", "f2", "p1", "p2")]
    await look_until(cast, ledger, lambda: all(map(ledger.caught_up, left)))
    await cast.playing["p1"].end()
    async with open_runtime(f"lmdb:{cast.crowd.store}") as rt:
        values = {entry.key: (entry.revision, entry.value) for entry in (await rt.kv(VALUES, str).scan()).entries}
    await look_until(cast, ledger, lambda: left[-1].newest == values)
    await cast.crowd.end_all()
    if not cast.crowd.clean():
        ledger.blame("all have ended politely, and the store is not marked clean")
    await look(cast, ledger)
    ledger.close(left, values)


async def look_until(cast: Cast, ledger: Ledger, true: Callable[[], bool]) -> None:
    """Look until it is true; that it has not become so in time, the end will tell."""
    with trio.move_on_after(CATCH_UP_S):
        while True:
            await look(cast, ledger)
            if true():
                return
            await trio.sleep(0.3)


async def soak(folder: Path, seconds: float, seed: int) -> tuple[Cast, Ledger]:
    """Let it happen."""
    ledger = Ledger()
    async with gather(folder) as crowd:
        cast = Cast(crowd, seed)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end_at, cast, seconds)
                for part in PARTS:
                    await cast.enter(part)
                print("working: Ctrl-C ends it with the verdict", flush=True)
                nursery.start_soon(keep_looking, cast, ledger)
                for part in PARTS:
                    nursery.start_soon(cast.play, part)
            await settle(cast, ledger)
        except Exception as error:  # a process that ends by itself is a violation, and what the others did is told all the same
            traceback.print_exception(error)
            ledger.blame(f"it ended early: {error!r}")
    return cast, ledger


def verify(store: Path) -> str:
    """What `perdure verify` says, if it complains."""
    command = [sys.executable, "-m", "perdure.runtime", "verify", f"lmdb:{store}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return "" if done.returncode == 0 else f"perdure verify ended with {done.returncode}: {done.stdout}{done.stderr}"


def table(cast: Cast, ledger: Ledger, seconds: float) -> str:
    """What happened, as rows; the last one is the verdict."""
    counts = ledger.counts
    rows: list[tuple[str, object]] = [
        ("seed", cast.seed),
        ("seconds", f"{seconds:.0f}"),
        ("events in the log", f"{len(ledger.log):,}"),
        ("appends acknowledged", f"{counts['ack']:,} of {counts['try']:,} asked for"),
        ("appends refused", f"{counts['Conflict']:,} Conflict, {counts['Cancelled']:,} Cancelled, {counts['Unavailable']:,} Unavailable"),
        ("appends in doubt", counts["doubt"]),
        ("events followed", f"{counts['got']:,} in {counts['from']} runs"),
        ("states shown", f"{counts['model']:,}"),
        ("values put and seen", f"{counts['put']:,} and {counts['changed']:,}"),
        ("lives", f"{counts['open']} ({cast.troubles['kill']} killed, {cast.troubles['end']} ended politely), {cast.troubles['freeze']} freezes"),
        ("looks", counts["looks"]),
        ("longest wait of an append", f"{ledger.longest_wait_s * 1e3:.0f} ms, while not frozen itself"),
        ("longest stand of a loop", f"{ledger.longest_gap_s * 1e3:.0f} ms, likewise"),
    ]
    lasting = [cast.lives[f"{part.name}.1"] for part in PARTS if part.lasting and f"{part.name}.1" in cast.lives]
    rows += [(f"memory of {life.by}", ledger.judge_memory(life)) for life in lasting]
    if complaint := verify(cast.crowd.store):
        ledger.blame(complaint)
    rows.append(("violations", counts["violations"]))
    return "\n".join(f"{name}: {value}" for name, value in rows)


def main(arguments: list[str]) -> int:
    """The exit code: whether a law was broken."""
    parser = argparse.ArgumentParser(prog="make soak-processes", description=(__doc__ or "").split(";")[0])
    parser.add_argument("--seconds", type=float, default=1200.0, help="how long; 20 minutes unless said otherwise")
    parser.add_argument("--seed", type=int, default=None, help="of what happens when; drawn and printed unless given")
    parser.add_argument("--dir", type=Path, default=None, help="where to keep the store and all notes; else they are removed")
    chosen = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(10**6) if chosen.seed is None else chosen.seed
    print(f"seed: {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="perdure-soak-") as temporary:
        folder = chosen.dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        began_s = time.monotonic()
        cast, ledger = trio.run(soak, folder, chosen.seconds, seed)
        told = table(cast, ledger, time.monotonic() - began_s)
    for violation in ledger.violations:
        print(f"broken: {violation}")
    print(told)
    return int(bool(ledger.counts["violations"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
