"""What is printed: JSON and tables, in pipes and on terminals, and where it cannot be written."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
from datetime import UTC, datetime

import pytest
import trio

from commands import PERDURE, Done, finish, start
from perdure.runtime import NewEvent, open_runtime
from perdure.runtime.cli.exits import Exit
from perdure.runtime.cli.out import Columns, wrapped
from perdure.runtime.cli.values import as_json, plain, shown


def test_json_survives_a_terminal_without_unicode(cli, url):
    cli("append", url, "s-ü", "t", '"日本"')

    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    read, table = map(finish, [start("read", url, "s-ü", "--json", env=environment), start("read", url, "s-ü", env=environment)])

    assert (read.document["stream"], read.document["data"]) == ("s-ü", "日本")
    assert (table.code, table.err) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_an_output_that_cannot_be_written(filled):
    with open("/dev/full", "w") as full:
        done = finish(start("read", filled, "order-1", stdout=full))

    assert done.code == Exit.UNAVAILABLE
    assert done.err == "perdure: [Errno 28] No space left on device\n"


def test_output_that_was_closed_before(filled):
    line = shlex.join([*PERDURE, "read", filled, "order-1"])

    closed = subprocess.run(f"{line} >&-; echo $? >&2", shell=True, stderr=subprocess.PIPE, text=True, check=False)
    both = subprocess.run(f"{line} >&- 2>&-", shell=True, check=False)

    assert closed.stderr == "0\n"
    assert both.returncode == 0


def on_a_terminal(*arguments):
    """What stdout gets, and what a terminal that is stderr gets."""
    ours, theirs = pty.openpty()
    process = start(*arguments, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"})
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 65_536):
            seen += part
    except OSError:  # how a pty says that all is read
        pass
    finally:
        os.close(ours)
    with process:
        return Done(process.wait(timeout=20), process.stdout.read(), seen.decode())


def test_progress_shows_on_a_terminal_and_only_there(filled, cli):
    done = on_a_terminal("bench", "memory:", "--seconds", "0.05", "--json")

    assert len(done.documents) == 4
    assert "measuring" in done.err
    assert "4/4" in done.err
    assert cli("bench", "memory:", "--seconds", "0.05", "--json").err == ""


def test_bytes_and_times_in_json(cli, url):
    async def fill():
        async with open_runtime(url) as rt:
            data = {"raw": b"\0\xff", "when": datetime(2026, 3, 1, 12, tzinfo=UTC), "nan": float("nan"), 5: {"deep": [b"x"]}}
            await rt.append("s", [NewEvent(data, type="t", occurred=datetime(2013, 1, 1, tzinfo=UTC), meta={"raw": b"\1"})])

    trio.run(fill)
    event = cli("read", url, "s", "--json").document

    assert event["data"] == {"raw": "AP8=", "when": "2026-03-01T12:00:00Z", "nan": None, "5": {"deep": ["eA=="]}}
    assert (event["occurred"], event["meta"]) == ("2013-01-01T00:00:00Z", {"raw": "AQ=="})


def test_values_for_people():
    assert plain({(1, 2): float("inf"), None: {3}}) == {"[1, 2]": None, "null": [3]}
    assert as_json("é", ascii=True) == '"\\u00e9"'
    assert shown("a\u202eb\x9b") == "a\\u202eb\\x9b"


def test_the_last_column_is_wrapped_by_cells():
    assert wrapped("日本語" * 20, 30) == ["日本語" * 5, "日本語" * 5, "日本語" * 5, "日本語" * 5]
    assert wrapped("x" * 50, 10) == ["x" * 50]


def test_a_column_is_as_wide_as_what_it_has_held(capsys):
    columns = Columns("name", "n>", "text")
    columns.print([("日本", 1, "x")])
    columns.print([("longer name", 100, "y"), ("a", 2, "")])

    assert capsys.readouterr().out.splitlines() == ["name  n  text", "日本  1  x", "longer name  100  y", "a              2"]
