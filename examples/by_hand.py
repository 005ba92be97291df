"""What the six consumers share when they are run by hand: usage from the docstring, words that are numbers, answers as exit codes, errors in one line."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NoReturn, TypeVar

import trio

from names import BadName
from perdure.runtime import Misuse, PerdureError, TooLarge

Number = TypeVar("Number", int, float)
Word = TypeVar("Word", bound=str)
NO, USAGE, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141
"""What is not 0; as the command `perdure` has it."""


class Unknown(Exception):
    """The words say nothing that the program can do."""


class Unread(BaseException):
    """Nobody reads what is printed. No `Exception`, for it is no trouble of a step, to be tried again."""


class Wrong(ValueError):
    """A word is not written as it must be: which, and how."""


def run(doc: str, main: Callable[..., Awaitable[bool]]) -> NoReturn:
    """Do *main* with the words of the command line and exit: 0 for done and yes, 1 for no and for what is refused, 2 for what is asked wrongly."""
    code: int | None
    usage, words = doc.partition("\n\n")[2].partition("\n\n")[0], sys.argv[1:]
    try:
        if words[:1] in (["--help"], ["-h"]):
            code = _say(usage)
        elif not words:
            code = _say(usage, USAGE)
        else:
            code = 0 if trio.run(main, *(["memory:", *words] if words == ["demo"] else words)) else NO
        sys.stdout.flush()
    except BaseException as error:
        code = _failed(usage, leaves(error))
        if code is None:
            raise
    sys.exit(code)


def _failed(usage: str, found: list[BaseException]) -> int | None:
    """Say why, in a line each; None for what nobody has foreseen."""
    if any(isinstance(one, BrokenPipeError | Unread) for one in found):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads it: the interpreter's last flush goes nowhere
        return PIPE_CLOSED
    if any(isinstance(one, KeyboardInterrupt) for one in found):
        return INTERRUPTED
    if any(isinstance(one, Unknown) for one in found):
        return _say(usage, USAGE)
    if all(isinstance(one, PerdureError | ValueError | OSError) for one in found):
        return _say("\n".join(map(str, found)), USAGE if any(isinstance(one, Wrong | BadName | Misuse | TooLarge) for one in found) else NO)
    return None


def _say(text: str, code: int = 0) -> int:
    print(text, file=sys.stderr if code else sys.stdout)
    return code


def leaves(error: BaseException) -> list[BaseException]:
    """The errors of a group."""
    return [leaf for part in error.exceptions for leaf in leaves(part)] if isinstance(error, BaseExceptionGroup) else [error]


# -- words -----------------------------------------------------------------------------------


def answer(yes: bool, said: str, otherwise: str) -> bool:
    """Print one or the other; *yes*, for the exit code."""
    print(said if yes else otherwise)
    return yes


def say(text: str) -> None:
    """Print it at once.

    Raises:
      Unread: nobody reads it.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError as error:
        raise Unread from error


def number(what: str, word: str, kind: Callable[[str], Number], least: int, most: float = math.inf) -> Number:
    """*word* as a number within its bounds.

    Raises:
      Wrong: it is none.
    """
    with suppress(ValueError):
        if least <= (value := kind(word)) <= most:
            return value
    raise Wrong(f"{what} is a {'whole ' if kind is int else ''}number from {least}{f' to {most:,}' if most < math.inf else ''}, not {word!r}")


def days(word: str) -> timedelta:
    """So many days, of a century at most.

    Raises:
      Wrong: *word* does not say how many.
    """
    return timedelta(days=number("DAYS", word, float, 0, 36_500))


def moment(what: str, word: str) -> datetime:
    """*word*, in ISO 8601, as a moment; without a zone it is of here.

    Raises:
      Wrong: it is none.
    """
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(word).astimezone()
    raise Wrong(f"{what} is written as 2026-03-31 or 2026-03-31T18:00:00, not {word!r}")


def one_of(what: str, known: Sequence[Word], word: str) -> Word:
    """The one of *known* that *word* is.

    Raises:
      Wrong: it is none.
    """
    for one in known:
        if one == word:
            return one
    raise Wrong(f"{what} is one of {', '.join(known)}, not {word!r}")
