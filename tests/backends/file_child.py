"""Appends to the store that it is told, and says each number once it was acknowledged."""

import os
import sys

import trio

from perdure.backends.commit import Append, Draft, propose
from perdure.backends.urls import open_backend


async def main(url: str) -> None:
    async with open_backend(url) as backend:
        for number in range(1_000_000):
            await backend.commit([propose([Append("s-1", [Draft("happened", 1, b"%d" % number)])], id=os.urandom(16), at_us=1)])
            print(number, flush=True)


trio.run(main, sys.argv[1])
