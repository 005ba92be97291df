"""A connection made ready: its URL read, the server and the database checked, the session set as we need it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final, NoReturn
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import attrs
import psycopg
from psycopg import pq

from perdure.backends.environment import Environment
from perdure.backends.errors import Corrupt, Full, Misuse, PerdureError, TooNew, Unavailable
from perdure.backends.limits import Limits
from perdure.backends.postgres import schema
from perdure.backends.postgres.wire import Lost, Question, Refused, Statement, Wire, texts

OLDEST: Final = 140_000
"""PostgreSQL 14: the first that looks whether who waits for a lock is still there."""
CONNECT_S: Final = 5.0
ASK_S: Final = 10.0
"""A read that has no answer by then is asked again on another connection."""
IDLE_S: Final = 2.0
"""Who holds the right to write and says nothing for so long loses it."""
OPTIONS: Final = ("mode", "schema", "insist")
"""Those of the URL's parameters that are ours."""


@attrs.frozen
class Options:
    """How a store is opened.

    *schema*: where its tables are, so that several stores may share a database; *insist*: also where the server does not flush.
    """

    schema: str = attrs.field(default=schema.SCHEMA)
    create: bool = True
    readonly: bool = False
    insist: bool = False

    @schema.validator
    def _check_schema(self, _: object, value: str) -> None:
        if not re.fullmatch("[a-z_][a-z0-9_]{0,62}", value) or value.startswith("pg_"):
            raise Misuse(f"schema={value}: it is a name of small letters, digits and _, not pg_...")


@attrs.frozen
class Server:
    """What a server said of itself."""

    version: int
    pooled: bool
    """Whether there is a pooler between: what a session is told, another one hears."""
    checksums: bool
    synchronous: str


def read_url(url: str) -> tuple[bytes, str]:
    """What libpq is to be given, and the URL as it may be shown.

    Raises:
      Misuse: it is none.
    """
    if not url.startswith("postgresql://"):
        raise Misuse(f"{_without_secret(url)!r} names no PostgreSQL database: {_HOW}")
    try:
        parts = urlsplit(url)
    except ValueError:  # which says what is between // and /, a password too
        raise Misuse(f"{_without_secret(url)!r} is no URL: {_HOW}") from None
    rest = [(name, value) for name, value in _parameters(parts.query) if name not in OPTIONS]
    rest += [(name, value) for name, value in {**_DEFAULTS, "application_name": f"perdure {os.getpid()}"}.items() if name not in dict(rest)]
    conninfo = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(rest, quote_via=quote), "")).encode()
    if not parts.netloc:
        conninfo = conninfo.replace(b"postgresql:", b"postgresql://", 1) if not conninfo.startswith(b"postgresql://") else conninfo
    try:
        ports = next((option.val for option in pq.Conninfo.parse(conninfo) if option.keyword == b"port"), None) or b""
    except psycopg.Error as error:
        raise Misuse(f"{_shown(url)!r} names no PostgreSQL database ({str(error).strip()}): {_HOW}") from error
    if any(port and not port.isdigit() for port in ports.split(b",")):
        raise Misuse(f"{_shown(url)!r}: {ports.decode()!r} is no port: {_HOW}")
    return conninfo, _shown(url)


_HOW: Final = "write postgresql://USER@HOST/DATABASE"
_DEFAULTS: Final = {
    "client_encoding": "UTF8",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}


def _parameters(query: str) -> list[tuple[str, str]]:
    """As libpq reads them: a + is a +."""
    return parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)


def _without_secret(url: str) -> str:
    """What cannot be taken apart, without what may be a password."""
    return "postgresql:..." if "@" in url or "password" in url else url


def _shown(url: str) -> str:
    """Without what is nobody's business."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    shown = [(name, "***" if name == "password" else value) for name, value in _parameters(parts.query)]
    netloc = user.partition(":")[0] + at + host
    return f"{parts.scheme}://{netloc}{parts.path}" + (f"?{urlencode(shown, safe='/', quote_via=quote)}" if shown else "")


# -- opening ---------------------------------------------------------------------------------

_ASKED = Statement(
    "SELECT current_setting('server_encoding'), pg_is_in_recovery(), pg_backend_pid(), current_setting('synchronous_commit'), current_setting('fsync'),"
    " current_setting('data_checksums'), current_setting('transaction_read_only'), current_user, current_database(), to_regclass('perdure.head') IS NOT NULL,"
    " has_database_privilege(current_database(), 'CREATE')"
)


async def check_server(wire: Wire, options: Options, shown: str) -> tuple[Server, bool]:
    """What the server is, and whether the store is there.

    Raises:
      Misuse: it, or the database, is not fit for a store.
    """
    if wire.version < OLDEST:
        raise Misuse(f"{shown} is a PostgreSQL {wire.version // 10_000}: a store needs {OLDEST // 10_000} or later")
    ((asked,),) = await wire.ask(Question(_ASKED), within_s=ASK_S)
    encoding, replica, pid, synchronous, fsync, checksums, readonly, user, database, there, may_create = asked
    if encoding != "UTF8":
        how = "CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        raise Misuse(f"the database {database!r} has the encoding {encoding}: a store needs one with UTF8 ({how})")
    if not options.readonly and (replica or readonly == "on"):
        why = "a read-only replica" if replica else "read-only for this role"
        raise Misuse(f"{shown} is {why}: name the primary, or open it with ?mode=ro")
    if fsync != "on" and not options.insist:
        raise Misuse(f"{shown} runs with fsync=off, so what it acknowledges may be lost: set fsync=on, or insist with ?insist=1")
    if not there:
        if options.readonly or not options.create:
            raise Misuse(f"there is no store in {shown}: open it once for writing")
        if not may_create:
            raise Misuse(f"the role {user!r} may not make a schema in {shown}: GRANT CREATE ON DATABASE {database} TO {user}")
    return Server(wire.version, pid != wire.pid, checksums == "on", synchronous), there


_THERE = Statement(
    "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = 'head')", ("text",)
)
"""Not by `to_regclass`: that one may remember what it did not find before the wait for the lock."""


async def is_older(wire: Wire) -> bool:
    """Whether the store was made by an older perdure, and is to be brought up to date.

    Raises:
      Refused: we may not read it.
    """
    (rows,) = await wire.ask("SELECT format FROM perdure.head", within_s=ASK_S)
    return bool(rows) and int(rows[0][0]) < schema.FORMAT


async def make_schema(wire: Wire, name: str, id: str) -> None:
    """Make the tables, or bring them up to date; whoever else does it at the same time waits.

    Raises:
      Refused: the server does not let us.
    """
    lock = f"SELECT pg_advisory_xact_lock({schema.LOCK})"
    await wire.ask("BEGIN", lock, within_s=ASK_S)
    format, (((there,),),) = 0, await wire.ask(Question(_THERE, (name.encode(),)), within_s=ASK_S)
    if there:
        (((format,),),) = await wire.ask("SELECT format FROM perdure.head", within_s=ASK_S)
    steps = schema.steps_from(format)
    if not format:
        head = f"INSERT INTO perdure.head (store, format) VALUES ('{id}', {schema.FORMAT})"
        steps = [f"CREATE SCHEMA IF NOT EXISTS {name}", f"COMMENT ON SCHEMA {name} IS '{schema.COMMENT}'", *steps, head]
    elif steps:
        steps.append(f"UPDATE perdure.head SET format = {schema.FORMAT}")
    for step in steps:
        await wire.ask(step, within_s=ASK_S)
    await wire.ask("COMMIT", within_s=ASK_S)


_RIGHTS = Statement(
    "SELECT t FROM unnest($1) AS t WHERE NOT has_table_privilege('perdure.' || t, $2 || ',SELECT')"
    " OR EXISTS (SELECT FROM regexp_split_to_table($2, ',') AS p WHERE NOT has_table_privilege('perdure.' || t, p))",
    ("text[]", "text"),
)


async def check_store(wire: Wire, options: Options, shown: str) -> tuple[str, str]:
    """The store's id, and why nothing is committed: 'loading', or where it is now; else ''.

    Raises:
      TooNew: a newer perdure has made it.
      Misuse: we may not read or write it.
    """
    try:
        (rows,) = await wire.ask("SELECT store, format FROM perdure.head", within_s=ASK_S)
    except Refused as error:
        raise refusal(error, shown) from error
    if not rows:
        raise Corrupt(f"the store {shown}", "its table head has no row")
    id, format = rows[0]
    if format > schema.FORMAT:
        raise TooNew(shown, format, schema.FORMAT)
    if format < schema.FORMAT:
        raise Misuse(f"{shown} has format {format}, of an older perdure, and this one reads format {schema.FORMAT}: open it once for writing")
    rights = "SELECT" if options.readonly else "SELECT,INSERT,UPDATE,DELETE"
    (missing,) = await wire.ask(Question(_RIGHTS, (texts(schema.TABLES), rights.encode())), within_s=ASK_S)
    if missing:
        grant = f"GRANT {rights.replace(',', ', ')} ON ALL TABLES IN SCHEMA {options.schema} TO it"
        raise Misuse(f"this role may not use the table {options.schema}.{missing[0][0]} of {shown}: {grant}")
    (((elsewhere,),),) = await wire.ask(f"SELECT {schema.ELSEWHERE} FROM perdure.head", within_s=ASK_S)
    return str(id), str(elsewhere)


def settings(server: Server, limits: Limits) -> dict[str, str]:
    """What a session of ours is told. Every question of ours is made for an index, and no statistics shall talk the planner out of it."""
    return {
        "search_path": "pg_catalog",
        "default_transaction_isolation": "read committed",
        "enable_seqscan": "off",
        "enable_bitmapscan": "off",
        "enable_sort": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "plan_cache_mode": "force_generic_plan",
        "jit": "off",
        **guards(server, limits),
        "tcp_keepalives_idle": "5",
        "tcp_keepalives_interval": "2",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": "10s",
        "client_connection_check_interval": "1s",
    }


def guards(server: Server, limits: Limits) -> dict[str, str]:
    """What bounds how long we stand in the way of others, whatever becomes of us."""
    told = {
        "idle_in_transaction_session_timeout": f"{IDLE_S:g}s",
        "lock_timeout": f"{int(limits.gate_s * 1_000) + 1_000}ms",
        "statement_timeout": f"{int(limits.commit_s * 1_000)}ms",
    }
    if server.synchronous == "off":
        told["synchronous_commit"] = "on"
    if server.version >= 170_000:
        told["transaction_timeout"] = f"{int(limits.commit_s * 1_000)}ms"
    return told


def configure(values: Mapping[str, str], *, local: bool = False) -> str:
    """The statement that tells a session, or its transaction alone."""
    return "SELECT " + ", ".join(f"set_config('{name}', '{value}', {str(local).lower()})" for name, value in values.items())


async def connect(wires: type[Wire], conninfo: bytes, options: Options, environment: Environment) -> Wire:
    """A new connection. It leaves nothing behind in the server's session, which may be a pooler's.

    Raises:
      Lost: there is none.
    """
    wire = await wires.connect(conninfo, environment.threads, schema=options.schema, within_s=CONNECT_S)
    wire.keeps_statements = False
    return wire


async def connect_ready(wires: type[Wire], conninfo: bytes, options: Options, environment: Environment, server: Server, limits: Limits) -> Wire:
    """A new connection, its session set as we need it; behind a pooler as it is, for there a session is everybody's.

    Raises:
      Lost: there is none.
    """
    wire = await connect(wires, conninfo, options, environment)
    wire.keeps_statements = not server.pooled
    if not server.pooled:
        try:
            await wire.ask(configure(settings(server, limits)), within_s=ASK_S)
        except Refused as error:
            wire.close()
            raise Lost(str(error)) from error
    return wire


# -- what the server says no to --------------------------------------------------------------

_PASSING = ("starting up", "shutting down", "recovery mode", "not accept", "not yet accept", "too many", "connection slots", "reset by peer")
_FOR_GOOD = (
    *("authentication failed", "no password supplied", "does not exist", "pg_hba.conf", "not permitted to log in"),
    *("permission denied for database", "does not support SSL"),
)


def refused_connection(error: Lost, shown: str) -> PerdureError:
    """Why a store cannot be opened: whether trying again may help."""
    why = str(error).strip().replace("\n", " ")
    if why.startswith("invalid "):  # libpq has not even tried
        return Misuse(f"{shown!r} cannot be used ({why}): {_HOW}")
    if any(sign in why for sign in _FOR_GOOD) and not any(sign in why for sign in _PASSING) and "No such file" not in why:
        return Misuse(f"{shown} lets us not in ({why}): correct the URL, or the rights of its role")
    return Unavailable(f"{shown} cannot be reached ({why})")


def refusal(error: Refused, shown: str) -> PerdureError:
    """What a refusal means: nothing was stored."""
    match error.state[:2], error.state:
        case _, "42501":
            return Misuse(f"this role lacks a right in {shown} ({error.message}): GRANT it")
        case _, "53100":
            return Full(f"the disk of {shown}", 0, 0)
        case "XX", _:
            return Corrupt(f"the store {shown}", str(error))
        case (("42" | "3F"), _):
            return Corrupt(f"the store {shown}", f"a table is not as it was made ({error})")
        case _:
            return Unavailable(f"{shown} refused it ({error})")


def raise_refusal(error: Refused, shown: str) -> NoReturn:
    """The same, raised."""
    raise refusal(error, shown) from error


