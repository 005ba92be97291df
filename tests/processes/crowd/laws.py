"""From notes and the log to violations, each a sentence; nothing found is an empty list. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

import attrs

from crowd.domain import Tally, stepped, who
from crowd.notes import Note

Ident = tuple[str, int]

MOST = 20
"""So many violations of one law are told."""


@attrs.frozen
class Logged:
    """An event as the log has it."""

    position: int
    stream: str
    seq: int
    by: str
    number: int

    @property
    def ident(self) -> Ident:
        """Never twice."""
        return self.by, self.number


def ordered(log: Sequence[Logged]) -> list[str]:
    """Positions grow, every stream's events are 1 to n, and no event is there twice."""
    found: list[str] = []
    seqs: dict[str, int] = {}
    seen: set[Ident] = set()
    position = 0
    for event in log:
        if event.position <= position:
            found.append(f"position {event.position} comes after {position}")
        if event.seq != seqs.get(event.stream, 0) + 1:
            found.append(f"stream {event.stream}: seq {event.seq} comes after {seqs.get(event.stream, 0)}")
        if event.ident in seen:
            found.append(f"{event.ident} is in the log twice, again at {event.position}")
        position, seqs[event.stream] = event.position, event.seq
        seen.add(event.ident)
    return found[:MOST]


def acknowledged(log: Sequence[Logged], notes: Iterable[Note]) -> list[str]:
    """What was acknowledged is where it was said to be; what was refused is not there; nothing is there that nobody tried."""
    found: list[str] = []
    by_ident = {event.ident: event for event in log}
    tried: set[Ident] = set()
    for note in notes:
        if note.kind == "try":
            tried.add(note.ident)
        elif note.kind == "ack":
            event = by_ident.get(note.ident)
            if event is None:
                found.append(f"{note.ident} was acknowledged and is lost")
            elif (str(event.position), event.stream, str(event.seq)) != note.words[2:5]:
                found.append(f"{note.ident} was acknowledged as {note.words[2:5]} and is {event}")
        elif note.kind == "no" and note.ident in by_ident:
            found.append(f"{note.ident} was answered {note.words[2]} and is at position {by_ident[note.ident].position}")
    found += [f"{ident} is in the log and nobody tried it" for ident in by_ident if ident not in tried]
    return found[:MOST]


def followed(log: Sequence[Logged], run: Sequence[Note], *, after: int | None, complete: bool) -> list[str]:
    """One run of a follower is the log from *after* (None: from its own first event) on, once and in order; *complete*: to its end."""
    got = [(note.number(0), note.words[2], note.number(1), note.words[3], note.number(4)) for note in run]
    positions = [event.position for event in log]
    if after is None:
        after = got[0][0] - 1 if got else (positions[-1] if positions else 0)
    begin = bisect_right(positions, after)
    expected = [(event.position, event.stream, event.seq, event.by, event.number) for event in log[begin : begin + len(got)]]
    if got != expected:
        at = next((index for index, pair in enumerate(zip(got, expected, strict=False)) if pair[0] != pair[1]), min(len(got), len(expected)))
        return [f"a follower from {after} got {got[at : at + 2]} as its {at + 1}th, the log has {expected[at : at + 2]}"]
    if complete and begin + len(got) < len(log):
        return [f"a follower from {after} got {len(got)} events, {len(log) - begin - len(got)} more are in the log"]
    return []


def handed_over(log: Sequence[Logged], runs: Iterable[Sequence[Note]]) -> list[str]:
    """A named follower's run leaves no gap after the runs before it."""
    found: list[str] = []
    positions = [event.position for event in log]
    seen = 0
    for run in runs:
        if not run:
            continue
        if run[0].number(0) > positions[min(bisect_right(positions, seen), len(positions) - 1)]:
            found.append(f"a named follower that had seen up to {seen} went on at {run[0].number(0)}")
        seen = max(seen, run[-1].number(0))
    return found[:MOST]


class Reference:
    """The folds of the log, by key ("-": of all): after each event, its position and the state."""

    def __init__(self, log: Iterable[Logged] = ()) -> None:
        self._positions: dict[str, list[int]] = {"-": []}
        self._states: dict[str, list[Tally]] = {"-": [Tally()]}
        for event in log:
            self.add(event)

    def add(self, event: Logged) -> None:
        """Fold one more."""
        for key in ("-", who(event.by)):
            states = self._states.setdefault(key, [Tally()])
            states.append(stepped(states[-1], event.position, event.number))
            self._positions.setdefault(key, []).append(event.position)

    @property
    def keys(self) -> set[str]:
        """All that were touched."""
        return {key for key, positions in self._positions.items() if positions}

    def last(self, key: str) -> Tally:
        """The newest state."""
        return self._states[key][-1] if key in self._states else Tally()

    def judge(self, note: Note) -> str | None:
        """What is wrong with what a model showed."""
        name, key, position, shown = note.words[0], note.words[1], note.number(2), Tally(note.number(3), note.number(4))
        states = self._states.get(key, [Tally()])
        if shown.events >= len(states) or states[shown.events] != shown:
            return f"model {name} showed {shown} for {key}, which is no fold of the log"
        if key == "-" and bisect_right(self._positions[key], position) != shown.events:
            return f"model {name} showed {shown} at position {position}, the log has {bisect_right(self._positions[key], position)} events there"
        return None


def modelled(reference: Reference, notes: Iterable[Note]) -> list[str]:
    """A model is the fold of the log up to its position, and never goes back within one life."""
    found: list[str] = []
    shown: dict[tuple[str, str], int] = {}
    for note in notes:
        subject = note.words[0], note.words[1]
        if (wrong := reference.judge(note)) is not None:
            found.append(wrong)
        if note.number(3) < shown.get(subject, 0):
            found.append(f"model {subject} went back from {shown[subject]} events to {note.number(3)}")
        shown[subject] = note.number(3)
    return found[:MOST]


def watched(run: Sequence[Note], puts: Iterable[Note], tried: Iterable[Note], newest: Mapping[str, tuple[int, str]]) -> list[str]:
    """One run of a watcher has growing revisions, only what was put, and of every key the newest."""
    found: list[str] = []
    known = {(note.words[0], note.words[2]): note.number(1) for note in puts}
    asked = {(note.words[0], note.words[1]) for note in tried}
    revision = 0
    last: dict[str, tuple[int, str]] = {}
    for note in run:
        key, at, value = note.words[0], note.number(1), note.words[2]
        if at <= revision:
            found.append(f"a watcher saw revision {at} after {revision}")
        if known.get((key, value), at) != at or (key, value) not in asked:
            found.append(f"a watcher saw {key} = {value} at revision {at}, which was not put there")
        revision, last[key] = at, (at, value)
    found += [f"a watcher saw {last.get(key)} last of {key}, which is {entry}" for key, entry in newest.items() if last.get(key) != entry]
    return found[:MOST]


def turning(gaps: Iterable[Note], frozen: Sequence[tuple[int, int]], limit_ms: float) -> list[str]:
    """A loop did not stand still for longer than its limit, unless its process was frozen."""
    found: list[str] = []
    for gap in gaps:
        began_ns, took_ms = gap.number(0), (gap.at_ns - gap.number(0)) / 1e6
        excused = any(began_ns < until and since < gap.at_ns for since, until in frozen)
        if took_ms > limit_ms and not excused:
            found.append(f"a loop stood still for {took_ms:.0f} ms")
    return found[:MOST]


def quantile(values: Sequence[float], share: float) -> float:
    """The value that *share* of them does not exceed; 0 of none."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0
