"""Backends that are broken on purpose, each in one way: the laws must catch every one of them.

Most stand around an honest store in memory (`FaultyBackend` without faults is a transparent wrapper),
some change one step of `OrderedBackend`. A store of a liar keeps what it holds by its name, so that
what is opened again is the same store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from perdure.backends.environment import Environment
from perdure.backends.errors import Closed
from perdure.backends.memory import MemoryMap
from perdure.backends.protocol import Backend

from .honest import Liar
from .loading import (
    CommitsWhereItWas,
    CommitsWhileLoading,
    ForgetsTheLoading,
    ForgetsWhatIsTraced,
    HoldsNobody,
    LoadsDamage,
    LoadsNoAnswers,
    LoadsNoTombstones,
    LoadsUnderNewNumbers,
    MovingMoment,
    NumbersEntriesAnew,
    OverlooksWhatIsUnwatched,
    TracesNoDeletes,
)
from .racing import LooksBeforeItPuts, ReadsFromACache, ReadsWhatIsOnItsWay
from .reading import (
    EndlessView,
    EndsPagesInsideCommits,
    ForgetsDeletes,
    MovingView,
    ShowsDeletedEntries,
    SkipsOverTheUnread,
    StaleSnapshot,
    TellsOldRevisions,
    UnorderedPages,
)
from .waiting import ClosesOnce, GoesOnAfterClose, LosesWakeUps, WakesForNothing
from .writing import (
    AcknowledgesBeforeCommit,
    AnswersKeyForOtherContent,
    ForgetsFences,
    KeepsConflicts,
    LosesAtClose,
    OneBadCommitFailsItsGroup,
    RevisionsComeBack,
    StealsKeepTheFence,
    SwallowsConflicts,
    SwallowsErrors,
    TimeGoesBack,
    TwoWinners,
)

__all__ = ["LIARS", "Liar", "LiarStores"]

LIARS: dict[str, tuple[Callable[[MemoryMap], Backend], str]] = {
    "ack before commit": (AcknowledgesBeforeCommit, "what-was-answered-is-seen"),
    "ack of what closing loses": (LosesAtClose, "all-is-there-again"),
    "two winners": (TwoWinners, "of-two-appenders-one-wins"),
    "swallowed conflict": (SwallowsConflicts, "a-stream-is-not-as-expected"),
    "swallowed error": (SwallowsErrors, "a-closed-store-says-so"),
    "an await between the look at a revision and the put": (LooksBeforeItPuts, "histories-of-entries-are-linearizable"),
    "a cache of entries": (ReadsFromACache, "histories-of-entries-are-linearizable"),
    "reads of what is on its way": (ReadsWhatIsOnItsWay, "histories-of-appends-are-linearizable"),
    "lost wake-up": (LosesWakeUps, "no-wake-up-is-lost"),
    "wake-up for nothing": (WakesForNothing, "what-has-no-events-wakes-no-follower"),
    "a page that ends inside a commit": (EndsPagesInsideCommits, "a-page-holds-whole-commits"),
    "unordered pages": (UnorderedPages, "pages-give-everything-once"),
    "a cursor beyond what was read": (SkipsOverTheUnread, "pages-give-everything-once"),
    "revisions that come back after a delete": (RevisionsComeBack, "a-revision-never-comes-back"),
    "a steal that keeps the fence": (StealsKeepTheFence, "a-fence-is-a-revision"),
    "a fence that is not checked": (ForgetsFences, "a-fence-is-a-revision"),
    "a key answered for other content": (AnswersKeyForOtherContent, "a-key-is-not-for-other-content"),
    "a conflict kept under its key": (KeepsConflicts, "conflicts-are-decided-anew"),
    "a stale snapshot": (StaleSnapshot, "a-snapshot-is-never-stale"),
    "an engine that lets one bad commit fail its group": (OneBadCommitFailsItsGroup, "one-bad-commit-fails-alone"),
    "time that goes back": (TimeGoesBack, "time-never-goes-back"),
    "changes without deletes": (ForgetsDeletes, "changes-are-coalesced"),
    "changes of other revisions": (TellsOldRevisions, "a-change-has-its-own-value"),
    "entries that outlive their delete": (ShowsDeletedEntries, "an-entry-has-its-revision"),
    "a view that moves": (MovingView, "a-view-stands-still"),
    "a view without an end": (EndlessView, "a-view-ends"),
    "a store that is never closed": (GoesOnAfterClose, "a-closed-store-says-so"),
    "a store that is closed only once": (ClosesOnce, "closing-twice-is-closing-once"),
    "loading under new numbers": (LoadsUnderNewNumbers, "positions-may-have-gaps"),
    "loading what is damaged": (LoadsDamage, "damage-is-not-loaded"),
    "commits while it is loaded": (CommitsWhileLoading, "what-is-loaded-takes-no-commits"),
    "a loading that does not outlive its process": (ForgetsTheLoading, "loading-outlives-its-process"),
    "revisions anew": (NumbersEntriesAnew, "what-is-beside-the-log-is-loaded-as-it-was"),
    "deletes that are not brought": (LoadsNoTombstones, "what-is-beside-the-log-is-loaded-as-it-was"),
    "keys that are not brought": (LoadsNoAnswers, "what-was-loaded-counts"),
    "deletes that are not traced": (TracesNoDeletes, "a-trace-holds-what-is-changed"),
    "a change forgotten for the one before": (ForgetsWhatIsTraced, "a-trace-holds-what-is-changed"),
    "changes of states overlooked": (OverlooksWhatIsUnwatched, "changed-entries-are-found-by-revision"),
    "commits where it was": (CommitsWhereItWas, "a-moved-store-says-where-it-is"),
    "commits while they are held": (HoldsNobody, "held-commits-wait"),
    "a moment that moves": (MovingMoment, "a-moment-stands-still"),
}
"""What each does, and the law that must catch it."""


class LiarStores:
    """See `Stores`: each name keeps its rows, for liars that claim to be durable."""

    def __init__(self, make: Callable[[MemoryMap], Backend]) -> None:
        self._make = make
        self._kept: dict[str, MemoryMap] = {}

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[Backend]:
        rows = self._kept.setdefault(name, MemoryMap(Environment().ids().hex()))
        backend = self._make(rows)
        if not backend.capabilities.durable:
            backend = self._make(MemoryMap(Environment().ids().hex()))
        try:
            yield backend
        finally:
            with suppress(Closed):
                await backend.aclose()
