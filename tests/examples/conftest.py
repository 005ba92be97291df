"""What the tests of the six consumers share: fresh stores of three kinds, a clock of their own, and processes that are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from perdure.runtime import App, Environment, InlineThreads, Runtime, open_backend, open_runtime

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
BEGAN_S = 1_700_000_000.0


class Store:
    """One fresh store, opened as often as a test likes, and what time it is there."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._kept: Any = None
        self._passed_s = 0.0
        self._began_s = trio.current_time()

    def now(self) -> float:
        """Seconds since the epoch: Trio's clock, and what has been let pass."""
        return BEGAN_S + self._passed_s + trio.current_time() - self._began_s

    def let_pass(self, seconds: float) -> None:
        """It is later."""
        self._passed_s += seconds

    @property
    def environment(self) -> Environment:
        """The clock, and no threads."""
        return Environment(clock=lambda: round(self.now() * 1e6), elapsed=self.now, threads=InlineThreads())

    @asynccontextmanager
    async def open(self, app: App | None = None) -> AsyncIterator[Runtime]:
        """A runtime on it. What is in memory stays for the next one."""
        async with open_runtime(self._kept or self._url, app, environment=self.environment) as rt:
            yield rt

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Store]:
        """What is in memory lives so long."""
        if self._url != "memory:":
            yield self
            return
        async with open_backend(self._url, environment=self.environment) as self._kept:
            yield self


class Stores:
    """Stores of one kind. Time is virtual where nothing outside of the loop is waited for."""

    def __init__(self, kind: str, new: Callable[[], str]) -> None:
        self.kind = kind
        self._new = new

    @property
    def virtual(self) -> bool:
        """Whether to sleep costs nothing."""
        return self.kind != "postgresql"

    @property
    def examples(self) -> int:
        """How many a property is tried on."""
        return {"memory": 60, "lmdb": 15, "postgresql": 5}[self.kind]

    def run(self, main: Callable[[Store], Any]) -> Any:
        """Run *main* in a loop of its own, with a fresh store."""

        async def with_store() -> Any:
            async with Store(self._new()).held() as store:
                return await main(store)

        return trio.run(with_store, clock=MockClock(autojump_threshold=0) if self.virtual else None)


@pytest.fixture(scope="module", params=["memory", "lmdb", "postgresql"])
def stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """Fresh stores in memory, in LMDB, in PostgreSQL."""
    match request.param:
        case "memory":
            return Stores("memory", lambda: "memory:")
        case "lmdb":
            return Stores("lmdb", lambda: f"lmdb:{tmp_path_factory.mktemp('stores') / 'store'}")
        case _:
            postgres = request.getfixturevalue("postgres")
            return Stores("postgresql", postgres.new_database)


# -- killed ----------------------------------------------------------------------------------


@pytest.fixture
def survives(tmp_path: Path, load: Callable[[str], ModuleType]) -> Callable[[str], None]:
    """`survives(__file__)`: the `work` of a test module on LMDB, in processes that are killed; each next state holds its `check`."""
    return lambda file: _survive(load("tests/examples/consumer.py").judge, file, f"lmdb:{tmp_path / 'store'}", seed=7)


def _survive(judge: Callable[[str, str, int], Any], file: str, url: str, seed: int, lives: int = 4) -> None:
    draw, told = Random(seed), 0
    for life in range(lives):
        told = max(told, _live_and_die(file, url, f"{seed}.{life}", draw.random() * 0.3))
        trio.run(judge, file, url, told)
    assert told


def _live_and_die(file: str, url: str, seed: str, rest_s: float) -> int:
    """Kill it while it works; the head that it told of last."""
    path = os.pathsep.join([str(EXAMPLES), *filter(None, sys.path)])
    command = [sys.executable, str(HERE / "consumer.py"), file, url, seed]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(rest_s)
        process.kill()
        lines = [first, *process.stdout]
    return int([line for line in lines if line.endswith("\n")][-1])
