"""Running a command line: what it answers becomes the exit code, what it raises one line on stderr.

Ctrl-C and SIGTERM cancel the command, so that a store is always closed cleanly; the second one ends at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import trio
from cyclopts import CycloptsError

from perdure.backends.errors import PerdureError
from perdure.runtime.cli import out
from perdure.runtime.cli.exits import AppFailed, Exit, exit_of, leaves, worst

SIGNALS = {signal.SIGINT: Exit.INTERRUPTED, signal.SIGTERM: Exit.TERMINATED}


def run(arguments: Sequence[str]) -> int:
    """Do what *arguments* say; the answer is the exit code. Errors are told on stderr."""
    out.prepare()
    try:
        from perdure.runtime.cli.app import app

        answer = app(list(arguments), exit_on_error=False, print_error=False, help_on_error=False, result_action="return_value")
        out.flush()
    except CycloptsError as error:
        return _failed(f"{' '.join(str(error).split())} Ask `perdure --help`.", Exit.USAGE)
    except BaseException as error:  # noqa: ASYNC103 - outside of Trio: it becomes the exit code
        return _raised(error)  # noqa: ASYNC104 - likewise
    return int(answer) if isinstance(answer, int) else Exit.DONE


def _raised(error: BaseException) -> int:
    found = list(leaves(error))
    if any(isinstance(one, BrokenPipeError) for one in found):
        _give_up_stdout()
        return Exit.PIPE_CLOSED
    if any(isinstance(one, KeyboardInterrupt) for one in found):
        return Exit.INTERRUPTED
    ours = [one for one in found if isinstance(one, PerdureError)]
    if len(ours) == len(found):
        told = worst(ours)
        return _failed(f"{told}{_cause(told)}", exit_of(told))
    if all(isinstance(one, OSError) for one in found):  # of a store they are translated: this is our own output, input or scratch folder
        _give_up_stdout()
        return _failed(" ".join(str(one) for one in found), Exit.UNAVAILABLE)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else Exit.USAGE
    traceback.print_exception(error)
    return _failed("a fault of perdure itself: please report the above", Exit.FAULT)


def _cause(error: PerdureError) -> str:
    """What the app's own code raised: perdure's message only says where."""
    cause = error.__cause__
    if exit_of(error) != Exit.APP or cause is None or isinstance(error, AppFailed):
        return ""
    return f" (the cause: {cause if isinstance(cause, PerdureError) else repr(cause)})"


def _failed(text: str, code: Exit) -> int:
    try:
        out.flush()
    except OSError:
        _give_up_stdout()
    out.note(text)
    return code


def _give_up_stdout() -> None:
    """Nobody reads it: let the interpreter's last flush go nowhere."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for what is left of the process


# -- async commands --------------------------------------------------------------------------


def run_async(command: Callable[[], Awaitable[int | None]]) -> int:
    """Run *command* under Trio until it ends or a signal ends it; the answer is the exit code."""
    return trio.run(_until_signal, command)


async def _until_signal(command: Callable[[], Awaitable[int | None]]) -> int:
    error: BaseException | None = None
    code: int = Exit.DONE
    stopper = _Stopper()
    with _signals() as received:
        async with trio.open_nursery() as nursery:
            if received is not None:
                nursery.start_soon(stopper.watch, received)
            with stopper.scope:
                try:
                    code = await command() or Exit.DONE
                except Exception as raised:
                    error = raised  # raised below, outside the nursery, so that it leaves as it is
            nursery.cancel_scope.cancel()
    if error is not None:
        raise error
    return code if stopper.by is None else SIGNALS[stopper.by]


@contextmanager
def _signals() -> Iterator[AsyncIterator[int] | None]:
    """The signals that end a command, unless they are ignored (as a shell does for a job in the background)."""
    heeded = [one for one in SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
    if not heeded or threading.current_thread() is not threading.main_thread():
        yield None
        return
    with trio.open_signal_receiver(*heeded) as received:
        yield received


class _Stopper:
    """Cancels the command at the first signal, and ends the process at the second."""

    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        self.scope = trio.CancelScope()

    async def watch(self, received: AsyncIterator[int]) -> None:
        """Heed the signals *received*."""
        async for number in received:
            if self.by is not None:
                out.show_cursor()
                os._exit(SIGNALS[self.by])
            self.by = signal.Signals(number)
            self.scope.cancel()
