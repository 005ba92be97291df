"""How long something took, many times: counts in a few buckets, enough for a median and a 99th percentile. Pure."""

from __future__ import annotations

from math import log2
from typing import Final

_STEPS: Final = 4
"""Buckets for each doubling: a quantile is right within 19 %."""
_LEAST: Final = -20
"""The first bucket ends at 2**-20 s, a microsecond."""
_BUCKETS: Final = 30 * _STEPS


class Timings:
    """Times in seconds."""

    __slots__ = ("_buckets", "count", "max_s", "total_s")

    def __init__(self) -> None:
        self.count = 0
        self.total_s = 0.0
        self.max_s = 0.0
        self._buckets = [0] * _BUCKETS

    def note(self, took_s: float) -> None:
        """One more."""
        self.count += 1
        self.total_s += took_s
        if took_s > self.max_s:
            self.max_s = took_s
        self._buckets[min(_BUCKETS - 1, max(0, int((log2(took_s) - _LEAST) * _STEPS) + 1)) if took_s > 0 else 0] += 1

    def reached(self) -> list[tuple[float, int]]:
        """How many took no longer than each power of two of a second, from the first bucket to the last."""
        counted, found = 0, []
        for power, start in enumerate(range(0, _BUCKETS, _STEPS)):
            counted += sum(self._buckets[max(0, start - _STEPS + 1) : start + 1])
            found.append((2.0 ** (_LEAST + power), counted))
        return found

    @property
    def mean_s(self) -> float:
        """Their mean; 0 while there is none."""
        return self.total_s / self.count if self.count else 0.0

    def quantile_s(self, share: float) -> float:
        """The upper end of the bucket in which that *share* of them is reached, at most the longest; 0 while there is none."""
        left = share * self.count
        for place, found in enumerate(self._buckets):
            left -= found
            if left <= 0 and found:
                return float(min(self.max_s, 2.0 ** (_LEAST + place / _STEPS)))
        return self.max_s
