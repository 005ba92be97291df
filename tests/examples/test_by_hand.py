"""The six consumers do by hand what their page shows, and say what they can do."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PAGE = (EXAMPLES / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SIX = ("acl", "feed", "flow", "mod_audit", "search_index", "sessions")


def by_hand(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `python examples/NAME.py ...` in *folder*."""
    _, script, *words = shlex.split(line)
    command = [sys.executable, str(EXAMPLES.parent / script), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONUTF8": "1"})


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: re.findall(r"examples/(\w+)", block)[0])
def test_the_page_shows_what_is_said(block, tmp_path):
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, _, shown = part.partition("\n")

        done = by_hand(line, tmp_path)

        assert doctest.OutputChecker().check_output(shown, done.stdout + done.stderr, doctest.ELLIPSIS), f"$ {line}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("name", SIX)
def test_words_that_say_nothing_are_answered_by_the_usage(name, tmp_path):
    done = by_hand(f"python examples/{name}.py memory: nonsense", tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert f"python examples/{name}.py" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", SIX)
def test_the_usage_is_there_for_who_asks_and_for_who_says_nothing(name, tmp_path):
    asked, silent = by_hand(f"python examples/{name}.py --help", tmp_path), by_hand(f"python examples/{name}.py", tmp_path)

    assert (asked.returncode, asked.stderr, silent.returncode, silent.stdout) == (0, "", 2, "")
    assert asked.stdout == silent.stderr and f"python examples/{name}.py demo" in asked.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("name", SIX)
def test_a_pipe_that_is_closed_ends_it_quietly(name, unbuffered, tmp_path):
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "wb") as closed:
        command, environment = [sys.executable, str(EXAMPLES / f"{name}.py"), "demo"], {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(command, cwd=tmp_path, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60, check=False, env=environment)

    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("acl s grant staff editor plans 99999999999", "DAYS is a number from 0 to 36,500, not '99999999999'"),
        ("acl s join a b xx", "DAYS is a number from 0 to 36,500, not 'xx'"),
        ("acl s check a editor b 99999999999999", "DAYS is a number from 0 to 36,500, not '99999999999999'"),
        ("acl s check a editor b nan", "DAYS is a number from 0 to 36,500, not 'nan'"),
        ("acl s check a god b", "ROLE is one of viewer, editor, owner, not 'god'"),
        ("acl '' join a b", "space '' is empty: give it a name of 1 to 120 bytes"),
        ("mod_audit report '' '' ''", "item '' is empty: give it a name of 1 to 250 bytes"),
        ("mod_audit decide a b burn it", "ACTION is one of keep, hide, remove, not 'burn'"),
        ("mod_audit correct a xx b keep it", "NUMBER is a whole number from 1, not 'xx'"),
        ("mod_audit standing a yesterday", "TIME is written as 2026-03-31 or 2026-03-31T18:00:00, not 'yesterday'"),
        ("mod_audit standing a 0001-01-01", "TIME is written as 2026-03-31 or 2026-03-31T18:00:00, not '0001-01-01'"),
        ("mod_audit seal -1", "POSITION is a whole number from 0, not '-1'"),
        ("feed post '' hi", "author '' is empty: give it a name of 1 to 64 bytes"),
        ("flow start ''", "id '' is empty: give it a name of 1 to 250 bytes"),
        (
            "search_index write a b @nowhere",
            "TEXT is text, or @ and the name of a file in UTF-8, not '@nowhere': [Errno 2] No such file",
        ),
        ("sessions list ''", "user '' is empty: give it a name of 1 to 120 bytes"),
    ],
)
def test_what_is_written_wrongly_is_named(words, said, tmp_path):
    name, _, words = words.partition(" ")

    done = by_hand(f"python examples/{name}.py memory: {words}", tmp_path)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


def test_what_cannot_be_done_is_one_line(tmp_path):
    done = by_hand("python examples/feed.py nowhere show ada", tmp_path)

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "is no URL of a store" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        "acl memory: s check a viewer b",
        "sessions memory: check x",
        "feed memory: follow ada ada",
        "flow memory: tell nope paid 5",
        "mod_audit memory: seal 999",
    ],
)
def test_a_no_is_told_by_the_exit_code(words, tmp_path):
    name, _, words = words.partition(" ")

    assert by_hand(f"python examples/{name}.py {words}", tmp_path).returncode == 1


def test_every_example_is_on_the_page():
    modules = {path.name for path in EXAMPLES.glob("*.py")} - {"by_hand.py"}

    missing = {name for name in modules if f"]({name})" not in PAGE}
    assert missing <= {name for name in modules if name.startswith("flights_")}
