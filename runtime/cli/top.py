"""`top`: what a daemon, or all that work on a store, are doing, live in a terminal."""

from __future__ import annotations

import os
import re
import sys
import termios
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Final

import attrs
import trio
from cyclopts import Parameter
from rich.live import Live

from perdure.backends.errors import Misuse, Unavailable
from perdure.runtime.cli import out
from perdure.runtime.cli.exits import Exit
from perdure.runtime.cli.glances import Glance, Glances, document
from perdure.runtime.cli.looking import Look, looking
from perdure.runtime.cli.options import AsJson
from perdure.runtime.cli.run import run_async
from perdure.runtime.cli.top_screen import screen, whole

EVERY_LEAST_S: Final = 0.1
KEYS: Final = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b": "quit",
    b"q": "quit",
    b"k": "up",
    b"j": "down",
    b"s": "sort",
    b" ": "pause",
}


def top(
    url: Annotated[str, Parameter(help="A daemon, http://HOST:PORT, or a store, lmdb:DIR.")],
    /,
    *,
    every: Annotated[float, Parameter(help="Seconds between two looks.")] = 1.0,
    count: Annotated[int | None, Parameter(help="Print so many looks, one below the other; 0: without end.")] = None,
    token_file: Annotated[str | None, Parameter(help="A file with a token that may operate; without it PERDURE_TOKEN in the environment counts.")] = None,
    json: AsJson = False,
) -> int:
    """Show what a daemon is doing, live.

    Its tree of actors, rates, how far models are behind in events and time, mailboxes, flushes, restarts, last errors. Of a store it
    shows what is kept there: who works on it, how far each model is durable, and who runs it. Where standard output is no terminal it
    prints one look, or as many as --count says.

    For example:

        perdure top http://127.0.0.1:8467 --token-file till.token

    JSON: format, source, store, url, head, state, kept_only, ready, reasons, up_s, stall_max_s, streams_live, journal, http, used_bytes, limit_bytes,
    daemons, actors, rates.
    """
    if not every >= EVERY_LEAST_S:
        raise Misuse(f"--every is at least {EVERY_LEAST_S} seconds, not {every}")
    if count is not None and count < 0:
        raise Misuse(f"--count is a number from 0, not {count}")
    token = _token(token_file)
    live = sys.stdout is not None and sys.stdout.isatty() and not json and count is None

    async def command() -> int:
        async with looking(url, token) as look:
            if live:
                await _live(look, every)
            else:
                await _print(look, every, 1 if count is None else count, json)
        return Exit.DONE

    return run_async(command)


def _token(file: str | None) -> str:
    if file is None:
        return os.environ.get("PERDURE_TOKEN", "")
    try:
        with open(file, encoding="ascii") as opened:
            return opened.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Misuse(f"--token-file {file!r} cannot be read: {error}") from error


async def _print(look: Look, every: float, count: int, json: bool) -> None:
    """Look after look, one below the other."""
    glances, done = Glances(), 0
    console = out.Printer(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    while True:
        glance = glances.note(await look())
        if json:
            out.document(document(glance))
        else:
            console.print(whole(glance))
        out.flush()
        done += 1
        if done == count:
            return
        await trio.sleep(every)


# -- in a terminal ---------------------------------------------------------------------------


@attrs.define
class _Shown:
    """What is on the screen, and how."""

    live: Live
    glance: Glance | None = None
    note: str = ""
    sort: bool = False
    first: int = 0
    paused: bool = False

    def draw(self) -> None:
        """Draw it anew."""
        if self.glance is not None:
            note = self.note or ("paused: space goes on" if self.paused else "")
            height = self.live.console.size.height
            self.first = max(0, min(self.first, len(self.glance.actors)))
            self.live.update(screen(self.glance, height=height, sort=self.sort, first=self.first, note=note), refresh=True)

    def press(self, key: str) -> bool:
        """Do what a key says; whether to go on."""
        page = max(1, self.live.console.size.height - 10)
        match key:
            case "quit":
                return False
            case "up" | "down" | "page up" | "page down":
                self.first += {"up": -1, "down": 1, "page up": -page, "page down": page}[key]
            case "sort":
                self.sort, self.first = not self.sort, 0
            case "pause":
                self.paused = not self.paused
        self.draw()
        return True


async def _live(look: Look, every: float) -> None:
    """Until q: a look that fails is told, and tried again."""
    first = await look()  # what fails at once is an error of the command
    console = out.Printer(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        shown = _Shown(live)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_looks, look, every, shown, first)
            with _keys():
                async for key in _Pressed():
                    if not shown.press(key):
                        break
            nursery.cancel_scope.cancel()


async def _looks(look: Look, every: float, shown: _Shown, first: Glance) -> None:
    glances = Glances()
    shown.glance = glances.note(first)
    while True:
        shown.draw()
        await trio.sleep(every)
        if shown.paused:
            continue
        try:
            shown.glance, shown.note = glances.note(await look()), ""
        except Unavailable as error:
            shown.note = f"{error}; what is shown is the last look"


@contextmanager
def _keys() -> Iterator[None]:
    """Keys come one by one and are not shown."""
    before = termios.tcgetattr(sys.stdin.fileno()) if sys.stdin.isatty() else None
    if before is not None:
        tty.setcbreak(sys.stdin.fileno())
    try:
        yield
    finally:
        if before is not None:
            with suppress(termios.error):
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, before)


class _Pressed:
    """The keys, as they are pressed; without a terminal none ever is."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()

    def __aiter__(self) -> _Pressed:
        return self

    async def __anext__(self) -> str:
        if not sys.stdin.isatty():
            await trio.sleep_forever()
        while not self._waiting:
            await trio.lowlevel.wait_readable(sys.stdin.fileno())
            read = os.read(sys.stdin.fileno(), 64)
            self._waiting.extend(pressed(read) if read else ["quit"])  # nothing: the terminal is gone
        return self._waiting.popleft()


def pressed(read: bytes) -> list[str]:
    """What the bytes of a terminal mean."""
    return [KEYS[one] for one in _PARTS.findall(read) if one in KEYS]


_PARTS: Final = re.compile(rb"\x1b\[[0-9;]*[A-Za-z~]|.", re.DOTALL)
