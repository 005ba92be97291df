"""`lmdb:DIR?mode=ro`: a store as a reader alone: no file is made or written, so a folder without write permission will do.

Beside writers LMDB must know of each reader, else pages are used again under its eyes. Where this user may write to
`data.mdb-lock` the reader takes a slot in it, as every other one does. Where not, it reads only while nobody has the store
open: that is asked anew before each transaction, with `opening.lock` shared until its end, so that nobody opens it meanwhile.

A file that was swapped for another one (`perdure compact`) is opened anew.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import lmdb
import trio

from perdure.backends import keys
from perdure.backends.environment import Threads
from perdure.backends.errors import Corrupt, Misuse, Unavailable, Unsupported
from perdure.backends.lmdb import files
from perdure.backends.lmdb import shared as sharing
from perdure.backends.lmdb.rows import Held, TxnReader
from perdure.backends.lmdb.walk import check_pages, is_short
from perdure.backends.lmdb.watch import SideFile, Watcher
from perdure.backends.logged import BEFORE, LOGGED
from perdure.backends.ordered_map import MapStatus
from perdure.backends.protocol import State
from perdure.backends.recovery import Recovery
from perdure.backends.tables import Reader, Writer, read_meta

T = TypeVar("T")

_BACK_S = 0.01


class Opening(Unavailable):
    """Somebody opens or closes the store just now."""


class ReadOnlyEnv:
    """An LMDB environment for reading, open once in this process, shared by count."""

    def __init__(self, folder: Path, options: sharing.Options) -> None:
        self.folder = folder
        self.data = folder / files.DATA
        self.options = options
        self.pid = os.getpid()
        self.users = 0
        self.held: set[Held] = set()
        self.rows_owed = False
        self.registered = os.access(folder / (files.DATA + "-lock"), os.R_OK | os.W_OK)
        """Whether LMDB knows of our readers."""
        handle = self._bar_openings()
        try:
            if not self.registered:
                self._check_unused()
            self.verified, self.recovery = self._verify()
            self._open()
        finally:
            if handle is not None:
                os.close(handle)

    # -- opening -----------------------------------------------------------------------------

    def _open(self) -> None:
        self.inode = self.data.stat().st_ino
        size = sharing.MAP_BYTES
        while True:
            try:
                self.env = sharing.open_environment(
                    str(self.data), subdir=False, readonly=True, lock=self.registered, create=False,
                    map_size=size, max_dbs=len(keys.TABLES) + 8, max_readers=1024, readahead=False,
                )  # fmt: skip
                break
            except lmdb.Error as error:
                if ("Cannot allocate" in str(error) or isinstance(error, lmdb.MemoryError)) and size > 1 << 30:
                    size //= 2
                    continue
                raise sharing.translated(error, str(self.data)) from error
        try:
            self.tables = {name: self.env.open_db(name.encode(), create=False) for name in keys.TABLES}
            with self.env.begin() as txn:
                self.id = sharing.read_identity(txn, self.tables["meta"], str(self.folder))
        except lmdb.Error as error:
            self.env.close()
            raise sharing.translated(error, str(self.data)) from error
        except BaseException:
            self.env.close()
            raise

    def _verify(self) -> tuple[str, Recovery]:
        """What is known of the pages. They are walked as at any opening after an unclean stop; no mark is left."""
        how, clean, size = self.options.verify, files.left_clean(self.folder), self.data.stat().st_size
        if self.in_use():
            return "by the process that opened it first", Recovery()
        if not clean:
            with suppress(OSError):  # what we read may be in the page cache only; a medium that nobody writes to cannot be synced
                files.sync(self.data)
        if how == "off" or (how == "auto" and (clean or size > sharing.WALK_AT_ONCE_BYTES) and not is_short(self.data)):
            return "all" if clean else "not since an unclean stop: opened for reading only", Recovery(clean=clean)
        check_pages(self.data)
        self.rows_owed = how == "auto" and size <= sharing.ROWS_AT_ONCE_BYTES
        return "all pages, at opening", Recovery(clean, "all pages", size)

    def rows_read(self) -> None:
        """All rows were read at opening, without a finding."""
        self.rows_owed, self.verified = False, "all pages and rows, at opening"

    def in_use(self) -> bool:
        """Whether a process has the store open for writing."""
        try:
            handle = os.open(self.folder / "users.lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False  # nobody ever had it open here
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """A time in which nobody can take pages from under us.

        Raises:
          Unavailable: somebody could.
        """
        if self.registered:
            yield
            return
        handle = self._bar_openings()
        try:
            self._check_unused()
            yield
            if handle is None and (self.folder / "opening.lock").exists():
                raise Unavailable(f"{self.folder} was opened for the first time while it was being read")
        finally:
            if handle is not None:
                os.close(handle)

    def _check_unused(self) -> None:
        if self.in_use():
            raise Unavailable(
                f"another process has {self.folder} open, and this user may not write to {files.DATA}-lock, where readers beside writers are kept: "
                "ask for that right, or read a backup"
            )

    def _bar_openings(self) -> int | None:
        try:
            handle = os.open(self.folder / "opening.lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None  # nobody ever had it open here
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise Opening(f"another process is opening or closing {self.folder}") from None
        return handle

    # -- reading -----------------------------------------------------------------------------

    def begin(self) -> lmdb.Transaction:
        """A transaction on the newest state.

        Raises:
          Misuse: a commit log was put before it; or this process has inherited it.
        """
        txn = self._begin()
        if txn.get(LOGGED.encode(), db=self.tables["meta"]) is not None and read_meta(TxnReader(txn, self.tables), LOGGED) == BEFORE:
            txn.abort()
            raise Misuse(_not_whole(self.folder))
        return txn

    def _begin(self) -> lmdb.Transaction:
        if self.pid != os.getpid():
            raise Misuse(f"the store {self.folder} was opened by process {self.pid} and inherited by a fork: open it again in this process")
        self._follow()
        try:
            return self.env.begin(buffers=True)
        except lmdb.MapResizedError:
            if self.held:
                raise Unavailable(f"another process has made the map of {self.folder} larger: end your views, then it is taken over") from None
            self.env.set_mapsize(0)
            return self.env.begin(buffers=True)

    def _follow(self) -> None:
        """Open the file that is there now, if it is another one than before. Views go on reading the old one until they end."""
        try:
            inode = self.data.stat().st_ino
        except FileNotFoundError:
            raise Unavailable(f"{self.data} is not there") from None
        if inode != self.inode and not self.held:
            before = self.id
            self.env.close()
            self._open()
            if self.id != before:
                raise Unavailable(f"{self.folder} holds another store now ({self.id}): open it again")

    def last_transaction(self) -> int:
        """The id of a real read transaction; -1 while there can be none."""
        try:
            with self.guarded(), self._begin() as txn:
                return int(txn.id())
        except (lmdb.Error, Unavailable):
            return -1

    def close(self) -> None:
        """Close the file."""
        self.env.close()


_open: dict[Path, ReadOnlyEnv] = {}
_opening: set[Path] = set()


def is_open(folder: Path) -> bool:
    """Whether this process has the store open for reading only: LMDB forbids to open it a second time."""
    return folder in _open or folder in _opening


async def open_readonly(path: Path, options: sharing.Options, threads: Threads, gate_s: float) -> ReadOnlyMap:
    """The map of the store in the folder *path*, for reading. See `find_store`.

    Raises:
      Unavailable: another process has it open, and LMDB cannot be told of a reader.
      Corrupt, TooNew: it cannot be read.
    """
    with trio.CancelScope(deadline=trio.current_time() + gate_s) as scope:
        while path in _opening:  # noqa: ASYNC110 - another loop may be at it
            await trio.sleep(_BACK_S)
        if path not in _open:
            await _open_env(path, options, threads)
    if scope.cancelled_caught:
        raise Unavailable(f"another process has been opening or closing {path} for {gate_s:g} s")
    env = _open[path]
    env.users += 1
    return ReadOnlyMap(env, threads)


async def _open_env(path: Path, options: sharing.Options, threads: Threads) -> None:
    _opening.add(path)
    try:
        while True:
            try:
                with trio.CancelScope(shield=True):
                    _open[path] = await threads.run_sync(ReadOnlyEnv, path, options)
                return
            except Opening:
                pass
            await trio.sleep(_BACK_S)
    finally:
        _opening.discard(path)


def find_store(folder: Path) -> Path:
    """The folder, resolved.

    Raises:
      Misuse: there is no store that can be read.
    """
    if folder.exists() and not folder.is_dir():
        raise Misuse(f"{folder} is a file: an LMDB store is a folder, name one")
    files.refuse_other_kind(folder)
    if not (folder / files.DATA).exists():
        raise Misuse(f"there is no store in {folder}: check the path, or make one by appending to it")
    if any((folder / "log").glob("*.log")):
        raise Misuse(_not_whole(folder))
    return folder.resolve()


def _not_whole(folder: Path) -> str:
    return f"{folder} has a commit log (?log=segments), without which it is not whole: open it without ?mode=ro, or read a backup"


class ReadOnlyMap:
    """See `OrderedMap`; nothing is written through it."""

    def __init__(self, env: ReadOnlyEnv, threads: Threads) -> None:
        self._env = env
        self._threads = threads
        self._side = SideFile(env.folder / "news", write=False)
        self.news = Watcher(self._side, env.last_transaction)
        self._held: set[Held] = set()
        self.state = State.OPEN

    @property
    def id(self) -> str:
        return self._env.id

    @property
    def rows_owed(self) -> bool:
        """Whether all rows are to be read before it is used."""
        return self._env.rows_owed

    def rows_read(self) -> None:
        """They were, without a finding."""
        self._env.rows_read()

    # -- reading -----------------------------------------------------------------------------

    def read(self, fn: Callable[[Reader], T]) -> T:
        try:
            with self._env.guarded(), self._env.begin() as txn:
                return fn(TxnReader(txn, self._env.tables))
        except lmdb.Error as error:
            self._translate(error)

    @contextmanager
    def hold(self, *, busy: bool = False) -> Iterator[Reader]:
        try:
            with self._env.guarded():
                held = Held(self._env.begin(), self._env.tables, busy)
                self._env.held.add(held)
                self._held.add(held)
                try:
                    yield held
                finally:
                    self._env.held.discard(held)
                    self._held.discard(held)
                    held.end()
        except lmdb.Error as error:
            self._translate(error)

    def _translate(self, error: lmdb.Error) -> NoReturn:
        raise sharing.translated(error, str(self._env.folder)) from error

    # -- what is not done --------------------------------------------------------------------

    async def take_turn(self, *, patient: bool = True) -> None:
        raise Unsupported("writes", str(self._env.folder))

    def end_turn(self) -> None:
        """There was none."""

    def end_waits(self) -> None:
        """Nobody waits."""

    async def tidy(self) -> bool:
        return False

    async def write(self, fn: Callable[[Writer], T], *, small: bool = False, size_bytes: int = 0) -> T:
        raise Unsupported("writes", str(self._env.folder))

    def found_sound(self) -> None:
        """No mark is left."""

    def claim_move(self) -> AbstractContextManager[None]:
        raise Unsupported("moves", str(self._env.folder))

    async def shrink(self) -> str:
        return "it was opened for reading only"

    async def reopen(self) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_back(self) -> None:
        await trio.lowlevel.checkpoint()

    # -- the rest ----------------------------------------------------------------------------

    def status(self) -> MapStatus:
        env = self._env
        with env.guarded(), env.begin() as txn:
            page = env.env.stat()["psize"]
            pages = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in (txn.stat(db) for db in env.tables.values()))
            details: dict[str, Any] = {
                "path": str(env.folder),
                "mode": "read only" + ("" if env.registered else ", while nobody has it open"),
                "file_bytes": (env.env.info()["last_pgno"] + 1) * page,
            }
        return MapStatus(bytes_used=pages * page, verified=env.verified, recovery=env.recovery, details=details)

    async def check_files(self) -> list[str]:
        try:
            await self._threads.run_sync(check_pages, self._env.data)
        except Corrupt as problem:
            return [str(problem)]
        return []

    async def aclose(self) -> None:
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        with trio.CancelScope(shield=True):
            for held in [held for held in self._held if not held.busy]:
                held.end()
            while any(held.busy for held in self._held):  # noqa: ASYNC110 - a thread reads, and comes to an end
                await trio.sleep(_BACK_S)
            self.news.close()
            self._side.close()
            self._env.users -= 1
            if not self._env.users:
                _open.pop(self._env.folder, None)
                self._env.close()  # here: who opens it next must find it closed
