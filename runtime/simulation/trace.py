"""The trace: every point and decision of a run as one line. Two runs with equal traces were the same run. Pure."""

from __future__ import annotations

import hashlib
from typing import Literal

import attrs

Kind = Literal["point", "fault", "told", "life", "law"]
"""A place where something may go wrong; what went wrong there; what a caller was told; a process's beginning and end; what was judged."""


@attrs.frozen
class Line:
    """*who* is the process, as `runtime.life`; '' where none is."""

    kind: Kind
    at_s: float
    who: str
    text: str

    def __str__(self) -> str:
        return f"{self.at_s:10.4f}  {self.who:<5} {self.text}"


class Trace:
    """The lines of a run, oldest first."""

    def __init__(self) -> None:
        self._lines: list[tuple[Kind, float, str, str]] = []

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, kind: Kind, at_s: float, who: str, text: str) -> None:
        """One more line."""
        self._lines.append((kind, at_s, who, text))

    def lines(self, *kinds: Kind) -> list[Line]:
        """Those of *kinds* (none given: all)."""
        return [Line(*line) for line in self._lines if not kinds or line[0] in kinds]

    def digest(self) -> str:
        """16 hexadecimal digits that two traces share only if they are equal."""
        digest = hashlib.blake2b(digest_size=8)
        for line in self._lines:
            digest.update(repr(line).encode())
        return digest.hexdigest()


def first_difference(one: Trace, other: Trace) -> str:
    """Where two traces part, in a sentence; '' where they do not."""
    for number, (left, right) in enumerate(zip(one._lines, other._lines, strict=False), 1):
        if left != right:
            return f"line {number} is {str(Line(*left)).strip()!r} in one run and {str(Line(*right)).strip()!r} in the other"
    if len(one) != len(other):
        shorter, longer = sorted((one, other), key=len)
        return f"one run ends after {len(shorter)} lines, the other goes on with {str(Line(*longer._lines[len(shorter)])).strip()!r}"
    return ""
