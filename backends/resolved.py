"""What was found of commits that were in doubt: kept, so that a doubt that comes soon after does not hide it from who asks late."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from perdure.backends.commit import Commit, Committed

KEPT_MAX: Final = 1 << 16
"""Of so many commits; a group has 4,096 at most."""


class Resolved:
    """By id, oldest first: the answer, or None where it is not stored."""

    def __init__(self) -> None:
        self._found: dict[bytes, Committed | None] = {}

    def __contains__(self, id: bytes) -> bool:
        return id in self._found

    def __getitem__(self, id: bytes) -> Committed | None:
        return self._found[id]

    def note(self, ids: Iterable[bytes], found: Mapping[bytes, Committed]) -> None:
        """*ids* were in doubt, and only what is *found* is stored."""
        for id in ids:
            self._found.pop(id, None)
            self._found[id] = found.get(id)
        for id in list(self._found)[:-KEPT_MAX]:
            del self._found[id]

    def forget(self, commits: Iterable[Commit]) -> None:
        """They are asked for again: what was found of them is over."""
        if self._found:
            for commit in commits:
                self._found.pop(commit.id, None)
