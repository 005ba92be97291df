"""Simulation: an app under a seeded scheduler, in virtual time, on a disk that fails and loses power, over and over.

    report = simulate(app, seeds=range(1000))
    assert report.ok, report

Each seed is a run: processes open the store, do the workload, are killed, frozen, cut off from power, cancelled, meet failing and slow
flushes, a full disk and late wake-ups, and others go on where they ended. At every opening, and in a last process to which nothing
happens, the store is held to perdure's guarantees (`laws`), the models to the fold of the log, and all of it to your own `check`. The
same seed gives the same run, step by step. The first run that breaks a law is played again with less, as long as it breaks it.

What is real: perdure, from the runtime to the last byte of its files; your folds, your workload. What is not: the disk, the threads, the
clocks and the network, of which there is none. A process is what shares no memory with others; all live in one loop, so two of
them never run at the very same time, but in any order. LMDB is C code on real files: `lmdb:` has restarts, cancellations and frozen
runtimes, no crash and no failing disk; `segments:` is the commit log that stands before it, with a map of ours behind.

It rests on a private switch of Trio (see `scheduler`) and refuses a version that it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import attrs
import trio

from perdure.backends.codec import Codec
from perdure.backends.errors import Misuse
from perdure.backends.limits import Limits
from perdure.runtime.app import App
from perdure.runtime.simulation import laws
from perdure.runtime.simulation.faults import Faults
from perdure.runtime.simulation.report import Report
from perdure.runtime.simulation.run import LIMITS, Beside, Check, Plan, Run, Subject, Workload, run_once
from perdure.runtime.simulation.shrink import TRIES_MAX, shrink
from perdure.runtime.simulation.stores import kind_of
from perdure.runtime.simulation.trace import first_difference
from perdure.runtime.simulation.workload import Workload as RandomWorkload
from perdure.runtime.simulation.world import Violation


def simulate(
    app: App,
    workload: Workload | None = None,
    *,
    check: Check | None = None,
    beside: Beside | None = None,
    seeds: Iterable[int] | int = 100,
    faults: Faults | None = None,
    runtimes: int = 1,
    url: str = "file:",
    sessions: int = 3,
    twice: bool = False,
    hash_seeds: bool = False,
    limits: Limits = LIMITS,
    replay: str | None = None,
    shrink_tries: int = TRIES_MAX,
    on_run: Callable[[Run], object] = lambda run: None,
) -> Report:
    """Try *app* under many seeds (a number: so many from 0 on); the report says what was tried, and of the first failure all there is.

    *workload* is called with a runtime and a `random.Random`, *sessions* times, at once and one after the other; drawing all from the
    latter, it appends, puts and reads. It may be broken off anywhere and is begun again then; what it raises beyond the store's own
    `Closed`, `Unavailable`, `InDoubt` and `Full` is a failure. None: random events of the app's classes. *check* is called with a runtime
    at the end of each run, its models at the head; what it raises is a failure. *beside* is called once in every process, with its
    runtime, and goes on while that is open, also beside *check*: your own followers. Time is virtual: to sleep costs nothing.

    *runtimes* (1 to 3) share the machine, each with a clock of its own; one has the store open, the others wait for it and take over. *url*
    is `file:`, `segments:`, `memory:` or `lmdb:`, nothing else. *twice*: each run is played again, and must be the same. *hash_seeds*: at
    the end the longest log is folded in processes of their own, with other seeds for Python's hashes. *replay* is what a report says
    of a run: that one only.

    Raises:
      Unsupported: this version of Trio cannot be told what to run.
      Misuse: inside of Trio, another simulation runs, there is no such store, or the app has SQL read models: theirs is a real database.
    """
    kind_of(url)
    if app.sql:
        names = ", ".join(projection.name for projection in app.sql)
        raise Misuse(f"no SQL read model can be simulated ({names}), for its database has a disk and clocks of its own: simulate attrs.evolve(app, sql=())")
    subject = Subject(app, workload or RandomWorkload(app), check, beside, limits)
    plan = Plan(0, url=url, runtimes=runtimes, sessions=sessions, faults=faults or Faults())
    play = partial(run_once, subject)
    if replay is not None:
        run = play(plan.replayed(replay))
        on_run(run)
        return Report(1, run.plan.seed, _counted({}, run), run if run.violations else None, run if run.violations else None)
    done, counts, seed, longest = 0, dict[str, int](), -1, None
    for seed in _listed(seeds):
        run = _repeated(play, attrs.evolve(plan, seed=seed)) if twice else play(attrs.evolve(plan, seed=seed))
        done += 1
        counts = _counted(counts, run)
        on_run(run)
        if run.violations:
            return Report(done, seed, counts, run, _shrunk(run, play, shrink_tries))
        if longest is None or len(run.records) > len(longest.records):
            longest = run
    if longest is None:
        raise Misuse("simulate was given no seed")
    if hash_seeds and (violation := _hash_order(app, longest)) is not None:
        longest = attrs.evolve(longest, violations=(violation,))
        return Report(done, seed, counts, longest, longest)
    return Report(done, seed, counts)


def _hash_order(app: App, run: Run) -> Violation | None:
    """What differs where sets have another order."""
    from perdure.runtime.testing.kit import Differs, check_seeds  # the kit hands on what is defined here

    for projection in app.projections:
        codec = Codec()
        for cls in projection.events.classes:
            codec.registry.register(cls)
        try:
            trio.run(check_seeds, codec, projection, run.records)
        except Differs as error:
            return Violation(laws.PURE, str(error))
    return None


def _listed(seeds: Iterable[int] | int) -> Iterable[int]:
    return range(seeds) if isinstance(seeds, int) else seeds


def _counted(counts: dict[str, int], run: Run) -> dict[str, int]:
    more = {"points": len(run.trace), "events": len(run.records), **run.counts}
    return {what: counts.get(what, 0) + more.get(what, 0) for what in {**counts, **more}}


def _repeated(play: Callable[[Plan], Run], plan: Plan) -> Run:
    """The run; that it can be played again belongs to what must hold."""
    one, other = play(plan), play(plan)
    if one.digest == other.digest:
        return one
    return attrs.evolve(one, violations=(*one.violations, _unrepeatable(one, other)))


def _unrepeatable(one: Run, other: Run) -> Violation:
    return Violation(
        laws.REPEATS,
        f"{first_difference(one.trace, other.trace)}: something in the app or the workload reads a clock, draws numbers of its own, goes through "
        "a set, or keeps what an earlier run left",
    )


def _shrunk(run: Run, play: Callable[[Plan], Run], tries_max: int) -> Run:
    if run.violations[0].law == laws.REPEATS or not tries_max:
        return run
    again = play(run.plan)
    if again.digest != run.digest:
        return attrs.evolve(run, violations=(*run.violations, _unrepeatable(run, again)))
    return shrink(run, play, tries_max=tries_max)
