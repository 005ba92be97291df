"""Every row of the torture table, at the rounds that fit into `make test`. `make torture` does far more of each."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from torment.row import Row, Tally
from torment.rows import all_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("row", all_rows(), ids=lambda row: f"{row.fault} on {row.store}".replace(" ", "-"))
def test_nothing_is_lost(row: Row, tmp_path: Path) -> None:
    tally = Tally(row.quick, random.randrange(1 << 32), tmp_path)

    row.run(tally)

    if tally.skipped:
        pytest.skip(tally.skipped)
    assert not tally.listed, f"seed {tally.seed}: {tally.listed}"
    assert tally.done >= tally.goal
