"""Puts blobs for ever, and says each one that was put: to be killed. `python blob_child.py FOLDER SEED`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from random import Random

import trio

from perdure.backends.blobs.urls import open_blobs

MIB = 1 << 20


async def main(folder: str, seed: str) -> None:
    """Two puts at a time, of bytes that come in pieces; now and then one that was put before."""
    async with open_blobs(f"directory:{folder}") as blobs, trio.open_nursery() as nursery:

        async def put_on(name: str) -> None:
            drawn = Random(name)
            while True:
                number = drawn.randrange(6)
                ref = await blobs.put(pieces(f"{seed} {number}", drawn))
                print(ref.cid, ref.size_bytes, flush=True)

        nursery.start_soon(put_on, f"{seed} a")
        nursery.start_soon(put_on, f"{seed} b")


async def pieces(name: str, drawn: Random) -> AsyncIterator[bytes]:
    """The same bytes each time, in other pieces."""
    data = Random(name).randbytes(Random(name).choice([9, MIB - 1, 2 * MIB + 5]))
    at = 0
    while at < len(data):
        size = drawn.randint(1, MIB)
        yield data[at : at + size]
        at += size
        await trio.sleep(0)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
