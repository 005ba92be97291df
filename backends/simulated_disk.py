"""A disk in memory that can be killed, frozen, filled, made to fail and cut off from power, by a seed.

    disk = SimulatedDisk(seed=7, faults=[Fault("drop", op="flush", nth=3)])
    one = disk.process()                                  # a `Disk`, for `Environment(disk=one)`
    ...
    one.kill()                                            # as SIGKILL: the cache stays, its locks go
    disk.power_cut("random")                              # all are killed, what was not flushed is lost or not
    again = disk.process()

    disk.on_point = lambda process, number, op, path: images.append(disk.image("prefix", seed=number))

A `SimulatedDisk` is a machine with one file system; each of its processes sees the same files. What a
kernel's cache holds and what the medium has are two things: see `pages`, `filesystem` and `cuts`.

Each call is a point: a Trio checkpoint (and *latency_s* of Trio's clock), then the hook, then a fault if
one strikes, then the effect at once. `write_flush` is two points; it can be cancelled at the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Literal

from perdure.backends.cuts import Policy, cut
from perdure.backends.damage import Damage
from perdure.backends.faults import Fault, Faults, Op
from perdure.backends.filesystem import FileSystem
from perdure.backends.nodes import FileNode
from perdure.backends.pages import pages_of
from perdure.backends.simulated_process import SimulatedProcess

Hook = Callable[[SimulatedProcess, int, Op, str], object]
"""Called with the process, the point's number on this disk (from 1), the kind of call and its path."""


class SimulatedDisk:
    """A machine whose disk is in memory; see the module."""

    def __init__(self, seed: int = 0, *, faults: Iterable[Fault] = (), capacity_bytes: int | None = None, latency_s: tuple[float, float] = (0.0, 0.0)) -> None:
        """Make an empty disk. Each call takes a time within *latency_s*, drawn; *capacity_bytes* None: it is never full."""
        self.seed = seed
        self.points = 0
        """How many calls have begun, the two of `write_flush` counted each."""
        self.on_point: Hook | None = None
        """Called before each call acts. It may kill, freeze, cut the power, give faults and take images; a process it killed does not act."""
        self.after_point: Hook | None = None
        """Called after each call that has acted, or failed."""
        self._files = FileSystem(capacity_bytes=capacity_bytes)
        self._faults = Faults(faults)
        self._latency_s = latency_s
        self._processes: dict[SimulatedProcess, None] = {}
        self._pids = 1_000
        self._boot = _drawn(seed, "boot")
        self._draw = Random(seed)

    # -- processes ---------------------------------------------------------------------------

    def process(self, pid: int | None = None) -> SimulatedProcess:
        """A new process: a `Disk`."""
        if pid is None:
            self._pids += 1
            pid = self._pids
        process = SimulatedProcess(self, pid)
        self._processes[process] = None
        return process

    # -- what goes wrong ---------------------------------------------------------------------

    def inject(self, *faults: Fault) -> None:
        """Give it *faults*: they count calls from now on."""
        self._faults.add(*faults)

    def heal(self) -> None:
        """Forget all faults; what is lost stays lost."""
        self._faults.heal()

    def resize(self, capacity_bytes: int | None) -> None:
        """Give it another capacity; None: it is never full. What is written stays."""
        self._files.capacity_bytes = capacity_bytes

    def evict(self) -> None:
        """Let the cache go of all that is clean: what a failed flush lost reads as the medium has it."""
        for _, node in self._files.files():
            node.pages.evict()

    def power_cut(self, policy: Policy = "lose", seed: int | None = None) -> None:
        """Kill all processes; what was not flushed or synced is kept or lost by *policy*, drawn from *seed* (None: from the disk's). The boot is another."""
        for process in list(self._processes):  # kill changes it
            process.kill()
        drawn = _drawn(self._boot, "cut")
        self._files = cut(self._files, policy, Random(drawn if seed is None else seed))
        self._boot = drawn  # each from the one before, so that none comes back, in an image's life neither

    def image(self, policy: Policy = "lose", seed: int = 0) -> SimulatedDisk:
        """The machine as it would be after `power_cut`, without faults or processes; this one goes on and shares nothing with it."""
        made = SimulatedDisk(seed)
        made._files = cut(self._files, policy, Random(seed))
        made._pids = self._pids
        made._boot = _drawn(self._boot, f"{policy} {seed}")
        return made

    def damage(self, path: str, damage: Damage, before: bytes = b"") -> None:
        """Do *damage* to the file at *path*, in the cache and on the medium, so that nothing of it is unflushed; *before* is what a stale page comes from."""
        self._put(self._files.file(path), damage.done_to(self.read_file(path), before))

    # -- for who looks on: no points, no faults ----------------------------------------------

    @property
    def changes(self) -> int:
        """Counts what changed the disk or what a power cut may leave of it: where it stands still, images are the same."""
        return self._files.number

    @property
    def used_bytes(self) -> int:
        """What the files take of a capacity."""
        return self._files.used_bytes

    def digest(self) -> bytes:
        """16 bytes that two images share when they have the same names and bytes, in any run; of what is read now."""
        return self._files.digest()

    def paths(self) -> list[str]:
        """All files, in order."""
        return [path for path, _ in self._files.files()]

    def read_file(self, path: str) -> bytes:
        """The bytes of a file as they are read now."""
        pages = self._files.file(path).pages
        return pages.read(0, pages.size)

    def write_file(self, path: str, data: bytes) -> None:
        """Make, or replace the bytes of, the file at *path*, and the folders above it: all of it is durable at once."""
        parts = path.split("/")
        for depth in range(1, len(parts)):
            self._files.make_folder("/".join(parts[:depth]))
        self._put(self._files.open(path, create=True), data)
        for depth in range(len(parts)):
            self._files.sync(self._files.folder("/".join(parts[:depth])))

    def copy_to(self, folder: str | Path) -> None:
        """Write all files, as they are read now, into a real folder: for a person or a tool to look at."""
        for path in self.paths():
            target = Path(folder, path.lstrip("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.read_file(path))

    def page_state(self, path: str, page: int) -> Literal["clean", "dirty", "lost"]:
        """What the cache says of a page and the medium has of it."""
        return self._files.file(path).pages.state(page)

    def _put(self, node: FileNode, data: bytes) -> None:
        self._files.replace(node, pages_of(data), len(data))


def _drawn(seed: int, what: str) -> int:
    """128 bits for *what*, from the seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {what}".encode(), digest_size=16).digest())
