"""A process of its own that puts a file into a blob store and reads it back: how fast, and how much memory above its start that took.

`python -m benchmarks.blob_worker URL FILE` prints a line of JSON: MB/s of both ways, and MiB.
"""

import json
import os
import sys
from hashlib import sha256
from pathlib import Path
from time import perf_counter

import trio

from perdure.runtime import open_blobs

MIB = 1 << 20


def memory_bytes(what: str) -> int:
    """What the kernel says of this process: `VmRSS` now, `VmHWM` at most so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"/proc/self/status has no {what}")


async def main(url: str, file: str) -> None:
    """Once with a small blob, so that what is loaded late is loaded; then with *file*."""
    size = Path(file).stat().st_size
    async with open_blobs(url) as blobs:
        await blobs.verify(await blobs.put(bytes(5 * MIB)))
        start = memory_bytes("VmHWM")
        begun = perf_counter()
        ref = await blobs.put(Path(file))
        put_s, begun = perf_counter() - begun, perf_counter()
        got = 0
        async for piece in blobs.get(ref):
            got += len(piece)
        get_s = perf_counter() - begun
    assert got == size == ref.size_bytes
    above = memory_bytes("VmHWM") - start
    print(json.dumps({"put": size / put_s / 1e6, "get": size / get_s / 1e6, "mib": above / MIB, "cid": ref.cid}))


def copy(source: str, target: str) -> float:
    """The plain way, in MB/s: read, SHA-256, write, flush."""
    digest, begun = sha256(), perf_counter()
    with open(source, "rb") as reading, open(target, "wb") as writing:
        while data := reading.read(MIB):
            digest.update(data)
            writing.write(data)
        writing.flush()
        os.fsync(writing.fileno())
    took_s = perf_counter() - begun
    return Path(target).stat().st_size / took_s / 1e6


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
