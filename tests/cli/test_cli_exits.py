"""What becomes which exit code."""

from __future__ import annotations

import pytest

from perdure.backends import errors
from perdure.backends.errors import PerdureError
from perdure.runtime.cli import store as store_commands
from perdure.runtime.cli.exits import Exit, exit_of


def error_classes(base=PerdureError):
    """All of the family, from its own module."""
    for cls in base.__subclasses__():
        if cls.__module__ == errors.__name__:
            yield cls
            yield from error_classes(cls)


@pytest.mark.parametrize("cls", list(error_classes()))
def test_every_error_has_an_exit_code(cls):
    assert exit_of(cls.__new__(cls)) in set(Exit) - {Exit.DONE}


def test_the_exit_code_of_what_a_failed_runtime_failed_of():
    failed = errors.RuntimeFailed()
    failed.__cause__ = errors.InDoubt(b"", None)

    assert exit_of(failed) == Exit.IN_DOUBT


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InDoubt(b"\0" * 16, b"k"), Exit.IN_DOUBT),
        (ExceptionGroup("two", [errors.Unavailable("x"), errors.Corrupt("f", "y")]), Exit.DAMAGED),
        (errors.MissingExtra("the lmdb: backend", "lmdb"), Exit.NOT_INSTALLED),
        (KeyboardInterrupt(), Exit.INTERRUPTED),
    ],
)
def test_what_a_command_raises_becomes_its_exit_code(cli, monkeypatch, error, code):
    def fail(url):
        raise error

    monkeypatch.setattr(store_commands, "reading", fail)

    assert cli("stats", "memory:").code == code


def test_a_fault_of_ours_shows_its_traceback(cli, monkeypatch):
    monkeypatch.setattr(store_commands, "reading", lambda url: 1 / 0)

    done = cli("stats", "memory:")

    assert done.code == Exit.FAULT
    assert "ZeroDivisionError" in done.err


def test_help_and_version_are_data(cli):
    assert cli("--help").code == 0
    assert "Exit codes:" in cli("--help").out
    assert cli("--version").out.strip()
    assert cli("kv", "--help").code == 0
