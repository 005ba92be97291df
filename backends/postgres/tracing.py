"""The trace of a store in a database: a trigger notes which entries are changed, by whatever process, for a migration that follows them. See `Moves`.

The trigger belongs to who began the trace, and runs with its rights. It is switched off, not dropped, so that no reader is ever waited for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import trio

from perdure.backends.carried import BucketEntry, Traced, TracePage
from perdure.backends.environment import Environment
from perdure.backends.errors import Unavailable
from perdure.backends.postgres.reads import PostgresReads
from perdure.backends.postgres.wire import Question, Refused, Row, Statement, bodies, int8, int8s, texts

Ask = Callable[..., Awaitable[list[list[Row]]]]

LOCK_MS: Final = 200
"""So long the table may be waited for while nobody can write,"""
TRIES: Final = 20
"""so often it is tried,"""
PAUSE_S: Final = 0.3
"""and so long writers are let in between: autovacuum holds it for as long as it takes."""
KEPT_S: Final = 86_400
"""A trace that is older was left by somebody."""

# The row without a bucket says which trace it is.
_TABLE: Final = "CREATE TABLE IF NOT EXISTS perdure.traced (bucket text COLLATE \"C\", key bytea, mark int8 NOT NULL, PRIMARY KEY (bucket, key))"
_FUNCTION: Final = """
CREATE OR REPLACE FUNCTION perdure.trace() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $function$
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO perdure.traced VALUES (OLD.bucket, OLD.key, txid_current()) ON CONFLICT (bucket, key) DO UPDATE SET mark = excluded.mark;
    ELSE
        INSERT INTO perdure.traced VALUES (NEW.bucket, NEW.key, txid_current()) ON CONFLICT (bucket, key) DO UPDATE SET mark = excluded.mark;
    END IF;
    RETURN NULL;
END
$function$
"""
_TRIGGER: Final = "CREATE OR REPLACE TRIGGER traced AFTER INSERT OR UPDATE OR DELETE ON perdure.kv FOR EACH ROW EXECUTE FUNCTION perdure.trace()"
_ON: Final = "ALTER TABLE perdure.kv ENABLE TRIGGER traced"
_OFF: Final = "ALTER TABLE perdure.kv DISABLE TRIGGER traced"
_CLEAR: Final = "DELETE FROM perdure.traced"
_THERE: Final = Question(Statement("SELECT to_regclass('perdure.traced') IS NOT NULL"))
_BEGUN: Final = Question(Statement("SELECT mark FROM perdure.traced WHERE bucket = ''"))
_BEGIN: Final = Statement(
    "INSERT INTO perdure.traced SELECT '', '', greatest($1, (SELECT mark + 1 FROM perdure.traced WHERE bucket = ''))"
    " ON CONFLICT (bucket, key) DO UPDATE SET mark = excluded.mark RETURNING mark",
    ("int8",),
)
_OLD: Final = f"SELECT EXISTS (SELECT FROM perdure.traced WHERE bucket = '' AND to_timestamp(mark / 1e6) < clock_timestamp() - interval '{KEPT_S} s')"
_TRACED: Final = Statement(
    "SELECT bucket, key, mark FROM perdure.traced WHERE (bucket, key) > ($1, $2) AND bucket <> '' ORDER BY bucket, key LIMIT $3", ("text", "bytea", "int8")
)
_FORGET: Final = Statement(
    "DELETE FROM perdure.traced t USING unnest($1, $2, $3) AS n (bucket, key, mark) WHERE t.bucket = n.bucket AND t.key = n.key AND t.mark = n.mark",
    ("text[]", "bytea[]", "int8[]"),
)
_THESE: Final = Statement(
    "SELECT bucket, key, revision, value, place, spent FROM (SELECT n.bucket, n.key, kv.revision, kv.value, n.place,"
    " sum(coalesce(octet_length(kv.value), 0)) OVER (ORDER BY n.place ROWS UNBOUNDED PRECEDING)::int8 AS spent,"
    " coalesce(octet_length(kv.value), 0) AS own"
    " FROM unnest($1, $2) WITH ORDINALITY AS n (bucket, key, place) LEFT JOIN perdure.kv ON kv.bucket = n.bucket AND kv.key = n.key) e"
    " WHERE spent - own < $3 ORDER BY place",
    ("text[]", "bytea[]", "int8"),
)


class PostgresTraces(PostgresReads):
    """The part of `PostgresBackend` that is about following what is changed."""

    url: str
    environment: Environment

    @abstractmethod
    def _step(self, *, within_s: float = ...) -> AbstractAsyncContextManager[tuple[Row, Ask]]: ...

    async def read_these(self, keys: Sequence[tuple[str, bytes]], *, bytes_max: int) -> tuple[list[BucketEntry], int]:
        """See `Moves.read_these`."""
        (rows,) = await self._ask(Question(_THESE, (texts([bucket for bucket, _ in keys]), bodies([key for _, key in keys]), int8(bytes_max))))
        return [BucketEntry(*row[:4]) for row in rows if row[3] is not None], len(rows)

    async def begin_trace(self) -> int:
        """See `Moves.begin_trace`."""
        at_us = self.environment.clock()
        for _ in range(TRIES):
            async with self._step() as (_, ask):
                if not (await ask(_THERE))[0][0][0]:
                    await ask(_TABLE, _FUNCTION)
                if await _has_table(ask):
                    begun = (await ask(Question(_BEGIN, (int8(at_us),)), _TRIGGER, _ON, f"{_CLEAR} WHERE bucket <> ''"))[0][0][0]
                    return int(begun)
            await trio.sleep(PAUSE_S)
        raise Unavailable(f"{self.url}: somebody (autovacuum?) keeps the table of its entries", "try again later")

    async def read_trace(self, *, after: bytes = b"", limit: int) -> TracePage:
        """See `Moves.read_trace`."""
        ((there,),) = await self._ask(_THERE)
        if not there[0]:
            return TracePage(0, [], None)
        bucket, _, key = after.partition(b"\0")
        begun, rows = await self._ask(_BEGUN, Question(_TRACED, (bucket, key, int8(limit))))
        traced = [Traced(*row) for row in rows]
        return TracePage(begun[0][0] if begun else 0, traced, f"{traced[-1].bucket}\0".encode() + traced[-1].key if len(traced) == limit else None)

    async def forget_trace(self, traced: Sequence[Traced]) -> None:
        """See `Moves.forget_trace`."""
        columns = (texts([one.bucket for one in traced]), bodies([one.key for one in traced]), int8s([one.mark for one in traced]))
        async with self._step() as (_, ask):
            await ask(Question(_FORGET, columns))

    async def end_trace(self) -> None:
        """See `Moves.end_trace`."""
        async with self._step() as (_, ask):
            if (await ask(_THERE))[0][0][0] and await _has_table(ask):
                await ask(_OFF, _CLEAR)


async def _has_table(ask: Ask) -> bool:
    """Have the table of entries to ourselves, if nobody keeps it for long."""
    await ask("SAVEPOINT before", f"SELECT set_config('lock_timeout', '{LOCK_MS}ms', true)")
    try:
        await ask("LOCK TABLE perdure.kv IN SHARE ROW EXCLUSIVE MODE")
    except Refused as error:
        if error.state != "55P03":  # lock_not_available
            raise
        await ask("ROLLBACK TO before")
        return False
    return True


async def sweep(ask: Ask) -> None:
    """End a trace that somebody has left."""
    if (await ask(_THERE))[0][0][0]:
        ((old,),) = await ask(_OLD)
        if old[0] and await _has_table(ask):
            await ask(_OFF, _CLEAR)
