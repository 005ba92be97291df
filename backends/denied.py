"""What this user may not do, in one text: the path, and what to give or to name instead."""

from __future__ import annotations

import errno
from typing import Final

from perdure.backends.errors import Misuse

DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def is_denied(error: OSError) -> bool:
    """Whether trying again is of no use before a person has changed something."""
    return error.errno in DENIED


def check_denied(error: OSError, where: object, remedy: str = "name another folder") -> None:
    """Let other errors pass: who calls has a name for them.

    Raises:
      Misuse: this user has not the right, or the file system is read-only.
    """
    if is_denied(error):
        right = "the file system is read-only" if error.errno == errno.EROFS else "permission denied"
        raise Misuse(f"{where} may not be read or written by this user ({right}): give it the right, or {remedy}") from error
