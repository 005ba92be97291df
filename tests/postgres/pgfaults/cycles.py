"""The cycles: a fault, a while with it, healing, and the proof that all goes on; then the judgement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

import attrs
import trio

from perdure.backends.urls import open_backend
from perdure.runtime import Runtime
from pgfaults.program import APP, LIMITS, Program, open_runtime
from pgfaults.proxy import Fault, Proxy
from postgres_server import Server

KILL = "the server is killed and started again"
FAULTS: Sequence[Fault | str] = (*Fault, KILL)
WRITERS = 6


@attrs.frozen
class Verdict:
    """What came of it."""

    seed: int
    cycles: Counter[str]
    acknowledged: int
    doubted: int
    errors: Counter[str]
    longest_s: float
    owners: int
    """How often a projection changed hands between the two runtimes."""
    problems: list[str]


async def run_cycles(server: Server, count: int, seed: int, told: Callable[[str], None] = lambda _: None) -> Verdict:
    """So many faults, one after the other, over one store in a database of its own."""
    draw = Random(seed)
    cycles: Counter[str] = Counter()
    url = server.new_database()
    async with trio.open_nursery() as nursery:
        proxy = Proxy(server.socket)
        await nursery.start(proxy.run)
        program = Program(f"postgresql://postgres@127.0.0.1:{proxy.port}/{url.rpartition('/')[2].partition('?')[0]}?sslmode=disable&gssencmode=disable", draw)
        async with (
            open_runtime(program.url, APP, limits=LIMITS) as one,
            open_runtime(program.url, APP, limits=LIMITS) as other,  # it takes over what the first one loses, and back
            trio.open_nursery() as work,
        ):
            work.start_soon(program.follow, one)
            work.start_soon(program.note_owners, one)
            for number in range(count):
                fault = FAULTS[number % len(FAULTS)] if number < len(FAULTS) else draw.choice(FAULTS)
                cycles[fault] += 1
                told(f"{number + 1} of {count}: {fault}")
                await _cycle((one, other), program, proxy, server, fault, draw)
            await program.judge(one)
            await program.judge_models(other)
            work.cancel_scope.cancel()
        async with open_backend(url) as backend:
            problems = await backend.verify()
        nursery.cancel_scope.cancel()
    return Verdict(seed, cycles, len(program.told), len(program.doubted), program.errors, program.longest_s, program.owners, [*program.problems, *problems])


async def _cycle(rts: Sequence[Runtime], program: Program, proxy: Proxy, server: Server, fault: Fault | str, draw: Random) -> None:
    async with trio.open_nursery() as writers:
        for number in range(WRITERS):
            writers.start_soon(program.write_on, rts[number % len(rts)])
        await trio.sleep(draw.uniform(0.05, 0.3))
        if isinstance(fault, Fault):
            await proxy.strike(fault)
            with trio.move_on_after(5):
                await proxy.struck.wait()
            await trio.sleep(draw.uniform(0.1, 1.0))
            proxy.heal()
        else:
            server.kill()
            await trio.sleep(draw.uniform(0.05, 0.5))
            await trio.to_thread.run_sync(server.start)
        for rt in rts:
            await program.works(rt)
        await trio.sleep(draw.uniform(0.05, 0.2))
        writers.cancel_scope.cancel()
