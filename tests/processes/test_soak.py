"""The soak finds nothing in a short run, and says so also when it is stopped before its time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

SECONDS = 30


def command(root: Path, *options: str) -> list[str]:
    return [sys.executable, str(root / "tests/processes/soak.py"), *options]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_short_soak_breaks_no_law(root: Path) -> None:
    done = subprocess.run(command(root, "--seconds", str(SECONDS)), capture_output=True, text=True, timeout=80, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("violations: 0\n")
    assert re.search(r"^appends acknowledged: \d", done.stdout, re.MULTILINE)


async def test_ctrl_c_ends_it_with_the_verdict(root: Path) -> None:
    process = await trio.lowlevel.open_process(command(root, "--seed", "1"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    said = b""
    with trio.fail_after(60):
        while b"working" not in said:
            said += await process.stdout.receive_some()
        os.kill(process.pid, signal.SIGINT)
        async for more in process.stdout:
            said += more
        await process.wait()

    assert process.returncode == 0, said.decode()
    assert said.decode().endswith("violations: 0\n")
