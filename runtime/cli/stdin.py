"""Files and standard input, piece by piece. A read that waits for a pipe or a terminal is given up when the command is cancelled."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, Callable
from contextlib import ExitStack
from typing import Final, Protocol, Self

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


class Pieces:
    """What a file holds, a MiB at most at once."""

    def __init__(self, file: Reads) -> None:
        self._file = file

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while (piece := await trio.to_thread.run_sync(self._file.read, PIECE_BYTES, abandon_on_cancel=True)) is None:
            await trio.lowlevel.wait_readable(self._file.fileno())  # whoever shares it has made it one that does not wait
        if not piece:
            raise StopAsyncIteration
        return piece


class Lines:
    """The lines that end in each of some pieces, without their ends; the last one may have none.

    Raises:
      Misuse: a line is too long.
    """

    def __init__(self, pieces: AsyncIterable[bytes]) -> None:
        self._pieces = aiter(pieces)
        self._begun: list[bytes] = []
        """Of a line that does not end yet."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[bytes]:
        async for piece in self._pieces:
            head, newline, rest = piece.rpartition(b"\n")
            before, self._begun = self._begun, [rest] if newline else [*self._begun, rest]
            if sum(map(len, self._begun)) > LINE_BYTES_MAX:
                raise Misuse(f"a line has more than {LINE_BYTES_MAX >> 20} MiB: it is no export")
            if newline:
                return b"".join([*before, head]).split(b"\n")
        last, self._begun = b"".join(self._begun), []
        if not last:
            raise StopAsyncIteration
        return [last]
