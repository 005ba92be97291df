"""A database of an SQL read model that fails as it is told."""

from __future__ import annotations

from perdure.backends.databases import open_database
from perdure.backends.errors import Unavailable
from perdure.backends.sql import Mark, OpenDatabase, SqlDatabase, Work
from shops import Shop, Wrapped


class Failing(Wrapped):
    """Fails before or after some of its commits, as a list says; what it did after is done."""

    def __init__(self, inner: SqlDatabase, faults: list[str | None]) -> None:
        super().__init__(inner)
        self.faults = faults

    def move(self, before: Mark, after: Mark, work: Work, *, building: bool = False) -> bool:
        fault = self.faults.pop(0) if self.faults else None
        if fault == "before":
            raise Unavailable("told to")
        moved = super().move(before, after, work, building=building)
        if fault == "after":
            raise Unavailable("told to")
        return moved

    @classmethod
    def at(cls, shop: Shop, faults: list[str | None]) -> OpenDatabase:
        """What opens it."""

        def open_it(projection: str, *, create: bool) -> SqlDatabase | None:
            database = open_database(shop.url, projection, create=create)
            return None if database is None else cls(database, faults)

        return open_it
