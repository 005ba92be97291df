"""What a process believes of the store since its last commit: facts to judge the next group by, without asking. Pure.

The statement that writes the group checks what it was judged by. Seqs of streams that are appended to are checked by the
index of runs, and by that of names where a stream begins; ids of commits with a key by their index; entries and leases by
the revision; conditions by the position. What is not checked so is asked for with the head locked.
"""

from __future__ import annotations

from perdure.backends.commit import Committed
from perdure.backends.engine import Decisions, Entry, Facts, Needs
from perdure.backends.event import Position

FACTS_MAX = 20_000
"""So many streams' last seqs, or entries' revisions, are remembered; beyond that none."""
SHY_MAX = 64
"""So many groups at most are judged with the head locked after one that was judged by a wrong belief."""


def copy(facts: Facts) -> Facts:
    """The same facts, for `decide` to change."""
    return Facts(facts.head, facts.at_us, facts.revision, dict(facts.streams), dict(facts.entries), dict(facts.ids), dict(facts.conditions), dict(facts.leases))


def further_on(facts: Facts, *, head: int, at_us: int, revision: int) -> Facts:
    """The same facts where others have written in between, but nothing of what they are about."""
    found = copy(facts)
    found.head, found.at_us, found.revision = Position(head), at_us, revision
    return found


def provable(needs: Needs, done: Decisions) -> bool:
    """Whether the statement that writes *done* can tell that the facts for *needs* were true."""
    if any(type(answer) is not Committed for answer in done.answers):
        return False
    written = bool(done.pieces or done.changes or done.states or done.snapshots)
    return written and {piece.stream for piece in done.pieces}.issuperset(needs.streams)


class Belief:
    """See the module."""

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._head = Position(0)
        self._at_us = self._revision = 0
        self._streams: dict[str, int] = {}
        self._entries: dict[Entry, int] = {}
        self._leases: dict[str, int] = {}
        self._shy = self._refused = 0

    def facts(self, needs: Needs) -> tuple[Facts, int] | None:
        """What *needs* names, if all of it is known, and the epoch."""
        if self._epoch is None or needs.conditions or needs.ids:
            return None
        streams, entries, leases = self._streams, self._entries, self._leases
        facts = Facts(self._head, self._at_us, self._revision)
        try:
            facts.streams = {stream: streams[stream] for stream in needs.streams}
            facts.entries = {entry: entries[entry] for entry in needs.entries}
            facts.leases = {lease: leases[lease] for lease in needs.leases}
        except KeyError:
            return None
        return facts, self._epoch

    def learn(self, facts: Facts, epoch: int, since: int, done: Decisions) -> None:
        """Facts that are true after a group, of which *done* was decided; *since* is the revision before it."""
        if epoch != self._epoch or len(self._streams) > FACTS_MAX:
            self.forget()
        if since != self._revision or len(self._entries) > FACTS_MAX:
            self._entries.clear()
            self._leases.clear()
        self._epoch, self._head, self._at_us, self._revision = epoch, done.head, done.at_us, done.revision
        self._streams.update(facts.streams)
        self._entries.update(facts.entries)
        self._leases.update(facts.leases)
        for states, _ in done.states:
            for key, _ in states.entries:
                self._entries.pop((states.bucket, key), None)

    def forget(self) -> None:
        """Nothing is known any more."""
        self._epoch = None
        self._streams.clear()
        self._entries.clear()
        self._leases.clear()

    # -- whether to rely on it ---------------------------------------------------------------

    def takes_the_lock(self) -> bool:
        """Whether the next group had better be judged with the head locked, since of late something else was true too often. Counts it."""
        if self._shy:
            self._shy -= 1
            return True
        return False

    def note(self, *, right: bool) -> None:
        """How it went with a group that was judged by beliefs."""
        self._refused = 0 if right else min(SHY_MAX, max(1, 2 * self._refused))
        self._shy = self._refused // 2
