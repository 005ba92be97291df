"""What must be so of a store that is retained, whenever its process was killed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import msgspec
import trio

from perdure.backends.blobs.urls import open_blobs
from perdure.backends.commit import CHECKPOINTS, HOLDS, Append, Delete, Draft, Put
from perdure.backends.conformance.law import Desk
from perdure.backends.environment import random_id
from perdure.backends.errors import PerdureError
from perdure.backends.event import START, Record, category_of
from perdure.backends.held import Hold, held_at, pack_hold
from perdure.backends.limits import Limits
from perdure.backends.protocol import Backend
from perdure.backends.urls import open_backend
from perdure.runtime import Retention, open_runtime
from perdure.runtime.archives import Archived
from perdure.runtime.compact import compact
from perdure.runtime.retention import retain
from perdure.runtime.verify_blobs import verify_blobs
from perdure.runtime.verify_models import verify_models
from torment.retaining.domain import APP, KEEP, STREAMS, noted

HOLD = b"torture"
LIMITS = Limits(commit_s=0.05)
"""What was cut is swept half a second later."""
EVENTS, EVENT_BYTES = 6_000, 1_000
"""So many are written, to be freed."""
SLACK_BYTES = 1 << 20


async def problems(url: str, blobs: Path, acknowledged: Mapping[str, int]) -> list[str]:
    """What is wrong."""
    found: list[str] = []
    async with open_blobs(f"directory:{blobs}") as store, open_backend(url, limits=LIMITS) as backend:
        found += await backend.verify()
        whole = Archived(backend, store)
        try:
            records = [record async for record in _log(whole)]
        except PerdureError as error:
            return [*found, f"the log with its archives cannot be read: {type(error).__name__}: {error}"]
        found += [text async for text in _of_streams(backend, records, acknowledged)]
        found += [f"{after.position} comes after {before.position}" for before, after in pairwise(records) if after.position <= before.position]
        found += [f"model {report.name}: {problem}" for report in await verify_models(whole, APP) for problem in report.problems]
        report = await verify_blobs(store, [backend])
        found += report.problems
    return found


async def _log(reads: Any) -> AsyncIterator[Record]:
    after = START
    while True:
        page = await reads.read_log(after=after, limit=1_000, bytes_max=1 << 20)
        for record in page.records:
            yield record
        if page.examined >= page.head:
            return
        after = page.examined


async def _of_streams(backend: Backend, records: list[Record], acknowledged: Mapping[str, int]) -> AsyncIterator[str]:
    places = {
        f"{bucket}/{entry.key.decode()}": place
        for bucket in (CHECKPOINTS, HOLDS)
        for entry in await backend.scan(bucket, limit=99)
        if (place := held_at(entry.value)) is not None
    }
    for name in STREAMS:
        own = [record for record in records if record.stream == name]
        if [record.seq for record in own] != list(range(1, len(own) + 1)):
            yield f"{name} with its archives has seqs {[record.seq for record in own][:20]}, ..."
        if len(own) < acknowledged.get(name, 0):
            yield f"{name} had {acknowledged[name]} events, {len(own)} are there"
        for record in own:
            if msgspec.msgpack.decode(record.payload) != attrs.asdict(noted(name, record.seq)):
                yield f"{name} {record.seq} is not what was appended"
        info = await backend.stream(name)
        if info is not None and info.first > 1 + max(0, info.last - KEEP.get(category_of(name), info.last)):
            yield f"of {name} events before seq {info.first} have gone, and it has {info.last}"
        for who, place in places.items():
            if info is not None and info.cut > place:
                yield f"{name} was cut up to position {info.cut}, and {who} is at {place}"


async def move_hold(url: str, draw: Any) -> None:
    """Hold less back."""
    async with open_backend(url, limits=LIMITS) as backend:
        entry = await backend.get(HOLDS, HOLD)
        cut = max((bound.position for bound in await backend.cuts()), default=START)  # what has gone cannot be held
        place = cut if entry is None else held_at(entry.value) or 0
        await Desk(backend).store(Put(HOLDS, HOLD, pack_hold(Hold(draw.randint(place, await backend.head())))))


async def freed(url: str, folder: Path, blobs: Path) -> tuple[int, int]:
    """How many bytes go when all but one event of each stream do, and by how many the files become smaller with `compact`."""
    async with open_runtime(url, APP) as rt:
        for projection in APP.projections:
            await rt.model(projection).wait_for(await rt.head())
    async with open_backend(url, limits=LIMITS) as backend:
        if await backend.get(HOLDS, HOLD) is not None:
            await Desk(backend).store(Delete(HOLDS, HOLD))
        for start in range(0, EVENTS, 100):
            drafts = [Draft("pad", 1, bytes(f"{start + number:0{EVENT_BYTES}}", "ascii")) for number in range(100)]
            await Desk(backend).done(Append(f"long-{start % 7}", drafts))
    async with open_runtime(url, APP) as rt:
        for projection in APP.projections:
            await rt.model(projection).wait_for(await rt.head())
    async with open_blobs(f"directory:{blobs}") as store, open_backend(url, limits=LIMITS) as backend:
        await compact(backend)
        before = size_of(folder)
        await trio.sleep(20 * LIMITS.commit_s)
        done = await retain(backend, [Retention(categories=["short", "long"], count=1)], ids=random_id, blobs=store)
    async with open_backend(url, limits=LIMITS) as backend:
        await compact(backend)
    return done.bytes, before - size_of(folder)


def size_of(folder: Path) -> int:
    """What the files in a folder take of the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
