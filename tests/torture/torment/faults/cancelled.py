"""Cancellation at every Trio checkpoint of a write, of a runtime's life, of its opening: the sweeps of tests/runtime/test_cancelled*, in full.

What is swept, and the laws, are there; `make test` sweeps with a stride where a store is on a disk, this row at its full rounds with none.
"""

from __future__ import annotations

import importlib.util
import random
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

from perdure.backends.environment import Environment
from perdure.backends.lmdb.faulty import faulty_lmdb
from torment.quiet import quiet
from torment.row import Row, Tally

TESTS = Path(__file__).resolve().parents[3]


def _load(path: str) -> ModuleType:
    """A module of the tests, which are no package; under the name by which they load each other."""
    file = TESTS / path
    if file.stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None and spec.loader is not None
        module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[file.stem]


cancelling = _load("cancelling.py")
writes = _load("runtime/test_cancelled.py")
lives = _load("runtime/test_cancelled_closing.py")


@attrs.frozen
class Sweep:
    """*once* is one run; it is given the strike, the stores, and LMDB's faults."""

    name: str
    scheme: str
    once: Callable[..., Any]
    of: str = "run"
    stride: int = 1
    """In `make test`."""
    thread: bool = False

    def points(self, folder: Path, *, every: bool) -> int:
        """How many there were; raises what broke."""
        stores = cancelling.Stores(self.scheme, folder, "?flush=thread" if self.thread else "", Environment() if self.thread else None)
        stride = 1 if every else self.stride
        with quiet(), faulty_lmdb(folder) as faults:
            count: int = cancelling.sweep(lambda strike: self.once(strike, stores, faults), of=self.of, stride=stride, real_time=self.thread)
        return count


def _write(call: str, situation: Any, strike: Any, stores: Any, faults: Any) -> Any:
    return writes.keeps_the_law(strike, stores, faults, writes.CALLS[call], situation, set())


def _life(disk: Any, strike: Any, stores: Any, faults: Any) -> Any:
    return lives.a_life(strike, stores, disk, faults)


def _sweeps() -> list[Sweep]:
    found: list[Sweep] = []
    for call in writes.CALLS:
        found += [Sweep(f"{call}, {name}", "memory", partial(_write, call, one)) for name, one in writes.EVERYWHERE.items()]
        found += [Sweep(f"{call}, {name}, its own task", "lmdb", partial(_write, call, writes.EVERYWHERE[name]), of="task") for name in ("alone", "in a group")]
        found += [Sweep(f"{call}, {name}", "lmdb", partial(_write, call, one), stride=5) for name, one in writes.ON_LMDB.items()]
        found += [Sweep(f"{call}, {name}, in a thread", "lmdb", partial(_write, call, one), stride=6, thread=True) for name, one in writes.IN_A_THREAD.items()]
    found += [Sweep(f"a life, {name}", "memory", partial(_life, one), stride=2) for name, one in lives.EVERYWHERE.items()]
    found += [Sweep(f"a life, {name}", "lmdb", partial(_life, one), stride=13) for name, one in lives.ON_LMDB.items()]
    found.append(Sweep("a life in a thread", "lmdb", partial(_life, lives.quick), stride=19, thread=True))
    found += [Sweep("an opening", scheme, lives.an_opening) for scheme in ("memory", "lmdb")]
    return found


SWEEPS = _sweeps()


def run(scheme: str, tally: Tally) -> None:
    """All sweeps of that kind of store, in an order of the seed."""
    sweeps = [sweep for sweep in SWEEPS if sweep.scheme == scheme]
    random.Random(tally.seed).shuffle(sweeps)
    every = tally.goal >= len(sweeps)
    for number, sweep in enumerate(sweeps):
        if tally.over:
            break
        folder = tally.folder / f"{number}"
        folder.mkdir()
        try:
            tally.note("points", sweep.points(folder, every=every))
        except BaseException as error:
            if not isinstance(error, Exception | BaseExceptionGroup):
                raise
            tally.violation(f"{scheme}: {sweep.name}: {''.join(traceback.format_exception(error))[-3_000:]}")
        tally.done += 1


ROWS = [
    Row("cancellation at every Trio checkpoint", f"{scheme}:", "sweeps", 8, sum(sweep.scheme == scheme for sweep in SWEEPS), partial(run, scheme))
    for scheme in ("memory", "lmdb")
]
