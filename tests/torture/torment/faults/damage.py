"""Damaged files, opened as after an unclean stop: right data, a clear error, or a reported loss; never wrong data, a signal or a hang."""

from __future__ import annotations

import ast
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs
import trio

from perdure.backends.damage import damage_file, draw_damage
from perdure.backends.disk import TrioDisk
from perdure.backends.errors import PerdureError
from perdure.backends.simulated_disk import SimulatedDisk
from perdure.backends.urls import open_backend
from torment.clear import is_clear
from torment.faults.power import SCHEMES
from torment.recorded import Recorded, content, environment_of, opened, write_some
from torment.row import Row, Tally

ROUNDS_A_RUN = 25
"""So many damages are done to copies of one store."""
LIMIT_S = 20.0
"""A child that takes longer hangs."""


@attrs.frozen
class Found:
    """What opening a damaged store gave: an error, or a content and how many losses were reported."""

    content: str = ""
    reported: int = 0
    error: str = ""
    clear: bool = True


def judge(found: Found, contents: list[str], tally: Tally, what: str, *, clean: bool) -> None:
    """Count it."""
    before = "after a clean stop: " if clean else ""
    if found.error:
        tally.note(f"{before}errors")
        if not found.clear:
            tally.unclear_error(f"{what}: {found.error}")
    elif found.content == contents[-1]:
        tally.note(f"{before}right")
    elif found.content in contents and found.content.partition("/")[0] == contents[-1].partition("/")[0]:
        tally.note(f"{before}right, but for the last snapshot")
    elif found.reported and found.content in contents:
        tally.note(f"{before}reported losses")
    elif clean and found.content in contents:
        tally.note("after a clean stop: lost and not told")  # counted and published
    else:
        known = [number for number, one in enumerate(contents) if one == found.content]
        tally.violation(f"{what}: the content after {known or 'no'} of {len(contents) - 1} acknowledgements, and nothing reported")


# -- file: and segments, on a simulated disk --------------------------------------------------


def damaged_files(scheme: str, tally: Tally) -> None:
    """Of one of the store's files."""
    draw = random.Random(tally.seed)
    while not tally.over:
        seed, clean = draw.getrandbits(32), draw.random() < 0.2
        recorded = Recorded()
        disk = SimulatedDisk(seed)
        earlier = trio.run(_life, scheme, disk, seed, recorded, clean)
        for _ in range(ROUNDS_A_RUN):
            if tally.over:
                break
            machine = disk.image("keep")
            path = draw.choice([path for path in machine.paths() if not path.endswith("lock") and "lost" not in path])
            used = _used(machine.read_file(path))
            damage = draw_damage(draw, used)
            machine.damage(path, damage, earlier.get(path, b""))
            what = f"{scheme}, seed {seed}, {path}, {damage!r:.200}"
            judge(trio.run(_open, scheme, machine), recorded.contents, tally, what, clean=clean)
            tally.done += 1


def _used(data: bytes) -> int:
    """Where damage can matter: not far in the zeros at the end."""
    return min(len(data), len(data.rstrip(b"\0")) + 512) or 1


async def _life(scheme: str, disk: SimulatedDisk, seed: int, recorded: Recorded, clean: bool) -> dict[str, bytes]:
    """Write, and stop; the files as they were some commits before."""
    draw = random.Random(seed)
    process = disk.process()
    async with opened(scheme, process, seed) as backend:
        await write_some(backend, draw, draw.randint(3, 25), recorded)
        earlier = {path: disk.read_file(path) for path in disk.paths()}
        await write_some(backend, draw, draw.randint(1, 4), recorded)
        if not clean:
            process.bury()
    return earlier


async def _open(scheme: str, disk: SimulatedDisk) -> Found:
    try:
        async with opened(scheme, disk.process(), 1) as backend:
            found = await content(backend)
            status = await backend.store_status()
            return Found(found, len(status.recovery.cuts))
    except PerdureError as error:
        return Found(error=repr(error), clear=is_clear(error))


# -- lmdb: real files, each opened in a child that may die -------------------------------------


def damaged_lmdb(query: str, tally: Tally) -> None:
    """Of the data file, or another one."""
    draw = random.Random(tally.seed)
    while not tally.over:
        seed = draw.getrandbits(32)
        recorded = Recorded()
        template, earlier = tally.folder / f"{seed}", tally.folder / f"{seed}-earlier"
        trio.run(_lmdb_life, template, earlier, seed, query, recorded)
        for _ in range(ROUNDS_A_RUN):
            if tally.over:
                break
            folder = tally.folder / "damaged"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(template, folder)
            paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("lock", "turn")))
            path = folder / "data.mdb" if draw.random() < 0.7 and not query else draw.choice(paths)
            before = earlier / path.relative_to(folder)
            damage = draw_damage(draw, _used(path.read_bytes()))
            damage_file(str(path), damage, before.read_bytes() if before.exists() else b"")
            what = f"lmdb:{query}, seed {seed}, {path.name}, {damage!r:.200}"
            found = in_child(lambda: trio.run(_open_lmdb, f"lmdb:{folder}{query}"), tally, what)  # noqa: B023 - called at once
            if found is not None:
                judge(found, recorded.contents, tally, what, clean=False)
            tally.done += 1
        shutil.rmtree(template)
        shutil.rmtree(earlier)


async def _lmdb_life(folder: Path, earlier: Path, seed: int, query: str, recorded: Recorded) -> None:
    """Write; copy the folder while it is open, so that it was not closed."""
    draw = random.Random(seed)
    made = folder.with_name(f"{seed}-live")
    async with open_backend(f"lmdb:{made}{query}", environment=environment_of(TrioDisk(), seed)) as backend:
        await write_some(backend, draw, draw.randint(3, 25), recorded)
        shutil.copytree(made, earlier)
        await write_some(backend, draw, draw.randint(1, 4), recorded)
        shutil.copytree(made, folder)
    shutil.rmtree(made)


async def _open_lmdb(url: str) -> Found:
    try:
        async with open_backend(url, environment=environment_of(TrioDisk(), 1)) as backend:
            found = await content(backend)
            status = await backend.store_status()
            return Found(found, len(status.recovery.cuts))
    except PerdureError as error:
        return Found(error=repr(error), clear=is_clear(error))


def in_child(run: Callable[[], Found], tally: Tally, what: str) -> Found | None:
    """What *run* finds in a child; a signal or a hang is a violation."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(read)
            found = run()
            os.write(write, repr(attrs.astuple(found)).encode())
        except BaseException as error:
            os.write(write, repr(("", 0, f"{error!r:.2000}", False)).encode())
        finally:
            os._exit(0)
    os.close(write)
    try:
        return _wait(child, read, tally, what)
    finally:
        os.close(read)


def _wait(child: int, read: int, tally: Tally, what: str) -> Found | None:
    deadline = time.monotonic() + LIMIT_S
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            tally.violation(f"{what}: it hangs")
            return None
        time.sleep(0.002)
    if os.WIFSIGNALED(status):
        tally.violation(f"{what}: killed by {signal.Signals(os.WTERMSIG(status)).name}")
        return None
    return Found(*ast.literal_eval(os.read(read, 65_536).decode()))


NAME = "damaged files"
ROWS = [
    *(Row(NAME, name, "damages", 100, 7_000, partial(damaged_files, scheme)) for scheme, name in SCHEMES.items()),
    Row(NAME, "lmdb:", "damages", 100, 6_000, partial(damaged_lmdb, "")),
    Row(NAME, "lmdb:?log=segments", "damages", 50, 3_000, partial(damaged_lmdb, "?log=segments&segment=64KiB")),
]
