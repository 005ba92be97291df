"""A store, the backup of it, and the store that is made of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perdure.backends.commit import Append, Delete, Put, SaveSnapshot
from perdure.backends.conformance.law import Desk, draft
from perdure.backends.disk import TrioDisk
from perdure.backends.environment import Environment
from perdure.backends.event import Position
from perdure.backends.memory import open_memory
from perdure.backends.protocol import Backend
from perdure.runtime.backup import Manifest, back_up
from perdure.runtime.restore import Restored, restore

DISK = TrioDisk()


async def fill(desk: Desk) -> int:
    """12 commits at positions 2, 4, ... 24, a second apart, each with a key and an entry."""
    now = (await desk.backend.now_us()) // 1_000_000 * 1_000_000
    for number in range(1, 13):
        events = [draft(b"%d" % number, tags=[f"n:{number}"]), draft(b"x", type=f"type-{number % 3}")]
        await desk.done(
            Append(f"s-{number % 2}", events),
            Put("k", b"%d" % (number % 5), b"%d" % number),
            SaveSnapshot("s", Position(2 * number), "f", b"%d" % number),
            key=b"key-%d" % number,
            at_us=now + number * 1_000_000,
        )
    await desk.done(Delete("k", b"0"))
    return now


async def backed_up(backend: Backend, folder: Path) -> Manifest:
    """A backup of it in *folder*."""
    return await back_up(backend, str(folder), disk=DISK, made_us=Environment().clock())


async def restored(folder: Path, **more: Any) -> tuple[Any, Restored]:
    """A store in memory from the backup, and the report."""
    backend = open_memory()
    report = await restore(str(folder), backend, disk=DISK, **more)
    return backend, report
