"""Where a batch is written and flushed: in the loop, or in a thread. Pure.

A flush in the loop stops it for as long as the disk takes. A worker thread beside a busy loop waits for
the interpreter lock, tens of milliseconds at times, and what it measures of the disk includes that. So:
in the loop while the disk is quick on the whole; a single slow flush (every disk has some) changes
nothing. Out of the thread by trying: a sentence of flushes there, then one in the loop, and a longer
sentence if the disk is slow still.
"""

from __future__ import annotations

from typing import Final, Literal

SLOW_S: Final = 0.005
"""When flushes take longer on the average of the last few, the next ones go to a thread."""
LAST_FEW: Final = 8
SHORTEST: Final = 64
LONGEST: Final = 1_024
"""Flushes of a sentence; each is twice as long as the one before, until the disk is quick again."""

How = Literal["auto", "inline", "thread"]


class Place:
    """Decides for the next batch from how long the last ones took."""

    def __init__(self, how: How = "auto") -> None:
        self.how = how
        self._mean_s = 0.0
        self._left = 0
        self._sentence = SHORTEST
        self._trial = False

    @property
    def in_thread(self) -> bool:
        """Whether the next one goes to a thread."""
        return self.how == "thread" or self._left > 0

    def note(self, flush_s: float) -> None:
        """A flush took so long, there where `in_thread` had said."""
        if self.how != "auto":
            return
        if self._left:
            self._left -= 1
            self._trial = not self._left
            return
        if self._trial:  # the first one in the loop again: it counts for itself
            self._mean_s, self._trial = flush_s, False
        else:
            self._mean_s += (min(flush_s, LAST_FEW * SLOW_S / 2) - self._mean_s) / LAST_FEW
        if self._mean_s > SLOW_S:
            self._left, self._sentence = self._sentence, min(LONGEST, 2 * self._sentence)
        elif self._mean_s < SLOW_S / 2:
            self._sentence = SHORTEST
