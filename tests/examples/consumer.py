"""A process that does a test module's `work` until it is killed: `python consumer.py FILE URL SEED`; and who judges what it left.

Such a module has `APP`; `work(rt, random)`, which may be broken off anywhere; `check(rt)`, which raises; and, if it needs one,
`beside(rt)`, which runs all the time. It is what `simulate` takes, too.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from random import Random
from types import ModuleType

import trio

from perdure.runtime import Runtime, open_runtime


def load(file: str) -> ModuleType:
    """The module, whatever it was loaded as before."""
    spec = importlib.util.spec_from_file_location(f"{Path(file).stem}_lives", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def live(file: str, url: str, seed: str) -> None:
    """Work for ever; after each piece say where the head is."""
    module, done = load(file), 0
    async with open_runtime(url, module.APP) as rt, trio.open_nursery() as nursery:
        if hasattr(module, "beside"):
            nursery.start_soon(module.beside, rt)
        while True:
            await module.work(rt, Random(f"{seed} {done}"))
            done += 1
            print(await marked(rt), flush=True)


async def marked(rt: Runtime) -> int:
    """A number that only grows: of the log and of kv together."""
    return int(await rt.head()) + await rt.backend.revision()


async def judge(file: str, url: str, told: int) -> None:
    """Open what it left: what was told of is there, models come to the head, the check holds."""
    module = load(file)
    async with open_runtime(url, module.APP) as rt, trio.open_nursery() as nursery:
        assert await marked(rt) >= told
        if hasattr(module, "beside"):
            nursery.start_soon(module.beside, rt)
        for projection in module.APP.projections:
            await rt.model(projection).wait_for(await rt.head())
        await module.check(rt)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(live, sys.argv[1], sys.argv[2], sys.argv[3])
