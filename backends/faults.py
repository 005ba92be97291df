"""A fault of a disk as a value, and which of many strikes a call."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final, Literal, get_args

import attrs

from perdure.backends.errors import Misuse

Op = Literal[
    "open",
    "read",
    "write",
    "flush",
    "size",
    "entries",
    "exists",
    "make_folder",
    "rename",
    "remove",
    "remove_folder",
    "sync_folder",
    "lock",
    "free_bytes",
    "boot",
]
"""A kind of call; `write_flush` is a write and a flush."""
OPS: Final[tuple[Op, ...]] = get_args(Op)

Kind = Literal["fail", "short", "drop", "lie", "stall"]

_STRIKES: Final[dict[Kind, tuple[Op, ...]]] = {
    "fail": OPS,
    "short": ("write",),
    "drop": ("flush", "sync_folder"),
    "lie": ("flush", "sync_folder"),
    "stall": OPS,
}


@attrs.frozen
class Fault:
    """What goes wrong at a call of a simulated disk.

    - `fail`: the call does nothing and raises *error*.
    - `short`: a write puts *part* of its bytes (0 to 1; a half) and raises *error*.
    - `drop`: a flush raises *error*; the pages that were dirty read well, count as clean and are gone at the
      next power cut, except *part* of them, drawn (none). Of a `sync_folder` likewise, its changes of entries.
    - `lie`: a flush answers and has done nothing. No honest disk does; for tests that must notice.
    - `stall`: the call has begun and takes *stall_s* longer.

    It strikes at the *nth* call from when the disk was given it, once or (*for_good*) from then on. Calls
    count if they are of *op* (None: any that this kind can strike), of process *pid* (None: any), and of a
    path that matches *path* (`*` stands for anything, `/` too; of a rename it is the old one). Of several
    that strike one call, stalls add up, and of the others the one given first has it.
    """

    kind: Kind
    op: Op | None = None
    nth: int = 1
    path: str = "*"
    pid: int | None = None
    error: int = errno.EIO
    part: float = attrs.field()
    stall_s: float = 0.0
    for_good: bool = False

    @part.default
    def _default_part(self) -> float:
        return 0.5 if self.kind == "short" else 0.0

    def __attrs_post_init__(self) -> None:
        if self.kind not in _STRIKES:
            raise Misuse(f"no kind of fault is called {self.kind!r}: {', '.join(_STRIKES)}")
        if self.op is not None and self.op not in _STRIKES[self.kind]:
            raise Misuse(f"{self.kind!r} cannot strike {self.op!r}: it is for {', '.join(_STRIKES[self.kind])}")
        if self.nth < 1 or not 0 <= self.part <= 1 or self.stall_s < 0:
            raise Misuse(f"nth counts from 1, part is of 0 to 1, stall_s is not negative: {self}")

    def counts(self, op: Op, path: str, pid: int) -> bool:
        """Whether such a call is counted."""
        return (op == self.op if self.op else op in _STRIKES[self.kind]) and self.pid in (None, pid) and fnmatchcase(path, self.path)


class Faults:
    """Those that a disk has been given, with what each has counted."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._counts: list[tuple[Fault, list[int]]] = []
        self.add(*faults)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, *faults: Fault) -> None:
        """Let *faults* count from now on."""
        self._counts += [(fault, [0]) for fault in faults]

    def heal(self) -> None:
        """Forget them all."""
        self._counts.clear()

    def strike(self, op: Op, path: str, pid: int) -> tuple[Fault | None, float]:
        """What strikes the call that begins now, and for how many seconds it stalls."""
        struck, stall_s = None, 0.0
        for fault, calls in self._counts:
            if not fault.counts(op, path, pid):
                continue
            calls[0] += 1
            if calls[0] == fault.nth or (fault.for_good and calls[0] > fault.nth):
                if fault.kind == "stall":
                    stall_s += fault.stall_s
                else:
                    struck = struck or fault
        return struck, stall_s
