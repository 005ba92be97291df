"""Two processes and one store: each projection and named subscription runs in one of them, whatever happens to the owner.

On LMDB and on PostgreSQL; `make handovers` does it 50 times on each. PERDURE_STORE names another store.
"""

from __future__ import annotations

import os
import random
import time
from itertools import cycle, islice
from pathlib import Path

import attrs
import pytest
import trio

from crowd.domain import Tally, all_of, each_of
from crowd.driver import Crowd, Member, gather, wait_until
from crowd.laws import Reference, acknowledged, ordered
from crowd.tenures import tenures
from perdure.runtime import open_runtime

HANDOVERS = int(os.environ.get("HANDOVERS", "6"))
URL = os.environ.get("PERDURE_STORE", "")
PAIRS = 10
LEASE_S = 2.0
MORE_S = 2.0
"""A hand-over takes so much more than the lease time at most."""
KEPT_S = 1.0
"""A place is kept so often."""
BUSY_S = 1.5
"""What a busy machine may add to that."""
NAMES = [f"{kind}{suffix}" for suffix in ("", *(f"-{number}" for number in range(2, PAIRS + 1))) for kind in ("all", "each")]
WHATS = ("kill", "end", "freeze")


@attrs.define
class Pair:
    """The two hosts, and what was measured."""

    crowd: Crowd
    hosts: list[Member]
    took_s: dict[str, list[float]] = attrs.field(factory=lambda: {what: [] for what in WHATS})
    in_commit: int = 0
    """Freezes that held the right to write: nobody can take over then."""

    async def enter(self, name: str) -> Member:
        return await self.crowd.start(name, "host", "follow", subscription="audit", pairs=PAIRS, lease_s=LEASE_S, gate_s=1.0)

    @property
    def owner(self) -> Member:
        """Who runs them all."""
        return max(self.hosts, key=lambda host: len(runs(host)))

    async def hand_over(self, what: str) -> None:
        """One hand-over."""
        owner = self.owner
        heir = next(host for host in self.hosts if host is not owner)
        began_ns = time.monotonic_ns()
        match what:
            case "kill":
                await owner.kill()
            case "end":
                await owner.end()
            case "freeze":
                owner.freeze()
        if not await self._has_all(heir, LEASE_S + MORE_S):
            assert what == "freeze" and self._kept_from_writing(owner, began_ns), f"{what}: {heir.options.by} runs only {sorted(runs(heir))}"
            self.in_commit += 1
        else:
            self.took_s[what].append((heir.of("runs")[-1].at_ns - began_ns) / 1e9)
        if what == "freeze":
            owner.thaw()
            await wait_until(lambda: not runs(owner) or owner is self.owner, "the thawed owner to stand by")
        else:
            self.hosts = [heir, await self.enter(owner.options.by.partition(".")[0])]
        await wait_until(lambda: runs(self.owner) >= {*NAMES, "audit"}, "all to run in one process")

    async def _has_all(self, heir: Member, within_s: float) -> bool:
        with trio.move_on_after(within_s):
            while not runs(heir) >= {*NAMES, "audit"}:
                await trio.sleep(0.01)
            return True
        return False

    def _kept_from_writing(self, frozen: Member, since_ns: int) -> bool:
        """Whether the writer was told so."""
        refused = [note for note in self.crowd.of("no") if note.at_ns > since_ns and note.words[2] == "Unavailable"]
        return any(note.words[3] == str(frozen.pid) for note in refused)


def runs(host: Member) -> set[str]:
    """What it runs, as far as it has told."""
    ran: set[str] = set()
    for note in host.of("runs", "waits"):
        (ran.add if note.kind == "runs" else ran.discard)(note.words[0])
    return ran if host.alive else set()


async def models(crowd: Crowd) -> dict[str, dict[str, Tally]]:
    """What all of them have kept, read by this process."""
    kept: dict[str, dict[str, Tally]] = {}
    async with open_runtime(crowd.url or f"lmdb:{crowd.store}") as rt:
        for name in NAMES:
            suffix = name.removeprefix("all").removeprefix("each")
            if name.startswith("all"):
                kept[name] = {"-": (await rt.model(all_of(suffix)).refresh()).state}
            else:
                kept[name] = {entry.key: entry.state async for entry in rt.model(each_of(suffix)).scan()}
    return kept


@pytest.fixture(params=["given"] if URL else ["lmdb", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """Of the store; that in the test's folder has none."""
    return URL if request.param == "given" else str(request.getfixturevalue("database")) if request.param == "postgresql" else ""


@pytest.mark.timeout(120 + 12 * HANDOVERS)
async def test_twenty_projections_are_handed_over_whatever_happens_to_their_owner(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(5)
    async with gather(tmp_path, url) as crowd:
        pair = Pair(crowd, [])
        writer = await crowd.start("w", "append", pace_s=0.03, gate_s=1.0)
        pair.hosts = [await pair.enter("h1"), await pair.enter("h2")]
        await wait_until(lambda: runs(pair.owner) >= {*NAMES, "audit"}, "one process to run all")
        assert not runs(next(host for host in pair.hosts if host is not pair.owner))
        for what in islice(cycle(WHATS), HANDOVERS):
            await trio.sleep(draw.uniform(0.1, 0.8))  # the moment is real time
            await pair.hand_over(what)
        await writer.end()
        log = await crowd.log()
        await wait_until(lambda: max((note.number(0) for note in pair.owner.of("got")), default=0) >= log[-1].position, "the audit to get to the end")
        await crowd.end_all()
        kept = await models(crowd)

    assert ordered(log) + acknowledged(log, crowd.of("try", "ack", "no")) == []
    reference = Reference(log)
    assert kept == {name: {key: reference.last(key) for key in ({"-"} if name.startswith("all") else reference.keys - {"-"})} for name in NAMES}
    audit = tenures(
        [event.position for event in log], {host.options.by: host.of("got") for host in crowd.members}, again_s=KEPT_S + BUSY_S
    )
    with capsys.disabled():
        longest = {what: f"{max(took):.2f} s" for what, took in pair.took_s.items() if took}
        print(f"\n  {HANDOVERS} hand-overs, the longest {longest}; {pair.in_commit} freezes in a commit; {audit.changes} owners of the audit,", end=" ")
        print(f"{audit.repeats} of {len(log)} events came again, {audit.late} late")
    assert audit.violations == []
    assert audit.late <= len(pair.took_s["freeze"]) + pair.in_commit  # the event in hand when it was frozen
    assert max(pair.took_s["end"]) < LEASE_S
