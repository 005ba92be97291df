"""The pytest plugin: a failing simulation fails its test, says how to see it again, and that is so."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

TESTS = '''
import stock

def test_wrong(simulated):
    simulated(stock.app, stock.work, beside=stock.keep_levels, check=stock.check, seeds=50)

def test_right(simulated):
    assert simulated(stock.app_right, stock.work, check=stock.check_right, seeds=2).runs == 2
'''


@pytest.fixture
def run(tmp_path, root):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["perdure.runtime.testing.plugin"]\n')
    (tmp_path / "test_stock.py").write_text(TESTS)
    (tmp_path / "stock.py").write_text((root / "examples/stock.py").read_text())

    def pytest_of(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    return pytest_of


def test_a_failing_run_fails_its_test_and_can_be_seen_again(run):
    told = run()

    assert "1 failed, 1 passed" in told
    assert "breaks a law" in told
    found = re.search(r'See it again: pytest "(.*)" --simulate-replay "(.*)"', told)
    assert found is not None
    again = run(found[1], "--simulate-replay", found[2])
    assert "1 failed" in again
    assert "1 runs" in again


def test_the_command_line_says_how_many_seeds(run):
    told = run("-k", "right", "--simulate-seeds", "3")

    assert "assert 3 == 2" in told
