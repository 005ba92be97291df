"""What the flights demo shows on the terminal: a progress bar and tables, with rich where it is installed, else plain lines."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

try:
    import rich.box
    import rich.console
    import rich.progress
    import rich.table
except ImportError:
    RICH = False
else:
    RICH = True

PLAIN_EVERY = 10
"""Without a terminal, so many lines in all say how far it is."""


class Bar:
    """How far it is, of *total*; lines said meanwhile stand above it."""

    def __init__(self, total: int, name: str) -> None:
        self._total = total
        self._name = name
        self._shown = 0
        self._progress: rich.progress.Progress | None = None
        if RICH and sys.stdout.isatty():
            parts = rich.progress
            self._progress = parts.Progress(
                parts.TextColumn("{task.description}"), parts.BarColumn(None), parts.MofNCompleteColumn(), parts.TimeElapsedColumn()
            )
            self._task = self._progress.add_task(name, total=total)

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    def at(self, done: int) -> None:
        """So many are done."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done)
        elif done * PLAIN_EVERY // self._total > self._shown:
            self._shown = done * PLAIN_EVERY // self._total
            print(f"{done:>9,} of {self._total:,} {self._name}", flush=True)

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)


def cell(value: Any) -> str:
    """A value as it stands in a table."""
    match value:
        case int():
            return f"{value:,}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%MZ}"
        case Mapping():
            return " ".join(f"{key} {count:,}" for key, count in sorted(value.items()))
        case _:
            return str(value)


def show_table(title: str, key: str, fields: Sequence[str], items: Sequence[tuple[Any, Mapping[str, Any]]]) -> None:
    """Items by their key, with some of their fields."""
    header = [key, *(field.replace("_", " ") for field in fields)]
    lines = [[str(name), *(cell(values[field]) for field in fields)] for name, values in items]
    if RICH and sys.stdout.isatty():
        table = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE)
        for number, column in enumerate(header):
            table.add_column(column, justify="right" if number else "left")
        for line in lines:
            table.add_row(*line)
        rich.console.Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    print(f"\n{title}")
    for line in [header, *lines]:
        print("  " + "  ".join(text.rjust(width) if number else text.ljust(width) for number, (text, width) in enumerate(zip(line, widths, strict=True))))
