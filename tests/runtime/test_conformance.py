"""The runtime keeps its laws over the backends that come with perdure; liars below are found out."""

from __future__ import annotations

import subprocess
import sys

import pytest

from perdure.backends.conformance import stores_of
from perdure.backends.environment import InlineThreads
from perdure.runtime.conformance import CHECKS, run_checks

PARTS = tuple(dict.fromkeys(law.part for law in CHECKS))


def complaints(board):
    return [f"{score.law.name}: {score.broken}" for score in board.failed]


@pytest.mark.parametrize("part", PARTS)
async def test_memory_keeps_the_laws(part, autojump_clock):
    with stores_of("memory:", threads=InlineThreads()) as stores:
        assert complaints(await run_checks(stores, only=[part])) == []


@pytest.mark.parametrize("part", PARTS)
async def test_lmdb_keeps_the_laws(part, tmp_path, autojump_clock):
    with stores_of(f"lmdb:{tmp_path}", threads=InlineThreads()) as stores:
        assert complaints(await run_checks(stores, only=[part])) == []


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("url", ["file:{}", "lmdb:{}?log=segments"])
async def test_a_commit_log_keeps_the_laws(part, url, tmp_path):
    with stores_of(url.format(tmp_path)) as stores:
        assert complaints(await run_checks(stores, only=[part])) == []


@pytest.mark.parametrize("part", PARTS)
async def test_postgresql_keeps_the_laws(part, postgres):
    with stores_of(postgres.url()) as stores:
        assert complaints(await run_checks(stores, only=[part])) == []


def test_laws_have_names_of_their_own():
    assert len({law.name for law in CHECKS}) == len(CHECKS) and len({law.sentence for law in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize(
    ("liar", "law"),
    [
        ("swallowed conflict", "conflicts-are-values"),
        ("unordered pages", "the-log-is-the-truth"),
        ("a key answered for other content", "a-key-gives-its-first-answer"),
    ],
)
async def test_a_liar_below_is_caught(liar, law, load, autojump_clock):
    liars = load("tests/backends/liars")
    make, _ = liars.LIARS[liar]

    board = await run_checks(liars.LiarStores(make), only=[law])

    assert [score.law.name for score in board.failed] == [law]


@pytest.mark.parametrize("law", ["others-write-in-between", "others-may-write"])
async def test_a_ring_without_links_is_caught(law, load, autojump_clock, monkeypatch):
    liars = load("tests/backends/shared_liars.py")
    monkeypatch.setattr("perdure.runtime.open.Ring", liars.RingWithoutLinks)

    board = await run_checks(liars.SharedStores(liars.Honest), only=[law])

    assert [score.law.name for score in board.failed] == [law]


@pytest.mark.parametrize(
    ("liar", "law"),
    [
        ("a cache that is trusted though another process wrote", "decisions-are-made-on-what-others-wrote"),
        ("no wake-up for other processes", "others-changes-are-watched"),
        ("a doubt answered with absent", "every-caller-gets-the-true-answer"),
        ("a doubt answered with there", "every-caller-gets-the-true-answer"),
        ("a reopening that keeps its caches", "every-caller-gets-the-true-answer"),
    ],
)
async def test_a_liar_about_others_or_doubt_is_caught(liar, law, load, autojump_clock):
    liars = load("tests/backends/shared_liars.py")
    make, _ = liars.LIARS[liar]

    board = await run_checks(liars.SharedStores(make), only=[law])

    assert [score.law.name for score in board.failed] == [law]


async def test_what_those_are_made_of_keeps_the_laws(load, autojump_clock):
    liars = load("tests/backends/shared_liars.py")

    assert complaints(await run_checks(liars.SharedStores(liars.Honest))) == []


def test_the_kit_imports_no_pytest():
    code = "import sys, perdure.runtime.conformance; sys.exit(any(name.partition('.')[0] in ('pytest', '_pytest', 'hypothesis') for name in sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_runs_both_boards_over_one_set_of_stores():
    """Laws of the second board hold also after those of the first have moved the stores' clock."""
    done = subprocess.run([sys.executable, "-m", "perdure.runtime", "conformance", "memory:"], capture_output=True, text=True, timeout=100, check=False)

    assert done.stdout.splitlines()[-1].endswith(" passed, 0 failed"), done.stdout
    assert done.returncode == 0
