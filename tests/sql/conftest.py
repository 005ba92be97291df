"""A store in memory, and the databases that an SQL read model is tried in."""

from __future__ import annotations

import logging

import pytest

from bookkeeping import INLINE
from perdure.backends.memory import open_memory
from shops import PostgresShop, SqliteShop


@pytest.fixture(autouse=True)
def silent(caplog):
    caplog.set_level(logging.CRITICAL, "perdure")


@pytest.fixture
def backend():
    return open_memory(environment=INLINE)


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request, tmp_path):
    if request.param == "sqlite":
        return SqliteShop(tmp_path / "shop.sqlite")
    return PostgresShop(request.getfixturevalue("postgres"), request.getfixturevalue("database"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shop.sqlite"


@pytest.fixture
def file(path):
    return SqliteShop(path)
