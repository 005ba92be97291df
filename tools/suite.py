"""The whole suite: what needs no quiet machine in several processes at once, then what does, beside little else.

`python tools/suite.py [pytest's options]`; with a path among them it is pytest alone.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ALONE = ("tests/processes", "tests/soak")
"""They freeze and time processes of their own, or ask for a rate: one after the other, in two processes."""
WORKERS = 4
"""Twice the cores of a small machine: a test mostly waits for a disk, a server or a clock."""


def main(options: Sequence[str]) -> int:
    """Run both parts, the second one also where the first has failed; the exit code of pytest."""
    if any(Path(option.partition("::")[0]).exists() for option in options):
        return run(options)
    together = run(["-n", str(WORKERS), "--dist", "worksteal", *(f"--ignore={folder}" for folder in ALONE), *options])
    if together not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        return together
    alone = run(["-n", str(len(ALONE)), "--dist", "loadgroup", *ALONE, *options])
    codes = {together, alone} - {int(pytest.ExitCode.NO_TESTS_COLLECTED)}
    return max(codes, default=int(pytest.ExitCode.NO_TESTS_COLLECTED))


def run(options: Sequence[str]) -> int:
    """One part."""
    return subprocess.run([Path(sys.executable).with_name("pytest"), *options], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
