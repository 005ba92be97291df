"""What a command prints: data on stdout, all else on stderr, progress on stderr and only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from perdure.backends.progress import Progress as Progressed
from perdure.backends.progress import Told
from perdure.runtime.cli.values import as_json, shown

WRAP_AT_LEAST = 24
"""The last column is wrapped where so much of the terminal is left for it."""


class Printer(Console):
    """A console that says when nobody reads it any more, instead of ending the program."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def prepare() -> None:
    """What the terminal's encoding cannot say is written as an escape instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


# -- data ------------------------------------------------------------------------------------


def document(value: Any) -> None:
    """One JSON document on a line of its own."""
    print(as_json(value, ascii=not _says_unicode(sys.stdout)))


def line(text: str) -> None:
    """A line of data for people."""
    print(text)


def raw(data: bytes) -> None:
    """Bytes of data as they are, for what is UTF-8 whatever the terminal says."""
    sys.stdout.buffer.write(data)


def flush() -> None:
    """Hand on what was printed: for commands that wait for more."""
    if sys.stdout is not None:  # None: it was closed before we began
        sys.stdout.flush()


def _says_unicode(stream: TextIO) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").startswith("utf")


class Columns:
    """A table that is printed as it comes: a column is as wide as what it has held; the last one is wrapped on a terminal.

    A heading that ends in `>` is of a column of numbers.
    """

    def __init__(self, *headings: str) -> None:
        self._headings = [heading.removesuffix(">") for heading in headings]
        self._right = [heading.endswith(">") for heading in headings]
        self._widths = [cell_len(heading) for heading in self._headings]
        self._begun = False
        self._console = Printer(highlight=False, soft_wrap=True) if sys.stdout is not None and sys.stdout.isatty() else None

    def print(self, rows: Sequence[Sequence[object]]) -> None:
        """Print *rows* below what was printed before."""
        if not rows:
            return
        cells = [[shown(str(cell)) for cell in row] for row in rows]
        for index in range(len(self._widths)):
            self._widths[index] = max(self._widths[index], *(cell_len(row[index]) for row in cells))
        if not self._begun:
            self._begun = True
            self._write("".join(self._lines(self._headings)), "bold")
        self._write("".join(text for row in cells for text in self._lines(row)))

    def _write(self, text: str, style: str = "") -> None:
        if self._console is not None:
            self._console.print(Text(text, style), end="")
        else:
            print(text, end="")

    def _lines(self, cells: Sequence[str]) -> Iterator[str]:
        front = "".join(self._padded(index, cell) + "  " for index, cell in enumerate(cells[:-1]))
        width = (self._console.width if self._console is not None else 0) - sum(self._widths[:-1]) - 2 * len(cells[:-1])
        parts = [self._padded(-1, cells[-1])] if self._right[-1] else wrapped(cells[-1], width)
        yield f"{front}{parts[0]}".rstrip() + "\n"
        for part in parts[1:]:
            yield " " * cell_len(front) + part + "\n"

    def _padded(self, index: int, cell: str) -> str:
        room = " " * (self._widths[index] - cell_len(cell))
        return room + cell if self._right[index] else cell + room


def wrapped(text: str, width: int) -> list[str]:
    """*text* in parts of at most *width* cells; whole where there is no width to speak of."""
    if width < WRAP_AT_LEAST or cell_len(text) <= width:
        return [text]
    parts, taken = [""], 0
    for one in text:
        taken += cell_len(one)
        if taken > width:
            parts.append("")
            taken = cell_len(one)
        parts[-1] += one
    return parts


def facts(pairs: Sequence[tuple[str, object]]) -> None:
    """Names and values, a line for each."""
    width = max(cell_len(name) for name, _ in pairs)
    for name, value in pairs:
        line(f"{name.ljust(width)}  {shown(str(value))}".rstrip())


# -- all else --------------------------------------------------------------------------------


def note(text: str) -> None:
    """A line on stderr."""
    print(f"perdure: {shown(text)}", file=sys.stderr)


def hint(text: str) -> None:
    """A line on stderr for who sits before it; scripts need none."""
    if _stderr_is_a_terminal():
        print(text, file=sys.stderr)


def _stderr_is_a_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def busy(text: str) -> Iterator[None]:
    """Say on a terminal that something is under way, while it is; nothing of it stays."""
    with _progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as progress:
        progress.add_task(text)
        yield


@contextmanager
def bar(text: str, total: int | None) -> Iterator[Callable[..., None]]:
    """The same with a count; tell it each step, with another text if there is one."""
    counted = (BarColumn(), MofNCompleteColumn()) if total is not None else (TextColumn("{task.completed:,.0f}"),)
    with _progress(SpinnerColumn(), TextColumn("{task.description}"), *counted, TimeElapsedColumn()) as progress:
        task = progress.add_task(text, total=total)

        def step(count: int = 1, text: str | None = None) -> None:
            progress.update(task, advance=count, description=text)

        yield step


@contextmanager
def told(text: str) -> Iterator[Told]:
    """The same for an operation that says itself how far it is."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with _progress(*columns) as progress:
        task = progress.add_task(text, total=None)

        def tell(at: Progressed) -> None:
            progress.update(task, description=f"{text}: {at.what}", completed=at.done, total=at.total)

        yield tell


def show_cursor() -> None:
    """A progress hides it: for who ends without an end of that."""
    if _stderr_is_a_terminal():
        Console(stderr=True).show_cursor()


def _progress(*columns: Any) -> Progress:
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not _stderr_is_a_terminal(), redirect_stdout=False, redirect_stderr=False)
