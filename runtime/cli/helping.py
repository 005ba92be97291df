"""What `--help` says: the docstrings of the commands, their paragraphs as wide as the terminal, and their fields told as what they are."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Final

from cyclopts import App

FIELDS: Final = "JSON: "
"""What the paragraph of the fields begins with."""


def every(app: App, *path: str) -> Iterator[tuple[str, App]]:
    """Every command, with its path as it is typed."""
    for name in app:
        below = app[name]
        if name.startswith("-"):
            continue
        if below.default_command is None:
            yield from every(below, *path, name)
        else:
            yield " ".join((*path, name)), below


def tell(app: App) -> None:
    """Give every command of *app* its help."""
    for _, command in every(app):
        command.help = text_of(command)


def text_of(command: App) -> str:
    """The help of a command."""
    return "\n\n".join(_told(part) for part in _parts(command))


def fields_of(command: App) -> list[list[str]]:
    """The fields of what `--json` prints, by kind of document; none where the documents are not perdure's own."""
    found = [part.removeprefix(FIELDS) for part in _parts(command) if part.startswith(FIELDS)]
    return [_names(one) for told in found for one in told.rstrip(".").split("; or ")]


def examples_of(command: App) -> list[str]:
    """The lines that it shows as examples."""
    return [part.strip() for part in _parts(command) if part.startswith("    ")]


def _parts(command: App) -> list[str]:
    return [part if part.startswith("    ") else " ".join(part.split()) for part in (inspect.getdoc(command.default_command) or "").split("\n\n")]


def _told(part: str) -> str:
    return part.replace(FIELDS, "Fields of a document that --json prints: ", 1) if part.startswith(FIELDS) else part


def _names(told: str) -> list[str]:
    """Without what stands in brackets: the names within."""
    while "(" in told:
        before, _, rest = told.partition("(")
        told = before + rest.partition(")")[2]
    return [name.strip() for name in told.split(",")]
