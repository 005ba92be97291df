"""Commands beside other processes: who may write, who reads on, and what a signal or a closed pipe ends."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import trio

from commands import finish, start
from perdure.backends.lmdb.files import FileLock
from perdure.runtime import NewEvent, open_runtime
from perdure.runtime.cli.exits import Exit


def test_a_second_writer_takes_its_turn(writer, url):
    done = finish(start("append", url, "s", "t", "1"))

    assert (done.code, done.err) == (0, "")


def test_a_writer_that_keeps_the_others_out_is_named(filled, cli):
    gate = FileLock(Path(filled.removeprefix("lmdb:")) / "gate.lock")
    assert gate.take()
    gate.write_pid()

    done = cli("append", filled, "s", "t", "1")
    gate.close()

    assert (done.code, done.out) == (Exit.UNAVAILABLE, "")
    assert f"process {os.getpid()} has the right to write to " in done.err


def test_reading_goes_on_while_another_process_writes(writer, url, cli):
    read = cli("read", url, "held-1", "--json", "--limit", 1)
    tail = cli("tail", url, "--limit", 3, "--json")

    assert read.document["data"] == {"n": 0}
    assert [one["seq"] - tail.documents[0]["seq"] for one in tail.documents] == [0, 1, 2]
    assert cli("streams", url, "--json").document["stream"] == "held-1"
    assert cli("stats", url, "--json").document["head"] > 0
    assert cli("verify", url).code == 0
    assert cli("kv", "scan", url, "b").code == 0


def test_a_reader_leaves_the_right_to_write_to_others(filled, cli):
    """A follower runs no upkeep: it would take the writer's lock and keep it."""
    tail = start("tail", filled, "--after", 0, "--json")
    first = tail.stdout.readline()
    try:
        done = cli("append", filled, "s", "t", "1")
    finally:
        tail.send_signal(signal.SIGINT)
        tail.communicate(timeout=20)

    assert json.loads(first)["position"] == 1
    assert done.code == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, Exit.INTERRUPTED), (signal.SIGTERM, Exit.TERMINATED)])
def test_a_signal_ends_quietly_and_leaves_the_store_clean(filled, tmp_path, number, code):
    tail = start("tail", filled, "--after", 0, "--json")
    tail.stdout.readline()

    tail.send_signal(number)
    done = finish(tail)

    assert (done.code, done.err) == (code, "")
    assert (tmp_path / "store" / "clean").exists()


def test_a_closed_pipe_ends_quietly_and_leaves_the_store_clean(url, tmp_path):
    async def fill():
        async with open_runtime(url) as rt:
            await rt.append("s", [NewEvent("x" * 200, type="t") for _ in range(2_000)])

    trio.run(fill)
    read = start("read", url, "s", "--json")
    read.stdout.readline()

    read.stdout.close()

    assert read.stderr.read() == ""
    assert read.wait(timeout=20) == Exit.PIPE_CLOSED
    read.stderr.close()
    assert (tmp_path / "store" / "clean").exists()
