"""The witness of retention: a book of its own of what goes, whether it may, and whether it is where its stream leads to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Final

import trio

from perdure.backends.blobs.protocol import BlobStore
from perdure.backends.commit import CHECKPOINTS, HOLDS, Answer, Commit, Committed, Cut, Put, propose
from perdure.backends.errors import BlobsUnavailable, Closed, Corrupt, Full, InDoubt, Misuse, Truncated, Unavailable
from perdure.backends.event import START, Record
from perdure.backends.held import Hold, held_at, pack_hold
from perdure.backends.protocol import Backend, Reads
from perdure.backends.upkeep import DOUBTS
from perdure.runtime.app import App
from perdure.runtime.archives import Archived
from perdure.runtime.retention import Retention, retain
from perdure.runtime.runtime import Runtime
from perdure.runtime.simulation import laws
from perdure.runtime.simulation.world import Life, World
from perdure.runtime.verify_models import verify_models

FOLDER: Final = "blobs"
REST_S: Final = 120.0
"""After so long all places are kept, when nothing happens any more."""
_HOLD: Final = b"the simulation"
_MANY: Final = 10_000
_LATER: Final = (Closed, Unavailable, InDoubt, Full, BlobsUnavailable)


class RetainedWitness:
    """See the module."""

    def __init__(self, app: App, world: World) -> None:
        self._app = app
        self._policies = app.retention
        self._world = world
        self._gone: dict[int, Record] = {}
        """What somebody asked to be cut, by position."""
        self._wrong: dict[int, str] = {}
        """Which of that must stay, and why."""

    # -- while it goes on --------------------------------------------------------------------

    async def run(self, rt: Runtime, life: Life) -> None:
        """Retain again and again beside the app, as somebody at a terminal would; and hold something back, less and less."""
        draw = Random(f"retain {self._world.seed} {life.who}")
        while True:
            await trio.sleep(draw.expovariate(0.5))
            try:
                if draw.random() < 0.3:
                    await self._hold(rt.backend, life, draw)
                else:
                    done = await retain(rt.backend, self._policies, ids=life.environment.ids, blobs=rt._blobs)
                    self._world.note("life", f"retains: {done.events} events went", life.who)
            except _LATER as error:
                self._world.note("life", f"retains later: {type(error).__name__}", life.who)

    async def _hold(self, backend: Backend, life: Life, draw: Random) -> None:
        entry = await backend.get(HOLDS, _HOLD)
        place = 0 if entry is None else held_at(entry.value) or 0
        write: Put[bytes] = Put(HOLDS, _HOLD, pack_hold(Hold(draw.randint(place, max(place, await backend.head())))))
        await backend.commit([propose([write], id=life.environment.ids(), at_us=await backend.now_us(), own=True)])

    @asynccontextmanager
    async def watching(self, backend: Backend, commits: Sequence[Commit]) -> AsyncIterator[list[Answer]]:
        """Note what these cut, and whether that may go; the answers are put into the list.

        A consumer that was in the way before and after was so when it was decided: places do not go back.
        """
        answers: list[Answer] = []
        cuts = [(number, write) for number, commit in enumerate(commits) for write in commit.writes if isinstance(write, Cut)]
        if not cuts:
            yield answers
            return
        self._world.tally("cut")
        now_us, places = await backend.now_us(), await _places(backend)
        asked: list[tuple[int, Record]] = []
        async with backend.view() as view:
            for number, cut in cuts:
                policy = next((policy for policy in self._policies if policy.names(cut.stream)), None)
                info = await view.stream(cut.stream)
                if info is None or cut.first <= info.first:
                    continue
                for record in await view.read_stream(cut.stream, after=info.first - 1, limit=cut.first - info.first, bytes_max=1 << 30):
                    asked.append((number, record))
                    self._gone[record.position] = record
                    self._note(record, await _why_it_stays(view, policy, record, info.last, now_us))
        yield answers
        after = await _places(backend)
        for number, record in asked:
            if not isinstance(answers[number], Committed):
                continue
            if held := [name for name, place in places.items() if max(place, after.get(name, place)) < record.position]:
                self._note(record, f"{held[0]} is at {after.get(held[0])}")

    def _note(self, record: Record, why: str) -> None:
        self._wrong.pop(record.position, None)
        if why:
            self._wrong[record.position] = f"the event at position {record.position} ({record.stream} {record.seq}): {why}"

    # -- judging -----------------------------------------------------------------------------

    async def whole(self, backend: Backend) -> list[Record]:
        """The log with what has gone of it, by the book. Others may append and cut meanwhile: it is looked until nothing is new."""
        found: dict[int, Record] = {}
        firsts: dict[str, int] = {}
        read = -1
        while read < await backend.head():
            read = await backend.head()
            found.update({int(record.position): record for record in await _left(backend)})
            firsts = {info.name: info.first for info in await backend.streams(limit=_MANY)}
        gone = {position: record for position, record in self._gone.items() if record.seq < firsts.get(record.stream, 1)}
        for position in sorted(gone):
            if position in self._wrong:
                self._world.violate(laws.KEPT, self._wrong[position])
        return [record for _, record in sorted({**found, **gone}.items())]

    async def judge(self, backend: Backend, blobs: BlobStore, whole: Sequence[Record]) -> None:
        """What went is in the archive that its stream leads to: read with those, all is as if nothing had gone."""
        archived = Archived(backend, blobs)
        last = whole[-1].position if whole else START
        names = dict.fromkeys(record.stream for record in whole)
        kept = [name for name in names if next((policy.archive for policy in self._policies if policy.names(name)), True)]
        try:
            for name in kept:
                read = [record for record in await _of_stream(archived, name) if record.position <= last]
                self._compare(f"stream {name}", [record for record in whole if record.stream == name], read)
            if len(kept) == len(names):
                self._compare("the log", whole, [record for record in await _left(archived, over_cuts=False) if record.position <= last])
        except (Truncated, Misuse, Corrupt) as error:
            self._world.violate(laws.ARCHIVED, str(error))

    def _compare(self, what: str, wanted: Sequence[Record], read: Sequence[Record]) -> None:
        if list(wanted) != list(read):
            there = {record.position for record in read}
            missing = [int(record.position) for record in wanted if record.position not in there]
            self._world.violate(laws.ARCHIVED, f"{what} with its archives is not what it was: positions {missing[:9]} of {len(wanted)} are missing")

    async def judge_at_rest(self, rt: Runtime, life: Life) -> None:
        """A dry run names what goes, no more and no less; then what has gone goes from the disk too, and models are what they were."""
        await trio.sleep(REST_S)
        backend, blobs = _Standing(rt.backend, await rt.backend.now_us()), rt._blobs
        dry = await retain(backend, self._policies, ids=life.environment.ids, dry_run=True)
        before = await _left(rt.backend)
        done = await retain(backend, self._policies, ids=life.environment.ids, blobs=blobs)
        after = {record.position for record in await _left(rt.backend)}
        went = [record for record in before if record.position not in after]
        named = [(gone.stream, gone.first, gone.events) for gone in dry.gone]
        if dry.gone != done.gone:
            self._world.violate(laws.NAMED, f"it named {dry.gone}, and {done.gone} went")
        if named != [(name, seqs[-1] + 1, len(seqs)) for name, seqs in _by_stream(went).items()]:
            self._world.violate(laws.NAMED, f"it named {named}, and of the log went {_by_stream(went)}")
        await trio.sleep(2 * DOUBTS * rt.limits.commit_s)
        while await rt.backend.maintain():
            pass
        if blobs is not None:
            for report in await verify_models(Archived(rt.backend, blobs), self._app):
                for problem in report.problems:
                    self._world.violate(laws.MODELS, problem)


async def _places(reads: Reads) -> dict[str, int]:
    """Where all registered consumers are."""
    entries = [(f"{bucket}/{entry.key.decode()}", held_at(entry.value)) for bucket in (CHECKPOINTS, HOLDS) for entry in await reads.scan(bucket, limit=_MANY)]
    return {name: place for name, place in entries if place is not None}


async def _why_it_stays(reads: Reads, policy: Retention | None, record: Record, last: int, now_us: int) -> str:
    """Why its policy keeps an event now; '' if it does not."""
    if policy is None:
        return "no policy names it"
    if policy.count is not None and record.seq > last - policy.count:
        return f"it is one of the {policy.count} newest of {last}"
    if policy.age_s is not None and record.at_us >= now_us - policy.age_s * 1e6:
        return f"it is {(now_us - record.at_us) / 1e6:g} s old"
    for name in policy.covered_by:
        snapshots = await reads.snapshots(name)
        if len(snapshots) < 2 or snapshots[-2] < record.position:
            return f"the snapshots of {name} are at {snapshots}"
    return ""


class _Standing:
    """A store whose time stands still."""

    def __init__(self, inner: Backend, now_us: int) -> None:
        self._inner = inner
        self._now_us = now_us

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def now_us(self) -> int:
        """See `Backend.now_us`."""
        await trio.lowlevel.checkpoint()
        return self._now_us


async def _left(reads: Reads, *, over_cuts: bool = True) -> list[Record]:
    records: list[Record] = []
    after = START
    while True:
        page = await reads.read_log(after=after, limit=1_000, bytes_max=1 << 20, over_cuts=over_cuts)
        records += page.records
        if page.examined <= after or page.examined >= page.head:
            return records
        after = page.examined


async def _of_stream(reads: Reads, name: str) -> list[Record]:
    found: list[Record] = []
    while records := await reads.read_stream(name, after=found[-1].seq if found else 0, limit=1_000, bytes_max=1 << 20):
        found += records
    return found


def _by_stream(records: Sequence[Record]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for record in sorted(records, key=lambda record: (record.stream, record.seq)):
        found.setdefault(record.stream, []).append(record.seq)
    return found
