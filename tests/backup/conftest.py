"""The store that is backed up."""

from __future__ import annotations

import pytest

from copies import fill
from perdure.backends.conformance.law import Desk
from perdure.backends.memory import open_memory


@pytest.fixture
async def desk():
    desk = Desk(open_memory())
    await fill(desk)
    return desk
