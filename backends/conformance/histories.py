"""Histories of concurrent operations, and whether they are linearizable: what was answered can have happened in one order. Pure.

    history = History()
    began = history.begin()
    answer = ...                                            # ask the store
    history.note(Append("a", [b"1"], 0), answer, began)     # or Outcome.UNKNOWN, if nobody knows; Outcome.NOTHING, if nothing may be there
    assert history.refusal() is None                        # else the few operations that do not fit, and why

The log is one object, kv another: a history is linearizable if it is for each (Herlihy and Wing,
"Linearizability", TOPLAS 12, 1990; Horn and Kroening, "Faster linearizability checking via
P-compositionality", FORTE 2015). Within the log positions order all appends, within kv revisions all changes,
so each is judged as a whole, more strictly than stream by stream or key by key. `linearize` has the search.

A history begins with an empty store, and holds whatever touched its kv. Events of an unknown outcome are like no
others of their stream; values may come twice, those that do not are sooner judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from math import inf
from typing import Any

import attrs

from perdure.backends.commit import ANY, EXISTS, Append, Appended, Delete, Expected, Put, Stored
from perdure.backends.conformance.linearize import Cell, Look, Search, Traces, Undecided, Write
from perdure.backends.conformance.operation import Call, Found, Get, Operation, Outcome, Read, Said, Seen, cell_of, contents_of
from perdure.backends.errors import Conflict


@attrs.define
class History:
    """Operations, noted as they end, by a clock of its own."""

    operations: list[Operation] = attrs.field(factory=list)
    _time: int = 0

    def begin(self) -> int:
        """The instant at which an operation begins."""
        self._time += 1
        return self._time

    def note(self, call: Call, answer: Said, began: float, who: str = "") -> None:
        """It ends now."""
        self.operations.append(Operation(call, answer, began, self.begin(), who))

    def refusal(self) -> str | None:
        """See `refusal_of`."""
        return refusal_of(self.operations)


def refusal_of(operations: Iterable[Operation]) -> str | None:
    """Why *operations* are not linearizable: those few that do not fit together; None if they are.

    Raises:
      Undecided: too many writes of unknown outcome left no trace, or one appended what another append did, too.
    """
    log, kv = _Log(), _Kv()
    try:
        for operation in operations:
            (log if isinstance(operation.call, Append | Read) else kv).take(operation)
        for judged in (log, kv):
            judged.pin()
            search = Search(judged.chain(), judged.floating, judged.looks, judged.traces())
            if (refused := search.refused()) is not None:
                return search.why(refused)
    except _Refused as refused_at_once:
        return str(refused_at_once)
    return None


class _Refused(Exception):
    """Two operations, or one, say what cannot be, whenever they happened."""


class _Object:
    """Operations on the log or on kv, as looks and writes, and what they show of each other."""

    def __init__(self) -> None:
        self.links: list[Write] = []
        self.floating: list[Write] = []
        self.looks: list[Look] = []
        self.contents: dict[tuple[Cell, int], object] = {}
        """What is at a seq of a stream, or at a revision of an entry."""
        self.nothing: list[Operation] = []
        self._shown_by: dict[tuple[Cell, int], Operation] = {}
        self._written: set[tuple[Cell, int]] = set()
        self._counts: defaultdict[tuple[Cell, object], int] = defaultdict(int)
        """How many writes had that content."""

    def look(self, cell: Cell, mark: int, operation: Operation) -> None:
        self.looks.append(Look(operation.began, operation.ended, cell, mark, operation))

    def lost(self, cell: Cell, expected: Expected, conflict: Conflict, operation: Operation) -> None:
        """A conflict is a look; what it found is not as expected."""
        actual = conflict.actual
        assert isinstance(actual, int)
        if expected is ANY or expected == actual or (expected is EXISTS and actual):
            raise _Refused(f"{operation}\n  is a conflict, though what was found is as expected")
        self.look(cell, actual, operation)

    def show(self, cell: Cell, number: int, content: object, operation: Operation) -> None:
        """*operation* says what is there; another one that says otherwise is refuted."""
        known = self.contents.setdefault((cell, number), content)
        by = self._shown_by.setdefault((cell, number), operation)
        if known != content:
            raise _Refused(f"{operation}\n  shows {content!r} at {number}, where there is {known!r} by\n{by}")

    def wrote(self, cell: Cell, number: int, content: object, operation: Operation) -> None:
        """The same, of what it wrote itself."""
        self.show(cell, number, content, operation)
        self._written.add((cell, number))

    def pin(self) -> None:
        """Give floating writes that were seen their places; refuse what was seen and nobody wrote."""
        known = [self._pinned(write) for write in self.floating]
        self.links += [write for write in known if write.place is not None]
        self.floating = [write for write in known if write.place is None]
        self._check_authors()

    def _pinned(self, write: Write) -> Write:
        """Where it was seen, if nobody else had the same content to write."""
        if all(self._counts[write.cell, content] == 1 for content in write.content):
            for index, content in enumerate(write.content):
                if (number := self._numbers.get((write.cell, content))) is not None:
                    return self.at(write, number - index)
        return write

    @cached_property
    def _numbers(self) -> dict[tuple[Cell, object], int]:
        floating = {(write.cell, content) for write in self.floating for content in write.content}
        return {(cell, content): number for (cell, number), content in self.contents.items() if (cell, content) in floating}

    def at(self, write: Write, number: int) -> Write:
        """The same, whose first content is at *number*."""
        raise NotImplementedError

    def _check_authors(self) -> None:
        able = {(write.cell, content) for write in (*self.floating, *self.links) if write.ended == inf for content in write.content}
        for (cell, number), content in self.contents.items():
            if (cell, number) in self._written or (cell, content) in able:
                continue
            refused = [operation for operation in self.nothing if content in contents_of(operation.call) and cell_of(operation.call) == cell]
            by = "\n".join([f"  nobody has stored {content!r} there", *map(str, refused)])
            raise _Refused(f"{self._shown_by[cell, number]}\n{by}")

    def chain(self) -> list[Write]:
        """The writes whose place is known, in its order."""
        links = sorted(self.links, key=lambda write: write.place or 0)
        for one, other in pairwise(links):
            if one.place == other.place:
                raise _Refused(f"{one.said}\n{other.said}\n  have the same place")
        return links

    def traces(self) -> Traces:
        """What is known to be stored."""
        return Traces(self.contents)

    def _unanswered(self, operation: Operation, expected: Expected, **what: Any) -> None:
        """A write without an answer."""
        if operation.answer is Outcome.NOTHING:
            self.nothing.append(operation)
        else:
            self.floating.append(Write(operation.began, inf, cell_of(operation.call), expected, None, None, operation, **what))


class _Log(_Object):
    """Streams: a cell's mark is its last seq, a place is the position of a commit's last event."""

    def __init__(self) -> None:
        super().__init__()
        self._positions: dict[tuple[Cell, int], tuple[int, Operation]] = {}

    def take(self, operation: Operation) -> None:
        """One more operation."""
        match operation.call, operation.answer:
            case Append(stream, events, expected), Appended(first, last, position):
                if last - first + 1 != len(events) or (isinstance(expected, int) and first != expected + 1) or (expected is EXISTS and first == 1):
                    raise _Refused(f"{operation}\n  is no answer to that")
                if position is None:
                    self.look(stream, last, operation)
                else:
                    self._appended(stream, tuple(events), expected, first, position, operation)
            case Append(stream, _, expected), Conflict() as conflict:
                self.lost(stream, expected, conflict, operation)
            case Append(stream, events, expected), Outcome():
                self._count(stream, events)
                self._unanswered(operation, expected, count=len(events), content=tuple(events))
            case Read(stream), Seen(last, events, positions) if last >= max(len(events), len(positions)):
                for seq, event in enumerate(events, last - len(events) + 1):
                    self.show(stream, seq, event, operation)
                for seq, place in enumerate(positions, last - len(positions) + 1):
                    self._show_position(stream, seq, place, operation)
                self.look(stream, last, operation)
            case _:
                raise _Refused(f"{operation}\n  is no answer to that")

    def _appended(self, stream: str, events: tuple[object, ...], expected: Expected, first: int, position: int, operation: Operation) -> None:
        last = first + len(events) - 1
        self._count(stream, events)
        for seq, event in enumerate(events, first):
            self.wrote(stream, seq, event, operation)
        self._show_position(stream, last, position, operation)
        self.links.append(Write(operation.began, operation.ended, stream, expected, position, last, operation, count=len(events), content=events))

    def _count(self, stream: str, events: Sequence[object]) -> None:
        for event in events:
            self._counts[stream, event] += 1

    def pin(self) -> None:
        for write in self.floating:
            if any(self._counts[write.cell, content] > 1 for content in write.content):
                raise Undecided(f"{write.said}\n  is of unknown outcome, so no other append may have the same events")
        super().pin()

    def _show_position(self, stream: str, seq: int, position: int, operation: Operation) -> None:
        if position < 1:
            raise _Refused(f"{operation}\n  has position {position}")
        known, by = self._positions.setdefault((stream, seq), (position, operation))
        if known != position:
            raise _Refused(f"{operation}\n  has seq {seq} at position {position}, it is at {known} by\n{by}")

    def chain(self) -> list[Write]:
        """In the order of positions, which hold for the events in between, too."""
        links, position = super().chain(), 0
        for link in links:
            for seq in range((link.mark or 0) - link.count + 1, (link.mark or 0) + 1):
                known = self._positions.get((link.cell, seq))
                if known is not None and known[0] <= position:
                    raise _Refused(f"{known[1]}\n  has seq {seq} of {link.cell} at position {known[0]}, what comes before it is at {position}:\n{link.said}")
                position = position if known is None else known[0]
        return links

    def at(self, write: Write, number: int) -> Write:
        last = number + write.count - 1
        place, _ = self._positions.get((write.cell, last), (None, None))
        return attrs.evolve(write, mark=last, place=place)


class _Kv(_Object):
    """Entries: a cell's mark is its revision, and so is a place."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[int, Cell] = {}

    def take(self, operation: Operation) -> None:
        """One more operation."""
        call, answer, cell = operation.call, operation.answer, cell_of(operation.call)
        match call, answer:
            case Put(_, _, value, expected), Stored(revision):
                self._counts[cell, value] += 1
                self.wrote(cell, revision, value, operation)
                self.links.append(Write(operation.began, operation.ended, cell, expected, revision, revision, operation, content=(value,)))
            case Delete(_, _, expected), Stored(revision):
                self.links.append(Write(operation.began, operation.ended, cell, expected, revision, 0, operation, deletes=True))
            case ((Put(expected=expected) | Delete(expected=expected)), Conflict() as conflict):
                self.lost(cell, expected, conflict, operation)
                if conflict.actual:
                    assert isinstance(conflict.actual, int)
                    self._shown[conflict.actual] = cell
            case Put(_, _, value, expected), Outcome():
                self._counts[cell, value] += 1
                self._unanswered(operation, expected, content=(value,))
            case Delete(_, _, expected), Outcome():
                self._unanswered(operation, expected, deletes=True)
            case Get(), Found(revision, value) if revision > 0:
                self.show(cell, revision, value, operation)
                self._shown[revision] = cell
                self.look(cell, revision, operation)
            case Get(), None:
                self.look(cell, 0, operation)
            case _:
                raise _Refused(f"{operation}\n  is no answer to that")

    def at(self, write: Write, number: int) -> Write:
        return attrs.evolve(write, mark=number, place=number)

    def traces(self) -> Traces:
        return Traces(self.contents, self._shown, dense=True)
