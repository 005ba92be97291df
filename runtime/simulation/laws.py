"""The laws that every run is held to, whatever the app: the store against what callers were told. Pure.

Each gives the sentences that say how it is broken; none where it holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise, zip_longest
from typing import Any

from perdure.actors.fold import AnyProjection, Keyed, keys_of, stepper
from perdure.backends.codec import Codec
from perdure.backends.commit import Append, Appended, Committed, Delete, Put, Stored
from perdure.backends.errors import Conflict
from perdure.backends.event import Position, Record, unpack_extra
from perdure.backends.protocol import ChangedEntry
from perdure.runtime.simulation.ledger import Entry, Ledger

Law = str
Broken = Iterator[tuple[Law, str]]

ACKNOWLEDGED = "what was acknowledged is there"
ABSENT = "what was refused or cancelled is not there"
ONCE = "a commit is there once, whole, as it was asked for"
UNKNOWN = "nothing is there that nobody asked for"
DENSE = "seqs have no gaps, positions grow, times do not go back"
ORDER = "commits keep the order in which they were acknowledged"
UNCHANGED = "what was shown stays as it was shown"
MODELS = "a model equals the fold of the log up to its position"
KV = "the last acknowledged change of a key is what it holds"
TRUE = "a conflict tells the truth"
FOLLOWED = "a follower sees each event in order, once"
REACHED = "followers reach the head"
GOES_ON = "a projection can fold every event"
VERIFIED = "verify finds nothing"
SOUND = "a store that was not damaged opens and reads well"
CLEAR = "what fails, fails with an error of perdure's own"
KEPT = "what must stay stays"
ARCHIVED = "what went is in the archive that its stream leads to"
NAMED = "a dry run names what goes"
PURE = "a fold is pure"
REPEATS = "the same seed gives the same run"
ENDS = "the run ends"
WORKLOAD = "the workload holds"
CHECK = "the check holds"


# -- the log ---------------------------------------------------------------------------------


def judge_log(ledger: Ledger, records: Sequence[Record], shown: Mapping[int, Record]) -> Broken:
    """The whole log against what callers were told, and against what was ever shown of it, by position."""
    yield from _judge_shown(records, shown)
    yield from _judge_places(records)
    by_commit: dict[bytes, list[Record]] = {}
    for record in records:
        by_commit.setdefault(record.commit, []).append(record)
    entries = ledger.by_id()
    for entry in ledger.entries.values():
        if (answer := entry.stored) is not None and entry.appends:
            yield from _judge_stored(entry, answer, by_commit.get(entry.commit.id, []))
    for id, found in by_commit.items():
        if found[0].stream.startswith("$"):
            continue
        asked = [entry for entry in entries.get(id, ()) if not _differs(entry, found)]
        if not entries.get(id):
            yield UNKNOWN, f"{_told(found[0])}, of a commit that nobody asked for"
        elif not asked:
            yield ONCE, f"{entries[id][0]}: {_differs(entries[id][0], found)}"
        elif all(entry.absent for entry in asked):
            yield ABSENT, f"{asked[0]} is in the log: {_told(found[0])}"


def _judge_shown(records: Sequence[Record], shown: Mapping[int, Record]) -> Broken:
    there = {int(record.position): record for record in records}
    for position, before in sorted(shown.items()):
        now = there.get(position)
        if now is None:
            yield UNCHANGED, f"{_told(before)} was shown, and is gone"
            return
        if before is not now and before != now:
            yield UNCHANGED, f"{_told(before)} was shown, now there is {_told(now)}"
            return


def _judge_places(records: Sequence[Record]) -> Broken:
    position, at_us = 0, 0
    seqs: dict[str, int] = defaultdict(int)
    for record in records:
        if record.position <= position:
            yield DENSE, f"{_told(record)} stands behind position {position}"
        if record.seq != seqs[record.stream] + 1:
            yield DENSE, f"{_told(record)} comes after seq {seqs[record.stream]}"
        if record.at_us < at_us:
            yield DENSE, f"{_told(record)} is {at_us - record.at_us} us earlier than the event before"
        position, at_us, seqs[record.stream] = record.position, record.at_us, record.seq


def _judge_stored(entry: Entry, answer: Committed, found: Sequence[Record]) -> Broken:
    if not found:
        yield ACKNOWLEDGED, f"{entry} is not in the log"
        return
    if _differs(entry, found):
        return  # told below
    if answer.position != found[-1].position:
        yield ACKNOWLEDGED, f"{entry} stands at position {found[-1].position}"
    parts = iter(answer.parts)
    for write in entry.commit.writes:
        if isinstance(write, Append):
            part = next(parts)
            seqs = [record.seq for record in found if record.stream == write.stream]
            if isinstance(part, Appended) and write.events and (part.first, part.last) != (seqs[0] if seqs else 0, seqs[-1] if seqs else 0):
                yield ACKNOWLEDGED, f"{entry} was told seqs {part.first} to {part.last} of {write.stream}, it has {seqs}"
            if isinstance(part, Appended) and type(write.expected) is int and write.events and part.first != write.expected + 1:
                yield ONCE, f"{entry} expected {write.expected} of {write.stream} and got seq {part.first}"
        elif isinstance(write, Put | Delete):
            next(parts)


def _differs(entry: Entry, found: Sequence[Record]) -> str:
    """How what stands in the log is not what was asked for; '' where it is."""
    asked = [(write.stream, draft.type, draft.version, draft.payload, unpack_extra(draft.extra).tags) for write in entry.appends for draft in write.events]
    there = [(record.stream, record.type, record.version, record.payload, record.tags) for record in found]
    if asked == there:
        return ""
    if len(there) != len(asked):
        return f"{len(there)} of its {len(asked)} events are in the log"
    return next(f"event {place} of it is {have!r:.200}" for place, (have, want) in enumerate(zip(there, asked, strict=True), 1) if have != want)


def _told(record: Record) -> str:
    return f"the event at position {record.position} ({record.stream} {record.seq}, {record.type})"


# -- order and conflicts ---------------------------------------------------------------------


def judge_order(ledger: Ledger) -> Broken:
    """Of two commits, one acknowledged before the other was asked for, the first stands first: of positions, and of revisions."""
    yield from _judge_times([(answer.position, entry) for entry in ledger.entries.values() if (answer := entry.stored) and answer.position], "position")
    revisions = [
        (part.revision, entry)
        for entry in ledger.entries.values()
        if (answer := entry.stored)
        for part in dict.fromkeys(part for part in answer.parts if isinstance(part, Stored))
    ]
    yield from _judge_times(revisions, "revision")


def _judge_times(places: Iterable[tuple[int, Entry]], what: str) -> Broken:
    earliest: tuple[float, int, Entry] | None = None
    for place, entry in sorted(places, key=lambda found: -found[0]):
        began = entry.attempts[0].began
        if earliest is not None and earliest[0] < began:
            yield ORDER, f"{entry} has {what} {place}, though {earliest[2]} with {what} {earliest[1]} had been acknowledged before it was asked for"
        if earliest is not None and earliest[1] == place:
            yield ORDER, f"{entry} and {earliest[2]} have the same {what} {place}"
        ended = min(attempt.ended for attempt in entry.attempts if attempt.outcome == "stored" and attempt.ended is not None)
        if earliest is None or ended < earliest[0]:
            earliest = (ended, place, entry)


def judge_conflicts(ledger: Ledger, records: Sequence[Record]) -> Broken:
    """What a conflict says of a stream was so at some time while it was asked for."""
    known: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for entry in ledger.entries.values():
        if (answer := entry.stored) is None:
            continue
        ended = min(attempt.ended for attempt in entry.attempts if attempt.outcome == "stored" and attempt.ended is not None)
        parts = iter(answer.parts)
        for write in entry.commit.writes:
            if isinstance(write, Append | Put | Delete):
                part = next(parts)
                if isinstance(write, Append) and isinstance(part, Appended):
                    known[write.stream].append((ended, part.last))
    last = {record.stream: record.seq for record in records}
    for entry in ledger.entries.values():
        for attempt in entry.attempts:
            if not isinstance(attempt.answer, Conflict) or attempt.answer.what != "stream" or not isinstance(attempt.answer.actual, int):
                continue
            stream, actual = attempt.answer.subject, attempt.answer.actual
            least = max((seq for ended, seq in known[stream] if ended < attempt.began), default=0)
            if not least <= actual <= last.get(stream, 0) or actual == attempt.answer.expected:
                yield TRUE, f"{entry} was told that {stream} ends with {actual}; it had {least} events then, and has {last.get(stream, 0)} now"


# -- kv --------------------------------------------------------------------------------------


def judge_bucket(ledger: Ledger, bucket: str, changes: Sequence[ChangedEntry]) -> Broken:
    """A bucket's last changes, deletes included, against what callers were told."""
    known: dict[bytes, list[tuple[int | None, bytes | None, Entry]]] = defaultdict(list)
    for entry in ledger.entries.values():
        for revision, key, value in _changes_of(entry, bucket):
            known[key].append((revision, value, entry))
    there = {change.key: change for change in changes}
    for key, change in there.items():
        if key not in known:
            yield UNKNOWN, f"key {_text(key)} of {bucket} at revision {change.revision}, which nobody asked for"
    for key, asked in known.items():
        yield from _judge_key(f"key {_text(key)} of {bucket}", asked, there.get(key))


def _judge_key(name: str, asked: Sequence[tuple[int | None, bytes | None, Entry]], found: ChangedEntry | None) -> Broken:
    last = max((one for one in asked if one[0] is not None), key=lambda one: one[0] or 0, default=None)
    if found is None:
        if last is not None:
            yield KV, f"{name} has no change, after {last[2]}"
        return
    if last is not None and found.revision < (last[0] or 0):
        yield KV, f"{name} stands at revision {found.revision}, after {last[2]} at {last[0]}"
    elif last is not None and found.revision == last[0]:
        if found.value != last[1]:
            yield KV, f"{name} at revision {found.revision} is not what {last[2]} wrote"
    elif not any(revision is None and value == found.value and not entry.absent for revision, value, entry in asked):
        wrong = next((entry for revision, value, entry in asked if value == found.value and entry.absent), None)
        if wrong is not None:
            yield ABSENT, f"{wrong} is in the store: {name} at revision {found.revision}"
        else:
            yield KV, f"{name} at revision {found.revision} is nothing that anybody wrote"


def _changes_of(entry: Entry, bucket: str) -> Iterator[tuple[int | None, bytes, bytes | None]]:
    """What a commit does to a bucket: revision (None: nobody was told), key, value (None: deleted)."""
    answer = entry.stored
    parts = iter(answer.parts) if answer is not None else None
    for write in entry.commit.writes:
        if not isinstance(write, Append | Put | Delete):
            continue
        part = next(parts) if parts is not None else None
        if not isinstance(write, Append) and write.bucket == bucket:
            yield (part.revision if isinstance(part, Stored) else None), _bytes(write.key), (bytes(write.value) if isinstance(write, Put) else None)


def buckets_of(ledger: Ledger) -> list[str]:
    """The buckets that anybody wrote to."""
    return sorted({write.bucket for entry in ledger.entries.values() for write in entry.commit.writes if isinstance(write, Put | Delete)})


def _bytes(key: str | bytes) -> bytes:
    return key.encode() if isinstance(key, str) else bytes(key)


def _text(key: bytes) -> str:
    return repr(key.decode(errors="replace"))


def judge_values(shown: Mapping[tuple[str, bytes, int], bytes | None], bucket: str, changes: Sequence[ChangedEntry]) -> Broken:
    """A bucket's last changes against what was ever shown of it."""
    there = {change.key: change for change in changes}
    for (other, key, revision), value in shown.items():
        if other != bucket:
            continue
        now = there.get(key)
        if now is None or now.revision < revision:
            yield UNCHANGED, f"key {_text(key)} of {bucket} was shown at revision {revision}, and is back at {0 if now is None else now.revision}"
        elif now.revision == revision and now.value != value:
            yield UNCHANGED, f"key {_text(key)} of {bucket} was shown with another value at revision {revision}"


# -- followers -------------------------------------------------------------------------------


def judge_follower(
    name: str, runs: Sequence[tuple[int, Sequence[int]]], records: Sequence[Record], *, named: bool, told: Container[int] = ()
) -> Broken:
    """What a follower saw in each of its runs, (where it began, positions), against the log. A *named* one goes on from run to run.

    Before it had a place of its own it may have been *told* that what comes before those positions has been cut.
    """
    positions = [int(record.position) for record in records]
    done = 0
    for number, (began, seen) in enumerate(runs, 1):
        if not seen:
            continue
        if named:
            began = next((before for before, after in pairwise([0, *positions]) if after == seen[0]), began)
            if began > done and began not in told:
                yield FOLLOWED, f"run {number} of {name} begins with position {seen[0]}, and nobody had seen what comes after {done}"
        wanted = [position for position in positions if began < position <= seen[-1]]
        if wanted != list(seen):
            yield FOLLOWED, f"run {number} of {name} saw {_first_wrong(wanted, seen)}"
        done = max(done, seen[-1])


def _first_wrong(wanted: Sequence[int], seen: Sequence[int]) -> str:
    for want, have in zip_longest(wanted, seen):
        if want != have:
            return f"position {have} where {want} comes next"
    return "what it should"


# -- models ----------------------------------------------------------------------------------


class Reference:
    """What a projection's states are after each event, by a plain fold: of fresh copies, so that nothing that ran before matters."""

    def __init__(self, projection: AnyProjection, initial: bytes) -> None:
        self.projection = projection
        self._codec = Codec()
        for cls in projection.events.classes:
            self._codec.registry.register(cls)
        self._encode = self._codec.encoder(projection.state_type)
        self._decode: Callable[[bytes], Any] = self._codec.decoder(projection.state_type)
        self._initial = initial
        self._states: dict[str, bytes] = {} if isinstance(projection, Keyed) else {"": initial}
        self._records: Sequence[Record] = ()
        self._next = 0
        self.failed = ""
        """Why it goes no further; '' while it does."""
        self.impure = ""
        """Where the step turned out to be no fold; '' where it did not."""

    def begin(self, records: Sequence[Record]) -> None:
        """Fold *records* from the start."""
        self._records, self._next, self.failed = records, 0, ""
        self._states = {} if isinstance(self.projection, Keyed) else {"": self._initial}

    def at(self, position: int) -> Mapping[str, bytes]:
        """The states, as bytes by key, after all events up to *position*; not below that of the call before."""
        while self._next < len(self._records) and self._records[self._next].position <= position and not self.failed:
            self._take(self._records[self._next])
            self._next += 1
        return self._states

    def _take(self, record: Record) -> None:
        projection = self.projection
        if not projection.events.matches(record.stream, record.type, record.tags):
            return
        step = stepper(projection)
        try:
            event = self._codec.event(record)
            for key in keys_of(projection, event) if isinstance(projection, Keyed) else ("",):
                before = self._states.get(key, self._initial)
                state = self._decode(before)
                after = self._encode(step(state, event, key))
                if self._encode(state) != before:
                    self.impure = self.impure or f"its step changes the state that it got, at {_told(record)}: return a new one (attrs.evolve)"
                elif self._encode(step(state, event, key)) != after:
                    self.impure = self.impure or f"its step gives another state when asked again, at {_told(record)}: it may depend on nothing else"
                self._states[key] = after
        except Exception as error:
            self.failed = f"{_told(record)} cannot be folded: {error!r}"


def judge_model(reference: Reference, samples: Iterable[tuple[Position, Mapping[str, bytes], str]], plain: Callable[[bytes], Any]) -> Broken:
    """What a model was seen as (position, states, and when) against the fold of the log."""
    name = reference.projection.name
    for position, states, when in sorted(samples, key=lambda sample: sample[0]):
        wanted = reference.at(position)
        if reference.failed:
            return
        for key in sorted({*wanted, *states}):
            if wanted.get(key) != states.get(key):
                where = f", key {key!r}" if key else ""
                want, have = (None if raw is None else plain(raw) for raw in (wanted.get(key), states.get(key)))
                yield MODELS, f"{name}{where} at position {position}, {when}: it should be {want!r:.200}, it is {have!r:.200}"
                return
