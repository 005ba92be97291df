"""Giving room back to the disk: LMDB keeps a file as large as it ever was, so its rows are copied into a new one, and that takes its place.

Only who has the store open alone may do it: another process would go on in the old file. Once the copy is durable and
its pages have been walked, it is renamed over the old file; a crash leaves the one or the other.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import lmdb

from perdure.backends.errors import Corrupt
from perdure.backends.lmdb import files
from perdure.backends.lmdb.shared import SharedEnv
from perdure.backends.lmdb.walk import check_pages

COPY = files.DATA + ".compact"


def shrink_shared(shared: SharedEnv) -> str:
    """Put a compact copy in the place of the data; '' when done, else why not: then all is as it was.

    It is `away` and nobody reads; the caller holds the gate and the opening lock. On return it is open again.

    Raises:
      Unavailable, Corrupt: it does not open again.
    """
    if shared.users > 1:
        return "it is open more than once in this process"
    fresh = shared.folder / COPY
    try:
        if not shared.take_alone():
            return "another process has it open"
        try:
            _copy(shared, fresh)
        except (lmdb.Error, OSError, Corrupt) as error:
            return f"it could not be copied: {error}"
        shared.env.close()
        try:
            return _swap(shared.folder, fresh)
        finally:
            shared.reopen()
    finally:
        shared.share_again()
        fresh.unlink(missing_ok=True)


def _copy(shared: SharedEnv, fresh: Path) -> None:
    fresh.unlink(missing_ok=True)  # of one that was cut off
    shared.env.copy(str(fresh), compact=True)
    files.sync(fresh)
    check_pages(fresh)


def _swap(folder: Path, fresh: Path) -> str:
    handle = os.open(folder / (files.DATA + "-lock"), os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as LMDB does to see whether it is alone
        fresh.rename(folder / files.DATA)
        files.sync(folder)
    except OSError as error:
        if not fresh.exists():  # renamed, and not synced: which one a crash would leave is not known, and either is whole
            return ""
        return "another process reads it (?mode=ro)" if isinstance(error, BlockingIOError | PermissionError) else f"it could not be renamed: {error}"
    finally:
        os.close(handle)
    return ""
