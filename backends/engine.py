"""What a group of commits means: pure, written once, the same for every backend.

    needs(commits) names every fact that judging them takes;
    the backend fetches those facts in one pass, inside its transaction;
    decide(commits, facts) walks the group and says what to answer and what to write.

A cut is judged like an expectation: the stream must have the events, and every registered consumer must have passed them.

Each commit is judged against the facts and what earlier commits of the same group did to them, so a
later one sees the earlier ones. A commit that fails writes nothing and changes nothing for the rest.
`decide` reads no clock (a commit's time is the later of the one proposed and the log's last) and
never raises for what a commit says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import msgspec

from perdure.backends.build import Piece
from perdure.backends.commit import (
    ANY,
    CHECKPOINTS,
    EXISTS,
    HOLDS,
    LEASES,
    NEW_FENCE,
    Answer,
    Append,
    Appended,
    Check,
    Commit,
    Committed,
    Cut,
    Delete,
    Draft,
    Expect,
    Expected,
    Fence,
    Put,
    PutAll,
    SaveSnapshot,
    Stored,
    Unbarred,
    Unless,
    Write,
    content_digest,
)
from perdure.backends.errors import ConditionTooBroad, Conflict, KeyReused, TooLarge, Truncated
from perdure.backends.event import Position
from perdure.backends.held import held_at
from perdure.backends.limits import CONDITION_ROWS, CUT_EVENTS

Entry = tuple[str, bytes]
"""Bucket and key."""


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """What a store keeps of a commit with an idempotency key: enough to give its answer again."""

    digest: bytes
    at_us: int
    position: int | None
    parts: list[tuple[int, int, int | None] | int]

    @classmethod
    def of(cls, digest: bytes, at_us: int, answer: Committed) -> Kept:
        """The row for *answer*."""
        parts: list[tuple[int, int, int | None] | int] = [
            part.revision if isinstance(part, Stored) else (part.first, part.last, part.position) for part in answer.parts
        ]
        return cls(digest, at_us, answer.position, parts)

    def answer(self) -> Committed:
        """The first answer, again."""
        position = None if self.position is None else Position(self.position)
        return Committed(position, tuple(Stored(part) if isinstance(part, int) else _appended(*part) for part in self.parts))


def _appended(first: int, last: int, position: int | None) -> Appended:
    return Appended(first, last, None if position is None else Position(position))


@attrs.frozen
class Needs:
    """Every fact that judging a group takes."""

    streams: list[str]
    entries: list[Entry]
    ids: list[bytes]
    conditions: list[Unless]
    leases: list[str]
    cuts: list[Cut]
    """With them: every place that consumers have registered."""


@attrs.frozen
class TooBroad:
    """The answer to a condition that would examine too much."""


@attrs.define
class Facts:
    """The state before the group, as far as it matters.

    *streams* maps to last seqs (0: none), *entries* to revisions (0: absent), *ids* to known commits,
    *conditions* to the position of the first match, None, `TooBroad`, or `Truncated` where a match may have been cut; *leases* to
    their fences; *firsts* the streams of cuts to their first seqs, *ends* these cuts to the position of the last event that would go
    (None: there is none), *holds* all registered consumers to their places.
    """

    head: Position
    at_us: int
    revision: int
    streams: dict[str, int] = attrs.field(factory=dict)
    entries: dict[Entry, int] = attrs.field(factory=dict)
    ids: dict[bytes, Kept] = attrs.field(factory=dict)
    conditions: dict[Unless, Position | TooBroad | Truncated | None] = attrs.field(factory=dict)
    leases: dict[str, int] = attrs.field(factory=dict)
    firsts: dict[str, int] = attrs.field(factory=dict)
    ends: dict[Cut, Position | None] = attrs.field(factory=dict)
    holds: dict[Entry, int] = attrs.field(factory=dict)


@attrs.frozen
class Change:
    """An entry put (*value*) or deleted (None) at *revision*."""

    bucket: str
    key: bytes
    revision: int
    value: bytes | None


@attrs.define
class Decisions:
    """What to answer, in order, and what to write, all of it together."""

    follows: Position
    head: Position
    at_us: int
    revision: int
    answers: list[Answer] = attrs.field(factory=list)
    commits: list[tuple[bytes, int]] = attrs.field(factory=list)
    """Those with events: (id, time)."""
    pieces: list[Piece] = attrs.field(factory=list)
    changes: list[Change] = attrs.field(factory=list)
    states: list[tuple[PutAll, int]] = attrs.field(factory=list)
    """With the revision they get."""
    snapshots: list[tuple[SaveSnapshot, int]] = attrs.field(factory=list)
    """With the commit's time."""
    cuts: list[Cut] = attrs.field(factory=list)
    """Those that move a stream's first."""
    kept: list[tuple[bytes, Kept]] = attrs.field(factory=list)
    drawn: list[tuple[bytes, Kept]] = attrs.field(factory=list)
    """Commits without a key whose answer is not told by their events alone."""


def needs(commits: Sequence[Commit]) -> Needs:
    """The facts that *commits* are judged by, each once, in order of mention."""
    streams: dict[str, None] = {}
    entries: dict[Entry, None] = {}
    conditions: dict[Unless, None] = {}
    leases: dict[str, None] = {}
    ids: dict[bytes, None] = {}
    cuts: dict[Cut, None] = {}
    for commit in commits:
        if commit.key is not None:
            ids[commit.id] = None
        for write in commit.writes:
            if type(write) is Append:  # nearly all are
                streams[write.stream] = None
                continue
            match write:
                case Put(bucket=bucket, key=bytes() as key, expected=expected) | Delete(bucket=bucket, key=bytes() as key, expected=expected):
                    if expected is not ANY:
                        entries[bucket, key] = None
                case Check(bucket=str() as bucket, key=bytes() as key):
                    entries[bucket, key] = None
                case Check(stream=str() as stream):
                    streams[stream] = None
                case Unless():
                    conditions[write] = None
                case Fence(name=name):
                    leases[name] = None
                case Cut(stream=stream):
                    streams[stream] = cuts[write] = None
                case Unbarred(id):
                    ids[id] = None
                case _:
                    pass
    return Needs(list(streams), list(entries), list(ids), list(conditions), list(leases), list(cuts))


def decide(commits: Sequence[Commit], facts: Facts) -> Decisions:
    """Judge *commits* in order over *facts*, which become the state after the group."""
    done = Decisions(facts.head, facts.head, facts.at_us, facts.revision)
    for commit in commits:
        done.answers.append(_decide_one(commit, facts, done))
    return done


def _decide_one(commit: Commit, facts: Facts, done: Decisions) -> Answer:
    if commit.key is not None and (kept := facts.ids.get(commit.id)) is not None:
        same = kept.digest == content_digest(commit.writes)
        return kept.answer() if same else KeyReused(commit.key)
    writes = commit.writes
    for write in writes if facts.conditions else ():
        if isinstance(write, Unless) and isinstance(facts.conditions[write], TooBroad):
            return ConditionTooBroad(describe(write), CONDITION_ROWS)
        if isinstance(write, Unless) and isinstance(found := facts.conditions[write], Truncated):
            return found
    for write in writes if facts.ends else ():
        if isinstance(write, Cut) and (count := write.first - facts.firsts[write.stream]) > CUT_EVENTS and write.first <= facts.streams[write.stream] + 1:
            return TooLarge("cut", f"stream {write.stream!r}", count, CUT_EVENTS, "events")
    if len(writes) == 1 and type(write := writes[0]) is Append and commit.key is None and write.events:
        failed = None if write.expected is ANY else _compare("stream", write.stream, write.expected, facts.streams[write.stream])
        return failed or _accept_append(commit, write, facts, done)
    return _judge(writes, facts, done) or _accept(commit, facts, done)


# -- judging ---------------------------------------------------------------------------------


def _judge(writes: Sequence[Write], facts: Facts, done: Decisions) -> Conflict | None:
    failures = [conflict for write in writes if (conflict := _failure(write, facts, done)) is not None]
    if not failures:
        return None
    first, *more = failures
    return first.with_more(tuple(more)) if more else first


def _failure(write: Write, facts: Facts, done: Decisions) -> Conflict | None:
    match write:
        case Append(expected=Expect.ANY) | Put(expected=Expect.ANY) | Delete(expected=Expect.ANY) | SaveSnapshot():
            return None
        case Append(stream=stream, expected=expected) | Check(stream=str() as stream, expected=expected):
            return _compare("stream", stream, expected, facts.streams[stream])
        case Put(bucket=bucket, key=bytes() as key, expected=expected):
            return _compare("entry", f"{bucket}/{_shown(key)}", expected, facts.entries[bucket, key])
        case Delete(bucket=bucket, key=bytes() as key, expected=expected):
            return _compare("entry", f"{bucket}/{_shown(key)}", expected, facts.entries[bucket, key])
        case Check(bucket=str() as bucket, key=bytes() as key, expected=expected):
            return _compare("entry", f"{bucket}/{_shown(key)}", expected, facts.entries[bucket, key])
        case Unless():
            return _match(write, facts, done)
        case Fence(name, number):
            held = facts.leases[name]
            return None if held == number else Conflict("fence", name, number, held)
        case Cut():
            return _judge_cut(write, facts, done)
        case Unbarred(id):
            return Conflict("writer", id.hex(), "not barred", "barred") if id in facts.ids else None
        case _:
            return None


def _judge_cut(cut: Cut, facts: Facts, done: Decisions) -> Conflict | None:
    last = facts.streams[cut.stream]
    if cut.first <= facts.firsts[cut.stream]:
        return None  # they are gone already
    if cut.first > last + 1:
        return Conflict("cut", cut.stream, cut.first, last + 1)
    end = facts.ends[cut] or _position_in_group(cut.stream, cut.first - 1, done)
    (bucket, name), place = min(facts.holds.items(), key=lambda hold: hold[1], default=(("", b""), end))
    return None if place >= end else Conflict("hold", f"{bucket}/{_shown(name)}", int(end), int(place))


def _position_in_group(stream: str, seq: int, done: Decisions) -> Position:
    for piece in done.pieces:
        if piece.stream == stream and piece.first_seq <= seq < piece.first_seq + len(piece.events):
            return Position(piece.first_position + seq - piece.first_seq)
    raise AssertionError("an event is of the group, or was there before it")


def _compare(what: str, subject: str, expected: Expected, actual: int) -> Conflict | None:
    if expected is ANY or (expected is EXISTS and actual > 0) or expected == actual:
        return None
    return Conflict(what, subject, expected if isinstance(expected, int) else str(expected), actual)


def _shown(key: bytes) -> str:
    return key.decode(errors="backslashreplace")


def _match(condition: Unless, facts: Facts, done: Decisions) -> Conflict | None:
    found = facts.conditions[condition]
    assert not isinstance(found, TooBroad | Truncated), "answered before"
    if found is None:
        found = _match_in_group(condition, done)
    return None if found is None else Conflict("condition", describe(condition), f"none after position {condition.after}", int(found))


def _match_in_group(condition: Unless, done: Decisions) -> Position | None:
    for piece in done.pieces:
        for position, draft in enumerate(piece.events, piece.first_position):
            if position > condition.after and condition.query.matches(piece.stream, draft.type, draft.tags):
                return Position(position)
    return None


def describe(condition: Unless) -> str:
    """The condition's query for a message."""
    return " | ".join(" ".join(_describe_item(item)) or "any event" for item in condition.query.items)


def _describe_item(item: object) -> Iterator[str]:
    for name in ("types", "streams", "categories", "tags"):
        values = getattr(item, name)
        if values:
            yield f"{name}={','.join(values)}"


# -- accepting -------------------------------------------------------------------------------


def _accept_append(commit: Commit, write: Append[Draft], facts: Facts, done: Decisions) -> Committed:
    """What `_accept` does, for the commit that nearly all are: one append, no key."""
    if commit.at_us > done.at_us:
        done.at_us = commit.at_us
    part = _append(write.stream, write.events, len(done.commits), 0, facts, done)
    done.commits.append((commit.id, done.at_us))
    return Committed(part.position, (part,))


def _accept(commit: Commit, facts: Facts, done: Decisions) -> Committed:
    at_us = max(commit.at_us, done.at_us)
    revision = facts.revision + 1
    ordinal = 0
    parts: list[Appended | Stored] = []
    position: Position | None = None
    for write in commit.writes:
        match write:
            case Append(stream, events, _):
                part = _append(stream, events, len(done.commits), ordinal, facts, done)
                parts.append(part)
                ordinal += len(events)
                position = part.position or position
            case Put(bucket, bytes() as key, bytes() as value, _):
                if bucket == LEASES and value.startswith(NEW_FENCE):
                    value = revision.to_bytes(8, "big") + value[8:]
                _change(Change(bucket, key, revision, value), facts, done)
                parts.append(Stored(revision))
            case Delete(bucket, bytes() as key, _):
                _change(Change(bucket, key, revision, None), facts, done)
                parts.append(Stored(revision))
            case PutAll():
                done.states.append((write, revision))
                done.revision = facts.revision = revision
                parts.append(Stored(revision))
            case SaveSnapshot():
                done.snapshots.append((write, at_us))
            case Cut(stream, first, _):
                if first > facts.firsts[stream]:
                    facts.firsts[stream] = first
                    done.cuts.append(write)
            case _:
                pass
    done.at_us = at_us
    if ordinal:
        done.commits.append((commit.id, at_us))
    answer = Committed(position, tuple(parts))
    if commit.key is not None:
        kept = facts.ids[commit.id] = Kept.of(content_digest(commit.writes), at_us, answer)
        done.kept.append((commit.id, kept))
    elif not ordinal or any(isinstance(part, Stored) or part.position is None for part in parts):
        done.drawn.append((commit.id, Kept.of(b"", at_us, answer)))
    return answer


def _append(stream: str, events: Sequence[Draft], commit: int, ordinal: int, facts: Facts, done: Decisions) -> Appended:
    last = facts.streams[stream]
    count = len(events)
    if not count:
        return Appended(last + 1, last, None)
    done.pieces.append(Piece(stream, last + 1, done.head + 1, commit, ordinal, events))
    done.head = facts.head = Position(done.head + count)
    facts.streams[stream] = last + count
    return Appended(last + 1, last + count, done.head)


def _change(change: Change, facts: Facts, done: Decisions) -> None:
    done.changes.append(change)
    done.revision = facts.revision = change.revision
    facts.entries[change.bucket, change.key] = 0 if change.value is None else change.revision
    if change.bucket in (CHECKPOINTS, HOLDS):
        place = None if change.value is None else held_at(change.value)
        if place is None:
            facts.holds.pop((change.bucket, change.key), None)
        else:
            facts.holds[change.bucket, change.key] = place
    if change.bucket == LEASES:
        facts.leases[change.key.decode()] = 0 if change.value is None else int.from_bytes(change.value[:8], "big")
