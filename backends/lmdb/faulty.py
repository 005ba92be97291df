"""An LMDB that fails when it is told to, below everything else: for tests of doubt.

    with faulty_lmdb() as lmdb_:
        async with open_runtime("lmdb:DIR") as rt:
            lmdb_.fail_commit()                              # nothing of the next transaction is stored
            lmdb_.fail_commit(stored=True)                   # it is, though its flush failed
            lmdb_.fail_commit(nth=3, for_good=True)          # from the third on, all of them
            lmdb_.refuse_open(times=2)                       # the environment does not open again at once
            lmdb_.slow_commit(0.01, times=5)                 # a slow disk

After a commit that failed the environment is dead, as LMDB's is: every transaction is refused with
`PanicError` until it has been opened again (`panic=False`: reading goes on, as after a failed fdatasync).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import attrs
import lmdb

from perdure.backends.lmdb import shared


@attrs.define
class _Fault:
    at_commit: int
    for_good: bool
    stored: bool
    panic: bool

    def strikes(self, commit: int) -> bool:
        return commit >= self.at_commit if self.for_good else commit == self.at_commit


class LmdbFaults:
    """What is to go wrong, and a count of what was asked. Counts and faults are of all environments below *folder*."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.commits = 0
        self.opened = 0
        self._faults: list[_Fault] = []
        self._refuse = 0
        self._slow = (0.0, 0)

    def fail_commit(self, *, nth: int = 1, stored: bool = False, panic: bool = True, for_good: bool = False) -> None:
        """Let the *nth* commit of a write transaction from now fail with an IO error."""
        self._faults.append(_Fault(self.commits + nth, for_good, stored, panic))

    def refuse_open(self, times: int = 1) -> None:
        """Let the next openings of an environment fail."""
        self._refuse = times

    def slow_commit(self, seconds: float, times: int = 1) -> None:
        """Let the next commits take longer."""
        self._slow = (seconds, times)

    def heal(self) -> None:
        """Nothing goes wrong any more. What is dead has to be opened again."""
        self._faults.clear()
        self._refuse, self._slow = 0, (0.0, 0)

    # -- what LMDB asks ----------------------------------------------------------------------

    def open(self, path: str, **more: Any) -> Any:
        """See `lmdb.open`."""
        if self.folder is not None and not Path(path).resolve().is_relative_to(self.folder.resolve()):
            return lmdb.open(path, **more)
        if self._refuse:
            self._refuse -= 1
            raise lmdb.Error(f"{path}: Input/output error")
        self.opened += 1
        return _Environment(lmdb.open(path, **more), self)

    def next_commit(self) -> _Fault | None:
        """Count a commit; what strikes it."""
        self.commits += 1
        seconds, times = self._slow
        if times:
            self._slow = (seconds, times - 1)
            time.sleep(seconds)
        return next((fault for fault in self._faults if fault.strikes(self.commits)), None)


class _Environment:
    def __init__(self, env: lmdb.Environment, faults: LmdbFaults) -> None:
        self._env = env
        self._faults = faults
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def begin(self, *, write: bool = False, **more: Any) -> Any:
        if self.dead:
            raise lmdb.PanicError("MDB_PANIC: Update of meta page failed or environment had fatal error")
        txn = self._env.begin(write=write, **more)
        return _Transaction(txn, self, self._faults) if write else txn


class _Transaction:
    """One that writes."""

    def __init__(self, txn: lmdb.Transaction, env: _Environment, faults: LmdbFaults) -> None:
        self._txn = txn
        self._env = env
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._txn, name)

    def __enter__(self) -> lmdb.Transaction:
        return self._txn

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.commit()
        else:
            self._txn.abort()

    def commit(self) -> None:
        fault = self._faults.next_commit()
        if fault is None:
            self._txn.commit()
            return
        if fault.stored:
            self._txn.commit()
        else:
            self._txn.abort()
        self._env.dead = self._env.dead or fault.panic
        raise lmdb.Error("mdb_txn_commit: Input/output error")


@contextmanager
def faulty_lmdb(folder: Path | None = None) -> Iterator[LmdbFaults]:
    """Put faults below every LMDB environment that is opened meanwhile, or only below those in *folder*."""
    before = shared.open_environment
    faults = LmdbFaults(folder)
    shared.open_environment = faults.open
    try:
        yield faults
    finally:
        shared.open_environment = before
