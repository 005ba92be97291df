"""The process of a file system that can lose its power: `python -m torment.power.server MOUNT`. It answers `ready` when it is mounted, then each line:

    stop AFTER                              before so many operations more
    stopped WITHIN_S                        wait until it has; `yes OPERATIONS`, or `no OPERATIONS` and it stops before the next one
    cut NAME POLICY SEED DEST NEW           of folder NAME: what is left goes to the folder DEST (another file system) and into
                                            folder NEW here; who waits gets an error. `done FILES`
"""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path
from typing import cast

import pyfuse3
import trio

from torment.power.disk import Folder, Image, Policy, loaded
from torment.power.fs import Operations


async def answer(operations: Operations, root: Folder, line: str) -> str:
    """Do what it says."""
    match line.split():
        case ["make", name]:
            root.change({name: Folder()})
            root.sync()
            return "done"
        case ["stop", after]:
            operations.stop_at(int(after))
            return "done"
        case ["stopped", within_s]:
            with trio.move_on_after(float(within_s)):
                await operations.stopped.wait()
                return f"yes {operations.done}"
            operations.stop_at(0)
            return f"no {operations.done}"
        case ["cut", name, policy, seed, dest, new]:
            folder = root.now.pop(name)
            assert isinstance(folder, Folder)
            image = folder.after_cut(cast(Policy, policy), random.Random(seed))
            export(image, Path(dest))
            root.now[new] = loaded(image)
            operations.let_go()
            return "done"
        case _:
            return f"error: {line!r}"


def export(image: Image, dest: Path) -> None:
    """Write it into the folder *dest*, in place of what is there."""
    shutil.rmtree(dest, ignore_errors=True)
    dest.mkdir()
    for name, found in image.items():
        if isinstance(found, bytes):
            (dest / name).write_bytes(found)
        else:
            export(found, dest / name)


async def serve(operations: Operations, root: Folder) -> None:
    """Until standard input ends."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        asked, raw = trio.lowlevel.FdStream(0), b""
        print("ready", flush=True)
        async for chunk in asked:
            raw += chunk
            while b"\n" in raw:
                line, _, raw = raw.partition(b"\n")
                print(await answer(operations, root, line.decode()), flush=True)
        pyfuse3.terminate()


def main(mount: str) -> None:
    """Mount, serve, unmount."""
    root = Folder()
    operations = Operations(root)
    pyfuse3.init(operations, mount, {*pyfuse3.default_options, "fsname=perdure-torture", "subtype=powercut"})
    try:
        trio.run(serve, operations, root)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main(sys.argv[1])
