"""Through every fault of connections and servers nothing acknowledged is lost, nothing is there twice, and all goes on by itself."""

from __future__ import annotations

import pytest

from perdure.backends.postgres.backend import PostgresBackend
from perdure.backends.postgres.belief import Belief
from perdure.backends.postgres.reads import PostgresReads
from pgfaults import cycles
from pgfaults.cycles import KILL, run_cycles
from pgfaults.proxy import Fault


@pytest.mark.slow
async def test_twelve_faults_lose_nothing_and_double_nothing(own_postgres):
    verdict = await run_cycles(own_postgres, 12, seed=12)

    assert verdict.problems == []
    assert set(verdict.cycles) == {*Fault, KILL}
    assert verdict.acknowledged > 100


# -- liars -----------------------------------------------------------------------------------


async def doubles(server):
    """Whether an event comes to be stored twice. A fault meets whatever is committed next, which may be no event: so it is tried again."""
    for seed in range(1, 11):
        verdict = await run_cycles(server, 2, seed=seed)
        if any("more than once" in problem for problem in verdict.problems):
            return True
    return False


async def test_a_store_that_guesses_what_became_of_a_doubt_is_caught(own_postgres, monkeypatch):
    async def guess(self, ids, after):
        return {}

    monkeypatch.setattr(PostgresReads, "answers", guess)
    monkeypatch.setattr(cycles, "FAULTS", [Fault.AFTER])

    assert await doubles(own_postgres)


async def test_a_store_that_does_not_wait_for_the_end_of_the_other_transaction_is_caught(own_postgres, monkeypatch):
    async def look_at_once(self):
        self._doubts, self._away = [], False
        self._writer.close()

    monkeypatch.setattr(PostgresBackend, "_resolve", look_at_once)
    monkeypatch.setattr(Belief, "takes_the_lock", lambda self: True)  # a statement that comes late by itself finds its seqs taken
    monkeypatch.setattr(cycles, "FAULTS", [Fault.LATE])

    assert await doubles(own_postgres)

