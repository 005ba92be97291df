"""Opening and closing an LMDB store beside other processes: which locks are held for which blocking call.

Locks are tried and slept for in the loop, so whoever waits can be cancelled; the calls themselves run in
a thread. LMDB takes its own write lock when tables are opened, so that is done by who holds the gate.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from perdure.backends.environment import Threads
from perdure.backends.errors import Misuse, Unavailable
from perdure.backends.lmdb import files, readonly
from perdure.backends.lmdb.shared import NobodyElse, Options, SharedEnv
from perdure.backends.lmdb.shrink import shrink_shared
from perdure.backends.lmdb.turnstile import REMEDY, Turnstile
from perdure.backends.protocol import State

OPENING_S = 60.0
"""Opening may walk a page tree; who wants to open meanwhile waits so long for it."""
CLOSING_S = 1.0
"""Who closes waits so long for the opening lock; without it no clean mark is left, and no more is lost."""
_POLL_S = 0.005

_open: dict[tuple[int, int], SharedEnv] = {}
"""By inode: LMDB forbids one process to open a file twice."""


async def open_shared(folder: Path, options: Options, new_id: bytes, threads: Threads, gate_s: float) -> SharedEnv:
    """The environment of *folder*: opened, or shared if this process has it open already. If cancelled, it was not opened.

    Raises:
      Unavailable: another process keeps one of the locks; the message names it.
    """
    await threads.run_sync(_prepare, folder, options)
    folder = folder.resolve()
    if readonly.is_open(folder):
        raise Misuse(f"this process has {folder} open for reading only (?mode=ro): close that first, for LMDB opens a file once")
    while True:
        async with _opening(folder, OPENING_S):
            shared = _open.get(_inode(folder))
            if shared is None:
                return await _open_it(folder, options, new_id, threads, gate_s)
            if shared.users:
                if options.alone or shared.options.alone:
                    raise Unavailable(f"this process ({shared.pid}) has {folder} open, and with a commit log (?log=segments) it is opened once: share that")
                shared.users += 1
                return shared
        await trio.sleep(_POLL_S)  # it is being closed in this process, without the lock


async def share_open(folder: Path) -> SharedEnv | None:
    """The environment of *folder*, if this process has it open already: one user more."""
    shared = _open.get(_inode(folder))
    if shared is None or not shared.users:
        return None
    await trio.lowlevel.checkpoint_if_cancelled()
    shared.users += 1
    return shared


def _prepare(folder: Path, options: Options) -> None:
    files.prepare_folder(folder, create=options.create, insist=options.insist)


async def _open_it(folder: Path, options: Options, new_id: bytes, threads: Threads, gate_s: float) -> SharedEnv:
    turnstile = Turnstile(folder)
    try:
        try:
            await turnstile.take(gate_s)
        except Unavailable as error:
            return await _look(folder, options, new_id, threads, error)
        return await _keep(partial(SharedEnv, folder, options, new_id), folder, threads)
    finally:
        turnstile.close()


async def _look(folder: Path, options: Options, new_id: bytes, threads: Threads, why: Unavailable) -> SharedEnv:
    """Open for reading only: a frozen process keeps the others from writing, not from looking."""
    try:
        return await _keep(partial(SharedEnv, folder, options, new_id, looking=True), folder, threads)
    except NobodyElse:
        raise why from None


async def _keep(make: Callable[[], SharedEnv], folder: Path, threads: Threads) -> SharedEnv:
    with trio.CancelScope(shield=True):
        shared = await threads.run_sync(make)
        shared.users = 1
        _open[_inode(folder)] = shared
    return shared


async def begin_writing(shared: SharedEnv, wait_unread: Callable[[], Awaitable[None]], threads: Threads) -> None:
    """Open for writing what was opened for reading only. The caller holds the gate.

    Raises:
      Unavailable: not now.
      Corrupt, WrongStore, TooNew: not any more.
    """
    await wait_unread()
    try:
        with trio.CancelScope(shield=True):
            await threads.run_sync(shared.reopen)
    except BaseException as error:
        shared.doubt(f"{shared.folder} could not be opened for writing: {error}", away=True)
        raise


async def reopen_shared(shared: SharedEnv, turnstile: Turnstile, wait_unread: Callable[[], Awaitable[None]], threads: Threads, gate_s: float) -> None:
    """Close and open the environment, once nobody reads any more. On return it is open.

    Raises:
      Unavailable: not now.
      Corrupt, WrongStore, TooNew: not any more.
    """
    async with _opening(shared.folder, gate_s):
        await turnstile.take(gate_s)
        try:
            await wait_unread()
            with trio.CancelScope(shield=True):
                await threads.run_sync(shared.reopen)
                shared.state = State.OPEN
        finally:
            turnstile.let_go()


async def shrink(shared: SharedEnv, turnstile: Turnstile, wait_unread: Callable[[], Awaitable[None]], threads: Threads, gate_s: float) -> str:
    """Give room back to the disk; '' when done, else why not. On return it is open.

    Raises:
      Unavailable: somebody reads or writes, and does not end; nothing was done. Or it does not open again.
    """
    async with _opening(shared.folder, gate_s):
        await turnstile.take(gate_s)
        try:
            await wait_unread()
            why_not = ""
            with trio.CancelScope(shield=True):
                try:
                    why_not = await threads.run_sync(shrink_shared, shared)
                except BaseException as error:
                    shared.state = State.OPEN
                    shared.doubt(f"{shared.folder} could not be opened again: {error}", away=True)
                    raise
                finally:
                    _remember(shared)
                shared.away, shared.state = False, State.OPEN
            return why_not
        finally:
            turnstile.let_go()


async def close_shared(shared: SharedEnv, threads: Threads) -> None:
    """One user less; the last one closes it."""
    shared.users -= 1
    if shared.users:
        return
    try:
        async with _opening(shared.folder, CLOSING_S):
            await threads.run_sync(lambda: shared.close(mark=True))
    except (Unavailable, OSError):  # OSError: the folder is gone
        await threads.run_sync(lambda: shared.close(mark=False))
    finally:
        _forget(shared)


def _remember(shared: SharedEnv) -> None:
    """Its file may be another one now."""
    _forget(shared)
    _open[_inode(shared.folder)] = shared


def _forget(shared: SharedEnv) -> None:
    for key, value in list(_open.items()):
        if value is shared:
            del _open[key]


@asynccontextmanager
async def _opening(folder: Path, limit_s: float) -> AsyncIterator[None]:
    """Hold the opening lock.

    Raises:
      Unavailable: not within *limit_s*.
    """
    lock = files.FileLock(folder / "opening.lock")
    try:
        deadline = trio.current_time() + limit_s
        while not lock.take():
            if trio.current_time() >= deadline:
                raise Unavailable(f"process {lock.read_pid()} has been opening or closing {folder} for {limit_s:g} s: {REMEDY}")
            await trio.sleep(_POLL_S)
        lock.write_pid()
        yield
    finally:
        lock.close()


def _inode(folder: Path) -> tuple[int, int]:
    """Which file the data is; of a store that is not made yet, none."""
    try:
        found = (folder / files.DATA).stat()
    except FileNotFoundError:
        return (0, 0)
    return found.st_dev, found.st_ino
