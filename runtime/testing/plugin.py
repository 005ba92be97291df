"""The pytest plugin, for who wants it: `pytest_plugins = ["perdure.runtime.testing.plugin"]` in the top conftest.py.

    def test_stock(simulated):
        simulated(app, work, check=check, seeds=200)

A run that breaks a law fails the test with the report of it. `--simulate-seeds 5000` tries so many in each such test, and
`--simulate-replay RUN` plays one run again, as a report names it: with `-k` or a test's name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from perdure.backends.errors import Misuse
from perdure.runtime.app import App
from perdure.runtime.simulation.report import Report
from perdure.runtime.simulation.run import Workload
from perdure.runtime.simulation.simulate import simulate

Simulated = Callable[..., Report]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    group = parser.getgroup("perdure")
    group.addoption("--simulate-seeds", type=int, default=None, metavar="N", help="seeds in each test that simulates, instead of its own number")
    group.addoption("--simulate-replay", default=None, metavar="RUN", help="play this run again, as a report names it, and no other")


@pytest.fixture
def simulated(request: pytest.FixtureRequest) -> Simulated:
    """`simulate` with the command line's options, which fails the test where the report is not ok."""
    seeds, replay = (request.config.getoption(name) for name in ("--simulate-seeds", "--simulate-replay"))

    def run(app: App, workload: Workload | None = None, **options: Any) -> Report:
        if seeds is not None:
            options["seeds"] = seeds
        try:
            report = simulate(app, workload, **{**options, "replay": replay or options.get("replay")})
        except Misuse as error:
            if replay is None:
                raise
            raise pytest.UsageError(str(error)) from error
        if report.shortest is not None:
            again = f'pytest "{request.node.nodeid}" --simulate-replay "{report.shortest.plan}"'
            pytest.fail(f"{report}\n\nSee it again: {again}", pytrace=False)
        return report

    return run
