"""What open transactions of strangers would do to a store that is made in one of the usual ways: the laws find it out."""

from __future__ import annotations

import attrs
import pytest

from perdure.backends.conformance import run_checks, stores_of
from perdure.backends.postgres.backend import PostgresBackend
from perdure.backends.postgres.reads import PostgresReads
from perdure.backends.postgres.wire import Question, Statement, Wire

HORIZON = Question(
    Statement("SELECT coalesce(max(position), 0) FROM perdure.runs WHERE xmin::text::int8 < pg_snapshot_xmin(pg_current_snapshot())::text::int8 & 4294967295")
)
READ_LOG = PostgresReads.read_log
ASK = Wire.ask
pytestmark = pytest.mark.slow


async def read_up_to_the_horizon(self, **how):
    """Shows what no open transaction can come before: what those do whose positions are not given in commit order."""
    (((last,),),) = await self._ask(HORIZON)
    page = await READ_LOG(self, **how)
    seen = [record for record in page.records if record.position <= last]
    return page if len(seen) == len(page.records) else attrs.evolve(page, records=seen, examined=max(how["after"], last))


async def lock_the_table(self, *questions, **how):
    """Has the table for itself while it writes."""
    if "COMMIT" not in questions or "BEGIN READ ONLY" in questions:
        return await ASK(self, *questions, **how)
    return (await ASK(self, "LOCK TABLE perdure.runs IN ACCESS EXCLUSIVE MODE", *questions, **how))[1:]


async def test_a_reader_with_a_horizon_is_caught(postgres, monkeypatch):
    monkeypatch.setattr(PostgresReads, "read_log", read_up_to_the_horizon)

    assert await broken(postgres) == ["open-transactions-hide-nothing", "transactions-elsewhere-hide-nothing"]


async def test_a_writer_that_locks_the_table_is_caught(postgres, monkeypatch):
    monkeypatch.setattr(Wire, "ask", lock_the_table)

    assert await broken(postgres) == ["open-transactions-hide-nothing"]


async def test_the_honest_one_is_not(postgres):
    assert PostgresBackend.read_log is READ_LOG
    assert await broken(postgres) == []


async def broken(postgres):
    """The names of the laws of strangers that are not kept."""
    with stores_of(postgres.url()) as stores:
        board = await run_checks(stores, only=["strangers"])
    return [score.law.name for score in board.failed]
