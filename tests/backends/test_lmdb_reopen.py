"""Bringing an LMDB store back whose folder is away for a while."""

from __future__ import annotations

import pytest

from perdure.backends.conformance.law import Desk, appending, now_us
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import InDoubt, Unavailable
from perdure.backends.lmdb.faulty import faulty_lmdb
from perdure.backends.protocol import State
from perdure.backends.urls import open_backend


async def test_a_folder_that_is_away_is_unavailable_and_tried_again(tmp_path):
    with faulty_lmdb(tmp_path) as faults:
        async with open_backend(f"lmdb:{tmp_path / 'store'}", environment=Environment(threads=InlineThreads())) as backend:
            faults.fail_commit(stored=True)
            with pytest.raises(InDoubt):
                await Desk(backend).ask(appending("a"), at_us=now_us())

            (tmp_path / "store").rename(tmp_path / "away")
            with pytest.raises(Unavailable):
                await backend.reopen()
            assert backend.state is State.DOUBTFUL
            (tmp_path / "away").rename(tmp_path / "store")
            await backend.reopen()

            assert await backend.head() == 1
