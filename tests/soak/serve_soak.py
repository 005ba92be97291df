"""The soak: a daemon under load for minutes, killed and ended meanwhile; what is wrong is printed, and the exit code is 1.

200 appends/s, 50 projections, 100 followers; projection actors are killed at random, the daemon gets one SIGTERM and one SIGKILL.
Judged are: no acknowledged event is lost; no follower has a gap, or is given again what it named as its last id; the models equal the fold; it
drains within 5 s; and, once every bound is full, memory of the daemon grows by less than 1 MiB a minute. (Pages of the map's
file are the kernel's and not counted: RssAnon.)
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import httpx2
import trio

from following import Follower
from perdure.actors.fold import Keyed, stepper
from perdure.runtime import of, open_runtime
from perdure.runtime.runtime import Runtime
from perdure.runtime.serve.scopes import Scopes
from perdure.runtime.serve.tokens import new_token
from soaked import STREAMS, Moved, app

WRITERS = 10
DRAIN_S = 5.0
GROWTH_MIB_MINUTE = 1.0
JUDGED_S = 120
"""Over less, memory is told and not judged: its bounds are not full yet."""
LAUNCH = Path(__file__).with_name("soaked.py")


@attrs.frozen
class Plan:
    """What a soak does."""

    seconds: float
    seed: int
    rate: int = 200
    followers: int = 100
    kill_every_s: float = 2.0


@attrs.define
class Daemon:
    """The daemon that runs now; `port` stays that of the last one while none does."""

    store: str
    errors: Path
    """What it wrote to stderr."""
    plan: Plan
    process: subprocess.Popen[str] | None = None
    port: int = attrs.field(factory=lambda: a_port())
    killed: int = 0
    rss: list[tuple[float, float]] = attrs.field(factory=list)
    """Of this process: seconds since its start, MiB."""
    began: float = 0.0

    def start(self) -> None:
        """Begin one, and return when it answers. Blocks."""
        # Small bounds, so that they are full soon and what grows beyond them is seen.
        flags = (f"listen=127.0.0.1:{self.port}", "limits.ring_bytes=1048576", "log_level=error")
        command = [sys.executable, "-P", str(LAUNCH), self.store, str(self.plan.seed + self.killed), str(self.plan.kill_every_s), *flags]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert self.process.stdout is not None
        found = re.fullmatch(r"listening on http://127\.0\.0\.1:(\d+)\n", self.process.stdout.readline())
        if found is None:
            raise RuntimeError(f"the daemon did not start: {self.errors.read_text()}")
        self.port, self.rss, self.began = int(found[1]), [], time.monotonic()

    def listen(self) -> None:
        """Count its kills until its output ends. Blocks."""
        assert self.process is not None
        assert self.process.stdout is not None
        if self.process.stdout.closed:
            return  # the next one has not been started yet
        with self.process.stdout as said:
            for line in said:
                self.killed += line.startswith("killed")

    def sample(self) -> None:
        """Note its memory."""
        assert self.process is not None
        try:
            text = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return
        if found := re.search(r"RssAnon:\s+(\d+) kB", text):
            self.rss.append((time.monotonic() - self.began, int(found[1]) / 1024))

    def end(self, number: int) -> tuple[int, float]:
        """Send it a signal; its exit code, and how long that took. Blocks."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(30), time.monotonic() - began


@attrs.define
class Soak:
    """One soak: what was told, and what is wrong."""

    plan: Plan
    folder: Path
    daemon: Daemon = attrs.field(init=False)
    told: dict[str, int] = attrs.field(factory=dict)
    """Of each acknowledged number: its position."""
    retries: int = 0
    wrong: list[str] = attrs.field(factory=list)
    drains_s: list[float] = attrs.field(factory=list)
    growth: float | None = None
    followers: list[Follower] = attrs.field(factory=list)
    took_s: float = 0.0
    stopped: bool = False

    def __attrs_post_init__(self) -> None:
        self.daemon = Daemon(f"lmdb:{self.folder / 'store'}", self.folder / "errors", self.plan)

    async def run(self) -> None:
        """Do it, and judge it."""
        token = await self._token()
        await trio.to_thread.run_sync(self.daemon.start)
        began = trio.current_time()
        self.followers = [Follower(number, token, lambda: self.daemon.port) for number in range(self.plan.followers)]
        try:
            async with trio.open_nursery() as followers:
                for follower in self.followers:
                    followers.start_soon(follower.run)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._listen)
                    nursery.start_soon(self._sample)
                    async with trio.open_nursery() as writers:
                        for number in range(WRITERS):
                            writers.start_soon(self._write, number, token, began)
                        writers.start_soon(self._disturb)
                    self.stopped = True
                    self.took_s = trio.current_time() - began
                    await self._caught_up()
                    await self._end(signal.SIGTERM)
                    nursery.cancel_scope.cancel()
                followers.cancel_scope.cancel()
        finally:
            process = self.daemon.process
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        await self._judge()

    async def _token(self) -> str:
        async with open_runtime(self.daemon.store) as rt:
            return await new_token(rt, "soak", Scopes(("read", "append:*", "operate")))

    # -- what happens ------------------------------------------------------------------------

    async def _write(self, writer: int, token: str, began: float) -> None:
        """Append at its share of the rate, each under a key, again until it is acknowledged."""
        drawn, number, pause_s = random.Random(self.plan.seed * 1_000 + writer), 0, WRITERS / self.plan.rate
        async with httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=40) as client:
            while trio.current_time() - began < self.plan.seconds:
                number += 1
                data = {"writer": writer, "number": number, "amount": drawn.randrange(1_000)}
                key, stream = f"{writer}-{number}", f"box-{drawn.randrange(STREAMS)}"
                self.told[key] = await self._append(client, stream, key, {"events": [{"type": "moved", "data": data}]})
                await trio.sleep_until(max(trio.current_time(), began + number * pause_s))

    async def _append(self, client: httpx2.AsyncClient, stream: str, key: str, body: object) -> int:
        while True:
            try:
                answer = await client.post(f"http://127.0.0.1:{self.daemon.port}/v1/streams/{stream}", json=body, headers={"idempotency-key": key})
            except httpx2.HTTPError:
                pass
            else:
                if answer.status_code == 200:
                    return int(answer.json()["position"])
                if answer.status_code not in (503, 504):
                    self.wrong.append(f"an append was answered {answer.status_code}: {answer.text[:200]}")
                    return 0
            self.retries += 1
            await trio.sleep(0.1)

    async def _disturb(self) -> None:
        """One SIGTERM after a quarter, one SIGKILL after nearly a half; then memory has time to show whether it grows."""
        for share, number in ((0.2, signal.SIGTERM), (0.2, signal.SIGKILL)):
            await trio.sleep(self.plan.seconds * share)
            await self._end(number)
            await trio.to_thread.run_sync(self.daemon.start)

    async def _end(self, number: int) -> None:
        code, took_s = await trio.to_thread.run_sync(self.daemon.end, number)
        if number == signal.SIGTERM:
            self.drains_s.append(took_s)
            if code != 0 or took_s > DRAIN_S:
                self.wrong.append(f"SIGTERM: exit code {code} after {took_s:.1f} s")

    async def _listen(self) -> None:
        while True:
            await trio.to_thread.run_sync(self.daemon.listen, abandon_on_cancel=True)
            await trio.sleep(0.05)

    async def _sample(self) -> None:
        while not self.stopped:
            await trio.sleep(1)
            self.daemon.sample()

    async def _caught_up(self) -> None:
        """Wait for the followers: what was acknowledged they must come to."""
        last = max(self.told.values())
        with trio.move_on_after(60):
            while any(follower.last_position < last for follower in self.followers):
                await trio.sleep(0.1)

    # -- what is right -----------------------------------------------------------------------

    async def _judge(self) -> None:
        async with open_runtime(self.daemon.store, app) as rt:
            log = [event async for event in rt.read_all(of(Moved))]
            await self._judge_models(rt, log)
        stored: dict[str, list[int]] = {}
        digest = 0
        for event in log:
            stored.setdefault(f"{event.data.writer}-{event.data.number}", []).append(event.position)
            digest = zlib.crc32(b"%d %d" % (event.position, event.seq), digest)
        self._judge_log(stored)
        for follower in self.followers:
            self.wrong += follower.faults
            if (follower.events, follower.digest) != (len(log), digest):
                self.wrong.append(f"follower {follower.number} saw {follower.events:,} events, the log has {len(log):,}")
        self._judge_memory()

    def _judge_log(self, stored: dict[str, list[int]]) -> None:
        lost = [key for key in self.told if key not in stored]
        moved = [key for key, position in self.told.items() if key in stored and position not in stored[key]]
        twice = [key for key, positions in stored.items() if len(positions) > 1]
        for what, keys in (("were acknowledged and are lost", lost), ("stand elsewhere than was told", moved), ("are stored twice", twice)):
            if keys:
                self.wrong.append(f"{len(keys)} events {what}: {', '.join(keys[:5])}")

    async def _judge_models(self, rt: Runtime, log: list[Any]) -> None:
        for projection in app.projections:
            model: Any = rt.model(projection)
            if log:
                await model.wait_for(log[-1].position)
            expected: dict[str, object] = {}
            for event in log:
                key = event.stream if isinstance(projection, Keyed) else ""
                expected[key] = stepper(projection)(expected.get(key, projection.initial), event, key)
            for key, state in expected.items():
                found = await model.get(key) if isinstance(projection, Keyed) else model.state
                if found != state:
                    self.wrong.append(f"model {projection.name} {key} is {found}, the fold is {state}")

    def _judge_memory(self) -> None:
        """The slope over the second half of what the last daemon lived: by then every bound is full."""
        rss = self.daemon.rss
        half = [one for one in rss if one[0] > rss[-1][0] / 2] if rss else []
        if len(half) < 10:
            return
        self.growth = slope(half) * 60
        if self.growth >= GROWTH_MIB_MINUTE and half[-1][0] - half[0][0] > JUDGED_S:
            self.wrong.append(f"memory grows by {self.growth:.2f} MiB a minute")

    def report(self) -> str:
        """What was done, and the verdict."""
        rate = len(self.told) / max(self.took_s, 1e-9)
        events = sum(follower.events for follower in self.followers)
        lines = [
            f"appends {len(self.told):,} in {self.took_s:.0f} s ({rate:.0f}/s of {self.plan.rate}/s asked for), retries {self.retries:,}",
            f"followers {len(self.followers)}, events to them {events:,}, connections {sum(one.connections for one in self.followers):,}",
            f"actors killed {self.daemon.killed:,}, drained in {', '.join(f'{one:.2f} s' for one in self.drains_s)}",
            f"memory grows by {self.growth:+.2f} MiB a minute" if self.growth is not None else "memory was not measured for long enough to tell",
            *(["NOT SHOWN: the rate was not reached; this says nothing about it"] if rate < 0.9 * self.plan.rate else []),
            *(f"WRONG: {one}" for one in self.wrong[:50]),
            "nothing is wrong" if not self.wrong else f"{len(self.wrong)} things are wrong",
        ]
        return "\n".join([f"seed {self.plan.seed}", *lines])


def a_port() -> int:
    """A port that nobody has, and that no client is given: who knocks again and again where nobody listens may be given just that one, and keep it."""
    for port in random.sample(range(15_000, 30_000), 100):
        with socket.socket() as one:
            with suppress(OSError):
                one.bind(("127.0.0.1", port))
                return port
    raise RuntimeError("there is no free port")


def slope(points: list[tuple[float, float]]) -> float:
    """The line through *points* by least squares: its rise for one."""
    mean_x, mean_y = sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
    over = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / over if over else 0.0


def soak(plan: Plan, folder: Path) -> Soak:
    """Do *plan* in *folder*."""
    one = Soak(plan, folder)
    trio.run(one.run)
    return one


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1_200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--followers", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="perdure-soak-") as folder:
        done = soak(Plan(given.seconds, given.seed, given.rate, given.followers), Path(folder))
    print(done.report())
    return 1 if done.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
