"""What a blob is put from: bytes, a file, or whatever gives bytes asynchronously; read in windows of a few chunks."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import trio

from perdure.backends.blobs.unixfs import CHUNK_BYTES
from perdure.backends.errors import Misuse

WINDOW_CHUNKS: Final = 4
"""So many chunks are in memory at a time, of a blob that is put or read."""
WINDOW_BYTES: Final = WINDOW_CHUNKS * CHUNK_BYTES

Source = bytes | bytearray | memoryview | os.PathLike[str] | AsyncIterable[bytes]
"""Bytes; the path of a file; an asynchronous iterable of bytes, such as a Trio stream, in pieces of any size; or an open `trio` file."""

Window = bytes | memoryview
Read = Callable[[], Awaitable[Window]]
"""The next `WINDOW_BYTES` of a source, fewer only at its end, then nothing."""


@asynccontextmanager
async def reading(source: Source) -> AsyncIterator[Read]:
    """Read *source* from where it stands. What the caller gave stays the caller's to close, but for an async generator, which nobody else would.

    Raises:
      Misuse: it is nothing that a blob can be put from, or there is no such file.
    """
    match source:
        case bytes() | bytearray() | memoryview():
            yield _of_bytes(source)
        case os.PathLike():
            try:
                file = await trio.open_file(source, "rb")
            except OSError as error:
                raise Misuse(f"{os.fspath(source)} cannot be put: {error.strerror or error}") from error
            async with file:
                yield lambda: file.read(WINDOW_BYTES)
        case AsyncGenerator():
            async with aclosing(source):
                yield _of_pieces(source)
        case _ if hasattr(source, "__aiter__"):
            yield _of_file(source) if hasattr(source, "read") else _of_pieces(source)
        case _:
            raise Misuse(_refusal(source))


def _refusal(source: object) -> str:
    if isinstance(source, str):
        return f"a text is no blob: write pathlib.Path({source[:40]!r}) for what is in that file, or encode() it"
    kinds = "bytes, a pathlib.Path, a Trio stream or an asynchronous iterable of bytes (trio.wrap_file for an open file)"
    return f"a {type(source).__qualname__} is no blob: give {kinds}"


def _of_bytes(given: bytes | bytearray | memoryview) -> Read:
    left = memoryview(given)
    if not left.readonly or not left.c_contiguous:  # what may be changed between its digest and its writing
        left = memoryview(bytes(left))
    left = left.cast("B")

    async def read() -> Window:
        nonlocal left
        await trio.lowlevel.checkpoint()
        window, left = left[:WINDOW_BYTES], left[WINDOW_BYTES:]
        return window

    return read


def _of_file(file: Any) -> Read:
    async def read() -> Window:
        parts, missing = bytearray(), WINDOW_BYTES
        while missing and (piece := _checked(await file.read(missing))):
            parts += piece
            missing -= len(piece)
        return bytes(parts)

    return read


def _of_pieces(pieces: AsyncIterable[bytes]) -> Read:
    iterator, held = aiter(pieces), memoryview(b"")

    async def read() -> Window:
        nonlocal held
        parts = bytearray()
        while len(parts) < WINDOW_BYTES:
            if not held and not (held := memoryview(await _next(iterator))):
                break
            missing = WINDOW_BYTES - len(parts)
            parts += held[:missing]
            held = held[missing:]
        return bytes(parts)

    return read


async def _next(iterator: AsyncIterator[bytes]) -> bytes:
    async for piece in iterator:
        if _checked(piece):
            return piece
    return b""


def _checked(piece: object) -> Any:
    if not isinstance(piece, (bytes, bytearray, memoryview)):
        raise Misuse(f"the source of a blob gave a {type(piece).__qualname__}, not bytes: encode it, or open the file in binary mode")
    return piece
