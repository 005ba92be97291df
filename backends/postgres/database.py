"""SQL read models in PostgreSQL: a schema for the tables that people read (`models`; `?schema=` for another), and in it

    perdure_checkpoints   projection, building: a row for each projection, see `Mark`, and one more while tables are built beside
    perdure_tables        projection, kind, name: what its `tables` made

Tables are made in a schema of their own, and moved from there, names and all, into the one that people read: at once, or when those of a new
version have caught up. Either is one transaction, so whoever asks sees the old tables, then the new ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import attrs
import psycopg

from perdure.backends.errors import Misuse, Unavailable
from perdure.backends.postgres.session import OLDEST, Options
from perdure.backends.postgres.transaction import Connection
from perdure.backends.sql import Mark, Work

SCHEMA: Final = "models"
LOCK: Final = 0x7065726475726D  # of pg_advisory_xact_lock: who makes tables of ours

_COLUMNS: Final = tuple(field.name for field in attrs.fields(Mark))
_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS {0}.perdure_checkpoints (
        projection text NOT NULL, building boolean NOT NULL, version bigint NOT NULL, fingerprint text NOT NULL, step text NOT NULL, store text NOT NULL,
        position bigint NOT NULL, fence bigint NOT NULL, fault text NOT NULL, PRIMARY KEY (projection, building)
    )""",
    "CREATE TABLE IF NOT EXISTS {0}.perdure_tables (projection text NOT NULL, kind text NOT NULL, name text NOT NULL, PRIMARY KEY (projection, kind, name))",
)
_READ: Final = f"SELECT {', '.join(_COLUMNS)} FROM {{0}}.perdure_checkpoints WHERE projection = %s AND building = %s"
_INSERT: Final = f"INSERT INTO {{0}}.perdure_checkpoints (building, {', '.join(_COLUMNS)}) VALUES (%s{', %s' * len(_COLUMNS)})"
_CHANGE: Final = (
    f"UPDATE {{0}}.perdure_checkpoints SET ({', '.join(_COLUMNS)}) = ({', '.join(['%s'] * len(_COLUMNS))})"
    f" WHERE building = %s AND ({', '.join(_COLUMNS)}) = ({', '.join(['%s'] * len(_COLUMNS))}) RETURNING 1"
)
_DELETE: Final = "DELETE FROM {0}.perdure_checkpoints WHERE projection = %s AND building = %s"
_WHOLE: Final = (
    "SELECT EXISTS (SELECT FROM {0}.perdure_checkpoints WHERE projection = %s AND NOT building) AND NOT EXISTS (SELECT FROM {0}.perdure_tables"
    " WHERE projection = %s AND kind IN ('table', 'view', 'materialized view') AND to_regclass(name) IS NULL)"
)
_BESIDE: Final = "SELECT EXISTS (SELECT FROM {0}.perdure_checkpoints WHERE projection = %s AND building) AND to_regnamespace(%s) IS NOT NULL"
_MADE: Final = """SELECT d.classid, d.objid FROM pg_depend d
    WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = to_regnamespace(%s) AND d.deptype = 'n' AND NOT EXISTS (
        SELECT FROM pg_depend owner JOIN pg_class s ON s.oid = owner.objid AND s.relkind = 'S'
        WHERE owner.classid = d.classid AND owner.objid = d.objid AND owner.classid = 'pg_class'::regclass AND owner.deptype IN ('a', 'i'))"""
"""All that stands in a schema, but sequences that a column has of its own: those go with their table."""
_NAMED: Final = "SELECT type, identity FROM pg_identify_object(%s, %s, 0)"
_DROPPED: Final = ("view", "materialized view", "table", "foreign table")
"""In this order, and then the rest: functions and types, which they used."""
_WORDS: Final = {"statistics object": "statistics"}

_ASKED: Final = (
    "SELECT current_setting('server_encoding'), pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on', pg_backend_pid(), current_user,"
    " current_database(), to_regnamespace(%s) IS NOT NULL, to_regclass(%s) IS NOT NULL, has_database_privilege(current_database(), 'CREATE')"
)


def open_postgres(url: str, projection: str, *, create: bool) -> PostgresDatabase | None:
    """See `open_database`."""
    return PostgresDatabase(url, _schema_of(url), projection, create=create)


def _schema_of(url: str) -> str:
    try:
        parameters = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    except ValueError as error:
        raise Misuse(f"this is no URL ({error}): write postgresql://USER@HOST/DATABASE") from error
    for name in ("mode", "insist", "json"):
        if name in parameters:
            raise Misuse(f"{name}= is for a store: of a read model's database it is only said which ?schema= its tables are in")
    return Options(schema=parameters.get("schema", SCHEMA)).schema


class PostgresDatabase:
    """See `SqlDatabase`."""

    def __init__(self, url: str, schema: str, projection: str, *, create: bool) -> None:
        self._projection = projection
        self._live = schema
        self._beside = f"{schema[:30]}_building_{blake2b(projection.encode(), digest_size=8).hexdigest()}"
        self._create = create
        self._builds = False
        self._connection = Connection(url)
        self.name = self._connection.where
        try:
            self._there = self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> bool:
        """Look whether it is fit for it, and make what is missing; whether our tables are there."""
        connection, where = self._connection, self.name
        ((encoding, readonly, pid, user, database, schema, there, may_create),) = connection.execute(
            _ASKED, (self._live, f"{self._live}.perdure_checkpoints")
        )
        if pid != connection.pid:
            connection.forget_statements()
        if not self._create:
            return bool(there)
        if connection.version < OLDEST:
            raise Misuse(f"{where} is a PostgreSQL {connection.version // 10_000}: read models need {OLDEST // 10_000} or later")
        if encoding != "UTF8":
            raise Misuse(f"the database {database!r} has the encoding {encoding}: read models need one with UTF8 (CREATE DATABASE ... ENCODING 'UTF8')")
        if readonly:
            raise Misuse(f"{where} is read-only, for this role or as a replica: name the primary")
        if not may_create:
            raise Misuse(f"the role {user!r} may not make a schema in {where}: GRANT CREATE ON DATABASE {database} TO {user}")
        if not there:
            with connection.whole("SELECT pg_advisory_xact_lock(%s)", (LOCK,)):
                if not schema:
                    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {self._live}")
                for sql in _TABLES:
                    self._ask(sql)
        return True

    # -- the row -----------------------------------------------------------------------------

    def mark(self, *, building: bool = False) -> Mark | None:
        if not self._there:
            return None
        if not self._create:
            try:
                return self._first(self._ask(_READ, self._projection, building))
            except psycopg.errors.UndefinedTable:
                return None
        # With a lock: behind a connection that was lost somewhere its transaction may be committing yet.
        with self._changing(building) as mark:
            self._builds = building and mark is not None
        return mark if mark is not None and self._is_whole(building) else None

    def make(self, mark: Mark, tables: Work, *, building: bool = False) -> bool:
        with self._connection.whole("SELECT pg_advisory_xact_lock(%s)", (LOCK,)):
            if self._first(self._ask(_READ, self._projection, building)) is not None and self._is_whole(building):
                return False
            self._drop_beside()
            if not building:
                self._drop_live()
            self._connection.execute(f"CREATE SCHEMA {self._beside}")
            self._look_in(self._beside)
            self._connection.let(tables)
            if not building:
                self._take_place()
            self._ask(_INSERT, building, *attrs.astuple(mark))
        self._builds = building
        return True

    def move(self, before: Mark, after: Mark, work: Work, *, building: bool = False) -> bool:
        with self._changing(building) as found:
            if found is None:
                raise Unavailable(f"{self.name}: the row of {self._projection!r} is gone")
            if found != before:
                return False
            self._connection.let(work)
            if not self._ask(_CHANGE, *attrs.astuple(after), building, *attrs.astuple(before)):
                raise Misuse(f"a statement of the handler has changed the row that says how far {self._projection!r} is: that is perdure's")
        return True

    @contextmanager
    def _changing(self, building: bool) -> Iterator[Mark | None]:
        """A transaction that holds the row: nobody else changes the tables beside it."""
        schema = self._beside if building else self._live
        with self._translated():
            with self._connection.whole(f"{_READ.format(self._live)} FOR UPDATE", (self._projection, building), search_path=_path(schema)) as rows:
                yield self._first(rows)

    # -- the swap ----------------------------------------------------------------------------

    def swap(self, before: Mark, built: Mark) -> bool:
        with self._changing(False) as found:
            if found != before or self._first(self._ask(f"{_READ} FOR UPDATE", self._projection, True)) != built:
                return False
            if not self._is_whole(True):
                return False
            try:
                self._drop_live()
            except psycopg.errors.DependentObjectsStillExist as error:
                detail = f"{error.diag.message_primary}: {error.diag.message_detail}"
                raise Misuse(f"the old tables of {self._projection!r} cannot make room for the new ones, for {detail}; drop that, and start again") from error
            self._take_place()
            self._ask(_INSERT, False, *attrs.astuple(built))
        self._builds = False
        return True

    def drop_building(self) -> None:
        with self._connection.whole("SELECT pg_advisory_xact_lock(%s)", (LOCK,)):
            self._drop_beside()
        self._builds = False

    def _take_place(self) -> None:
        """Move what stands beside to where it is read."""
        connection = self._connection
        moving = connection.execute(_MADE, (self._beside,))
        for one in moving:
            ((kind, identity),) = connection.execute(_NAMED, one)  # anew for each: a function's has the names of its types in it
            connection.execute(f"ALTER {_WORDS.get(kind, kind)} {identity} SET SCHEMA {self._live}")
        for one in moving:
            self._ask(f"INSERT INTO {{0}}.perdure_tables SELECT %s, type, identity FROM ({_NAMED}) AS made", self._projection, *one)
        self._drop_beside()

    def _drop_live(self) -> None:
        by_kind: dict[str, list[str]] = {}
        for kind, name in self._ask("SELECT kind, name FROM {0}.perdure_tables WHERE projection = %s ORDER BY name", self._projection):
            by_kind.setdefault(kind, []).append(name)
        for kind in sorted(by_kind, key=lambda kind: (_DROPPED.index(kind) if kind in _DROPPED else len(_DROPPED), kind)):
            self._connection.execute(f"DROP {_WORDS.get(kind, kind)} IF EXISTS {', '.join(by_kind[kind])}")
        self._ask("DELETE FROM {0}.perdure_tables WHERE projection = %s", self._projection)
        self._ask(_DELETE, self._projection, False)

    def _drop_beside(self) -> None:
        self._connection.execute(f"DROP SCHEMA IF EXISTS {self._beside} CASCADE")
        self._ask(_DELETE, self._projection, True)

    # -- whether it is there -----------------------------------------------------------------

    def gone(self) -> bool:
        try:
            return not self._is_whole(False) or (self._builds and not self._is_whole(True))
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return True

    def close(self) -> None:
        self._connection.close()

    def _is_whole(self, building: bool) -> bool:
        """Whether the row and all tables are there."""
        ((there,),) = self._ask(_BESIDE, self._projection, self._beside) if building else self._ask(_WHOLE, self._projection, self._projection)
        return bool(there)

    # -- asking ------------------------------------------------------------------------------

    def _ask(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """A statement about our own tables."""
        return self._connection.execute(sql.format(self._live), parameters)

    def _first(self, rows: list[tuple[Any, ...]]) -> Mark | None:
        return Mark(**dict(zip(_COLUMNS, rows[0], strict=True))) if rows else None

    def _look_in(self, schema: str) -> None:
        self._connection.configure(search_path=_path(schema))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Our own tables were dropped under us: it is begun again."""
        try:
            yield
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            if "perdure_checkpoints" not in str(error) and "perdure_tables" not in str(error):
                raise
            raise Unavailable(f"{self.name}: its tables were dropped") from error


def _path(schema: str) -> str:
    return schema if schema == "public" else f"{schema}, public"
