"""A row of the table: one fault, one kind of store, how often; and the tally that it keeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import attrs

LISTED_MAX = 20
"""So many violations are kept as texts; all are counted."""


@attrs.define
class Tally:
    """What a row counts while it runs. It asks `over` before each round, and draws everything from *seed*."""

    goal: int
    """Rounds to do."""
    seed: int
    folder: Path
    """Its own, empty."""
    deadline: float = float("inf")
    """On `time.monotonic`: after it no new round is begun."""
    done: int = 0
    violations: int = 0
    unclear: int = 0
    """Errors that a user could meet and that are no perdure type, or do not say what to do."""
    skipped: str = ""
    """Why it could not be run here; '' if it was."""
    listed: list[str] = attrs.field(factory=list)
    notes: dict[str, int | float] = attrs.field(factory=dict)
    """Further counts: what was cut, found, lost as reported, and so on."""
    stopped: bool = False

    @property
    def over(self) -> bool:
        """Whether all rounds are done, or it is time to end."""
        return self.stopped or self.done >= self.goal or time.monotonic() >= self.deadline

    def violation(self, text: str) -> None:
        """A law was broken: *text* says which, and how to see it again."""
        self.violations += 1
        self._list(text)

    def unclear_error(self, text: str) -> None:
        """An error of no perdure type, or without a remedy."""
        self.unclear += 1
        self._list(f"unclear error: {text}")

    def note(self, name: str, count: float = 1) -> None:
        """Count something else."""
        self.notes[name] = self.notes.get(name, 0) + count

    def _list(self, text: str) -> None:
        if len(self.listed) < LISTED_MAX:
            self.listed.append(text)


@attrs.frozen
class Row:
    """*run* does rounds until `Tally.over`; *quick* of them within `make test`, *full* at `SCALE=1`."""

    fault: str
    store: str
    """`file:`, `lmdb:`, `lmdb:?log=segments`, or what else."""
    unit: str
    """What is counted: cycles, images, seeds, ..."""
    quick: int
    full: int
    run: Callable[[Tally], None]
