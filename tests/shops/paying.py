"""Payments and their SQL read model; run as a program it pays for ever, until it is killed: `python paying.py STORE SQLITE [dies] [lies]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import attrs
import trio

from perdure.actors import hold
from perdure.actors.sql import SqlActor
from perdure.backends.event import Position
from perdure.backends.sql import Transaction
from perdure.runtime import App, Event, SqlProjection, event, of, open_runtime
from perdure.runtime.runtime import Runtime
from shops import Shop, SqliteShop


@event("held-paid")
@attrs.frozen
class Paid:
    """Some cents."""

    cents: int


def tables(tx: Transaction) -> None:
    """One row a payment."""
    tx.execute("CREATE TABLE payments (position INTEGER PRIMARY KEY, cents INTEGER NOT NULL)")


def book(event: Event[Paid], tx: Transaction) -> None:
    """Add the row."""
    if event.data.cents < 0:
        raise ValueError("not below zero")
    tx.execute("INSERT INTO payments VALUES (?, ?)", (event.position, event.data.cents))


def payments(shop: Shop, version: int = 1, handle: Any = book) -> SqlProjection[Paid]:
    """The read model."""
    return SqlProjection("payments", version=version, database=shop.url, tables=shop.says(tables), handle=shop.says(handle), events=of(Paid))


async def pay(rt: Runtime, *cents: int) -> Position:
    """Append them; the head."""
    await rt.append("paid-1", [Paid(one) for one in cents])
    return await rt.head()


def die_before_a_hold() -> None:
    """Let this process end between a commit of its tables and the hold."""
    put = hold.HeldPlace._put

    async def put_or_die(self: hold.HeldPlace, position: Position) -> bool:
        if position > 5:
            os._exit(9)
        return await put(self, position)

    hold.HeldPlace._put = put_or_die  # type: ignore[method-assign]  # in this process


def hold_first() -> None:
    """A liar: the hold is moved before the tables are."""
    deal = SqlActor._deal_with

    async def deal_with(self: SqlActor, records: Any, follower: Any) -> bool:
        if records:
            await self._hold.follow(follower.cursor, now=True)
        return await deal(self, records, follower)

    SqlActor._deal_with = deal_with  # type: ignore[method-assign]  # likewise


async def main(url: str, path: str) -> None:
    """Pay for ever."""
    shop = SqliteShop(Path(path))
    async with open_runtime(url, App(sql=[payments(shop)])) as rt:
        print("open", flush=True)
        while True:
            await pay(rt, 1)


if __name__ == "__main__":
    hold.EVERY_S = 0.0  # type: ignore[misc]  # so that places move with every commit
    for word, act in (("dies", die_before_a_hold), ("lies", hold_first)):
        if word in sys.argv:
            act()
    trio.run(main, sys.argv[1], sys.argv[2])
