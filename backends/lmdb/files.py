"""The folder of an LMDB store: made so that a crash leaves a whole store or none, locked, and marked when left clean.

data.mdb        the tables (LMDB's own format)
data.mdb-lock   LMDB's readers
next.lock       held (flock) by who may write next; holds its pid. See `turnstile`
gate.lock       held by who writes; holds its pid
turn            touched by who has let go of one of these
news            written after each group: head and revision, for followers in other processes. See `watch`
users.lock      held shared by every process that has the store open
opening.lock    held for the moment of opening and closing
clean           written at a clean close by the last process: the boot it happened in; gone while the store is in use
unverified      there since a store was opened after an unclean stop and its pages were not walked: no clean mark until they are
"""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from perdure.backends import identity
from perdure.backends.denied import ANOTHER, may_not
from perdure.backends.errors import Corrupt, Misuse

DATA = "data.mdb"
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "glusterfs", "fuse.glusterfs", "lustre"})


def prepare_folder(folder: Path, *, create: bool, insist: bool) -> None:
    """Make *folder* if it may be made, and refuse what cannot hold a store.

    Raises:
      Misuse: it is a file, its parent is missing, there is no store and none may be made, or it is on a network file system.
    """
    if folder.exists() and not folder.is_dir():
        raise Misuse(f"{folder} is a file: an LMDB store is a folder, name one")
    refuse_other_kind(folder)
    if not (folder / DATA).exists() and not create:
        raise Misuse(f"there is no store in {folder}: check the path, or make one by appending to it")
    if not folder.exists():
        if not folder.parent.is_dir():
            raise Misuse(f"the folder {folder.parent} does not exist: make it first")
        folder.mkdir(exist_ok=True)
    kind = file_system(folder)
    if kind in _NETWORK and not insist:
        raise Misuse(f"{folder} is on a network file system ({kind}), where locks and flushes do not hold: use a local disk, or insist with ?insist=1")
    if not os.access(folder, os.W_OK):
        raise may_not(folder, _why_not(folder), readable(folder))


def _why_not(folder: Path) -> int:
    """The number of the error that writing to the folder gives."""
    return errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES


def readable(folder: Path) -> str:
    """What may be done instead where a folder may not be written."""
    return f"{ANOTHER}; to read it will do: add ?mode=ro to the URL" if os.access(folder / DATA, os.R_OK) else ANOTHER


def refuse_other_kind(folder: Path) -> None:
    """Make nothing in a folder that holds something else.

    Raises:
      Misuse: it is that of a `file:` store.
      Corrupt: it is that of an LMDB store whose data are gone, and not its commit log.
    """
    if (folder / DATA).exists():
        return
    if (folder / identity.NAME).exists():
        raise Misuse(f"{folder} holds a file: store: open it as file:{folder}")
    if any((folder / "log").glob("*.log")):
        raise Corrupt(str(folder / DATA), "it is missing, though its commit log is there: restore it from a backup")


def file_system(folder: Path) -> str:
    """The kind of file system that *folder* is on, where the system tells; else ''."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    path = str(folder.resolve())
    for line in lines:
        left, _, right = line.partition(" - ")
        mount = left.split()[4]
        if (path == mount or path.startswith(mount.rstrip("/") + "/")) and len(mount) >= len(best):
            best, kind = mount, right.split()[0]
    return kind


def create_data(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make the data file: filled under another name, synced, then renamed. The caller holds the opening lock."""
    fresh = folder / (DATA + ".new")
    for leftover in (fresh, folder / (DATA + ".new-lock")):
        leftover.unlink(missing_ok=True)
    fill(fresh)
    sync(fresh)
    fresh.rename(folder / DATA)
    (folder / (DATA + ".new-lock")).unlink(missing_ok=True)
    sync(folder)


def sync_folders(folder: Path) -> None:
    """Make the entries of *folder* and its own entry durable; done at every opening, not only the first."""
    sync(folder)
    sync(folder.resolve().parent)


def sync(path: Path) -> None:
    """fsync a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- the clean mark --------------------------------------------------------------------------


def boot_id() -> str:
    """This boot of this machine; '' where the system does not tell, and then no mark counts."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def left_clean(folder: Path) -> bool:
    """Whether the store was closed cleanly in this boot."""
    try:
        mark = (folder / "clean").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return False
    return bool(mark) and mark == boot_id()


def mark_clean(folder: Path) -> None:
    """Say so, durably."""
    fresh = folder / "clean.new"
    fresh.write_text(boot_id())
    sync(fresh)
    fresh.rename(folder / "clean")
    sync(folder)


def mark_in_use(folder: Path) -> None:
    """Take the mark away, durably."""
    (folder / "clean").unlink(missing_ok=True)
    sync(folder)


def is_unverified(folder: Path) -> bool:
    """Whether its pages have not been walked since an unclean stop."""
    return (folder / "unverified").exists()


def mark_unverified(folder: Path, unverified: bool) -> None:
    """Say so, or the contrary, to the process that closes the store last. A crash needs no telling: it leaves no clean mark."""
    if unverified:
        (folder / "unverified").touch()
    else:
        (folder / "unverified").unlink(missing_ok=True)


# -- locks -----------------------------------------------------------------------------------


_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _close_inherited() -> None:
    """A forked child lets go of what it inherited: else it would keep its parent's locks when that dies. The parent's hold is not touched."""
    for lock in list(_locks):
        lock.close()


os.register_at_fork(after_in_child=_close_inherited)


class FileLock:
    """An advisory lock on a file (flock), never waited for: taken or not.

    Each object opens the file anew, so two of one process exclude each other like those of two. In the
    file stands the pid of who took it last: who does not get it can say who has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._signature = b"%-20d" % os.getpid()
        _locks.add(self)

    def take(self, *, shared: bool = False) -> bool:
        """Try to take it, or to turn it into the other kind; whether that worked."""
        assert self._handle is not None, "closed"
        try:
            fcntl.flock(self._handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise
        return True

    def let_go(self) -> None:
        """Give it back."""
        if self._handle is not None:
            fcntl.flock(self._handle, fcntl.LOCK_UN)

    def write_pid(self) -> None:
        """Say in the file who holds it."""
        assert self._handle is not None, "closed"
        with suppress(OSError):  # it is a hint
            os.pwrite(self._handle, self._signature, 0)

    def read_pid(self) -> str:
        """Who said last to hold it."""
        assert self._handle is not None, "closed"
        try:
            return os.pread(self._handle, 20, 0).decode(errors="replace").strip() or "unknown"
        except OSError:
            return "unknown"

    def close(self) -> None:
        """Let go. Idempotent."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
