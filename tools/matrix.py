"""`make matrix`: the whole suite on every Python from 3.11 to 3.14 that this machine has, each in an environment of its own.

Looked for on the PATH and among the versions of pyenv; one that does not start (a shim without a version behind it) does not count.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MINORS = (11, 12, 13, 14)


def candidates(minor: int) -> list[str]:
    """Where a Python 3.*minor* may be, the likelier first."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    installed = sorted(pyenv.glob(f"versions/3.{minor}.*/bin/python"), key=lambda path: numbers(str(path)), reverse=True)
    on_path = [shutil.which(f"python3.{minor}"), shutil.which("python3"), sys.executable]
    return [path for path in (*on_path[:1], *map(str, installed), *on_path[1:]) if path]


def numbers(text: str) -> list[int]:
    """The numbers in *text*, so that 3.12.10 sorts above 3.12.9."""
    return [int(part) for part in re.findall(r"\d+", text)]


def can_make_environment(python: str, minor: int) -> bool:
    """Whether *python* starts, is a 3.*minor*, and can make a virtual environment."""
    question = f"import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, {minor}))"
    try:
        return subprocess.run([python, "-c", question], capture_output=True, check=False, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def find(minor: int) -> str | None:
    """A working Python 3.*minor*, or None."""
    return next((python for python in candidates(minor) if can_make_environment(python, minor)), None)


def run(minor: int, python: str, args: list[str]) -> str:
    """Run the suite there and say in a line how it went."""
    print(f"== Python 3.{minor}: {python}", flush=True)
    begun = time.monotonic()
    done = subprocess.run(
        ["make", "test", f"PYTHON={python}", f"VENV=build/matrix/3.{minor}", f"ARGS={shlex.join(args)}"],
        cwd=ROOT,
        check=False,
    )
    return f"{'passed' if done.returncode == 0 else 'FAILED'} in {time.monotonic() - begun:.0f} s"


def main(args: list[str]) -> int:
    """Run all, print a line for each, and return 1 if one failed or there was none."""
    found = {minor: find(minor) for minor in MINORS}
    answers = {minor: run(minor, python, args) if python else "not on this machine" for minor, python in found.items()}
    for minor, answer in answers.items():
        print(f"Python 3.{minor}: {answer}")
    return int(not any(found.values()) or any(answer.startswith("FAILED") for answer in answers.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
