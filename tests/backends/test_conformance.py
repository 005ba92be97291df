"""The backends that come with perdure keep every law; the kit says so in a scoreboard, and finds what is broken."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from perdure.backends.conformance import CHECKS, Broken, Law, Score, run_checks, stores_of
from perdure.backends.conformance.law import LAW_S, Part, same
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Misuse, Unsupported
from perdure.backends.faulty import FaultyBackend
from perdure.backends.memory import open_memory
from perdure.backends.protocol import Capabilities

INLINE = Environment(threads=InlineThreads())
"""For virtual time, which does not wait for real threads."""
PARTS = tuple(dict.fromkeys(law.part for law in CHECKS))


def complaints(board):
    """What is broken, without what is not."""
    return [f"{score.law.name}: {score.broken}" for score in board.failed]


@pytest.mark.parametrize("part", PARTS)
async def test_memory_keeps_the_laws(part, autojump_clock):
    with stores_of("memory:", threads=InlineThreads()) as stores:
        board = await run_checks(stores, only=[part])

    assert complaints(board) == []


@pytest.mark.parametrize("part", PARTS)
async def test_lmdb_keeps_the_laws(part, tmp_path):
    with stores_of(f"lmdb:{tmp_path}") as stores:
        board = await run_checks(stores, only=[part])

    assert complaints(board) == []
    assert {score.missing for score in board.scores} <= {None, "hold_open", "hold_elsewhere", "hold_flush"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("url", ["file:{}", "lmdb:{}?log=segments"])
async def test_a_commit_log_keeps_the_laws(part, url, tmp_path):
    with stores_of(url.format(tmp_path)) as stores:
        board = await run_checks(stores, only=[part])

    assert complaints(board) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", PARTS)
async def test_postgresql_keeps_the_laws(part, postgres):
    with stores_of(postgres.url()) as stores:
        board = await run_checks(stores, only=[part])

    assert complaints(board) == []
    assert not [score.law.name for score in board.scores if score.missing not in (None, "open_small")]
    assert board.undeclared == ("images",)
    assert not postgres.run("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'perdure_law_%'")


@pytest.mark.parametrize("url", ["lmdb:{}?flush=thread", "file:{}?flush=thread"])
async def test_the_laws_are_kept_with_flushes_in_a_thread(url, tmp_path):
    with stores_of(url.format(tmp_path)) as stores:
        board = await run_checks(stores)

    assert complaints(board) == []


async def test_the_faulty_wrapper_without_faults_keeps_the_laws(autojump_clock):
    class Stores:
        @asynccontextmanager
        async def open(self, name):
            backend = FaultyBackend(open_memory(environment=INLINE))
            yield backend
            await backend.aclose()

    board = await run_checks(Stores())

    assert complaints(board) == []


def test_a_backend_written_elsewhere_keeps_the_laws(load, capsys):
    example = load("examples/own_backend.py")

    assert trio.run(example.main, ["commits", "kv", "pages", "loading", "images"], clock=trio.testing.MockClock(autojump_threshold=0)) == 0

    assert re.search(r"\n\d+ passed, 0 failed$", capsys.readouterr().out.rstrip())


# -- the board -------------------------------------------------------------------------------


PART = Part("sums")


@PART.law("One and one is two.")
async def one_and_one(stores):
    same(1 + 1, 2, "the sum")


@PART.law("One and two is four.")
async def one_and_two(stores):
    same(1 + 2, 4, "the sum")


@PART.law("A law that raises is broken.")
async def raises(stores):
    raise KeyError("x")


@PART.law("A law that hangs is broken.")
async def hangs(stores):
    await trio.sleep_forever()


@PART.law("A law that fails in a task is broken.")
async def in_a_task(stores):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one_and_two, stores)
        nursery.start_soon(trio.sleep_forever)


@PART.law("What nobody has is left out.", needs=["magic"])
async def magic(stores):
    raise AssertionError


async def test_the_board_shows_every_sentence(autojump_clock):
    with stores_of("memory:", threads=InlineThreads()) as stores:
        board = await run_checks(stores, PART.laws)

    lines = board.render().splitlines()
    assert lines[0] == "sums: 1 of 5"
    assert lines[1] == "  pass  One and one is two."
    assert lines[2:4] == ["  FAIL  One and two is four.", "        one-and-two: the sum is 3, not 4"]
    assert "        raises: KeyError: 'x'" in lines[5]
    assert lines[7] == f"        hangs: not done within {LAW_S:g} s"
    assert lines[9] == "        in-a-task: the sum is 3, not 4"
    assert lines[10:12] == ["  ----  What nobody has is left out.", "        magic: left out, these stores have no magic()"]
    assert lines[-3:] == [
        "undeclared capabilities: durable, shared_reads, shared_writes",
        "1 left out, for want of what only some stores can do",
        "1 passed, 4 failed",
    ]


async def test_a_broken_law_names_itself(autojump_clock):
    law = PART.laws[1]

    with pytest.raises(Broken) as caught, stores_of("memory:", threads=InlineThreads()) as stores:
        await law.check(stores)

    assert (caught.value.law, caught.value.what) == ("one-and-two", "the sum is 3, not 4")
    assert isinstance(law, Law)


async def test_only_what_is_named_is_run_and_progress_is_told(autojump_clock):
    told: list[Score] = []

    with stores_of("memory:", threads=InlineThreads()) as stores:
        board = await run_checks(stores, only=["a-store-has-an-id", "conflicts"], progress=told.append)

    assert {score.law.part for score in board.scores} == {"commits", "conflicts"}
    assert list(board.scores) == told


async def test_what_has_no_views_must_say_so(autojump_clock):
    """Both ways: undeclared means a typed error."""

    class NoViews(FaultyBackend):
        error: Exception = Unsupported("views", "this")

        @property
        def capabilities(self):
            return Capabilities(views=False)

        def view(self):
            raise self.error

    class Stores:
        @asynccontextmanager
        async def open(self, name):
            yield NoViews(open_memory(environment=INLINE))

    honest = await run_checks(Stores(), only=["views"])
    NoViews.error = NotImplementedError()
    rude = await run_checks(Stores(), only=["views"])

    assert complaints(honest) == []
    assert [score.law.name for score in rude.failed] == ["undeclared-views-are-unsupported"]
    assert honest.undeclared == ("durable", "views", "shared_reads", "shared_writes", "loads", "images", "moves")


def test_stores_are_of_what_comes_with_perdure(tmp_path):
    with pytest.raises(Misuse), stores_of("jetstream:x"):
        pass
    with pytest.raises(Misuse), stores_of(f"lmdb:{tmp_path}/no/such"):
        pass


def test_the_kit_imports_no_pytest():
    code = "import sys, perdure.backends.conformance; sys.exit(any(name.partition('.')[0] in ('pytest', '_pytest', 'hypothesis') for name in sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
