"""The shortest run that breaks the same law: with fewer of its faults, fewer sessions and fewer commits.

A run is its plan, so a part of its faults is tried by playing it again: delta debugging (A. Zeller, R. Hildebrandt, "Simplifying and
Isolating Failure-Inducing Input", 2002). What comes after a fault that is left out goes another way, so a point means what
happens there then; where the same law breaks all the same, less is needed to see it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import attrs

from perdure.runtime.simulation.faults import Injection
from perdure.runtime.simulation.run import Plan, Run

T = TypeVar("T")

TRIES_MAX: Final = 200
_FEW: Final = 6
_PARTS: Final = tuple(part / 16 for part in range(1, 16))


class _Spent(Exception):
    """As many runs were tried as may be."""


def shrink(run: Run, play: Callable[[Plan], Run], *, tries_max: int = TRIES_MAX) -> Run:
    """A run that breaks the law that *run* breaks first, with as little as was found in *tries_max* runs. *run* itself if nothing less does."""
    law = run.violations[0].law
    best, tries = run, 0

    def breaks(plan: Plan) -> bool:
        nonlocal best, tries
        if tries >= tries_max:
            raise _Spent
        tries += 1
        found = play(plan)
        if not any(violation.law == law for violation in found.violations):
            return False
        best = found
        return True

    try:
        if not breaks(attrs.evolve(run.plan, injections=run.injections)):
            return run
        for _ in range(2):
            fewer_sessions(best.plan, breaks)
            listed = best.plan.injections or ()
            least(listed, lambda some: breaks(attrs.evolve(best.plan, injections=tuple(some))))
            earlier_faults(best.plan, breaks)
            fewer_commits(best, breaks)
        simpler_faults(best.plan, breaks)
    except _Spent:
        pass
    return best


def fewer_sessions(plan: Plan, breaks: Callable[[Plan], bool]) -> None:
    """Try with fewer sessions, from one on."""
    for sessions in range(1, plan.sessions):
        if breaks(attrs.evolve(plan, sessions=sessions)):
            return


def earlier_faults(plan: Plan, breaks: Callable[[Plan], bool]) -> None:
    """Try each fault at a point before its own: then there is less before it."""
    injections, before = list(plan.injections or ()), 0
    for place, injection in enumerate(injections):
        for part in _PARTS:
            point = before + int((injection.point - before) * part)
            other = attrs.evolve(injection, point=point)
            if point > before and breaks(attrs.evolve(plan, injections=(*injections[:place], other, *injections[place + 1 :]))):
                injections[place] = other
                break
        before = injections[place].point


def fewer_commits(run: Run, breaks: Callable[[Plan], bool]) -> None:
    """Try with fewer commits: very few, then halving."""
    most = min(run.commits, run.plan.commits or run.commits)
    for few in range(1, min(_FEW, most)):
        if breaks(attrs.evolve(run.plan, commits=few)):
            return
    least_known = min(_FEW, most) - 1
    while most - least_known > 1:
        middle = (most + least_known) // 2
        if breaks(attrs.evolve(run.plan, commits=middle)):
            most = middle
        else:
            least_known = middle


def simpler_faults(plan: Plan, breaks: Callable[[Plan], bool]) -> None:
    """Try a plain crash in the place of whatever ends a process, and everything at once where it takes its time."""
    injections = list(plan.injections or ())
    for place, injection in enumerate(injections):
        for other in _simpler(injection):
            if other != injection and breaks(attrs.evolve(plan, injections=(*injections[:place], other, *injections[place + 1 :]))):
                injections[place] = other
                break


def _simpler(injection: Injection) -> list[Injection]:
    match injection.what:
        case "power":
            return [Injection(injection.point, "crash", "0"), Injection(injection.point, "power", "lose 0 0")]
        case "crash":
            return [Injection(injection.point, "crash", "0")]
        case "flush":
            return [Injection(injection.point, "flush", "fail")]
        case _:
            return []


def least(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """Some of *items* that still fail, none of which can be left out alone. All of them fail."""
    left = list(items)
    if left and fails([]):
        return []
    parts = 2
    while len(left) >= 2:
        size = -(-len(left) // parts)
        chunks = [left[start : start + size] for start in range(0, len(left), size)]
        for number in range(len(chunks)):
            rest = [item for other, chunk in enumerate(chunks) if other != number for item in chunk]
            if fails(rest):
                left, parts = rest, max(2, parts - 1)
                break
        else:
            if parts >= len(left):
                break
            parts = min(len(left), 2 * parts)
    return left
