"""Simulated runs, each played twice: every law holds, and the two traces are equal."""

from __future__ import annotations

from functools import partial
from itertools import count
from random import Random

import attrs

from perdure.backends.limits import Limits
from perdure.runtime import App, Event, Keyed, Projection, Retention, event, of
from perdure.runtime.simulation import Faults, Plan, Workload
from perdure.runtime.simulation.run import Subject, run_once
from perdure.runtime.simulation.trace import first_difference
from torment.row import Row, Tally


@event("torture-order-placed", tags=lambda e: [f"customer:{e.customer}"])
@attrs.frozen
class Placed:
    """An order."""

    customer: str
    cents: int


@event("torture-order-paid")
@attrs.frozen
class Paid:
    """What was paid of it."""

    customer: str
    cents: int


@attrs.frozen
class Account:
    """What the projections keep."""

    orders: int = 0
    owed: int = 0
    last: str = ""


def step(account: Account, event: Event[Placed | Paid]) -> Account:
    """The fold of both."""
    sign, orders = (1, 1) if isinstance(event.data, Placed) else (-1, 0)
    return Account(account.orders + orders, account.owed + sign * event.data.cents, f"{event.stream} {event.seq}")


APP = App(
    projections=[
        Projection("all", version=1, initial=Account(), step=step, events=of(Placed, Paid)),
        Keyed("accounts", version=1, initial=Account(), step=step, events=of(Placed, Paid), key=lambda event: event.data.customer),
    ]
)


POLICIES = (
    [Retention(categories=["torture"], count=2)],
    [Retention(categories=["torture"], age_s=3)],
    [Retention(streams=["torture-1"], count=0), Retention(categories=["torture"], count=1, age_s=1)],
    [Retention(categories=["torture"], covered_by=["all"])],
)
SWEPT_SOON = Limits(page_records=8, commit_s=2)


def simulated(url: str, tally: Tally, *, retains: bool = False) -> None:
    """One seed after the other, with one runtime or several, and with faults far apart or close together."""
    subject = Subject(APP, Workload(APP))
    for seed in count(tally.seed * 1_000_003):
        if tally.over:
            return
        draw = Random(seed)
        if retains:
            subject = Subject(attrs.evolve(APP, retention=draw.choice(POLICIES)), Workload(APP), limits=SWEPT_SOON)
        plan = Plan(seed, url=f"{url}:", runtimes=draw.choice((1, 1, 2, 3)), faults=Faults(gap=draw.choice((20.0, 60.0)), most=draw.choice((3, 8, 16))))
        one, other = run_once(subject, plan), run_once(subject, plan)
        again = f"{url}:, runtimes={plan.runtimes}, {plan.faults}: {attrs.evolve(plan, injections=one.injections)}"
        for violation in one.violations:
            tally.violation(f"{violation} ({again})")
        if one.digest != other.digest:
            tally.violation(f"the same seed gave two runs: {first_difference(one.trace, other.trace)} ({again})")
        for what, number in one.counts.items():
            tally.note(what, number)
        tally.note("lines", len(one.trace))
        tally.done += 1


ROWS: list[Row] = [
    Row("simulated, each run twice with equal traces", f"{url}:", "seeds", quick=quick, full=20_000, run=partial(simulated, url))
    for url, quick in (("file", 60), ("segments", 60), ("lmdb", 30))
] + [
    Row("simulated with retention, each run twice with equal traces", f"{url}:", "seeds", quick=quick, full=5_000, run=partial(simulated, url, retains=True))
    for url, quick in (("file", 15), ("segments", 15), ("lmdb", 10))
]
