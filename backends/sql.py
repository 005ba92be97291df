"""Databases that SQL read models are kept in: what a driver does, and what a projection's own row says.

A driver keeps, in the database itself, one row for each projection (`Mark`): how far its tables are. The row moves in the transaction that
changes the tables, so each event is applied exactly once. Tables of a new version are built beside those that people read, and take their
place whole. Calls block: they are made in a thread, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import attrs


class Transaction(Protocol):
    """What a handler gets. SQL and its placeholders are those of the database."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement; the rows that it gives."""
        ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for each of *rows*."""
        ...


Work = Callable[[Transaction], None]


@attrs.frozen(kw_only=True)
class Mark:
    """How far a projection's tables are: the events of *store* up to *position* are in them.

    *fence* is that of the lease under which the row was written last; *fault* says why it stands still.
    """

    projection: str
    version: int
    fingerprint: str
    step: str
    store: str
    position: int
    fence: int = 0
    fault: str = ""


class SqlDatabase(Protocol):
    """One projection's part of a database. Every method is one whole transaction, or does nothing.

    *building* chooses the tables that are built beside those that people read.

    All raise:
      Unavailable: it cannot be reached, or is locked; nothing was done, unless that was the commit: the mark tells.
      Full: there is no room for it; nothing was done.
      Corrupt: it is damaged, or no database.
    """

    name: str
    """For people: where it is."""

    def mark(self, *, building: bool = False) -> Mark | None:
        """The projection's row; None if there is none."""
        ...

    def make(self, mark: Mark, tables: Work, *, building: bool = False) -> bool:
        """Let *tables* make the tables, and put the row beside them; False, and nothing is done, if there is a row. What *tables* raises leaves as it is."""
        ...

    def move(self, before: Mark, after: Mark, work: Work, *, building: bool = False) -> bool:
        """Do *work* and put *after* in the place of the row *before*; False, and nothing is done, if the row is another one by now.

        What *work* raises leaves as it is.
        """
        ...

    def swap(self, before: Mark, built: Mark) -> bool:
        """Put the tables that were built, at *built*, in the place of those at *before*; False if one of the rows is another one by now."""
        ...

    def drop_building(self) -> None:
        """Remove what is built beside, if anything is."""
        ...

    def gone(self) -> bool:
        """Whether it, or what is built beside, was deleted or replaced since it was opened."""
        ...

    def close(self) -> None:
        """Idempotent."""
        ...


class OpenDatabase(Protocol):
    """Opens a database, as `open_database` does."""

    def __call__(self, projection: str, *, create: bool) -> SqlDatabase | None: ...
