"""The laws, kept up to date while a crowd works: takes notes and events as they come, and holds no note. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

import attrs

from crowd.laws import MOST, Ident, Logged, Reference
from crowd.notes import Note

Span = tuple[int, int]

LOOP_S = 1.0
"""So long a loop may stand still on a busy machine."""
ANSWER_S = 1.0
"""So much longer an append may take than twice its `gate_s`: it waits for the group before it, then with its own."""
MEMORY_FACTOR, MEMORY_KIB = 1.10, 2048
"""A long-lived process may have so much more in the last third of its life than in the middle one."""
ALIKE = 3
"""So many violations that begin alike are told."""
SAMPLES_MIN = 60
"""Seconds, below which its memory is not judged: bounds may not be full."""


@attrs.define
class Life:
    """One life of a process, as far as its notes tell."""

    by: str
    gate_s: float
    follows: str | None = None
    """The name of its subscription; "" without one."""
    projects: bool = False
    next_index: int | None = None
    """Of the log: what its follower should get next."""
    revision: int = 0
    newest: dict[str, tuple[int, str]] = attrs.field(factory=dict)
    shown: dict[tuple[str, str], int] = attrs.field(factory=dict)
    asked: tuple[Ident, int] | None = None
    """The append that has no answer yet, and since when."""
    memory_kib: list[int] = attrs.field(factory=list)


class Ledger:
    """Give it first the notes that were written before a look at the log, then `settle` with what was found there."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.longest_gap_s = self.longest_wait_s = 0.0
        self.log: list[Logged] = []
        self.reference = Reference()
        self._positions: list[int] = []
        self._by_ident: dict[Ident, Logged] = {}
        self._seqs: dict[str, int] = {}
        self._untried: set[Ident] = set()
        self._tried: set[Ident] = set()
        self._refused: set[Ident] = set()
        self._named: dict[str, int] = {}
        self._asked_puts: set[tuple[str, str]] = set()
        self._puts: dict[tuple[str, str], int] = {}

    def blame(self, violation: str) -> None:
        """Count one, and keep its sentence if there are not too many like it."""
        self.counts["violations"] += 1
        self.counts[alike := " ".join(violation.split()[:3])] += 1
        if self.counts[alike] <= ALIKE and len(self.violations) < MOST:
            self.violations.append(violation)

    # -- the log -----------------------------------------------------------------------------

    def add(self, event: Logged) -> None:
        """The log's next event."""
        if self.log and event.position <= self.log[-1].position:
            self.blame(f"position {event.position} comes after {self.log[-1].position}")
        if event.seq != self._seqs.get(event.stream, 0) + 1:
            self.blame(f"stream {event.stream}: seq {event.seq} comes after {self._seqs.get(event.stream, 0)}")
        if event.ident in self._by_ident:
            self.blame(f"{event.ident} is in the log twice")
        if event.ident in self._refused:
            self.blame(f"{event.ident} was refused and is at position {event.position}")
        if event.ident not in self._tried:
            self._untried.add(event.ident)
        self._by_ident[event.ident] = event
        self._seqs[event.stream] = event.seq
        self._positions.append(event.position)
        self.log.append(event)
        self.reference.add(event)

    # -- notes -------------------------------------------------------------------------------

    def judge(self, life: Life, notes: Iterable[Note], frozen: Sequence[Span]) -> None:
        """What a life noted before the log was looked at."""
        for note in notes:
            self.counts[note.kind if note.kind != "no" else note.words[2]] += 1
            match note.kind:
                case "try":
                    self._tried.add(note.ident)
                    self._untried.discard(note.ident)
                    life.asked = note.ident, note.at_ns
                case "ack" | "no" | "doubt":
                    self._answered(life, note, frozen)
                case "from":
                    life.next_index = None if note.words[0] == "kept" else bisect_right(self._positions, note.number(0))
                case "got":
                    self._got(life, note)
                case "model":
                    self._showed(life, note)
                case "warned":  # it may have begun again from what is durable, behind what memory showed
                    name = note.words[0].removeprefix("projections/")
                    life.shown = {subject: events for subject, events in life.shown.items() if subject[0] != name}
                case "tryput":
                    self._asked_puts.add((note.words[0], note.words[1]))
                case "put":
                    self._puts[note.words[0], note.words[2]] = note.number(1)
                case "changed":
                    self._changed(life, note)
                case "gap":
                    self.longest_gap_s = max(self.longest_gap_s, gap_s := unfrozen_s(note.number(0), note.at_ns, frozen))
                    if gap_s > LOOP_S:
                        self.blame(f"{life.by}: its loop stood still for {gap_s:.2f} s")
                case "alive":
                    life.memory_kib.append(note.number(1))

    def _answered(self, life: Life, note: Note, frozen: Sequence[Span]) -> None:
        if life.asked is not None:
            self.longest_wait_s = max(self.longest_wait_s, wait_s := unfrozen_s(life.asked[1], note.at_ns, frozen))
            if wait_s > 2 * life.gate_s + ANSWER_S:
                self.blame(f"{life.by}: an append was answered {note.kind} after {wait_s:.2f} s")
        life.asked = None
        event = self._by_ident.get(note.ident)
        if note.kind == "ack":
            if event is None:
                self.blame(f"{note.ident} was acknowledged and is lost")
            elif (str(event.position), event.stream, str(event.seq)) != note.words[2:5]:
                self.blame(f"{note.ident} was acknowledged as {note.words[2:5]} and is {event}")
        elif note.kind == "no":
            self._refused.add(note.ident)
            if event is not None:
                self.blame(f"{note.ident} was answered {note.words[2]} and is at position {event.position}")

    def _got(self, life: Life, note: Note) -> None:
        position, seen = note.number(0), self._named.get(life.follows or "", 0)
        if life.next_index is None:
            life.next_index = bisect_right(self._positions, position - 1)
            if life.next_index > seen:
                self.blame(f"{life.by}: subscription {life.follows} went on at position {position}, {life.next_index - seen} events after it had stopped")
        expected = self.log[life.next_index] if life.next_index < len(self.log) else None
        if expected is None or (expected.position, expected.stream, expected.ident) != (position, note.words[2], (note.words[3], note.number(4))):
            self.blame(f"{life.by}: got {note.words}, expected {expected}")
            life.next_index = bisect_right(self._positions, position - 1)
        life.next_index += 1
        if life.follows:
            self._named[life.follows] = max(seen, life.next_index)

    def _showed(self, life: Life, note: Note) -> None:
        subject = note.words[0], note.words[1]
        if (wrong := self.reference.judge(note)) is not None:
            self.blame(f"{life.by}: {wrong}")
        if note.number(3) < life.shown.get(subject, 0):
            self.blame(f"{life.by}: model {subject} went back from {life.shown[subject]} events to {note.number(3)}")
        life.shown[subject] = note.number(3)

    def _changed(self, life: Life, note: Note) -> None:
        key, revision, value = note.words[0], note.number(1), note.words[2]
        if revision <= life.revision:
            self.blame(f"{life.by}: saw revision {revision} after {life.revision}")
        if self._puts.get((key, value), revision) != revision or (key, value) not in self._asked_puts:
            self.blame(f"{life.by}: saw {key} = {value} at revision {revision}, which was not put there")
        life.revision, life.newest[key] = revision, (revision, value)

    # -- the end -----------------------------------------------------------------------------

    def caught_up(self, life: Life) -> bool:
        """Whether its follower and its models have got to the log's end."""
        followed = life.follows is None or life.next_index is None or life.next_index == len(self.log)
        shown = {key for _, key in life.shown} >= self.reference.keys or not life.projects
        return followed and shown and all(events == self.reference.last(key).events for (_, key), events in life.shown.items())

    def close(self, lives: Iterable[Life], values: dict[str, tuple[int, str]]) -> None:
        """All have ended politely, and *values* is what the bucket holds."""
        for ident in sorted(self._untried):
            self.blame(f"{ident} is in the log and nobody tried it")
        for life in lives:
            if not self.caught_up(life):
                self.blame(f"{life.by}: did not get to the end of {len(self.log)} events: {life.next_index}, {life.shown}")
            if life.newest and life.newest != values:
                self.blame(f"{life.by}: saw {life.newest} last, the bucket has {values}")

    def judge_memory(self, life: Life) -> str:
        """Compare late with middle; how it went, for the table."""
        samples = life.memory_kib
        if len(samples) < SAMPLES_MIN:
            return f"{samples[-1] >> 10 if samples else 0} MiB, not judged below {SAMPLES_MIN} s"
        third = len(samples) // 3
        middle, late = median(samples[third : 2 * third]), median(samples[2 * third :])
        if late > middle * MEMORY_FACTOR + MEMORY_KIB:
            self.blame(f"{life.by}: its memory grew from {middle:.0f} to {late:.0f} KiB")
        return f"{middle / 1024:.1f} MiB in the middle, {late / 1024:.1f} late"


def unfrozen_s(began_ns: int, ended_ns: int, frozen: Sequence[Span]) -> float:
    """How long it took, less the time that its process was frozen."""
    stood = sum(max(0, min(ended_ns, until) - max(began_ns, since)) for since, until in frozen)
    return max(0, ended_ns - began_ns - stood) / 1e9
