"""One LMDB file, open once in this process, shared by count.

LMDB forbids one process to open a file twice, so every `open_backend` of the same file meets here. What
opens and closes are blocking calls, made in a thread by `opening`, which holds the locks they need.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol

import attrs
import lmdb
import trio

from perdure.backends import keys
from perdure.backends.answers import sweep_drawn
from perdure.backends.commit_log import SEGMENT_BYTES
from perdure.backends.denied import check_denied_text
from perdure.backends.errors import Corrupt, Full, Misuse, TooNew, Unavailable, WrongStore
from perdure.backends.lmdb import files
from perdure.backends.lmdb.readers import Oldest, Readers
from perdure.backends.lmdb.rows import TxnReader, TxnWriter
from perdure.backends.lmdb.walk import check_pages, is_short
from perdure.backends.lmdb.watch import SideFile, Watcher
from perdure.backends.place import How, Place
from perdure.backends.protocol import State
from perdure.backends.recovery import Recovery
from perdure.backends.tables import read_head, read_meta, write_meta
from perdure.backends.timing import Timings

FORMAT = 1
READABLE_FROM = 1
"""The oldest format number that a perdure must know to read what we write."""
WALK_AT_ONCE_BYTES = 64 << 20
"""After an unclean stop the page tree is walked at opening up to this size."""
ROWS_AT_ONCE_BYTES = 8 << 20
"""And up to this size all rows are read too: a page that went back to an older state may still fit the tree."""
RESERVE = 0.01
"""So much of the size limit is kept for deletes and upkeep."""
MAP_BYTES = 1 << 40
"""The map's size unless ?size= says otherwise: address space, not disk."""
_STRETCH_BYTES = 4 << 20
LETS_GO_S = 0.25
"""So long who is to be alone waits for another process to let go."""
READERS_EVERY_S = 10.0
"""Slots of readers that died are freed so often."""

open_environment: Callable[..., lmdb.Environment] = lmdb.open
"""How LMDB is opened: `faulty` puts itself here."""


@attrs.frozen
class Options:
    """What the URL's query says."""

    size: int | None = None
    verify: str = "auto"
    create: bool = True
    insist: bool = False
    readonly: bool = False
    flush: How = "auto"
    log: Literal["segments", "none"] | None = None
    """Whether a commit log stands before LMDB; None: as it was made."""
    segment: int = SEGMENT_BYTES
    alone: bool = False
    """No other process may have it open: there is a commit log before it."""


class Handle(Protocol):
    """One user of the environment. *reading* is set before `SharedEnv.away` is looked at: so whoever sets `away` and then sees nobody reading is alone."""

    thread: int
    reading: bool


class NobodyElse(Exception):
    """No other process has the store open: it cannot be opened for reading only, for nobody vouches for what is there."""


class SharedEnv:
    """An open LMDB environment with its tables, locks and counters."""

    def __init__(self, folder: Path, options: Options, new_id: bytes, *, looking: bool = False) -> None:
        self.folder = folder
        self.options = options
        self.users = 0
        self.held: set[Any] = set()
        """Read transactions that are held open for views."""
        self.flushes = Timings()
        self.flushes_in_thread = 0
        self.place = Place(options.flush)
        self.readers = Readers()
        self._checked_at = time.monotonic()
        self.state = State.OPEN
        self.why = ""
        """What made it doubtful."""
        self.away = False
        """Whether there is no environment to read from."""
        self.looking = looking
        """Whether it was opened for reading only, because a frozen process keeps the gate; the first turn opens it for writing."""
        self.reopened = 0
        self.epoch = 0
        self.rows_owed = False
        """Whether it was left unclean and is small enough for all rows to be read before it is used."""
        self.handles: set[Handle] = set()
        """Those of this process, each used by one loop."""
        self._watchers: dict[trio.lowlevel.TrioToken, tuple[Watcher, int]] = {}
        self.pid = os.getpid()
        self.explicit = options.size is not None
        self.size = options.size or MAP_BYTES
        self._extended = False
        self._users_lock = files.FileLock(folder / "users.lock")
        self.side = SideFile(folder / "news")
        try:
            self._open(new_id)
        except BaseException:
            self._users_lock.close()
            self.side.close()
            raise

    # -- opening -----------------------------------------------------------------------------

    def _open(self, new_id: bytes) -> None:
        began = time.perf_counter()
        first = self._users_lock.take() or (self.options.alone and self._outlasts())
        data = self.folder / files.DATA
        if first and self.looking:
            raise NobodyElse
        if new := not data.exists():
            files.create_data(self.folder, lambda path: self._fill(path, new_id))
            self.side.write(0, 0)  # whatever an earlier store here said
        files.sync_folders(self.folder)
        self.verified, self.recovery = "by the process that opened it first", Recovery()
        if first:
            self.verified, unverified = ("all", False) if new else self._verify(data)
            self.recovery = attrs.evolve(self.recovery, clean=new or self.recovery.clean)
            files.mark_unverified(self.folder, unverified)
            files.mark_in_use(self.folder)
        self._share(first)
        self._open_data(data)
        self.recovery = attrs.evolve(self.recovery, took_s=time.perf_counter() - began)

    def _outlasts(self) -> bool:
        """Whether who has the store open lets go of it within a moment: a process that was killed may do so after its end was seen."""
        until = time.monotonic() + LETS_GO_S
        while time.monotonic() < until:
            time.sleep(LETS_GO_S / 20)
            if self._users_lock.take():
                return True
        return False

    def _share(self, first: bool) -> None:
        """Let others have the store open too, unless we are to be alone.

        Raises:
          Unavailable: another process is, or we should be and are not.
        """
        if self.options.alone and first:
            self._users_lock.write_pid()
        elif self.options.alone or not self._users_lock.take(shared=True):
            raise Unavailable(
                f"process {self._users_lock.read_pid()} has {self.folder} open, and with a commit log (?log=segments) only one may: end it, or ask it"
                if not self.options.alone or not self._users_lock.take(shared=True)
                else f"other processes have {self.folder} open, and with a commit log (?log=segments) only one may: end them first"
            )

    def _open_data(self, data: Path) -> None:
        self.env = self._environment(data, readonly=self.looking)
        try:
            self.env.reader_check()
            self.tables = {name: self.env.open_db(name.encode(), create=False) for name in keys.TABLES}
            told = self.side.read()
            with self.env.begin(buffers=True) as txn:
                self.id = read_identity(txn, self.tables["meta"], str(self.folder))
                self._check_end(TxnReader(txn, self.tables), told)
            if not self.looking:
                self._raise_epoch()
        except lmdb.Error as error:
            self.env.close()
            raise translated(error, str(data)) from error
        except BaseException:
            self.env.close()
            raise

    def _check_end(self, reader: TxnReader, told: tuple[int, int] | None) -> None:
        """Followers were told only of what was durable: a store that ends before that has lost it.

        Raises:
          Corrupt: it does.
        """
        here = (read_head(reader)[0], read_meta(reader, "revision"))
        if told is not None and (told[0] > here[0] or told[1] > here[1]):
            why = f"it ends at position {here[0]}, revision {here[1]}, and has been at {told[0]} and {told[1]}: its end is gone, restore it from a backup"
            raise Corrupt(str(self.folder / files.DATA), f"{why} (or, if you put back an older one yourself, remove the file news)")

    def _raise_epoch(self) -> None:
        """Commit one durable transaction, the epoch raised by one: what is read from here on does not rest on the page cache alone.

        Raises:
          Full: there is no room for it, not in the reserve either.
        """
        try:
            self._write_epoch()
        except lmdb.MapFullError:
            try:
                self._resize(self.size)
                self._extended = True
                self._write_epoch()
            except lmdb.MapFullError as error:
                raise Full(str(self.folder), self.size, self.size) from error

    def _write_epoch(self) -> None:
        with self.env.begin(write=True, buffers=True) as txn:
            writer = TxnWriter(txn, self.tables, stale=True)
            epoch = read_meta(writer, "epoch") + 1
            write_meta(writer, "epoch", epoch)
            sweep_drawn(writer)
        self.epoch = self.side.epoch = epoch

    # -- doubt -------------------------------------------------------------------------------

    def doubt(self, why: str, *, away: bool = False) -> None:
        """Nobody knows any more what is stored, or (*away*) nothing can be read."""
        if self.state is State.OPEN:
            self.state, self.why = State.DOUBTFUL, why
        self.away = self.away or away

    def reopen(self) -> None:
        """Close the environment and open it again. It is `away` and nobody reads; the caller holds the gate."""
        self.env.close()
        before, self._extended, self.looking = self.id, False, False
        if not (self.folder / files.DATA).exists():
            raise Unavailable(f"{self.folder / files.DATA} is not there")
        self._open_data(self.folder / files.DATA)
        if self.id != before:
            self.env.close()
            raise WrongStore(before, self.id)
        self.away = False
        self.reopened += 1

    def take_alone(self) -> bool:
        """Bar other processes from having it open, until `share_again`; whether none has. The caller holds the opening lock."""
        return self._users_lock.take()

    def share_again(self) -> None:
        """Let others open it: also after `take_alone` has failed, for trying costs the lock that one had."""
        self._users_lock.take(shared=not self.options.alone)

    def _verify(self, data: Path) -> tuple[str, bool]:
        """What is known of the pages, and whether that is too little for a clean mark."""
        how = self.options.verify
        clean = files.left_clean(self.folder)
        self.recovery = Recovery(clean=clean)
        if not clean:
            files.sync(data)  # what we read may be in the page cache only, and be acted upon
        short = is_short(data)
        if how == "off" or (how == "auto" and clean and not short):
            return ("all", False) if clean else ("not since an unclean stop (?verify=off)", True)
        if how == "auto" and data.stat().st_size > WALK_AT_ONCE_BYTES and not short:
            return f"not since an unclean stop: {data.stat().st_size >> 20} MiB are more than are walked at opening, run `perdure verify`", True
        check_pages(data)
        self.recovery = Recovery(clean, "all pages", data.stat().st_size)
        if how == "auto":
            self.rows_owed = data.stat().st_size <= ROWS_AT_ONCE_BYTES
            return "not all rows since an unclean stop: all pages, at opening", True
        return "all pages, at opening", False

    def rows_read(self) -> None:
        """All rows were read at opening, without a finding."""
        self.found_sound()
        self.rows_owed, self.verified = False, "all pages and rows, at opening"

    def found_sound(self, how: str = "all pages, after opening") -> None:
        """The pages were walked, or all rows read, after opening, without a finding."""
        with suppress(OSError):
            if files.is_unverified(self.folder):
                files.mark_unverified(self.folder, False)
                self.verified = how

    def _environment(self, data: Path, **more: Any) -> lmdb.Environment:
        size = self.size
        while True:
            try:
                return open_environment(
                    str(data),
                    subdir=False,
                    map_size=self._soft(size),
                    max_dbs=len(keys.TABLES) + 8,
                    max_readers=1024,
                    readahead=False,
                    **{"lock": True, "create": False, **more},
                )
            except lmdb.Error as error:
                if isinstance(error, lmdb.MemoryError) or "Cannot allocate" in str(error):
                    if not self.explicit and size > 1 << 30:
                        size //= 2
                        continue
                    raise Unavailable(f"there is no address space for a map of {size:,} bytes; open it with a smaller ?size=") from error
                raise translated(error, str(data)) from error
            finally:
                self.size = size

    def _fill(self, path: Path, new_id: bytes) -> None:
        """A new, empty store in the file *path*."""
        env = self._environment(path, create=True, lock=False)
        try:
            with env.begin(write=True) as txn:
                for name in keys.TABLES:
                    env.open_db(name.encode(), txn=txn)
                meta = env.open_db(b"meta", txn=txn)
                for name, value in (("format", FORMAT), ("readable_from", READABLE_FROM)):
                    txn.put(name.encode(), value.to_bytes(8, "big"), db=meta)
                txn.put(b"id", new_id, db=meta)
        except lmdb.MapFullError as error:
            raise Full(str(path), 0, self.size) from error
        finally:
            env.close()

    # -- news and readers --------------------------------------------------------------------

    def watcher(self) -> Watcher:
        """The watcher of the current loop, counted: give it back with `leave_watcher`."""
        token = trio.lowlevel.current_trio_token()
        watcher, users = self._watchers.get(token) or (Watcher(self.side, self.last_transaction), 0)
        self._watchers[token] = (watcher, users + 1)
        return watcher

    def leave_watcher(self) -> None:
        """One user of the current loop's watcher less."""
        token = trio.lowlevel.current_trio_token()
        watcher, users = self._watchers.pop(token)
        if users > 1:
            self._watchers[token] = (watcher, users - 1)
        else:
            watcher.close()

    def last_transaction(self) -> int:
        """The id of a real read transaction; -1 while there can be none."""
        if self.away:
            return -1
        try:
            with self.env.begin() as txn:
                return int(txn.id())
        except lmdb.Error:
            return -1

    def check_readers(self) -> None:
        """From time to time free the slots of readers that died."""
        now = time.monotonic()
        if now - self._checked_at >= READERS_EVERY_S:
            self._checked_at = now
            self.env.reader_check()
            self.oldest_reader()

    def oldest_reader(self) -> Oldest | None:
        """Who stands furthest back, since when."""
        return self.readers.look(self.env.readers(), self.last_transaction(), time.monotonic())

    # -- size --------------------------------------------------------------------------------

    def _soft(self, size: int) -> int:
        return max(1 << 16, int(size * (1 - RESERVE)) // 4096 * 4096)

    def extend(self) -> bool:
        """Open the reserve for a batch that frees room; whether there was any to open."""
        if self._extended or not self._may_resize:
            return False
        self._resize(self.size)
        self._extended = True
        return True

    def stretch(self) -> bool:
        """Make the map a little larger than its size, until `restrict`; whether that may be. What it then holds it keeps."""
        if not self._may_resize:
            return False
        self._resize(self.env.info()["map_size"] + _STRETCH_BYTES)
        self._extended = True
        return True

    def restrict(self) -> None:
        """Close the reserve again."""
        if self._extended and self._may_resize:
            self._resize(self._soft(self.size))
            self._extended = False

    def grow(self) -> bool:
        """Make room in the map, where the size was not asked for; whether there was any."""
        if self.explicit or not self._may_resize or self.size >= 1 << 46:
            return False
        self._resize(self._soft(self.size * 2))
        self.size *= 2
        self._extended = False
        return True

    @property
    def _may_resize(self) -> bool:
        """Mapping anew takes the ground from under every reader: there must be none, in no loop of this process."""
        return not self.held and len({handle.thread for handle in self.handles}) <= 1

    def _resize(self, size: int) -> None:
        """Map the file anew.

        Raises:
          Unavailable: there is no address space for it; LMDB has let go of the file by then.
        """
        try:
            self.env.set_mapsize(size)
        except lmdb.Error as error:
            self.doubt(f"{self.folder} cannot be mapped with {size:,} bytes: {error}", away=True)
            raise Unavailable(self.why) from error

    # -- closing -----------------------------------------------------------------------------

    def close(self, *, mark: bool) -> None:
        """Close the file; the last process to do so leaves the clean mark, if it holds the opening lock (*mark*)."""
        try:
            self.env.close()
            if mark and self.pid == os.getpid() and self.state is State.OPEN:
                self._leave_clean()
        finally:
            self.state = State.CLOSED
            self.side.close()
            self._users_lock.close()

    def _leave_clean(self) -> None:
        with suppress(OSError):  # without the mark the next opening walks the pages: no more is lost
            if self._users_lock.take() and not files.is_unverified(self.folder):
                files.mark_clean(self.folder)


def read_identity(txn: lmdb.Transaction, meta: Any, where: str) -> str:
    """The id of the store that *txn* reads.

    Raises:
      TooNew: a newer perdure made it.
      Corrupt: it has none.
    """
    readable = int.from_bytes(bytes(txn.get(b"readable_from", b"", db=meta)), "big")
    if readable > FORMAT:
        raise TooNew(where, readable, FORMAT)
    id = bytes(txn.get(b"id", b"", db=meta))
    if len(id) != 16:
        raise Corrupt(where, "it has no id")
    return id.hex()


def translated(error: lmdb.Error, where: str) -> Corrupt | Unavailable:
    """What LMDB says, as an error of ours."""
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.InvalidError | lmdb.VersionMismatchError | lmdb.NotFoundError):
        return Corrupt(where, f"LMDB says: {error}")
    check_denied_text(error, where)
    return Unavailable(f"LMDB says of {where}: {error}")


def refuse_fork(shared: SharedEnv) -> None:
    """A forked child must not touch what it inherited.

    Raises:
      Misuse: this process is not the one that opened it.
    """
    if shared.pid != os.getpid():
        raise Misuse(f"the store {shared.folder} was opened by process {shared.pid} and inherited by a fork: open it again in this process")
