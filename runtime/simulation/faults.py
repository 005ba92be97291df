"""What may go wrong in a run, how often, and what did: drawn from the seed, or replayed from a list. Pure.

A run is its seed and its injections: a list of (number of the point, what). The same seed draws the same list; given a
list, nothing is drawn, so a part of the list can be tried as well (see `shrink`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import Any, Final, Literal, get_args

import attrs

from perdure.backends.cuts import POLICIES
from perdure.backends.errors import Misuse

What = Literal["crash", "power", "restart", "cancel", "freeze", "flush", "slow", "io", "full", "wake"]
WHATS: Final[tuple[What, ...]] = get_args(What)

Phase = Literal["before", "after", "wake"]
"""Of a point: before a call acts, after it has, or where followers are told."""


@attrs.frozen
class Faults:
    """What may happen in a run, each with its weight against the others; 0: never.

    *crash*: a process is killed. *power*: the power fails; what was not flushed is lost, or a part of it, or nothing. *restart*: a
    runtime is closed and opened again. *cancel*: a part of the workload is cancelled, and begins again. *freeze*: a process stands still,
    up to a minute. *flush*: a flush fails; of a file, what it should have
    made durable is lost, or a part of it, though it reads well; of a folder, nothing has happened (a journal that cannot be written ends
    the file system). *slow*: a call takes up to a minute.
    *io*: another call fails, or writes a part. *full*: the disk is full for a while. *wake*: followers are told late, twice, or of nothing.

    *gap* points pass between two of them, on the average; each run has at most *most*. A seed leaves some kinds out altogether,
    and draws its own gap around that: rare meetings need runs that are not all alike.
    """

    crash: float = 3.0
    power: float = 3.0
    restart: float = 1.0
    cancel: float = 2.0
    freeze: float = 1.0
    flush: float = 2.0
    slow: float = 1.0
    io: float = 1.0
    full: float = 0.5
    wake: float = 1.0
    gap: float = 60.0
    most: int = 8

    def __attrs_post_init__(self) -> None:
        if min(getattr(self, what) for what in WHATS) < 0 or self.gap <= 0 or self.most < 0:
            raise Misuse(f"weights, gap and most are not negative: {self}")

    @classmethod
    def only(cls, *names: str, **more: Any) -> Faults:
        """The default weights of *names*, all others never.

        Raises:
          Misuse: nothing is called so.
        """
        for name in names:
            if name not in WHATS:
                raise Misuse(f"no fault is called {name!r}: {', '.join(WHATS)}")
        usual = cls()
        weights: dict[str, Any] = {what: getattr(usual, what) if what in names else 0.0 for what in WHATS}
        return cls(**weights, **more)

    def without(self, *names: What) -> Faults:
        """The same, and *names* never."""
        weights: dict[str, Any] = dict.fromkeys(names, 0.0)
        return attrs.evolve(self, **weights)


NO_FAULTS: Final = Faults.only()


@attrs.frozen
class Injection:
    """*what* went wrong at point number *point*; *how* says the rest, in a word or two."""

    point: int
    what: What
    how: str = ""

    def __str__(self) -> str:
        return f"{self.point}:{self.what}({self.how})" if self.how else f"{self.point}:{self.what}"


_INJECTION = re.compile(r"(\d+):([a-z]+)(?:\(([^()]*)\))?")


def injection_of(text: str) -> Injection:
    """The inverse of `str`.

    Raises:
      Misuse: it is none.
    """
    found = _INJECTION.fullmatch(text.strip())
    if found is None or found[2] not in WHATS:
        raise Misuse(f"{text!r} is no fault: write its point and what it is, as in 57:crash or 57:power(lose 3)")
    return Injection(int(found[1]), found[2], found[3] or "")


def fits(what: What, phase: Phase, op: str) -> bool:
    """Whether *what* can happen at such a point."""
    match what:
        case "flush":
            return phase == "before" and op in ("flush", "sync_folder")
        case "wake":
            return phase == "wake"
        case "slow" | "io":
            return phase == "before"
        case "full":
            return phase == "before" and op == "write"
        case _:
            return phase != "wake"


_TELLING: Final = ("write", "flush", "flush", "rename", "sync_folder", "remove", "open")
"""Calls at which it tells most: of all calls most are those of an opening."""
_PATIENCE: Final = 200
"""So many points a fault waits for its call."""


class Drawn:
    """Says at each point what goes wrong there, from a seed."""

    def __init__(self, seed: int, faults: Faults, possible: Sequence[What]) -> None:
        self._random = random = Random(f"faults {seed}")
        usual = {what: getattr(faults, what) for what in WHATS if what in possible}
        self._weights = {what: weight for what, weight in usual.items() if random.random() < 0.7 and weight} or {w: x for w, x in usual.items() if x}
        self._gap = faults.gap * random.choice((0.3, 1.0, 1.0, 2.0))
        self._left = random.randint(min(1, faults.most), faults.most) if self._weights else 0
        self._due = 0
        self._what: What = "crash"
        self._where: str | None = None
        self._plan(random.randrange(max(1, int(2 * faults.gap))))

    def _plan(self, after: int) -> None:
        if self._left:
            self._due = after + 1 + int(self._random.expovariate(1 / self._gap))
            self._what = self._random.choices(list(self._weights), list(self._weights.values()))[0]
            self._where = self._random.choice((None, *_TELLING)) if self._what in ("crash", "power", "freeze", "io", "slow") else None

    def at(self, number: int, phase: Phase, op: str) -> Injection | None:
        """What is to go wrong at this point."""
        if not self._left or number < self._due or not fits(self._what, phase, op) or (number < self._due + _PATIENCE and self._where not in (None, op)):
            return None
        self._left -= 1
        injection = Injection(number, self._what, _how(self._what, op, self._random))
        self._plan(number)
        return injection


class Replayed:
    """The same from a list."""

    def __init__(self, injections: Sequence[Injection]) -> None:
        self._by_point = {injection.point: injection for injection in injections}

    def at(self, number: int, phase: Phase, op: str) -> Injection | None:
        """What is to go wrong at this point, if it can."""
        injection = self._by_point.get(number)
        return injection if injection is not None and fits(injection.what, phase, op) else None


def _how(what: What, op: str, random: Random) -> str:
    match what:
        case "crash":
            return _seconds(random, 5)
        case "power":
            return f"{random.choice(POLICIES)} {random.randrange(1_000_000)} {_seconds(random, 5)}"
        case "restart":
            return random.choice(("close", "cancel"))
        case "cancel":
            return str(random.randrange(1_000))
        case "freeze" | "slow" | "full":
            return _seconds(random, 60)
        case "flush":
            return random.choice(("drop 0", "drop 0.5", "drop 1", "fail")) if op == "flush" else "fail"
        case "io":
            return random.choice(("EIO", "ENOSPC", "short 0.5", "short 0") if op == "write" else ("EIO", "EIO", "ENOSPC"))
        case "wake":
            return random.choice((f"late {_seconds(random, 2)}", "twice", "early"))


def _seconds(random: Random, most: float) -> str:
    """A time, short ones as often as long ones."""
    return f"{most * random.random() ** 3:.3f}"
