"""What a process says of itself: a line per fact in a file, written by one call, so that SIGKILL cuts between lines.

    NANOSECONDS KIND WORD ...      on the clock that all processes of a machine share

    open PID · ending · closed             its life; "closed" means that the store was closed politely
    alive CPU_NS RSS_KIB · gap FROM_NS     each second; the loop did not turn from then until now
    try BY NUMBER                          an append is about to be asked for
    ack BY NUMBER POSITION STREAM SEQ WAITED_NS
    no BY NUMBER WHY PID                   refused: Conflict, Cancelled, Unavailable (which process was named) ...
    from POSITION · got POSITION SEQ STREAM BY NUMBER     a follower
    put KEY REVISION VALUE · tryput, noput KEY VALUE · watching REVISION · changed KEY REVISION VALUE
    model NAME KEY POSITION EVENTS DIGEST  what a model showed ("-": its one state)
    runs NAME · waits NAME                 it has begun, or ceased, to run a projection or a named subscription
    warned ACTOR · forked PID · used CALL WHAT
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import attrs


@attrs.frozen
class Note:
    """One line."""

    at_ns: int
    kind: str
    words: tuple[str, ...]

    def number(self, index: int) -> int:
        """The word at *index*, a number."""
        return int(self.words[index])

    @property
    def ident(self) -> tuple[str, int]:
        """Who and its number, of the kinds that begin with both."""
        return self.words[0], int(self.words[1])


class Notebook:
    """Where a process writes."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, kind: str, *words: object) -> None:
        """Add a line; it outlives this process."""
        os.write(self._handle, f"{time.monotonic_ns()} {kind} {' '.join(map(str, words))}\n".encode())


class Reading:
    """The notes of a process, as far as they are written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[Note] = []
        self.seen: Counter[str] = Counter()
        """How many of each kind, also of those taken."""
        self._offset = 0

    def fresh(self) -> list[Note]:
        """Those written since the last time."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            raw = file.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        self._offset += len(whole)
        found = [parse(line) for line in whole.decode().splitlines()]
        self.notes += found
        self.seen.update(note.kind for note in found)
        return found

    def take(self) -> list[Note]:
        """Those not taken yet; they are kept here no longer."""
        self.fresh()
        taken, self.notes = self.notes, []
        return taken

    def of(self, *kinds: str) -> list[Note]:
        """All notes of these kinds so far."""
        self.fresh()
        return [note for note in self.notes if note.kind in kinds]


def parse(line: str) -> Note:
    """The inverse of `Notebook.write`."""
    at_ns, kind, *words = line.split()
    return Note(int(at_ns), kind, tuple(words))
