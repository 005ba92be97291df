"""What callers were told of their commits: it is held against the store later. Kept outside of all processes, so no crash forgets it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import attrs
import trio

from perdure.actors.journal import Journal
from perdure.actors.stream import Streams
from perdure.backends.commit import Append, Commit, Committed, Delete, Put, content_digest
from perdure.backends.errors import Closed, Conflict, InDoubt, PerdureError

Outcome = Literal["stored", "absent", "unknown"]
"""Acknowledged; refused, withdrawn or cancelled, so that nothing may be stored ever; or nobody was told."""


@attrs.define
class Attempt:
    """One time that a commit was asked for: from *began* to *ended*, which count what the ledger has seen."""

    who: str
    began: int
    ended: int | None = None
    outcome: Outcome = "unknown"
    answer: Committed | Conflict | None = None
    said: str = "nothing yet"


@attrs.define
class Entry:
    """A commit, and what was said each time that it was asked for."""

    number: int
    commit: Commit
    attempts: list[Attempt] = attrs.field(factory=list)

    @property
    def stored(self) -> Committed | None:
        """Its first acknowledgement."""
        for attempt in self.attempts:
            if attempt.outcome == "stored":
                assert isinstance(attempt.answer, Committed)
                return attempt.answer
        return None

    @property
    def absent(self) -> bool:
        """Whether nothing of it may be stored."""
        return all(attempt.outcome == "absent" for attempt in self.attempts)

    @property
    def appends(self) -> list[Append[Any]]:
        """Its appends that have events."""
        return [write for write in self.commit.writes if isinstance(write, Append) and write.events]

    def __str__(self) -> str:
        return f"commit {self.number} ({told(self.commit)}; {', then '.join(attempt.said for attempt in self.attempts)})"


def told(commit: Commit) -> str:
    """What a commit does, in a few words."""
    parts: list[str] = []
    for write in commit.writes:
        match write:
            case Append(stream, events, expected):
                parts.append(f"append {len(events)} to {stream}" + ("" if expected.__class__ is not int else f" at {expected}"))
            case Put(bucket, key, _, expected):
                parts.append(f"put {_text(key)} in {bucket}" + ("" if expected.__class__ is not int else f" at {expected}"))
            case Delete(bucket, key, _):
                parts.append(f"delete {_text(key)} from {bucket}")
            case _:
                parts.append(type(write).__name__.lower())
    return " and ".join(parts) + (f", key {commit.key.hex()}" if commit.key is not None else "")


def _text(key: str | bytes) -> str:
    return key if isinstance(key, str) else key.decode(errors="replace")


class Ledger:
    """See the module."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self.entries: dict[tuple[bytes, bytes], Entry] = {}
        """By the commit's id and content: a key may be used again with another."""
        self.count = 0
        """Of beginnings and ends."""
        self.closed = False
        """Whether the run is over: what is said now is said to nobody."""
        self.most: int | None = None
        """So many commits are asked for, then no more. None: any number."""
        self.spent: Callable[[], None] = lambda: None
        """Called when they are spent."""
        self.asked = 0
        """How many were asked for."""
        self._tell = tell

    def tick(self) -> int:
        """The number of this moment."""
        self.count += 1
        return self.count

    def by_id(self) -> dict[bytes, list[Entry]]:
        """The entries of each commit id."""
        found: dict[bytes, list[Entry]] = {}
        for entry in self.entries.values():
            found.setdefault(entry.commit.id, []).append(entry)
        return found

    async def watch(self, who: str, commit: Commit, ask: Callable[[], Awaitable[Committed | Conflict]]) -> Committed | Conflict:
        """The answer to *commit*, noted."""
        self.asked += 1
        if self.most is not None and self.asked > self.most:
            self.spent()
            raise Closed("the workload")
        known = (commit.id, content_digest(commit.writes))
        entry = self.entries.get(known)
        if entry is None:
            entry = self.entries[known] = Entry(len(self.entries) + 1, commit)
        attempt = Attempt(who, self.tick())
        entry.attempts.append(attempt)
        self._tell(who, f"commit {entry.number}: {told(commit)}")
        try:
            answer = await ask()
        except trio.Cancelled:
            self._end(entry, attempt, "absent", "cancelled")
            raise
        except InDoubt:
            self._end(entry, attempt, "unknown", "in doubt")
            raise
        except PerdureError as error:
            self._end(entry, attempt, "absent", type(error).__name__)
            raise
        attempt.answer = answer
        if isinstance(answer, Conflict):
            self._end(entry, attempt, "absent", f"conflict: {answer.expected} was expected of {answer.subject}, it is {answer.actual}")
        else:
            self._end(entry, attempt, "stored", "stored" if answer.position is None else f"stored at {answer.position}")
        return answer

    def _end(self, entry: Entry, attempt: Attempt, outcome: Outcome, said: str) -> None:
        if self.closed:
            return
        attempt.outcome, attempt.said, attempt.ended = outcome, said, self.tick()
        self._tell(attempt.who, f"commit {entry.number}: {said}")


class WatchedJournal:
    """The journal as a runtime's callers see it, all that they are told noted."""

    def __init__(self, journal: Journal, ledger: Ledger, who: str) -> None:
        self._inner = journal
        self._ledger = ledger
        self._who = who

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def commit(self, commit: Commit, *, derived: bool = False) -> Committed | Conflict:
        """See `Journal.commit`."""
        return await self._ledger.watch(self._who, commit, lambda: self._inner.commit(commit, derived=derived))


class WatchedStreams:
    """The streams, likewise."""

    def __init__(self, streams: Streams, ledger: Ledger, who: str) -> None:
        self._inner = streams
        self._ledger = ledger
        self._who = who

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def commit(self, stream: str, commit: Commit) -> Committed | Conflict:
        """See `Streams.commit`."""
        return await self._ledger.watch(self._who, commit, lambda: self._inner.commit(stream, commit))
