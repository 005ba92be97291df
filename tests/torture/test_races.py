"""The rows of races can fail: racers that tell old news are caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from torment.faults import races
from torment.races.race import What
from torment.row import Tally
from torment.stores import STORES, Kind

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.mark.parametrize("what", ["appends", "entries"])
@pytest.mark.parametrize("kind", STORES, ids=lambda kind: kind.name)
def test_old_news_is_caught(kind: Kind, what: What, tmp_path: Path) -> None:
    tally = Tally(3_000, 7, tmp_path)

    races.run(kind, what, tally, stale=True)

    assert "these answers have no order" in tally.listed[0]
    assert "shows what had been replaced before it began" in tally.listed[0]
