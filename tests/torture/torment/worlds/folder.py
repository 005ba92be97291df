"""The process of one world: `python -m torment.worlds.folder JSON`. It runs the projections over a store, from one restart to the next, and dumps what is kept.

The dump is msgpack: the snapshots by position, the newest state by name, the keyed states by key, and the records as encoded anew.
"""

from __future__ import annotations

import locale
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import trio

from perdure.actors import snapshots
from perdure.backends.commit import MODELS
from perdure.backends.event import Position
from perdure.backends.limits import Limits
from perdure.runtime import open_runtime
from torment.worlds.domain import EACH, ONE, app, drawn


class Asked(msgspec.Struct):
    """*restarts* are the positions at which the process closes the store and begins again."""

    url: str
    dump: str
    restarts: list[int]
    page_records: int
    snapshot_events: int
    events_seed: int
    lies: bool = False


class Dump(msgspec.Struct):
    """What is kept, as bytes."""

    snapshots: dict[int, bytes]
    keyed: dict[str, bytes]
    records: list[bytes]
    shown: dict[str, bytes]
    """The states that the models show, encoded."""


async def fold(asked: Asked) -> Dump:
    """Run up to each restart, and to the end; then look at what is kept."""
    snapshots.EVENTS = asked.snapshot_events  # type: ignore[misc]  # as the world was asked for
    limits, shown = Limits(page_records=asked.page_records), dict[str, bytes]()
    for position in [*asked.restarts, None]:
        async with open_runtime(asked.url, app(lies=asked.lies), limits=limits) as rt:
            for projection in projections(asked):
                await rt.model(projection).wait_for(await rt.head() if position is None else Position(position))
            if position is None:
                shown = await _shown(rt, asked)
    async with open_runtime(asked.url, limits=limits) as rt:
        kept = {int(at): await rt.backend.read_snapshot("world", at_most=at) for at in await rt.backend.snapshots("world")}
        rows = await rt.backend.scan(f"{MODELS}{EACH.name}", limit=1_000)
        return Dump(
            snapshots={at: snapshot.state for at, snapshot in kept.items() if snapshot is not None},
            keyed={row.key.decode(): row.value for row in rows},
            records=await _written_anew(asked),
            shown=shown,
        )


def projections(asked: Asked) -> Sequence[Any]:
    """The projections that run."""
    return app(lies=asked.lies).projections


async def _shown(rt: Any, asked: Asked) -> dict[str, bytes]:
    encode = rt._codec.encoder(ONE.state_type)
    one = rt.model(projections(asked)[0])
    return {"": encode(one.state), **{f"={entry.key}": encode(entry.state) async for entry in rt.model(EACH).scan()}}


async def _written_anew(asked: Asked) -> list[bytes]:
    """The records of the same events, as this world encodes them."""
    async with open_runtime("memory:", app(lies=asked.lies)) as rt:
        await rt.append("anew-1", list(drawn(asked.events_seed, 50)))
        return [record.payload + record.extra for record in await rt.backend.read_stream("anew-1", after=0, limit=1_000, bytes_max=1 << 30)]


if __name__ == "__main__":
    with suppress(locale.Error):  # a locale that is not installed: the program goes on with C, as programs do
        locale.setlocale(locale.LC_ALL, "")
    ask = msgspec.json.decode(sys.argv[1], type=Asked)
    Path(ask.dump).write_bytes(msgspec.msgpack.encode(trio.run(fold, ask)))
