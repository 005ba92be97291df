"""What an error means for the exit code. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from perdure.backends import errors
from perdure.backends.errors import PerdureError, RuntimeFailed


class Exit(IntEnum):
    """The exit codes."""

    DONE = 0
    NO = 1
    USAGE = 2
    UNAVAILABLE = 3
    DAMAGED = 4
    IN_DOUBT = 5
    APP = 6
    NOT_INSTALLED = 7
    FAULT = 70
    INTERRUPTED = 130
    PIPE_CLOSED = 141
    TERMINATED = 143


MEANING: Final = {
    Exit.DONE: "done",
    Exit.NO: "no: a conflict, nothing there, problems found, a law broken",
    Exit.USAGE: "asked wrongly, or for too much: asking again will not help",
    Exit.UNAVAILABLE: "the store is unavailable (another writes, no room): try again",
    Exit.DAMAGED: "the store is damaged, or of a newer perdure",
    Exit.IN_DOUBT: "in doubt whether it was stored: ask again with the same --key",
    Exit.APP: "the app's code fails, or does not fit what is stored",
    Exit.NOT_INSTALLED: "an extra is not installed",
    Exit.FAULT: "a fault of perdure itself: please report its traceback",
    Exit.INTERRUPTED: "ended by Ctrl-C",
    Exit.PIPE_CLOSED: "the reader of the output went away",
    Exit.TERMINATED: "ended by SIGTERM",
}

_UNAVAILABLE = (errors.Unavailable, errors.BlobsUnavailable, errors.Full, errors.ClockAhead, errors.Closed, errors.AskTimeout)
_APP = (
    errors.Unreadable,
    errors.ProjectionFailed,
    errors.ModelFaulted,
    errors.StateTooLarge,
    errors.UnstableState,
    errors.AlreadyRunning,
    errors.TooManyRestarts,
)


class AppFailed(PerdureError):
    """The app's module raised while it was imported."""


def exit_of(error: PerdureError) -> Exit:
    """The exit code for *error*."""
    match error:
        case RuntimeFailed(__cause__=PerdureError() as cause):
            return exit_of(cause)
        case errors.Conflict() | errors.StoreMoved() | errors.BlobMissing():
            return Exit.NO
        case errors.InDoubt():
            return Exit.IN_DOUBT
        case errors.Corrupt() | errors.TooNew():
            return Exit.DAMAGED
        case errors.MissingExtra():
            return Exit.NOT_INSTALLED
        case _ if isinstance(error, _UNAVAILABLE):
            return Exit.UNAVAILABLE
        case _ if isinstance(error, (*_APP, AppFailed)):
            return Exit.APP
        case RuntimeFailed():
            return Exit.FAULT
        case _:
            return Exit.USAGE


def worst(found: list[PerdureError]) -> PerdureError:
    """The one of several errors that says most: one that leaves doubt, then damage, then the others in order."""
    order = (Exit.IN_DOUBT, Exit.DAMAGED)
    return min(found, key=lambda error: order.index(code) if (code := exit_of(error)) in order else len(order))


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group, however deep; of one that is no group, itself."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from leaves(one)
    else:
        yield error
