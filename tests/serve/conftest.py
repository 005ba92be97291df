"""What holds for every test of the daemon: no token stands in any log."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from daemons import SECRET


@pytest.fixture(autouse=True)
def no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever is done, and however much is told of it."""
    caplog.set_level(logging.DEBUG, "perdure")
    yield
    assert SECRET.search(caplog.text) is None
