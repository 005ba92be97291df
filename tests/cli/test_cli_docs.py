"""What the command line says of itself is complete and true, docs/cli.md is that, and every example in docs/cli-examples.md runs as shown."""

from __future__ import annotations

import doctest
import json
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
from perdure.runtime.cli.helping import every, examples_of, fields_of

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "cli-examples.md").read_text(encoding="utf-8")
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


COMMANDS = {f"perdure {name}": command for name, command in every(app)}


def options(command):
    """The names of a command's options."""
    return [name for argument in command.assemble_argument_collection() for name in argument.names if name.startswith("--")]


# -- what it names ---------------------------------------------------------------------------


def test_there_are_commands():
    assert len(COMMANDS) == 37


def test_the_reference_is_what_the_commands_say():
    """Made in a process of its own: cyclopts puts the name of the running program into it."""
    made = subprocess.run([sys.executable, ROOT / "tools" / "cli_docs.py", "--print"], check=True, capture_output=True, text=True).stdout

    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == made, "run `python tools/cli_docs.py`"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_in_its_help(name, capsys):
    main([*name.split()[1:], "--help"])
    told = capsys.readouterr().out

    assert f"    {examples_of(COMMANDS[name])[0]}" in told
    assert "Fields of a document that --json prints" in told or name == "perdure export"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_in_a_help_is_one_of_that_command(name):
    for line in examples_of(COMMANDS[name]):
        words = shlex.split(re.sub(r"^source <\((.*)\)$", r"\1", line).partition(" > ")[0])
        _, bound, _ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
        assert f"{' '.join(words)} ".startswith(f"{name} ")
        assert bound.arguments


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_shown(name):
    assert f"$ {name} " in sections()[name] or f"| {name} " in sections()[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_and_every_option_a_help(name):
    arguments = COMMANDS[name].assemble_argument_collection()

    assert "--json" in options(COMMANDS[name])
    assert [argument.name for argument in arguments if not argument.parameter.help] == []


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


LETTER = "bafkreic3wj73q3eapmx7i2ixispahcuto6p6gphk4l74jscdyaghddsbqm"
WITHOUT_EXAMPLE = [
    "perdure blob put directory:blobs letter.txt --json",
    f"perdure blob get directory:blobs {LETTER} --out copy.txt --json",
    "perdure blob verify directory:blobs --store lmdb:shop --json",
    f"perdure blob delete directory:blobs {LETTER} --json",
    "perdure compact lmdb:shop --json",
    "perdure retain lmdb:shop --app keeping:app --dry-run --json",
    "perdure hold put lmdb:shop audit --why 'case 18' --json",
    "perdure hold list lmdb:shop --json",
    "perdure hold drop lmdb:shop audit --json",
    "perdure verify lmdb:shop --app shop:app --json",
    "perdure backup lmdb:shop saved-again --json",
    "perdure restore saved-again lmdb:restored-again --json",
    "perdure migrate lmdb:restored-again file:moved-again --json",
    "perdure migrate lmdb:restored-again file:moved-again --rollback --json",
    "perdure conformance memory: --only snapshots --json",
    "perdure token new lmdb:shop desk --scope read --json",
    "perdure token list lmdb:shop --json",
    "perdure token revoke lmdb:shop 0123456789abcdef --json",
    "perdure completion zsh --json",
]
"""Where the page shows no documents: they are held against the help all the same."""
NOT_HELD = ["perdure export", "perdure serve"]
"""The one prints CloudEvents, the other is looked at in tests/serve."""


def command_of(words):
    """The command that a line asks for."""
    return next(name for size in (3, 2) if (name := " ".join(words[:size])) in COMMANDS)


def is_documented(name, document):
    """Whether a document has exactly the fields that the command's help lists, in one of its forms."""
    return set(document) in map(set, fields_of(COMMANDS[name]))


def test_every_example_runs_as_shown_and_documents_are_as_described(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for program in blocks("python"):
        name = program.partition("\n")[0].removeprefix("# ")
        (folder / name).write_text(program)
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)  # another test's
    wrong: list[str] = []
    printed: dict[str, list[dict[str, object]]] = {}

    for example in examples():
        words = shlex.split(example.line)
        if words[0] == "perdure" and not {"|", ">"} & set(words):
            code = main(words[1:])
            written, said = capsys.readouterr()
            actual = told(code, written, said)
            if "--json" in words:
                printed.setdefault(command_of(words), []).extend(map(json.loads, written.splitlines()))
        else:
            actual = in_shell(example.line, folder)
        if not doctest.OutputChecker().check_output(example.output, actual, doctest.ELLIPSIS):
            wrong.append(f"$ {example.line}\n{actual}")

    left = sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")
    (folder / "letter.txt").write_text("a letter")
    for line in WITHOUT_EXAMPLE:
        words = shlex.split(line)
        main(words[1:])
        printed.setdefault(command_of(words), []).extend(map(json.loads, capsys.readouterr().out.splitlines()))
    sys.modules.pop("shop", None)
    sys.modules.pop("keeping", None)

    assert "\n".join(wrong) == ""
    assert left == ["copy", "earlier", "keeping.py", "moved", "restored", "saved", "shop", "shop.jsonl", "shop.py", "till"]
    assert {name: other for name, documents in printed.items() if (other := [sorted(one) for one in documents if not is_documented(name, one)])} == {}
    assert sorted(name for name in COMMANDS if not printed.get(name)) == NOT_HELD
