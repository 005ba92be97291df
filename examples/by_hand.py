"""What the six consumers share when they are run by hand: usage from the docstring, errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

import trio

from perdure.runtime import PerdureError


class Unknown(Exception):
    """The words say nothing that the program can do."""


def run(doc: str, main: Callable[..., Awaitable[None]]) -> NoReturn:
    """Do *main* with the words of the command line and exit: 1 for what perdure or the program refuses, 2 for words that say nothing."""
    try:
        trio.run(main, *sys.argv[1:])
    except BaseException as error:
        found = leaves(error)
        if any(isinstance(one, Unknown) for one in found):
            print(doc.partition("\n\n")[2].partition("\n\n")[0], file=sys.stderr)
            sys.exit(2)
        if any(isinstance(one, KeyboardInterrupt) for one in found):
            sys.exit(130)
        if all(isinstance(one, PerdureError | ValueError | OSError) for one in found):
            sys.exit("\n".join(map(str, found)))
        raise
    sys.exit(0)


def leaves(error: BaseException) -> list[BaseException]:
    """The errors of a group."""
    return [leaf for part in error.exceptions for leaf in leaves(part)] if isinstance(error, BaseExceptionGroup) else [error]

