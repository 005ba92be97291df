"""How much is read, folded or written in one step of the loop: less while callers wait for commits."""

from __future__ import annotations

from typing import Final

import trio

from perdure.backends.limits import Limits

PRESSED_S: Final = 0.25
"""So long after a caller's commit the next one is expected."""
PRESSED_RECORDS: Final = 256
"""Then a page has so many records, or those of one commit."""
SLICE: Final = 256
"""Never are more records decoded, events folded or states encoded before other tasks have their turn."""


class Pace:
    """One for a runtime: its journal says when callers commit, its readers and projections ask."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.page_bytes = limits.page_bytes
        self._pressed_until = float("-inf")

    def note_callers(self, now: float) -> None:
        """Callers committed at *now*, by the loop's clock."""
        self._pressed_until = now + PRESSED_S

    @property
    def pressed(self) -> bool:
        """Whether callers are about who should not wait for long steps."""
        return trio.current_time() < self._pressed_until

    @property
    def page_records(self) -> int:
        """How many records a page should have."""
        most = self.limits.page_records
        return min(most, PRESSED_RECORDS) if self.pressed else most
