"""The README's program is short, runs, and prints what the README shows."""

import re
import subprocess
import sys
from pathlib import Path

PROGRAM_LINES_MAX = 25


def _blocks(root: Path) -> tuple[str, str]:
    text = (root / "README.md").read_text()
    found = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", text, re.DOTALL)
    assert found is not None, "the README has a program and, below it, its output"
    return found[1], found[2]


def test_the_program_is_under_25_lines(root: Path) -> None:
    program, _ = _blocks(root)

    assert len(program.splitlines()) < PROGRAM_LINES_MAX


def test_the_program_prints_what_is_shown(root: Path, tmp_path: Path) -> None:
    program, shown = _blocks(root)

    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert (done.stdout, done.stderr) == (shown, "")
