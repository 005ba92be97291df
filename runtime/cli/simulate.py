"""`simulate`: an app on a disk that fails, under many seeds."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from perdure.backends.errors import Misuse
from perdure.runtime.cli import out
from perdure.runtime.cli.apps import load_app, load_function
from perdure.runtime.cli.exits import Exit
from perdure.runtime.cli.options import AsJson
from perdure.runtime.simulation.faults import Faults
from perdure.runtime.simulation.report import Report
from perdure.runtime.simulation.simulate import simulate as simulate_app

SEEDS = 100

App = Annotated[str, Parameter(help="The App: module:name, the current folder first.")]
Function = Annotated[str | None, Parameter(show_default=False)]


def simulate(
    app: App,
    /,
    *,
    seeds: Annotated[int | None, Parameter(help=f"So many runs: {SEEDS}, or 1 where --seed is given.", show_default=False)] = None,
    seed: Annotated[int | None, Parameter(help="The first run's; the others' follow it.", show_default=False)] = None,
    runtimes: Annotated[int, Parameter(help="1 to 3 on one machine: one has the store open, the others wait and take over.")] = 1,
    faults: Annotated[str | None, Parameter(help="Only these, with commas: crash,power,... (see docs/simulation.md); none: nothing goes wrong.")] = None,
    url: Annotated[str, Parameter(help="The kind of store: file:, segments:, memory: or lmdb:.")] = "file:",
    workload: Annotated[Function, Parameter(help="module:function, given a runtime and random numbers. Else: random events.")] = None,
    check: Annotated[Function, Parameter(help="module:function, given a runtime at the end of each run; what it raises is found.")] = None,
    beside: Annotated[Function, Parameter(help="module:function, given a runtime, once in every process: what else the program does.")] = None,
    sessions: Annotated[int, Parameter(help="So often the workload runs in each run.")] = 3,
    twice: Annotated[bool, Parameter(negative=(), show_default=False, help="Play each run again: it must be the same.")] = False,
    hash_seeds: Annotated[bool, Parameter(negative=(), show_default=False, help="Fold the longest log under other seeds of Python's hashes.")] = False,
    replay: Annotated[str | None, Parameter(help="One run, as a report says it.", show_default=False)] = None,
    json: AsJson = False,
) -> int:
    """Try an app under many seeds: killed, frozen, cut off from power, on a disk that fails.

    The first run that breaks a law is told with the shortest one that does.

    For example:

        perdure simulate shop:app --seeds 1000 --faults crash,power

    JSON: ok, runs, seed, counts; or ok, runs, seed, counts, failed, shortest.
    """
    count = seeds if seeds is not None else 1 if seed is not None else SEEDS
    if count < 1 or sessions < 1:
        raise Misuse(f"--seeds and --sessions are numbers from 1, not {min(count, sessions)}")
    loaded = load_app(app)
    work, holds, goes_on = (None if name is None else load_function(name) for name in (workload, check, beside))
    with out.bar("simulating", 1 if replay else count) as step:
        report = simulate_app(
            loaded,
            work,
            check=holds,
            beside=goes_on,
            seeds=range(first := seed or 0, first + count),
            faults=_faults_of(faults),
            runtimes=_runtimes_of(runtimes),
            url=url,
            sessions=sessions,
            twice=twice,
            hash_seeds=hash_seeds,
            replay=replay,
            on_run=lambda run: step(),
        )
    _print(report, json=json)
    return Exit.DONE if report.ok else Exit.NO


def _faults_of(text: str | None) -> Faults | None:
    if text is None:
        return None
    return Faults.only(*(() if text.strip() in ("", "none") else (name.strip() for name in text.split(","))))


def _runtimes_of(number: int) -> int:
    if number not in (1, 2, 3):
        raise Misuse(f"--runtimes is 1, 2 or 3, not {number}")
    return number


def _print(report: Report, *, json: bool) -> None:
    if json:
        out.document(report.document())
    else:
        for line in str(report).splitlines():
            out.line(line)
