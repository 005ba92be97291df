"""Forgetting what is old: tombstones, and answers to keys. A bounded slice at a time, by whoever has the right to write."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from perdure.backends.limits import Limits
from perdure.backends.postgres import cutting
from perdure.backends.postgres.wire import Question, Row, Statement, int8
from perdure.backends.upkeep import DOUBTS

SLICE: Final = 1_000
"""So many rows of each kind go at once."""
_OLD_WRITERS_S: Final = 86_400

_TOMBSTONES: Final = Statement(
    "WITH old AS (SELECT bucket, key, revision FROM perdure.kv WHERE deleted < clock_timestamp() - $1 * interval '1 s' ORDER BY deleted LIMIT $2),"
    " gone AS (DELETE FROM perdure.kv USING old WHERE kv.bucket = old.bucket AND kv.key = old.key),"
    " told AS (INSERT INTO perdure.compacted (bucket, revision) SELECT bucket, max(revision) FROM old GROUP BY bucket"
    " ON CONFLICT (bucket) DO UPDATE SET revision = greatest(compacted.revision, excluded.revision))"
    " SELECT count(*) FROM old",
    ("int8", "int8"),
)
_KEYS: Final = Statement(
    "WITH old AS (SELECT id FROM perdure.commits WHERE at < clock_timestamp() - $1 * interval '1 s' ORDER BY at, id LIMIT $2),"
    " gone AS (DELETE FROM perdure.commits USING old WHERE commits.id = old.id)"
    " SELECT count(*) FROM old",
    ("int8", "int8"),
)
_WRITERS: Final = Statement("DELETE FROM perdure.writers WHERE at < clock_timestamp() - $1 * interval '1 s'", ("int8",))


async def forget(ask: Callable[..., Awaitable[list[list[Row]]]], limits: Limits) -> bool:
    """One slice, by the server's clock; whether there is more."""
    most = int8(SLICE)
    counts = await ask(
        Question(_TOMBSTONES, (int8(int(limits.tombstones_kept_s)), most)),
        Question(_KEYS, (int8(int(limits.keys_kept_s)), most)),
        Question(_WRITERS, (int8(_OLD_WRITERS_S),)),
    )
    swept = await cutting.sweep(ask, int(DOUBTS * limits.commit_s))
    return swept or any(rows[0][0] >= SLICE for rows in counts[:2])
