"""The program in docs/blobs.md runs, and prints what is shown."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_the_program_prints_what_is_shown(root: Path, tmp_path: Path):
    found = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", (root / "docs" / "blobs.md").read_text(), re.DOTALL)
    assert found is not None

    done = subprocess.run([sys.executable, "-c", found[1]], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert (done.stdout, done.stderr) == (found[2], "")
