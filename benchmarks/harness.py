"""Rows, cases and the interleaved run: what is measured, in which order, and how ratios are drawn from it.

A case is one side of a row: a context manager that prepares in a folder of its own and gives the function which does the
work once and returns its figure (most often events a second, timed around exactly the work). A row sets a subject beside
its peers. A round measures the subject and then each peer; a ratio is drawn within its round, and the median of a row's
ratios is its result: what the machine does beside it hits both sides.
"""

import gc
import os
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import attrs

from benchmarks.sizes import Sizes

BEST = "best peer"
FEWER = "the peer does fewer of the same: rates are compared"
VOLATILE_FILE_SYSTEMS = ("tmpfs", "ramfs")

Work = Callable[[], float]
Open = Callable[[Path, Sizes], AbstractContextManager[Work]]


class NotDurable(Exception):
    """The folder, or a database in it, would not keep what it acknowledged; a figure of it would mean nothing."""


@attrs.frozen
class Case:
    """One side of a row. *fresh*: prepared anew for each round, because the work changes what it stands on."""

    name: str
    open: Open
    fresh: bool = False
    note: str = ""


def constant(name: str, value: float) -> Case:
    """A peer that is a number: for a goal that is absolute."""

    @contextmanager
    def always(folder: Path, sizes: Sizes) -> Iterator[Work]:
        yield lambda: value

    return Case(name, always)


@attrs.frozen
class Row:
    """A subject beside its peers.

    *goals*: a ratio for a peer's name or for `BEST`; a peer without one is shown only. *at_most*: less is better, so goals are
    upper bounds. *why*: where the time goes, for a row known to fall short: printed when it does.
    """

    name: str
    subject: Case
    peers: Sequence[Case]
    goals: Mapping[str, float]
    at_most: bool = False
    unit: str = "events/s"
    why: str = ""


@attrs.frozen
class Spread:
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@attrs.frozen
class Result:
    """One line of the table: a row against one peer. *met* is None where no goal is set."""

    row: str
    peer: str
    ratio: float
    goal: float | None
    met: bool | None
    at_most: bool
    unit: str
    ours: Spread
    theirs: Spread
    ratios: Sequence[float]
    rounds: int
    note: str


@attrs.frozen
class Failure:
    """A case that did not run: the row stays in the table and says why."""

    row: str
    case: str
    error: str


Figures = Mapping[str, Sequence[float]]  # of one row: by case, one for each round


def results(row: Row, figures: Figures) -> list[Result]:
    """The lines of *row*: one for each peer, and one against the best of each round if a goal is set for that."""
    ours = figures[row.subject.name]
    lines = [_result(row, peer.name, ours, figures[peer.name], peer.note or row.subject.note) for peer in row.peers]
    if BEST in row.goals and row.peers:
        pick = min if row.at_most else max
        best = [pick(each) for each in zip(*(figures[peer.name] for peer in row.peers), strict=True)]
        lines.append(_result(row, BEST, ours, best, row.subject.note))
    return lines


def _result(row: Row, peer: str, ours: Sequence[float], theirs: Sequence[float], note: str) -> Result:
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    ratio, goal = statistics.median(ratios), row.goals.get(peer)
    met = None if goal is None else (ratio <= goal if row.at_most else ratio >= goal)
    return Result(row.name, peer, ratio, goal, met, row.at_most, row.unit, Spread.of(ours), Spread.of(theirs), ratios, len(ratios), note)


def measure(row: Row, folder: Path, sizes: Sizes, *, rounds: int, say: Callable[[str], None]) -> list[Result | Failure]:
    """Run *row*'s cases by turns, *rounds* times; what it wrote is removed. A peer that fails leaves the run; a subject that fails ends it."""
    cases = [row.subject, *row.peers]
    figures: dict[str, list[float]] = {case.name: [] for case in cases}
    works: dict[str, Work] = {}
    failures: dict[str, Failure] = {}

    with ExitStack() as stack:
        for number in range(rounds + 1):  # in turn 0 the cases that stay are prepared
            for case in cases:
                if case.name in failures or row.subject.name in failures:
                    continue
                say(f"{row.name}: {case.name}, " + (f"round {number} of {rounds}" if number else "preparing"))
                try:
                    if number:
                        figures[case.name].append(_measure_once(case, works.get(case.name), folder / row.name, sizes))
                    elif not case.fresh:
                        works[case.name] = stack.enter_context(_opened(case, folder / row.name, sizes))
                except Exception as error:
                    failures[case.name] = Failure(row.name, case.name, f"{type(error).__name__}: {error}")

    if row.subject.name in failures:
        return [failures[row.subject.name]]
    ran = attrs.evolve(row, peers=[peer for peer in row.peers if peer.name not in failures])
    return [*results(ran, figures), *failures.values()]


def _measure_once(case: Case, work: Work | None, folder: Path, sizes: Sizes) -> float:
    if work is not None:
        _settle()
        return work()
    with _opened(case, folder, sizes) as fresh_work:
        _settle()
        return fresh_work()


def _settle() -> None:
    """Leave neither garbage nor dirty pages of the side before to the side that is timed next, nor prepared events to its collector."""
    gc.collect()
    gc.freeze()
    os.sync()


@contextmanager
def _opened(case: Case, folder: Path, sizes: Sizes) -> Iterator[Work]:
    place = folder / case.name.replace(" ", "-")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        with case.open(place, sizes) as work:
            yield work
    finally:
        gc.unfreeze()
        shutil.rmtree(place, ignore_errors=True)


def file_system_of(folder: Path, mounts: str) -> str:
    """The type of the file system that holds *folder*, by the text of /proc/self/mounts: the longest mount point wins, of two alike the later."""
    best, kind = -1, "unknown"
    for line in mounts.splitlines():
        _, point, found, *_ = line.split(" ")
        path = Path(point.replace("\\040", " "))
        if folder.is_relative_to(path) and len(path.parts) >= best:
            best, kind = len(path.parts), found
    return kind


def refuse_volatile(folder: Path) -> str:
    """The file system under *folder*; unknown where there is no /proc.

    Raises:
      NotDurable: it is kept in memory.
    """
    mounts = Path("/proc/self/mounts")
    kind = file_system_of(folder.resolve(), mounts.read_text()) if mounts.exists() else "unknown"
    if kind in VOLATILE_FILE_SYSTEMS:
        raise NotDurable(f"{folder} is on {kind}, which keeps nothing: pass --dir with a folder on a disk")
    return kind
