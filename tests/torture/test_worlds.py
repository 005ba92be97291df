"""The row of worlds can fail: a step that follows the order of a set is caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from torment.faults import worlds
from torment.row import Tally
from torment.stores import STORES, Kind


@pytest.mark.slow
@pytest.mark.parametrize("kind", STORES, ids=lambda kind: kind.name)
def test_the_order_of_a_set_is_caught(kind: Kind, tmp_path: Path) -> None:
    tally = Tally(10, 7, tmp_path)

    worlds.run(kind, tally, lies=True)

    assert "the snapshot at" in tally.listed[0]
