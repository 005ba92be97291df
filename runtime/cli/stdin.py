"""Files and standard input, piece by piece. A read that waits for a pipe or a terminal is given up when the command is cancelled."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing
from typing import Final, Protocol

import trio

from perdure.backends.errors import Misuse

PIECE_BYTES: Final = 1 << 20
LINE_BYTES_MAX: Final = 256 << 20


class Reads(Protocol):
    """A file without a buffer: a thread that was given up would keep the buffer's lock, which the interpreter takes at its end."""

    @property
    def read(self) -> Callable[[int], bytes | None]: ...

    def fileno(self) -> int: ...


def opened(file: str, stack: ExitStack) -> Reads:
    """The file of that name, open as long as *stack*; `-` is standard input.

    Raises:
      Misuse: it cannot be read.
    """
    if file == "-":
        return standard()
    try:
        return stack.enter_context(open(file, "rb", buffering=0))
    except OSError as error:
        raise Misuse(f"{file} cannot be read: {error.strerror or error}") from error


def standard() -> Reads:
    """Standard input.

    Raises:
      Misuse: it was closed.
    """
    if sys.stdin is None:
        raise Misuse("standard input was closed: name a file")
    return getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)


async def pieces(file: Reads) -> AsyncGenerator[bytes, None]:
    """What it holds, a MiB at most at once."""
    while (piece := await trio.to_thread.run_sync(file.read, PIECE_BYTES, abandon_on_cancel=True)) != b"":
        if piece is None:  # whoever shares it has made it one that does not wait
            await trio.lowlevel.wait_readable(file.fileno())
        else:
            yield piece


async def lines(found: AsyncGenerator[bytes, None]) -> AsyncGenerator[list[bytes], None]:
    """The lines that end in each of the pieces, without their ends; the last one may have none. It closes *found*.

    Raises:
      Misuse: a line is too long.
    """
    begun: list[bytes] = []
    async with aclosing(found):
        async for piece in found:
            head, newline, rest = piece.rpartition(b"\n")
            if newline:
                yield b"".join([*begun, head]).split(b"\n")
                begun = []
            begun.append(rest)
            if sum(map(len, begun)) > LINE_BYTES_MAX:
                raise Misuse(f"a line has more than {LINE_BYTES_MAX >> 20} MiB: it is no export")
    if last := b"".join(begun):
        yield [last]
