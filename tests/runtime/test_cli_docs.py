"""docs/cli.md names every command, option and exit code, and every example in it runs as shown."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from perdure.runtime.__main__ import main
from perdure.runtime.cli.app import app
from perdure.runtime.cli.exits import MEANING

DOC = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
TEXT = DOC.read_text(encoding="utf-8")
PROGRAMS = {"perdure": "perdure.runtime", "python": ""}


@attrs.frozen
class Example:
    """A line after `$ `, and what stands below it."""

    line: str
    output: str


def blocks(language):
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def examples():
    """All examples, in order."""
    found = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, output = part.partition("\n")
            found.append(Example(line, output))
    return found


def sections():
    """The text below each heading."""
    parts = re.split(r"^##+ (.*)$", TEXT, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands(group=app, *path):
    """Every command with its path."""
    for name in group:
        if name.startswith("-"):
            continue
        below = group[name]
        if below.default_command is None:
            yield from commands(below, *path, name)
        else:
            yield " ".join(("perdure", *path, name)), below


def options(command):
    """The names of a command's options."""
    return [name for argument in command.assemble_argument_collection() for name in argument.names if name.startswith("--")]


# -- what it names ---------------------------------------------------------------------------


def test_there_are_commands():
    assert len(list(commands())) == 31


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_every_command_is_documented(name, command):
    section = sections()[name]

    assert any(f"`{name} {first}" in section for first in ("URL", "DIR", "APP", "BLOBS", "SOURCE"))
    assert f"$ {name} " in section or f"| {name} " in section


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_every_option_is_documented(name, command):
    section = sections()[name]

    assert "--json" in options(command)
    assert [option for option in options(command) if option not in section] == []


@pytest.mark.parametrize("code", MEANING)
def test_every_exit_code_is_documented(code, capsys):
    main(["--help"])

    assert f"| {code.value} | {MEANING[code]} |" in TEXT
    assert re.search(rf"^ *{code.value}  {re.escape(MEANING[code])}$", capsys.readouterr().out, re.MULTILINE)


# -- what it shows ---------------------------------------------------------------------------


def told(code, out, err):
    """What a terminal would show, and the exit code."""
    return out + err + (f"[exit code {code}]\n" if code else "")


def in_shell(line, folder):
    """Run *line* in a shell, where the interpreter and the command are those of this run."""
    bin = folder.parent / "bin"
    bin.mkdir(exist_ok=True)
    for name, module in PROGRAMS.items():
        (bin / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {f"-m {module}" if module else ""} "$@"\n')
        (bin / name).chmod(0o755)
    done = subprocess.run(
        line, shell=True, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "PATH": f"{bin}:{os.environ['PATH']}"}
    )
    return told(done.returncode, done.stdout, done.stderr)


def test_every_example_runs_as_shown(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for program in blocks("python"):
        (folder / program.partition("\n")[0].removeprefix("# ")).write_text(program)
    wrong = []

    for example in examples():
        words = shlex.split(example.line)
        if words[0] == "perdure" and not {"|", ">"} & set(words):
            code = main(words[1:])
            actual = told(code, *capsys.readouterr())
        else:
            actual = in_shell(example.line, folder)
        if not doctest.OutputChecker().check_output(example.output, actual, doctest.ELLIPSIS):
            wrong.append(f"$ {example.line}\n{actual}")

    sys.modules.pop("shop", None)
    sys.modules.pop("keeping", None)
    assert "\n".join(wrong) == ""
    left = sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")
    assert left == ["copy", "earlier", "keeping.py", "moved", "restored", "saved", "shop", "shop.jsonl", "shop.py", "till"]
