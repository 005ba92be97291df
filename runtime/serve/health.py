"""How things have been going: which models get on, and whether the store takes what it is given. Looked at again and again; pure.

What one moment cannot tell (a model that has not moved for a minute, a store that has refused since) is kept here, so that asking costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from perdure.actors.journal import JournalStatistics
from perdure.actors.status import ActorStatus

REFUSED_S: Final = 30.0
"""So long a refused commit counts against the store, if none was taken since: then it is to be tried again."""
AT_REST: Final = ("standing by", "faulted", "gave up", "left", "stopped")
"""States in which a model is not expected to get on here."""


@attrs.define
class Seen:
    """How far a model was, and since when it is there while there is more to fold (*due*)."""

    position: int
    since_s: float
    stuck_s: float
    due: bool
    actor: ActorStatus


@attrs.define
class Health:
    """What has been seen, up to the last look."""

    models: dict[str, Seen] = attrs.field(factory=dict)
    looks: int = 0
    _refused: int = 0
    _refused_s: float = float("-inf")
    _refusal: str = ""

    def look(self, journal: JournalStatistics, models: Iterable[ActorStatus], now_s: float) -> None:
        """See how it is at *now_s*, seconds on a clock that only goes forward."""
        self.looks += 1
        self.models = {one.name: self._seen(one, now_s) for one in models}
        if journal.refused > self._refused:
            self._refused, self._refused_s = journal.refused, now_s
        over = not journal.refusal or now_s - self._refused_s > REFUSED_S
        self._refusal = "" if over else journal.refusal

    def _seen(self, one: ActorStatus, now_s: float) -> Seen:
        before, position = self.models.get(one.name), one.position or 0
        due = bool(one.lag_events) and one.state not in AT_REST
        if before is None or before.position != position or not (due and before.due):
            return Seen(position, now_s, 0.0, due, one)
        return Seen(position, before.since_s, now_s - before.since_s, due, one)

    def reasons(self, stuck_s: float, *, why: bool) -> Iterator[str]:
        """What is wrong, and *why* as far as that is for everybody's eyes: errors may quote what is stored. Models count as stuck after *stuck_s*."""
        if self._refusal:
            yield "the store takes no commits" + (f": {self._refusal}" if why else "")
        for name, seen in self.models.items():
            if seen.stuck_s > stuck_s:
                told = f": {seen.actor.last_error}" if why and seen.actor.last_error else ""
                yield f"model {name} is stuck: {seen.actor.lag_events:,} events to fold, no progress for {seen.stuck_s:,.0f} s ({seen.actor.state}){told}"
