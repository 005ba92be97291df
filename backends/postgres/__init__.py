"""`postgresql://USER@HOST/DATABASE`: a store in a PostgreSQL database, in tables that people may query."""

from __future__ import annotations

from perdure.backends.environment import Environment
from perdure.backends.errors import MissingExtra
from perdure.backends.limits import LIMITS, Limits
from perdure.backends.protocol import Backend

try:
    from perdure.backends.postgres import session
    from perdure.backends.postgres.backend import PostgresBackend
except ImportError as error:
    if (error.name or "").partition(".")[0] not in ("psycopg", "psycopg_binary", "psycopg_c") and "libpq" not in str(error):
        raise
    raise MissingExtra("postgresql://", "postgres") from error
from perdure.backends.postgres.schema import SCHEMA
from perdure.backends.postgres.session import Options, refusal, refused_connection
from perdure.backends.postgres.wire import Lost, Refused, Wire

__all__ = ["SCHEMA", "Options", "open_postgres"]


async def open_postgres(
    url: str,
    options: Options = Options(),  # noqa: B008 - a frozen value
    *,
    environment: Environment | None = None,
    limits: Limits = LIMITS,
    wires: type[Wire] = Wire,
) -> Backend:
    """Open the store in the database that *url* names; its tables are made if there are none. *wires* makes its connections.

    Raises:
      Misuse: the URL, the role or the database is not fit for it; the message says what to do.
      TooNew: a newer perdure has made it.
      Unavailable: the server cannot be reached.
    """
    environment = environment or Environment()
    conninfo, shown = session.read_url(url)
    try:
        wire = await session.connect(wires, conninfo, options, environment)
    except Lost as error:
        raise refused_connection(error, shown) from error
    try:
        server, there = await session.check_server(wire, options, shown)
        if not options.readonly and (not there or await session.is_older(wire)):
            await session.make_schema(wire, options.schema, environment.ids().hex())
        id, elsewhere = await session.check_store(wire, options, shown)
    except Lost as error:
        raise refused_connection(error, shown) from error
    except Refused as error:
        raise refusal(error, shown) from error
    finally:
        wire.close()

    async def connect() -> Wire:
        return await session.connect_ready(wires, conninfo, options, environment, server, limits)

    return PostgresBackend(id, connect, server, options, url=shown, environment=environment, limits=limits, elsewhere=elsewhere)
