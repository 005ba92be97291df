"""Putting, as every blob store does it: chunks as they come, then the nodes above them, then the root."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256

import attrs

from perdure.backends.blobs.source import Read, Window
from perdure.backends.blobs.unixfs import CHUNK_BYTES, Block, Builder, Link, leaf
from perdure.backends.environment import Threads


@attrs.frozen
class Chunk:
    """A leaf with its bytes."""

    link: Link
    data: Window


async def put_tree(
    read: Read, threads: Threads, *, put_window: Callable[[Window, Sequence[Chunk]], Awaitable[None]], put_node: Callable[[Block], Awaitable[None]]
) -> Link:
    """Hand on what *read* gives, window by window, and every node when it is complete; the answer is the root."""
    builder, begun = Builder(), False
    while (window := await read()) or not begun:
        begun = True
        chunks = await threads.run_sync(cut, window)
        await put_window(window, chunks)
        for chunk in chunks:
            for block in builder.add(chunk.link):
                await put_node(block)
    root, blocks = builder.finish()
    for block in blocks:
        await put_node(block)
    return root


def cut(window: Window) -> list[Chunk]:
    """A window in chunks, with their digests; of nothing one empty chunk."""
    view = memoryview(window)
    parts = [view[at : at + CHUNK_BYTES] for at in range(0, len(view), CHUNK_BYTES)] or [view]
    return [Chunk(leaf(sha256(part).digest(), len(part)), part) for part in parts]
