"""Who reads an LMDB file: the oldest reader keeps every page freed since then from being used again."""

from __future__ import annotations

import attrs


@attrs.frozen
class Oldest:
    """The reader that stands furthest back."""

    pid: int
    age_s: float
    """For so long at least: since it was first seen there."""
    behind: int
    """Transactions that were committed since."""


class Readers:
    """Remembers when each reader was first seen where it stands."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, str, int], float] = {}

    def look(self, table: str, last_transaction: int, now_s: float) -> Oldest | None:
        """The oldest of LMDB's *table* of readers; None while nobody reads."""
        active = parse(table)
        self._seen = {reader: self._seen.get(reader, now_s) for reader in active}
        if not active:
            return None
        oldest = min(active, key=lambda reader: (reader[2], self._seen[reader]))
        return Oldest(oldest[0], now_s - self._seen[oldest], max(0, last_transaction - oldest[2]))


def parse(table: str) -> list[tuple[int, str, int]]:
    """(pid, thread, transaction) of each line of a reader that is in a transaction."""
    found = []
    for line in table.splitlines():
        words = line.split()
        if len(words) == 3 and words[0].isdecimal() and words[2].isdecimal():
            found.append((int(words[0]), words[1], int(words[2])))
    return found
