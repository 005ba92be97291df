"""Every program and command in docs/retention.md runs as shown, one after the other."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys

import pytest


@pytest.fixture
def text(root):
    return (root / "docs" / "retention.md").read_text(encoding="utf-8")


def blocks(text):
    """Programs, and command lines with what they print, in order."""
    for language, body in re.findall(r"^```(python|console)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if language == "python":
            yield body.partition("\n")[0].removeprefix("# "), body
        else:
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                line, _, output = part.partition("\n")
                yield line, output


@pytest.mark.slow
def test_every_step_runs_as_shown(text, tmp_path):
    folder, bin = tmp_path / "folder", tmp_path / "bin"
    folder.mkdir()
    bin.mkdir()
    for name, arguments in (("perdure", "-m perdure.runtime "), ("python", "")):
        (bin / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
        (bin / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin}:{os.environ['PATH']}"}
    wrong = []

    for line, wanted in blocks(text):
        if line.endswith(".py") and " " not in line:
            (folder / line).write_text(wanted)
            continue
        done = subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, check=False, env=environment)
        shown = done.stdout + done.stderr + (f"[exit code {done.returncode}]\n" if done.returncode else "")
        if not doctest.OutputChecker().check_output(wanted, shown, doctest.ELLIPSIS):
            wrong.append(f"$ {line}\n{shown}")

    assert "\n".join(wrong) == ""
