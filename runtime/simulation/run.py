"""One run: what determines it, and what became of it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

import attrs

from perdure.backends.errors import Misuse
from perdure.backends.event import Record
from perdure.backends.limits import Limits
from perdure.runtime.app import App
from perdure.runtime.runtime import Runtime
from perdure.runtime.simulation.faults import Drawn, Faults, Injection, Replayed, injection_of
from perdure.runtime.simulation.trace import Trace
from perdure.runtime.simulation.world import Violation

Workload = Callable[[Runtime, Random], Awaitable[object]]
"""What is done with the runtime, everything drawn from the numbers it gets. It may be broken off anywhere, and is then begun again."""
Beside = Callable[[Runtime], Awaitable[object]]
"""What else every process of the program does while it has the store open: followers of its own, say. It is cancelled at the end."""
Check = Callable[[Runtime], Awaitable[object]]
"""Raises (an AssertionError, say) if what it finds in the store is not as it should be."""

LIMITS: Final = Limits(page_records=8)
"""Pages are short, so that there are many."""


@attrs.frozen
class Subject:
    """What is tried: an app, what is done with it, what must hold at the end of each run, and what goes on beside."""

    app: App
    workload: Workload
    check: Check | None = None
    beside: Beside | None = None
    limits: Limits = LIMITS


@attrs.frozen
class Plan:
    """What determines a run: with the same subject, two runs of one plan are equal."""

    seed: int
    url: str = "file:"
    runtimes: int = attrs.field(default=1, validator=attrs.validators.in_((1, 2, 3)))
    sessions: int = 3
    """So many times the workload runs, at once and one after the other."""
    faults: Faults = attrs.field(factory=Faults)
    commits: int | None = None
    """After so many the sessions end. None: when they are through."""
    injections: tuple[Injection, ...] | None = None
    """None: drawn."""

    def __str__(self) -> str:
        """What `replayed` takes: seed, sessions, commits, and what goes wrong."""
        listed = "drawn" if self.injections is None else ",".join(map(str, self.injections)) or "nothing"
        return f"{self.seed}/{self.sessions}/{'all' if self.commits is None else self.commits}/{listed}"

    def replayed(self, text: str) -> Plan:
        """This plan with what *text* says.

        Raises:
          Misuse: it says nothing of the kind.
        """
        found = re.fullmatch(r"(\d+)/(\d+)/(\d+|all)/(.+)", text)
        if found is None:
            raise Misuse(f"{text!r} is no run: it is SEED/SESSIONS/COMMITS/FAULTS, as a report prints it")
        injections: tuple[Injection, ...] | None
        match found[4]:
            case "drawn":
                injections = None
            case "nothing":
                injections = ()
            case listed:
                injections = tuple(injection_of(one) for one in listed.split(","))
        return attrs.evolve(self, seed=int(found[1]), sessions=int(found[2]), commits=None if found[3] == "all" else int(found[3]), injections=injections)


@attrs.frozen
class Run:
    """What became of a plan."""

    plan: Plan
    injections: tuple[Injection, ...]
    """What went wrong."""
    violations: tuple[Violation, ...]
    """The laws that it broke."""
    trace: Trace = attrs.field(repr=False)
    counts: dict[str, int] = attrs.field(repr=False)
    """How often what happened."""
    records: tuple[Record, ...] = attrs.field(repr=False)
    """The log at the end."""
    commits: int
    """How many were asked for."""
    digest: str
    """Of the trace: equal for equal runs."""


def run_once(subject: Subject, plan: Plan) -> Run:
    """Do what *plan* says.

    Raises:
      Unsupported: this Trio's order cannot be told.
      Misuse: inside of Trio, or a store that cannot be simulated.
    """
    from perdure.runtime.simulation.play import play  # what is above stays small to import

    script = Replayed(plan.injections) if plan.injections is not None else None
    world, records = play(subject, plan, lambda possible: script or Drawn(plan.seed, plan.faults, possible))
    return Run(plan, tuple(world.injections), tuple(world.violations), world.trace, world.counts, tuple(records), world.ledger.asked, world.trace.digest())
