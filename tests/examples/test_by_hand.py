"""The six consumers do by hand what their page shows, and say what they can do."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PAGE = (EXAMPLES / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SIX = ("acl", "feed", "flow", "mod_audit", "search_index", "sessions")


def by_hand(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `python examples/NAME.py ...` in *folder*."""
    _, script, *words = shlex.split(line)
    command = [sys.executable, str(EXAMPLES.parent / script), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONUTF8": "1"})


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: re.findall(r"examples/(\w+)", block)[0])
def test_the_page_shows_what_is_said(block, tmp_path):
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, _, shown = part.partition("\n")

        done = by_hand(line, tmp_path)

        assert doctest.OutputChecker().check_output(shown, done.stdout + done.stderr, doctest.ELLIPSIS), f"$ {line}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("name", SIX)
def test_words_that_say_nothing_are_answered_by_the_usage(name, tmp_path):
    done = by_hand(f"python examples/{name}.py memory: nonsense", tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert f"python examples/{name}.py" in done.stderr and "Traceback" not in done.stderr


def test_what_cannot_be_done_is_one_line(tmp_path):
    done = by_hand("python examples/feed.py nowhere show ada", tmp_path)

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "is no URL of a store" in done.stderr


def test_every_example_is_on_the_page():
    modules = {path.name for path in EXAMPLES.glob("*.py")} - {"by_hand.py"}

    missing = {name for name in modules if f"]({name})" not in PAGE}
    assert missing <= {name for name in modules if name.startswith("flights_")}
