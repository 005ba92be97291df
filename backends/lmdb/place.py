"""Where a batch is written and flushed: in the loop, or in a thread. Pure.

A worker thread under a busy loop waits for the interpreter lock, tens of milliseconds at times; a flush
in the loop stops it for as long as the disk takes. So: in the loop while the disk is quick.
"""

from __future__ import annotations

from typing import Final, Literal

SLOW_S: Final = 0.005
"""A flush that took longer sends the next ones to a thread,"""
SENTENCE: Final = 1_000
"""so many of them."""

How = Literal["auto", "inline", "thread"]


class Place:
    """Decides for the next batch from how long the last ones took."""

    def __init__(self, how: How = "auto") -> None:
        self.how = how
        self._left = 0

    @property
    def in_thread(self) -> bool:
        """Whether the next one goes to a thread."""
        return self.how == "thread" or self._left > 0

    def note(self, flush_s: float) -> None:
        """A flush took so long."""
        if self.how == "auto":
            self._left = SENTENCE if flush_s > SLOW_S else max(0, self._left - 1)
