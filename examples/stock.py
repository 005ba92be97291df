"""Stock levels, kept by hand and kept by perdure: the first counts twice after a crash. docs/simulation.md tells how that is found.

    perdure simulate stock:app --workload stock:work --beside stock:keep_levels --check stock:check      (from this folder)
"""

from __future__ import annotations

from collections import Counter
from random import Random

import attrs
import trio

from perdure.runtime import START, App, Event, Keyed, Runtime, event, of


@event("goods-received")
@attrs.frozen
class Received:
    """*count* more of *item*."""

    item: str
    count: int


@event("goods-shipped")
@attrs.frozen
class Shipped:
    """*count* less."""

    item: str
    count: int


def change(goods: Received | Shipped) -> int:
    """What an event does to the level."""
    return goods.count if isinstance(goods, Received) else -goods.count


app = App(events=of(Received, Shipped))


async def keep_levels(rt: Runtime) -> None:
    """Keep each item's level in kv: add up what comes, and go on there after a restart. (Wrong: see the page.)"""
    levels = rt.kv("levels", int)
    async with rt.subscribe(of(Received, Shipped), after=START, name="levels") as events:
        async for event in events:
            entry = await levels.get(event.data.item)
            level = 0 if entry is None else entry.value
            await levels.put(event.data.item, level + change(event.data))


async def work(rt: Runtime, random: Random) -> None:
    """A few deliveries and shipments."""
    for _ in range(8):
        item, count = random.choice(("bolt", "nut")), random.randint(1, 9)
        goods = random.choice((Received, Shipped))(item, count)
        await rt.append(f"goods-{item}", [goods])
        await trio.sleep(random.random())


async def expected(rt: Runtime) -> dict[str, int]:
    """The levels by the log."""
    levels: Counter[str] = Counter()
    async for found in rt.read_all(of(Received, Shipped)):
        levels[found.data.item] += change(found.data)
    return dict(levels)


async def check(rt: Runtime) -> None:
    """The kept levels are those of the log."""
    await trio.sleep(10)  # virtual: so long the follower has to catch up
    kept = {entry.key: entry.value for entry in (await rt.kv("levels", int).scan()).entries}
    assert kept == await expected(rt), f"kept {kept}, the log says {await expected(rt)}"


# -- the same, right -------------------------------------------------------------------------


def add(level: int, event: Event[Received | Shipped]) -> int:
    """One more event."""
    return level + change(event.data)


LEVELS = Keyed("levels", version=1, initial=0, step=add, events=of(Received, Shipped), key=lambda event: event.data.item)
app_right = App(projections=[LEVELS])


async def check_right(rt: Runtime) -> None:
    """The model's levels are those of the log."""
    kept = {entry.key: entry.state async for entry in rt.model(LEVELS).scan()}
    assert kept == await expected(rt), f"kept {kept}, the log says {await expected(rt)}"
