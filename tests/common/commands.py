"""The command `perdure` as the tests run it: as a process of its own, what it did, and the commands that read."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import attrs

PERDURE = [sys.executable, "-P", "-m", "perdure.runtime"]


@attrs.frozen
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[Any]:
        """Of each line that it printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def document(self) -> Any:
        """The only one."""
        [one] = self.documents
        return one


def start(*arguments: object, **more: Any) -> Any:
    """The real command, running; it hears SIGINT also where these tests run in a shell's background."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.Popen([*PERDURE, *map(str, arguments)], text=True, preexec_fn=_hear_sigint, **pipes)


def _hear_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen[str]) -> Done:
    """What it did."""
    out, err = process.communicate(timeout=20)
    return Done(process.returncode, out, err)


READING = [
    ("read", "s"),
    ("tail",),
    ("streams",),
    ("kv", "get", "b", "k"),
    ("kv", "delete", "b", "k"),
    ("kv", "scan", "b"),
    ("kv", "watch", "b"),
    ("model", "list", "--app", "shop:app"),
    ("model", "show", "revenue", "--app", "shop:app"),
    ("model", "at", "revenue", "--position", "1", "--app", "shop:app"),
    ("stats",),
    ("verify",),
    ("backup", "saved"),
    ("export",),
    ("compact",),
]


def about(command: tuple[str, ...] | list[str], url: str) -> tuple[str, ...]:
    """*command* with its URL in its place."""
    words = 2 if command[0] in ("kv", "model") else 1
    return (*command[:words], url, *command[words:])
