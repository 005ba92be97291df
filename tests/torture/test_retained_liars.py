"""The row of retention can fail: what loses events, or passes who holds them, is found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from torment.faults import retained
from torment.row import Tally
from torment.stores import STORES

pytestmark = [pytest.mark.timeout(120)]


@pytest.mark.parametrize(("lies", "told"), [("loses", "cannot be read: Truncated"), ("passes", "was cut up to position")])
def test_a_liar_is_caught(tmp_path: Path, lies: str, told: str) -> None:
    tally = Tally(30, 5, tmp_path)

    retained.run(STORES[0], tally, lies=lies)

    assert any(told in text for text in tally.listed), tally.listed
