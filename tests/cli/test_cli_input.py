"""What the command line is given: JSON, files, standard input, and signals while it waits for that."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from contextlib import ExitStack

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from commands import finish, start
from perdure.backends.errors import Misuse
from perdure.runtime.cli import stdin
from perdure.runtime.cli.apps import load_app
from perdure.runtime.cli.exits import AppFailed
from perdure.runtime.cli.values import from_json

WITHIN_S = 30


class Given:
    """Pieces, one after the other."""

    def __init__(self, pieces):
        self._pieces = iter(pieces)

    def __aiter__(self):
        return self

    async def __anext__(self):
        try:
            return next(self._pieces)
        except StopIteration:
            raise StopAsyncIteration from None


# -- JSON ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("text", "quotes of its own"),
        ("", "quotes of its own"),
        ("NaN", "no number of JSON"),
        ("[1, -1e999]", "-1e999 is beyond the largest number"),
        ('"\\ud800"', "half of a surrogate pair"),
        ('{"\\udfff": 1}', "half of a surrogate pair"),
        ("\ufeff1", "byte order mark"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a": 1, "a": 2}', "twice"),
    ],
)
def test_what_nobody_could_keep_is_refused(text, told):
    with pytest.raises(Misuse, match=told):
        from_json(text, "the data")


def test_quotes_are_advised_only_where_they_would_help():
    with pytest.raises(Misuse) as caught:
        from_json('{"a": 1,}', "the data")

    assert "quotes of its own" not in str(caught.value)


# -- files and standard input ----------------------------------------------------------------


@given(st.lists(st.text("ab\n", max_size=9).map(str.encode).filter(len)))
def test_lines_are_those_of_the_whole_however_it_is_cut(given):
    async def gather():
        return [line async for some in stdin.Lines(Given(given)) for line in some]

    whole = b"".join(given).split(b"\n")
    assert trio.run(gather) == (whole if whole[-1] else whole[:-1])


async def test_a_line_without_an_end_is_refused():
    with pytest.raises(Misuse, match="it is no export"):
        async for _ in stdin.Lines(Given(itertools.repeat(bytes(stdin.PIECE_BYTES)))):
            pass


async def test_a_pipe_that_does_not_wait_is_waited_for():
    receive, send = os.pipe()
    os.set_blocking(receive, False)
    with open(receive, "rb", buffering=0) as file:
        found = stdin.Pieces(file)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _():
                await trio.testing.wait_all_tasks_blocked(0.05)
                os.write(send, b"late")
                os.close(send)

            assert [piece async for piece in found] == [b"late"]


def test_a_file_that_is_not_there_is_told():
    with ExitStack() as stack, pytest.raises(Misuse, match="cannot be read"):
        stdin.opened("/absent/file", stack)


@pytest.mark.parametrize(
    ("arguments", "begun"), [(("import", "lmdb:copy", "-"), "copy/data.mdb"), (("blob", "put", "directory:blobs", "-"), "blobs/incoming")]
)
def test_ctrl_c_ends_what_waits_for_standard_input(tmp_path, arguments, begun):
    with start(*arguments, cwd=tmp_path, stdin=subprocess.PIPE) as process:
        until = time.monotonic() + WITHIN_S
        while not (tmp_path / begun).exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(0.3)  # so that it waits for its input
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(WITHIN_S)
        finally:
            process.kill()
        assert (code, process.stderr.read()) == (130, "")
    assert list(tmp_path.glob("blobs/incoming/*")) == []


# -- an output that nobody reads, an app that ends the program -------------------------------


@pytest.mark.parametrize("arguments", [("--help",), ("read", "--help")])
def test_help_that_nobody_reads_any_more_ends_quietly(arguments):
    receive, send = os.pipe()
    os.close(receive)
    with open(send, "wb") as out:
        process = start(*arguments, stdout=out)

    done = finish(process)
    assert (done.code, done.err) == (141, "")


def test_an_app_that_ends_the_program_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ends_at_import.py").write_text("import sys\nsys.exit(3)\n")

    with pytest.raises(AppFailed, match=r"ends the program, by sys.exit\(3\)"):
        load_app("ends_at_import:app")


def test_a_folder_is_no_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "only_a_folder").mkdir()

    with pytest.raises(Misuse, match="only a folder of that name"):
        load_app("only_a_folder:app")
