"""What this user may not do, in one text: the path, and what to give or to name instead."""

from __future__ import annotations

import errno
import os
from typing import Final

from perdure.backends.errors import Misuse

DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
ANOTHER: Final = "name another folder"


def is_denied(error: OSError) -> bool:
    """Whether trying again is of no use before a person has changed something."""
    return error.errno in DENIED


def check_denied(error: BaseException, where: object, remedy: str = ANOTHER) -> None:
    """Let other errors pass: who calls has a name for them.

    Raises:
      Misuse: this user has not the right, or the file system is read-only.
    """
    if isinstance(error, OSError) and is_denied(error):
        raise may_not(where, error.errno or errno.EACCES, remedy) from error


def check_denied_text(error: Exception, where: object, remedy: str = ANOTHER) -> None:
    """The same, of a library that gives the system's words instead of its number."""
    for number in DENIED:
        if os.strerror(number) in str(error):
            raise may_not(where, number, remedy) from error


def may_not(where: object, number: int = errno.EACCES, remedy: str = ANOTHER) -> Misuse:
    """The error that says so."""
    why = "the file system is read-only" if number == errno.EROFS else "permission denied"
    return Misuse(f"{where} may not be read or written by this user ({why}): give it the right, or {remedy}")
