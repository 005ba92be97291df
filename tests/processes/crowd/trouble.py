"""What no member should do: sit on the lock files, and use in a forked process what was opened before the fork."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import lmdb
import trio

from crowd.domain import VALUES, Done
from crowd.notes import Notebook
from crowd.options import Options
from perdure.runtime import Runtime, of

USED_WITHIN_S = 2.0
"""A call of an inherited runtime that takes longer hangs."""


def hold(options: Options, notes: Notebook) -> None:
    """Take a lock file as a writer does, with the pid in it, and keep it until killed."""
    handle = os.open(Path(options.store) / options.hold, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # by trying, as writers do; without a pause, since they hold it for moments only
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        writing = begin_writing(Path(options.store)) if options.flushing else None
        notes.write("open", os.getpid())
        signal.pause()
        del writing


def begin_writing(store: Path) -> lmdb.Transaction:
    """A transaction that has LMDB's lock."""
    return lmdb.open(str(store / "data.mdb"), subdir=False, create=False, max_dbs=64, map_size=1 << 30).begin(write=True)


def freeze_at_commit(options: Options, notes: Notebook) -> None:
    """Be stopped, as by SIGSTOP from outside, in the midst of a transaction in PostgreSQL."""
    from perdure.backends.postgres.wire import Question, Refused, Row, Wire

    ask, left, frozen = Wire.ask, options.freeze_at, False

    async def ask_or_freeze(wire: Wire, *questions: Question | str, **how: Any) -> list[list[Row]]:
        nonlocal left, frozen
        alone = any(isinstance(one, Question) and one.statement.commits for one in questions)
        left -= alone or "COMMIT" in questions
        if frozen or left > 0 or not (alone or "COMMIT" in questions):
            return await ask(wire, *questions, **how)
        asked = [one for one in questions if one != "COMMIT"]
        begin = ["BEGIN", "SELECT FROM perdure.head FOR UPDATE"] if alone else []
        try:
            written = await ask(wire, "SELECT 1", *begin, *(asked if options.freeze_written else ()), within_s=how["within_s"])
            frozen = not options.freeze_written or bool(written[-1])  # not written after all: it is the next one that freezes
            if frozen:
                notes.write("freezes", os.getpid())
                os.kill(os.getpid(), signal.SIGSTOP)
            more = await ask(wire, *(() if options.freeze_written else asked), "COMMIT", **how)
        except Refused:
            if alone:
                await ask(wire, "ROLLBACK", within_s=how["within_s"])
            raise
        return [*written[1 + len(begin) :], *more]

    Wire.ask = ask_or_freeze  # type: ignore[assignment, method-assign]  # in this process


async def fork(rt: Runtime, options: Options, notes: Notebook) -> None:
    """Fork amid the other jobs; the forked process tries what it inherited and then sleeps until killed."""
    await trio.sleep(0.05)  # the other jobs have begun; nothing here depends on how far they are
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads: Python 3.12 and later warn, and this is the case to try
        if options.how == "multiprocessing":
            child = multiprocessing.get_context("fork").Process(target=try_inherited, args=(rt, notes))
            child.start()
            pid = child.pid
        else:
            pid = os.fork()
            if pid == 0:
                try:
                    try_inherited(rt, notes)
                finally:
                    os._exit(1)
    notes.write("forked", pid)


def try_inherited(rt: Runtime, notes: Notebook) -> None:
    """In a thread of its own, for this one is inside the Trio run that was forked."""
    thread = threading.Thread(target=trio.run, args=(use_everything, rt, notes), daemon=True)
    thread.start()
    thread.join()
    notes.write("used", "all", os.getpid())
    while True:
        signal.pause()


async def use_everything(rt: Runtime, notes: Notebook) -> None:
    bucket = rt.kv(VALUES, str)

    async def subscribe() -> None:
        async with rt.subscribe(of(Done), after=await rt.head()) as events:
            await anext(events)

    async def view() -> None:
        async with rt.view() as reads:
            await reads.head()

    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "head": rt.head,
        "get": lambda: bucket.get("k0"),
        "view": view,
        "subscribe": subscribe,
        "verify": rt.backend.verify,
        "append": lambda: rt.append("forked-1", [Done("forked", 1)]),
        "put": lambda: bucket.put("forked", "forked"),
        "fold": lambda: anext(aiter(rt.read("one-1"))),
    }
    for name, call in calls.items():
        notes.write("used", name, await outcome_of(call))


async def outcome_of(call: Callable[[], Awaitable[Any]]) -> str:
    """The class of what it raises; "hangs", "answers"."""
    try:
        with trio.move_on_after(USED_WITHIN_S) as scope:
            await call()
    except BaseException as error:
        return type(error).__name__
    return "hangs" if scope.cancelled_caught else "answers"
