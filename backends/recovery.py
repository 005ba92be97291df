"""What opening a store found of its last stop, and what it did about it."""

from __future__ import annotations

import attrs


@attrs.frozen
class Cut:
    """Bytes that opening took out of use, because they are not as they were written: *what* they were, and where they lay."""

    what: str
    file: str
    offset: int
    size_bytes: int
    kept_in: str | None = None
    """The file that has them now; None: they were kept nowhere."""


@attrs.frozen
class Recovery:
    """One opening's report.

    *clean*: the store was new, or had been closed cleanly by the last process that had it open.
    *replayed*: groups that the commit log had and the tables did not.
    """

    clean: bool = True
    checked: str = ""
    """What was read to see whether it is sound; '' for nothing."""
    checked_bytes: int = 0
    replayed: int = 0
    cuts: tuple[Cut, ...] = ()
    took_s: float = 0.0

    @property
    def lost_nothing(self) -> bool:
        """Whether all was as it had been written."""
        return not self.cuts
