"""From a URL to an open database for SQL read models. No driver is imported before one is opened."""

from __future__ import annotations

import re

from perdure.backends.errors import Misuse
from perdure.backends.sql import OpenDatabase, SqlDatabase

POSTGRES = ("postgresql", "postgres")


def check_database(url: str) -> None:
    """Raise `Misuse` unless *url* names a database of a kind that there is a driver for."""
    scheme, _, rest = url.partition(":")
    if scheme in POSTGRES and rest.startswith("//"):
        return
    if scheme != "sqlite" or not rest or rest.startswith(":"):
        raise Misuse(f"{url!r} is no URL of a database: write sqlite:PATH, with the path of a file, or postgresql://USER@HOST/DATABASE")


def shown(url: str | OpenDatabase) -> str:
    """The database, for people: without a password."""
    if not isinstance(url, str):
        return repr(url)
    if url.partition(":")[0] not in POSTGRES:
        return url
    return re.sub(r"(?<=password=)[^&]*", "***", re.sub(r"^(\w+://[^/@:]*):[^/@]*@", r"\1@", url))


def open_database(url: str | OpenDatabase, projection: str, *, create: bool = True) -> SqlDatabase | None:
    """The part of the database at *url* that is kept for *projection*; without *create* None where there is none yet.

    Raises:
      Misuse: the URL names no database, its folder does not exist, or it is not fit for it; the message says what to do.
      MissingExtra: its driver is not installed.
      Unavailable, Corrupt: it cannot be opened.
    """
    if not isinstance(url, str):
        return url(projection, create=create)
    check_database(url)
    if url.partition(":")[0] in POSTGRES:
        from perdure.backends.postgres.database import open_postgres

        return open_postgres(url, projection, create=create)
    from perdure.backends.sqlite import open_sqlite

    return open_sqlite(url.partition(":")[2].removeprefix("//"), projection, create=create)
