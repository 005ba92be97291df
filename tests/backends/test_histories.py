"""The checker of histories accepts what can have happened and refuses what cannot, as trying out every order does."""

from __future__ import annotations

import copy
import random
import time
from itertools import pairwise
from math import inf
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.backends.commit import ANY, EXISTS, Append, Appended, Delete, Put, Stored
from perdure.backends.conformance import linearize
from perdure.backends.conformance.histories import History, refusal_of
from perdure.backends.conformance.linearize import Undecided
from perdure.backends.conformance.operation import Found, Get, Operation, Outcome, Read, Seen
from perdure.backends.errors import Conflict
from perdure.backends.event import Position

UNKNOWN, NOTHING = Outcome.UNKNOWN, Outcome.NOTHING


def lost(actual: int) -> Conflict:
    return Conflict("x", "x", "?", actual)


def done(first: int, last: int, position: int) -> Appended:
    return Appended(first, last, Position(position))


# -- a sequential store, and every order tried out -------------------------------------------


class Model:
    """One store without concurrency. Positions are only compared."""

    def __init__(self) -> None:
        self.log: list[list[Any]] = []  # stream, event, position or None
        self.revision = 0
        self.entries: dict[Any, tuple[int, object]] = {}

    def stream(self, name: str) -> list[list[Any]]:
        return [row for row in self.log if row[0] == name]

    def answer(self, call: Any, draw: random.Random | None = None) -> Any:
        """Carry it out."""
        match call:
            case Append(stream, events, expected):
                last = len(self.stream(stream))
                if not accepted(expected, last):
                    return lost(last)
                position = max([row[2] for row in self.log], default=0)
                for event in events:
                    position += draw.choice((1, 1, 2)) if draw else 1
                    self.log.append([stream, event, position])
                return done(last + 1, last + len(events), position)
            case Read(stream):
                rows = self.stream(stream)
                few = rows[len(rows) - draw.randrange(len(rows) + 1) :] if draw else rows
                positions = tuple(row[2] for row in few) if draw and draw.random() < 0.5 else ()
                return Seen(len(rows), tuple(row[1] for row in few), positions)
            case Put(bucket, key, value, expected):
                return self._change((bucket, key), expected, (value,))
            case Delete(bucket, key, expected):
                return self._change((bucket, key), expected, ())
            case Get(bucket, key):
                found = self.entries.get((bucket, key))
                return None if found is None else Found(*found)

    def _change(self, cell: Any, expected: Any, value: tuple[object, ...]) -> Any:
        found = self.entries.get(cell, (0, None))[0]
        if not accepted(expected, found):
            return lost(found)
        self.revision += 1
        self.entries.pop(cell, None)
        if value:
            self.entries[cell] = (self.revision, value[0])
        return Stored(self.revision)

    def fits(self, call: Any, answer: Any) -> bool:
        """Carry it out, and tell whether *answer* is true; of an unknown outcome anything is."""
        match call, answer:
            case Append(stream, events, expected), Appended(first, last, position):
                had = len(self.stream(stream))
                self.log += [[stream, event, None] for event in events]
                return accepted(expected, had) and (first, last) == (had + 1, had + len(events)) and self._tell(len(self.log) - 1, position)
            case Append(stream, events, expected), Outcome():
                if accepted(expected, len(self.stream(stream))):
                    self.log += [[stream, event, None] for event in events]
                return True
            case Read(stream), Seen(last, events, positions):
                rows = [index for index, row in enumerate(self.log) if row[0] == stream]
                newest = rows[len(rows) - len(events) :]
                told = zip(rows[len(rows) - len(positions) :], positions, strict=False)
                same = last == len(rows) >= max(len(events), len(positions)) and [self.log[index][1] for index in newest] == list(events)
                return same and all(self._tell(index, position) for index, position in told)
            case Append(stream, _, expected), Conflict(actual=actual):
                had = len(self.stream(stream))
                return had == actual and not accepted(expected, had)
            case _, Conflict(actual=actual):
                found = self.answer(call)
                return isinstance(found, Conflict) and found.actual == actual
            case _, Outcome():
                self.answer(call)
                return True
            case _:
                return type(answer) is type(found := self.answer(call)) and answer == found

    def _tell(self, index: int, position: int | None) -> bool:
        row = self.log[index]
        if row[2] not in (None, position):
            return False
        row[2] = position
        known = [row[2] for row in self.log if row[2] is not None]
        return all(one < other for one, other in pairwise(known)) and known[0] > 0


def accepted(expected: Any, actual: int) -> bool:
    return expected is ANY or expected == actual or (expected is EXISTS and actual > 0)


def some_order_fits(operations: list[Operation]) -> bool:
    """Try them all."""
    return tries(Model(), [one for one in operations if one.answer is not NOTHING])


def tries(model: Model, left: list[Operation]) -> bool:
    if all(one.answer is UNKNOWN for one in left):
        return True
    until = min(inf if one.answer is UNKNOWN else one.ended for one in left)
    for one in left:
        if one.began <= until:
            after = copy.deepcopy(model)
            if after.fits(one.call, one.answer) and tries(after, [other for other in left if other is not one]):
                return True
    return False


# -- histories of that store -----------------------------------------------------------------


def calls(draw: random.Random, number: int, model: Model) -> Any:
    """The next one, with an expectation that rather holds."""
    name = draw.choice("ab")
    last = len(model.stream(name))
    revision = model.entries.get(("k", name), (0, None))[0]
    value, event = f"v{number if draw.random() < 0.8 else 0}", f"e{number}"

    def expected(actual: int) -> Any:
        return draw.choice((ANY, ANY, EXISTS, actual, actual, actual, max(0, actual - 1), actual + 1))

    return draw.choice(
        (
            lambda: Append(name, [event, f"f{number}"], expected(last)),
            lambda: Append(name, [event], expected(last)),
            lambda: Append(name, [event], expected(last)),
            lambda: Read(name),
            lambda: Put("k", name, value, expected(revision)),
            lambda: Put("k", name, value, expected(revision)),
            lambda: Delete("k", name, expected(revision)),
            lambda: Get("k", name),
        )
    )()


def happened(seed: int, count: int, overlap: float = 40, unknown_share: float = 0.2) -> list[Operation]:
    """*count* operations, carried out at instants of their own between begin and end."""
    draw, model, operations = random.Random(seed), Model(), list[Operation]()
    for number in range(count):
        call = calls(draw, number, model)
        began, ended = 10 * number - draw.random() * overlap, 10 * number + draw.random() * overlap
        writes = not isinstance(call, Read | Get)
        fate = draw.random()
        if writes and fate < unknown_share:
            if draw.random() < 0.5:
                model.answer(call, draw)
            operations.append(Operation(call, UNKNOWN, began, began + draw.random() * overlap))
        elif writes and fate > 0.9:
            operations.append(Operation(call, NOTHING, began, ended))
        else:
            operations.append(Operation(call, model.answer(call, draw), began, ended))
    draw.shuffle(operations)
    return operations


def spoilt(draw: random.Random, operations: list[Operation]) -> list[Operation]:
    """The same with one answer, or one time, changed."""
    operations = list(operations)
    at = draw.randrange(len(operations))
    one = operations[at]
    by = draw.choice((-2, -1, 1, 2))
    match one.answer:
        case Appended(first, last, int(position)):
            n = draw.randrange(3)
            answer: Any = done(first + by, last + by, position) if n == 0 else done(first, last, position + by) if n == 1 else NOTHING
        case Seen(last, events, positions):
            answer = draw.choice(
                (
                    Seen(last + by, events, positions),
                    Seen(last, events[:-1]),
                    Seen(last, (*events[1:], "e1")),
                    Seen(last, events, tuple(p + by for p in positions)),
                )
            )
        case Stored(revision):
            answer = draw.choice((Stored(revision + by), NOTHING, lost(revision)))
        case Found(revision, value):
            answer = draw.choice((Found(revision + by, value), Found(revision, "v2"), None))
        case Conflict(actual=int(actual)):
            answer = draw.choice((lost(actual + by), NOTHING, UNKNOWN))
        case None:
            answer = Found(abs(by), draw.choice(("v1", "v2")))
        case _:
            answer = draw.choice((UNKNOWN, NOTHING))
    if draw.random() < 0.2:
        answer = one.answer
    move = draw.choice((0, 0, 15, 30))
    operations[at] = attrs.evolve(one, answer=answer, began=one.began + draw.choice((-1, 1)) * move, ended=one.ended + 2 * move)
    return operations


@given(st.integers(0, 1 << 40), st.integers(1, 40), st.sampled_from([0, 20, 100]))
@settings(max_examples=200)
def test_what_happened_is_accepted(seed: int, count: int, overlap: int) -> None:
    assert refusal_of(happened(seed, count, overlap)) is None


@given(st.integers(0, 1 << 40), st.integers(1, 6))
@settings(max_examples=400)
def test_what_is_spoilt_is_judged_as_by_trying_every_order(seed: int, count: int) -> None:
    draw = random.Random(seed)
    operations = spoilt(draw, happened(seed, count))

    assert (refusal_of(operations) is None) == some_order_fits(operations)


# -- what breaks, and how that is told -------------------------------------------------------


def history(*operations: tuple[Any, Any, float, float]) -> list[Operation]:
    return [Operation(call, answer, began, ended, f"w{number}") for number, (call, answer, began, ended) in enumerate(operations, 1)]


def append(*events: str, expected: Any = ANY, stream: str = "a") -> Append[Any]:
    return Append(stream, list(events), expected)


def put(value: str, expected: Any = ANY, key: str = "x") -> Put[Any]:
    return Put("k", key, value, expected)


X, Y = Get("k", "x"), Get("k", "y")
BROKEN: dict[str, tuple[list[Operation], str]] = {
    "a lost update": (
        history((put("1"), Stored(1), 1, 2), (put("2", 1), Stored(2), 3, 9), (put("3", 1), Stored(3), 4, 8)),
        "w3: put k/'x' '3' expected 1 -> revision 3\n  does not fit what was there, 2:\n",
    ),
    "a lost event": (history((append("1"), done(1, 1, 1), 1, 2), (append("2"), done(2, 2, 2), 3, 4), (Read("a"), Seen(1), 5, 6)), "had been replaced"),
    "a stale read": (
        history((put("1"), Stored(1), 1, 2), (put("2"), Stored(2), 3, 4), (X, Found(1, "1"), 5, 6)),
        "w3: get k/'x' -> '1' at revision 1\n  shows what had been replaced before it began:\n",
    ),
    "a read that goes back": (
        history((put("1"), Stored(1), 1, 2), (put("2"), Stored(2), 3, 20), (X, Found(2, "2"), 4, 5), (X, Found(1, "1"), 6, 7)),
        "  for it came before\n  [4 to 5] w3: get",
    ),
    "two winners": (
        history((append("1", expected=0), done(1, 1, 1), 1, 9), (append("2", expected=0), done(1, 1, 2), 2, 8)),
        "shows '2' at 1, where there is '1' by",
    ),
    "a conflict with nothing": (history((put("1", 0), lost(0), 1, 2)), "is a conflict, though what was found is as expected"),
    "a loser to nobody": (history((put("1", 0), lost(3), 1, 2)), "no write had made"),
    "a cancelled append that took effect": (
        history((append("1"), NOTHING, 1, 2), (Read("a"), Seen(1, ("1",)), 3, 4)),
        "nobody has stored '1' there\n  [1 to 2] w1: append a ['1'] expected any -> nothing was stored",
    ),
    "a cancelled put that took effect": (history((put("1"), NOTHING, 1, 2), (X, Found(1, "1"), 3, 4)), "nobody has stored '1' there\n  [1 to 2] w1: put"),
    "a cancelled delete that took effect": (
        history((put("1"), Stored(1), 1, 2), (Delete("k", "x"), NOTHING, 3, 4), (X, None, 5, 6)),
        "shows what had been replaced",
    ),
    "a cancelled put that took a revision": (
        history((put("1"), NOTHING, 1, 2), (put("2"), Stored(2), 3, 4)),
        "no write is known that took revision 1",
    ),
    "appends in another order than they were asked": (history((append("1"), done(2, 2, 2), 1, 2), (append("2"), done(1, 1, 1), 3, 4)), "which began later"),
    "streams in another order than they were asked": (
        history((append("1"), done(1, 1, 2), 1, 2), (append("2", stream="b"), done(1, 1, 1), 3, 4)),
        "has to come after\n  [3 to 4] w2: append b ['2'] expected any -> seqs 1 to 1, position 1\n  which began later",
    ),
    "a read from the future": (history((X, Found(1, "1"), 1, 2), (put("1"), Stored(1), 3, 4)), "which began later"),
    "half of a commit": (history((append("1", "2"), done(1, 2, 2), 1, 9), (Read("a"), Seen(1, ("1",)), 2, 3)), "no write had made"),
    "an event that changed": (history((append("1"), done(1, 1, 1), 1, 2), (Read("a"), Seen(1, ("2",)), 3, 4)), "shows '2' at 1, where there is '1' by"),
    "a position that changed": (history((append("1"), done(1, 1, 1), 1, 2), (Read("a"), Seen(1, ("1",), (2,)), 3, 4)), "it is at 1 by"),
    "two writers in step, seen in two orders": (  # each key alone is in order
        history((put("1"), Stored(1), 1, 9), (put("2", key="y"), Stored(2), 1, 9), (Y, Found(2, "2"), 2, 3), (X, None, 4, 5)),
        "shows what had been replaced before it began",
    ),
    "an answer to something else": (history((append("1", "2"), done(1, 1, 1), 1, 2)), "is no answer to that"),
    "a place for two": (history((put("1"), Stored(1), 1, 9), (put("2", key="y"), Stored(1), 2, 8)), "have the same place"),
    "a doubt that comes and goes": (
        history((put("1"), UNKNOWN, 1, 2), (X, Found(1, "1"), 3, 4), (X, None, 5, 6)),
        "at any time since, or never\n  for it came before\n  [3 to 4] w2: get",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_have_happened_is_told(name: str) -> None:
    operations, reason = BROKEN[name]

    refusal = refusal_of(operations)

    assert refusal is not None
    assert reason in refusal
    assert refusal.count(" -> ") <= 3, "the few that do not fit, no more"


ACCEPTED = {
    "overlapping": history((put("1"), Stored(2), 1, 9), (put("2"), Stored(1), 2, 8), (X, Found(1, "2"), 3, 4), (X, None, 1, 4)),
    "a doubt that comes late": history((put("1"), UNKNOWN, 1, 2), (X, None, 3, 4), (put("2"), Stored(1), 5, 6), (X, Found(2, "1"), 7, 8)),
    "a doubt that never comes": history((append("1"), UNKNOWN, 1, 2), (append("2"), done(1, 1, 1), 3, 4), (Read("a"), Seen(1, ("2",)), 5, 6)),
    "a doubt that only its revision tells": history((put("1"), UNKNOWN, 1, 2), (put("2", key="y"), Stored(2), 3, 4)),
    "a doubt that only a conflict tells": history((put("1"), UNKNOWN, 1, 2), (put("2", 0), lost(1), 3, 4)),
    "one of two doubts": history((put("1"), UNKNOWN, 1, 2), (Delete("k", "x"), UNKNOWN, 1, 2), (X, Found(1, "1"), 3, 4), (X, None, 5, 6)),
    "nothing was appended": history((append("1"), done(1, 1, 1), 1, 2), (append(expected=1), Appended(2, 1, None), 3, 4)),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_may_have_happened_is_accepted(name: str) -> None:
    assert refusal_of(ACCEPTED[name]) is None


def test_a_history_notes_when() -> None:
    noted = History()
    one, other = noted.begin(), noted.begin()

    noted.note(put("1"), Stored(2), one, "one")
    noted.note(put("2"), Stored(1), other, "other")

    assert [(operation.began, operation.ended) for operation in noted.operations] == [(1, 3), (2, 4)]
    assert noted.refusal() is None


def test_what_cannot_be_decided_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts of unknown outcome to many keys, some of which took revisions and left no other trace."""
    monkeypatch.setattr(linearize, "ORDERS_MAX", 200)
    doubts = [(put(f"{key}", key=f"k{key}"), UNKNOWN, 1, 2) for key in range(20)]

    with pytest.raises(Undecided):
        refusal_of(history(*doubts, (put("1"), Stored(9), 3, 4)))
    with pytest.raises(Undecided):
        refusal_of(history((append("1"), UNKNOWN, 1, 2), (append("1"), done(1, 1, 1), 3, 4)))


def test_a_long_history_is_judged_in_no_time() -> None:
    draw, operations, revision = random.Random(7), list[Operation](), 0
    entries: dict[str, Found] = {}
    for number in range(30_000):
        key, began, ended = f"k{draw.randrange(40)}", 10 * number - 200 * draw.random(), 10 * number + 200 * draw.random()
        if draw.random() < 0.5:
            operations.append(Operation(Get("k", key), entries.get(key), began, ended))
        else:
            expected = entries[key].revision if key in entries else 0
            revision += 1
            entries[key] = Found(revision, f"{number}")
            operations.append(Operation(Put("k", key, f"{number}", expected), Stored(revision), began, ended))
    spoiled = [*operations, Operation(Get("k", "k1"), entries["k2"], 0, 20)]

    began_s = time.process_time()
    verdicts = [refusal_of(operations), refusal_of(spoiled)]
    took_s = time.process_time() - began_s

    assert verdicts[0] is None
    assert verdicts[1] is not None
    assert took_s < 10, "some 12 us for an operation"
