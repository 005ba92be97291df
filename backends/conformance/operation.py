"""One operation of a history: what was asked, what was answered, and when. Pure.

Writes are told as they are asked, and answered as they are; `Read` and `Get` are the looks between them.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Sequence
from typing import Any

import attrs

from perdure.backends.commit import Append, Appended, Delete, Put, Stored
from perdure.backends.errors import Conflict


class Outcome(enum.Enum):
    """Of a write without an answer."""

    UNKNOWN = "unknown: it may have happened at any time since, or never"
    NOTHING = "nothing was stored, nothing will be"


@attrs.frozen
class Read:
    """A look at a stream's end, answered by `Seen`."""

    stream: str


@attrs.frozen
class Seen:
    """The stream's last seq, and as many of its newest *events* as were read, oldest first; their *positions*, if these were too."""

    last: int
    events: tuple[object, ...] = ()
    positions: tuple[int, ...] = ()


@attrs.frozen
class Get:
    """A look at an entry, answered by `Found` or None."""

    bucket: str
    key: bytes | str


@attrs.frozen
class Found:
    """The entry."""

    revision: int
    value: object


Call = Append[Any] | Put[Any] | Delete | Read | Get
Said = Appended | Stored | Conflict | Seen | Found | Outcome | None


@attrs.frozen
class Operation:
    """What *who* asked between two instants, and what was answered. Times are only compared; at the same time is overlapping."""

    call: Call
    answer: Said
    began: float
    ended: float
    who: str = ""

    def __str__(self) -> str:
        by = f"{self.who}: " if self.who else ""
        return f"  [{self.began:g} to {self.ended:g}] {by}{_told(self.call)} -> {_answered(self.answer)}"


def cell_of(call: Call) -> Hashable:
    """What it is about."""
    return call.stream if isinstance(call, Append | Read) else (call.bucket, call.key)


def contents_of(call: Call) -> Sequence[object]:
    """What it stores."""
    return call.events if isinstance(call, Append) else [call.value] if isinstance(call, Put) else []


# -- in words --------------------------------------------------------------------------------


def _told(call: Call) -> str:
    match call:
        case Append(stream, events, expected):
            return f"append {stream} {list(events)} expected {expected}"
        case Put(bucket, key, value, expected):
            return f"put {bucket}/{key!r} {value!r} expected {expected}"
        case Delete(bucket, key, expected):
            return f"delete {bucket}/{key!r} expected {expected}"
        case Read(stream):
            return f"read {stream}"
        case Get(bucket, key):
            return f"get {bucket}/{key!r}"


def _answered(answer: Said) -> str:
    match answer:
        case Appended(first, last, position):
            return f"seqs {first} to {last}, position {position}"
        case Stored(revision):
            return f"revision {revision}"
        case Conflict(actual=actual):
            return f"conflict, found {actual}"
        case Seen(last, events):
            return f"last seq {last}" + (f", newest {list(events)[-3:]}" if events else "")
        case Found(revision, value):
            return f"{value!r} at revision {revision}"
        case Outcome():
            return answer.value
        case None:
            return "absent"
