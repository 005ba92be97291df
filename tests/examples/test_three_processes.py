"""The example of three processes ends with its proof; and the proof can fail."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

import pytest
import trio


@pytest.fixture(scope="module")
def example(load):
    return load("examples/three_processes.py")


def test_killed_and_frozen_it_ends_equal(root):
    command = [sys.executable, str(root / "examples" / "three_processes.py"), "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert "is killed and started again" in done.stdout
    assert re.search(r"^equal: [\d,]+ events audited, \d+ balances, one total$", done.stdout, re.MULTILINE)


async def test_what_is_lost_or_seen_twice_is_told(example, tmp_path, capsys):
    async with example.open_runtime(f"lmdb:{tmp_path / 'store'}", example.APP) as rt:
        await rt.append("account-1", [example.Booked(5), example.Booked(7)])
        await rt.model(example.TOTAL).wait_for(await rt.head())
        await trio.sleep(0)
    (tmp_path / "writer-1").write_text("1\n2\n3\n")
    (tmp_path / "follower-1").write_text("1\n1\n")

    code = await example.prove(tmp_path, Counter(writer=1))

    assert code == 1
    said = capsys.readouterr().out
    assert "position 3 was acknowledged and is lost" in said
    assert "the audit saw something twice" in said
    assert "the audit missed something" in said
    assert "differ" not in said
